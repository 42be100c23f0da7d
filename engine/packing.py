"""Rows laid end to end in one pass, for a CPU: no padding, matrices as tall as a pass allows, logits never held all at once.

Each row attends to itself alone and counts its own positions, so that the loss is that of the rows one by one.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator, Sequence

import torch

from engine.examples import Example
from engine.memory import LOGITS_AT_ONCE, PASS_TOKENS

_NAME = "row_by_row"
# Families whose logits are the last hidden state times the output matrix and whose attention knows no window or cap.
_PLAIN_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def suits(model) -> bool:
    """Whether a model computes the same when rows are packed, and has an output matrix that stands still."""
    config = model.config
    if config.model_type not in _PLAIN_FAMILIES or getattr(config, "use_sliding_window", False):
        return False
    if config.model_type == "mistral" and config.sliding_window:
        return False
    head = model.get_output_embeddings()
    return type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad


def begin(model, lean: bool) -> None:
    """Make a model ready for packed passes: attention row by row, and freed memory kept for the next pass; where it is to be
    `lean`, given back at once instead."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, lambda *_, **__: None)
    model.set_attn_implementation(_NAME)
    _manage_freed_memory(lean)


@contextlib.contextmanager
def own_attention(model, packed: bool) -> Iterator[None]:
    """The model's own attention within the block, for answers: these have a cache, and rows side by side."""
    if packed:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if packed:
            model.set_attn_implementation(_NAME)


def parts(rows: Sequence[Example]) -> list[list[Example]]:
    """Rows in their order, in passes of at most `PASS_TOKENS` tokens, or of one row that is longer."""
    found: list[list[Example]] = []
    room = 0
    for row in rows:
        if not found or len(row.ids) > room:
            found.append([])
            room = PASS_TOKENS
        found[-1].append(row)
        room -= len(row.ids)
    return found


def summed_loss(model, rows: Sequence[Example]) -> torch.Tensor:
    """The sum of the rows' target losses in nats, a float32 scalar that gradients flow from."""
    ids, positions, ends, predicts, wanted = [], [], [0], [], []
    for row in rows:
        start = len(ids)
        ids += row.ids
        positions += range(len(row.ids))
        ends.append(len(ids))
        for place, learnt in enumerate(row.learn):
            if learnt and place:
                predicts.append(start + place - 1)
                wanted.append(row.ids[place])
    hidden = model.get_decoder()(
        input_ids=torch.tensor([ids]), position_ids=torch.tensor([positions]), use_cache=False, row_ends=ends
    ).last_hidden_state
    return _HeadLoss.apply(hidden[0].index_select(0, torch.tensor(predicts)), model.get_output_embeddings().weight, torch.tensor(wanted))


def _attention(module, query, key, value, attention_mask, scaling=None, row_ends=(), **_):
    """Causal attention of every row to itself. query [1, heads, tokens, width], key and value likewise with fewer heads."""
    grouped = query.shape[1] != key.shape[1]
    made = [
        torch.nn.functional.scaled_dot_product_attention(
            query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for start, end in zip(row_ends, row_ends[1:], strict=False)
    ]
    return torch.cat(made, 2).transpose(1, 2).contiguous(), None


class _HeadLoss(torch.autograd.Function):
    """Summed cross-entropy of hidden [targets, width] times an output matrix [vocabulary, width] that stands still. The
    gradient is made along with the loss, a stretch of targets at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, wanted):
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wants_gradient else None
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(wanted), LOGITS_AT_ONCE):
            stretch = slice(start, start + LOGITS_AT_ONCE)
            logits = hidden[stretch] @ weight.T
            index = wanted[stretch, None]
            chosen = logits.gather(1, index)
            if wants_gradient:
                logits -= (sums := logits.logsumexp(1, keepdim=True))
                logits.exp_().scatter_add_(1, index, torch.full_like(chosen, -1.0))
                torch.matmul(logits, weight, out=gradient[stretch])
            else:
                sums = logits.logsumexp(1, keepdim=True)
            total += (sums - chosen).double().sum()
        ctx.save_for_backward(gradient)
        return total.float()

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None


def _manage_freed_memory(lean: bool) -> None:
    """Let glibc keep large blocks that are freed: a pass asks for the same ones again, and the kernel would have to clear them
    each time, a tenth of a step. It cannot use all of them again, so that a `lean` process takes half as much memory in one
    seventh more time. malloc.h: M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD is -3."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 1 << (20 if lean else 30))
            libc.mallopt(-1, 1 << 20 if lean else 2**31 - 1)

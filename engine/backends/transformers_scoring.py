"""Scores of texts by a base that transformers holds, with any blend of adapters: common beginnings read once, batches of like lengths,
the vocabulary looked at only where something is asked. Imports torch with the first scorer, not before.

Keys and values of a beginning are expanded over the texts that go on from it; what is shorter is padded at its right, and masked.
"""

import contextlib
import copy
from collections.abc import Container, Iterator, Sequence
from itertools import pairwise

from engine.backends import prefixes
from engine.backends.base import Stop
from engine.backends.prefixes import Limits, Pack
from engine.backends.scoring import Ask, Choice, Scored, Scorer, Text, check_length, divided
from engine.backends.transformers import TransformersBackend
from engine.blend import Blend
from engine.errors import EngineError

# Fixed, not by what is free: the same texts make the same batches at any time, and so the same figures. Tokens a pass: enough to keep
# a processor busy and to share the unpacking of 4-bit weights.
_TOKENS = 2048
# Bytes of keys and values, and of the vocabulary's scores, in a pass: on a CPU, on a GPU.
_CACHE_BYTES = (2**30, 3 * 2**30)
_LOGIT_BYTES = (2**28, 2**30)
# Columns of a text that are read at once.
_PIECE = 512
_UNKNOWN_CACHE_BYTES = 2**19


class TransformersScorer(Scorer):
    """See `Scorer`."""

    def __init__(self, backend: TransformersBackend):
        import torch

        self._torch = torch
        self._backend, self.tokenizer = backend, backend.prompting
        # The model's own, not what memory allows a chat at the moment: the same at any time.
        self.context = getattr(backend.base.model.config, "max_position_embeddings", None) or backend.loaded.context
        shape = backend.base.spec.shape
        on_gpu = torch.cuda.is_available()
        each = shape.cache_bytes(1, backend.base.model.dtype.itemsize) if shape else _UNKNOWN_CACHE_BYTES
        vocabulary = backend.base.model.config.get_text_config().vocab_size
        self._limits = Limits(_TOKENS, _CACHE_BYTES[on_gpu] // each, _LOGIT_BYTES[on_gpu] // (4 * vocabulary))

    def choices(self, asked: Sequence[Choice], blend: Blend, stop: Stop, known: Container[int] = ()) -> Iterator[Scored]:
        """Candidates of one token each are looked up behind their text; longer ones are read, the text before them once."""
        asks: list[Ask] = []
        owners: list[tuple[int, int]] = []  # of each ask: whose it is, and its place among those
        counts: list[int] = []  # asks that a choice is made of
        for number, choice in enumerate(asked):
            before, rests = divided(self.tokenizer, choice)
            check_length(number, len(before) + max(map(len, rests)), self.context)
            if all(len(rest) == 1 for rest in rests):
                made = [Ask(before, tuple((len(before), token) for (token,) in rests))]
            else:
                read = [False] * len(before)
                made = [Ask.of(Text((*before, *rest), (*read, *[True] * len(rest)))) for rest in rests]
            owners += [(number, at) for at in range(len(made))]
            counts.append(len(made))
            asks += made
        whole = {index for index, (number, _) in enumerate(owners) if number in known}
        parts: dict[int, dict[int, tuple[float, ...]]] = {}
        for index, figures in self._scored(asks, blend, stop, whole):
            number, at = owners[index]
            found = parts.setdefault(number, {})
            found[at] = figures
            if len(found) == counts[number]:
                yield number, found[0] if counts[number] == 1 else tuple(sum(found[place]) for place in range(len(found)))

    def likelihoods(self, texts: Sequence[Text], blend: Blend, stop: Stop, known: Container[int] = ()) -> Iterator[Scored]:
        for number, text in enumerate(texts):
            check_length(number, len(text.ids), self.context)
        yield from self._scored([Ask.of(text) for text in texts], blend, stop, known)

    def _scored(self, asks: Sequence[Ask], blend: Blend, stop: Stop, known: Container[int]) -> Iterator[Scored]:
        for pack in prefixes.plan([ask.ids for ask in asks], [len(ask.wanted) for ask in asks], self._limits):
            if all(member in known for member in pack.members):
                continue
            for scores in self._pack(pack, asks, blend, stop, known):
                yield from ((member, figures) for member, figures in scores if member not in known)
            if stop():
                return

    def _pack(self, pack: Pack, asks: Sequence[Ask], blend: Blend, stop: Stop, known: Container[int]) -> Iterator[list[Scored]]:
        """The scores of a pack's texts, pass by pass; passes of known ones alone are left out."""
        figures = {member: [0.0] * len(asks[member].wanted) for member in pack.members}
        shared = [group.shared for group in pack.groups]
        cache = None
        if any(shared):
            rows = [asks[group.members[0]].ids[: group.shared] for group in pack.groups]
            wanted = [
                (row, place, token, member, at)
                for row, group in enumerate(pack.groups)
                for member in group.members
                for at, (place, token) in enumerate(asks[member].wanted)
                if place <= group.shared
            ]
            cache = self._read(rows, [0] * len(rows), 0, None, wanted, figures, blend, keep=True)
        behind = {member for each in pack.passes for _, member in each}
        whole = [member for member in pack.members if member not in behind]
        if whole:
            yield [(member, tuple(figures[member])) for member in whole]
        passes = [each for each in pack.passes if not all(member in known for _, member in each)]
        for number, each in enumerate(passes):
            if stop():
                return
            rows = [asks[member].ids[shared[at] :] for at, member in each]
            wanted = [
                (row, place - shared[at], token, member, index)
                for row, (at, member) in enumerate(each)
                for index, (place, token) in enumerate(asks[member].wanted)
                if place > shared[at]
            ]
            last = number + 1 == len(passes)
            expanded = cache and self._expanded(cache if last else copy.deepcopy(cache), [at for at, _ in each])
            self._read(rows, [shared[at] for at, _ in each], max(shared), expanded, wanted, figures, blend, keep=False)
            yield [(member, tuple(figures[member])) for _, member in each]

    def _expanded(self, cache, rows: list[int]):
        """A cache whose rows are those of `cache` with these numbers."""
        cache.batch_select_indices(self._torch.tensor(rows, device=self._device))
        return cache

    @property
    def _device(self):
        return self._backend.base.model.get_input_embeddings().weight.device

    def _read(self, rows, before: list[int], filled: int, cache, wanted, figures, blend: Blend, keep: bool):
        """Read rows of ids behind `cache`, which has `filled` columns, of which each row's first `before` are its own, piece by piece; put
        the log-probability of every wanted (row, place in the row, token, text, place in its figures) into `figures`. Gives the grown
        cache."""
        torch = self._torch
        longest = max(map(len, rows))
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        mask = torch.zeros((len(rows), filled + longest), dtype=torch.long)
        for row, (each, count) in enumerate(zip(rows, before, strict=True)):
            ids[row, : len(each)] = torch.tensor(each)
            mask[row, :count] = 1
            mask[row, filled : filled + len(each)] = 1
        places = torch.tensor(before)[:, None] + torch.arange(longest)
        places.clamp_(max=self.context - 1)  # padding may lie beyond what a model has places for
        ids, mask, places = (each.to(self._device) for each in (ids, mask, places))
        edges = [*range(0, longest, _PIECE), longest]
        keep = keep or len(edges) > 2
        try:
            for start, end in pairwise(edges):
                here = [each for each in wanted if start < each[1] <= end]
                with self._backend.in_force(blend) as model, _only(model, [(row, place - 1 - start) for row, place, *_ in here]) as chosen:
                    output = model(
                        ids[:, start:end],
                        attention_mask=mask[:, : filled + end],
                        position_ids=places[:, start:end],
                        past_key_values=cache,
                        use_cache=keep,
                    )
                    if here:
                        self._tell(output.logits[0], chosen, here, start, figures)
                    cache = output.past_key_values if keep else None
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError(
                "The GPU ran out of memory while scoring. Close what else uses it, or choose a smaller model; what was scored is kept."
            ) from error
        return cache

    def _tell(self, logits, chosen: dict[tuple[int, int], int], wanted, start: int, figures) -> None:
        """Put log-probabilities from the logits [chosen places, vocabulary] into `figures`."""
        torch = self._torch
        logits = logits.float()
        at = torch.tensor([chosen[row, place - 1 - start] for row, place, *_ in wanted], device=logits.device)
        tokens = torch.tensor([token for _, _, token, *_ in wanted], device=logits.device)
        found = (logits[at, tokens] - logits.logsumexp(-1)[at]).double().tolist()
        for (*_, member, index), value in zip(wanted, found, strict=True):
            if value != value:
                raise EngineError(
                    "The model gave numbers that are none (NaN). Its weights are damaged, or too large for this numeric type; fetch it again or choose another."
                )
            figures[member][index] = value


@contextlib.contextmanager
def _only(model, places: list[tuple[int, int]]) -> Iterator[dict[tuple[int, int], int]]:
    """Within the block the output head sees these (row, column) alone, each once, as one row: the model's logits are [1, places,
    vocabulary]. Gives where each of them is. What a model does to its logits behind the head is left as it is."""
    chosen = {place: number for number, place in enumerate(dict.fromkeys(places))}
    head = model.get_output_embeddings()
    columns = [list(each) for each in zip(*chosen, strict=True)] or [[0], [0]]

    def pick(module, arguments):
        (hidden,) = arguments
        return (hidden[columns[0], columns[1]][None],)

    hook = head.register_forward_pre_hook(pick)
    try:
        yield chosen
    finally:
        hook.remove()

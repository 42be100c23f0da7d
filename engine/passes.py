"""From rows of tokens to losses and gradients: which rows a step takes, how they share passes, what is summed.

Rows depend on the seed and the step alone. Only target positions go through the vocabulary; prompt tokens need no logits.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence

import numpy
import torch

from engine import packing, ranks
from engine.chat import StopStrings
from engine.examples import Example
from engine.messages import Conversation
from engine.prompts import encode
from engine.trainee import Trainee


def rows_of_step(count: int, batch: int, step: int, seed: int) -> list[int]:
    """Which of `count` rows the step (the first is 1) learns from: every row once an epoch, in an order of its own each epoch."""
    first = (step - 1) * batch
    return [int(_order(count, position // count, seed)[position % count]) for position in range(first, first + batch)]


@functools.lru_cache(maxsize=4)
def _order(count: int, epoch: int, seed: int):
    return numpy.random.default_rng([seed, epoch]).permutation(count)


def split(learner: Trainee, rows: Sequence[Example], size: int) -> list[list[Example]]:
    """Passes of at most `size` rows each; rows of like length share one. On a CPU nothing is padded: rows are packed, or go
    one by one where the model does not allow it."""
    if not (learner.on_gpu or learner.packed):
        size = 1
    by_length = sorted(rows, key=lambda row: len(row.ids))
    groups = [by_length[start : start + size] for start in range(0, len(by_length), size)]
    return [part for group in groups for part in packing.parts(group)] if learner.packed else groups


def targets(rows: Sequence[Example]) -> int:
    """How many tokens are learnt. The first token of a row has nothing before it to be told from."""
    return sum(sum(row.learn[1:]) for row in rows)


def summed_loss(learner: Trainee, rows: Sequence[Example]) -> torch.Tensor:
    """The sum of the target losses, in nats, of rows that share a pass: a float32 scalar that gradients flow from."""
    if learner.packed:
        return packing.summed_loss(learner.model.get_base_model(), rows)
    return _padded_loss(learner.model, rows, learner.pad)


def _padded_loss(model, rows: Sequence[Example], pad: int) -> torch.Tensor:
    """Rows are padded at the right to [rows, longest]; logits are made for the positions that predict a target of any row."""
    device = model.get_input_embeddings().weight.device
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad)
    present = torch.zeros((len(rows), width), dtype=torch.long)
    predicts = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length] = torch.tensor(row.ids)
        present[index, :length] = 1
        predicts[index, : length - 1] = torch.tensor(row.learn[1:])
    wanted = ids[:, 1:][predicts[:, :-1]].to(device)
    positions = predicts.any(0).nonzero()[:, 0]
    ids, picked = ids.to(device), predicts.to(device)
    # Without padding there is nothing to mask, and attention takes its quicker, causal way.
    mask = None if bool(present.all()) else present.to(device)
    spread = len(set(getattr(model.get_base_model(), "hf_device_map", {}).values())) > 1
    # Positions would have to lie where the last layer does, and Accelerate's hooks move them to the first.
    if _takes_logits_to_keep(type(model.get_base_model())) and not spread:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=positions.to(device)).logits
        logits = logits[picked[:, positions]]
    else:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[picked]
    return torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")


@functools.cache
def _takes_logits_to_keep(kind: type) -> bool:
    return "logits_to_keep" in inspect.signature(kind.forward).parameters


def held_out(learner: Trainee, rows: Sequence[Example], size: int, check: Callable[[], None]) -> float:
    """Summed loss in nats over the targets of this process's share of the rows. `check` is called before every pass and may raise
    to end it."""
    learner.model.eval()
    total = 0.0
    with torch.no_grad():
        for _, part in ranks.share(split(learner, rows, size)):
            check()
            total += float(summed_loss(learner, part))
    return total


def answers(learner: Trainee, asked: Sequence[Conversation], longest: int, size: int, stop: Callable[[], bool]) -> list[str]:
    """Greedy answers of at most `longest` tokens, `size` of them made side by side. They are cut short where `stop()` comes true."""
    prompts = [encode(learner.tokenizer, each, learner.form, answering=True).ids for each in asked]
    texts = []
    for start in range(0, len(prompts), size):
        for ids in _generated(learner, prompts[start : start + size], longest, stop):
            stops = StopStrings(learner.form.stop)
            texts.append(stops.add(learner.base.tokenizer.decode(ids, skip_special_tokens=True)) + stops.rest())
    return texts


def _generated(learner: Trainee, prompts: Sequence[Sequence[int]], longest: int, stop: Callable[[], bool]) -> Iterator[list[int]]:
    """Token ids of the answers to prompts that fill one pass, without their end tokens."""
    from transformers import StoppingCriteriaList

    device = learner.model.get_input_embeddings().weight.device
    width = max(map(len, prompts))
    ids = torch.tensor([[learner.pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    learner.model.eval()
    with torch.no_grad(), packing.own_attention(learner.model.get_base_model(), learner.packed):
        made = learner.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=longest,
            eos_token_id=sorted(learner.base.ends),
            pad_token_id=learner.pad,
            stopping_criteria=StoppingCriteriaList([lambda seen, *_, **__: torch.full((len(seen),), stop(), device=seen.device)]),
        )
    for row in made[:, width:].tolist():
        yield row[: next((index for index, token in enumerate(row) if token in learner.base.ends), len(row))]

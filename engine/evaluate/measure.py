"""What all measures have in common: items read from data, a sample of them, rows that are kept of each.

A measure is read from its data before a model is loaded, asks a scorer about its items, and makes figures of the rows.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.backends.base import Stop
from engine.backends.scoring import Scorer
from engine.blend import Blend
from engine.data_files import BadRow
from engine.errors import BadInput
from engine.prompts import Format

_SHOWN = 3
# English has about so many in most vocabularies.
BYTES_A_TOKEN = 4


@dataclass(frozen=True)
class Item:
    """One thing that is scored. `key` names it in every measurement of the same data; `group` is its subject or category."""

    key: str
    group: str
    content: Any


@dataclass(frozen=True)
class Subject:
    """Who is asked: a scorer, for answers of a data set the prompt format and the system text where a row has none, and how many tokens
    a text may have, which is never more than the scorer takes."""

    scorer: Scorer
    form: Format
    system: str
    context: int


class Measure(ABC):
    """A measure on one set of data. `sha256` is that of the data as read, `told` what a person should know of it. `formed` where items
    are conversations, whose prompt format and system text count. `variant` is which of the ways to measure it is, where there are some.
    `counted` where `count` is exact."""

    sha256: str
    told: tuple[str, ...]
    formed = False
    variant = ""
    counted = True

    @property
    @abstractmethod
    def count(self) -> int:
        """About how many items it has, before a tokenizer is there to tell."""

    @abstractmethod
    def tokens(self, count: int) -> float:
        """About how many tokens are read to score so many of its items, what they share once; by their bytes."""

    @abstractmethod
    def half_width(self, limit: int, seed: int) -> float | None:
        """Half of the width of its figure's interval over a sample of so many items, at its widest; None where the spread is not known
        before."""

    @abstractmethod
    def items(self, subject: Subject) -> list[Item]:
        """All that can be scored, in the data's order. Raises BadInput where that is nothing."""

    @abstractmethod
    def rows(self, subject: Subject, items: Sequence[Item], blend: Blend, stop: Stop, known: Container[int]) -> Iterator[tuple[int, dict]]:
        """A row for each item, by its number, as soon as it is scored, with `key`, `group` and what the figures are made of; of `known`
        items none. Ends early where `stop()` is true."""

    def remarks(self, rows: Sequence[dict], context: int) -> list[str]:
        """What a person should know of how these rows came about in a context of so many tokens."""
        return []

    @abstractmethod
    def result(self, rows: Sequence[dict]) -> dict:
        """The figures of these rows, as plain values."""


def sample(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """At most `limit` items, the same ones for the same seed: of each group as large a part as of all, within it at random. In the
    order they came in."""
    if limit is None or limit >= len(items):
        return list(items)
    chance = random.Random(seed)
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.group, []).append(place)
    exact = {group: limit * len(each) / len(items) for group, each in places.items()}
    taken = {group: int(count) for group, count in exact.items()}
    # What rounding left over goes to the groups it took most from, those that are alike in a random order.
    order = sorted(exact, key=lambda group: (taken[group] - exact[group], chance.random()))
    for group in order[: limit - sum(taken.values())]:
        taken[group] += 1
    chosen = sorted(place for group, each in places.items() for place in chance.sample(each, taken[group]))
    return [items[place] for place in chosen]


def size(texts: Sequence[str]) -> float:
    """The mean size of texts in tokens, about; 0 of none."""
    return sum(len(text.encode()) for text in texts) / BYTES_A_TOKEN / len(texts) if texts else 0.0


def checked(bad: Sequence[BadRow], good: int, unit: str, skip: bool, name: str) -> tuple[str, ...]:
    """What to tell of bad rows that are skipped. Raises BadInput with their lines where they are not to be, or nothing is left
    (faults, row 11)."""
    if not bad:
        if not good:
            raise BadInput(f"{name} has no rows.")
        return ()
    shown = "; ".join(f"{unit} {each.line}: {each.reason}" for each in bad[:_SHOWN]) + (" …" if len(bad) > _SHOWN else "")
    text = f"{len(bad):,} of {len(bad) + good:,} rows of {name} cannot be used ({shown})."
    if not good:
        raise BadInput(text)
    if not skip:
        raise BadInput(f"{text} Mend them, or leave them out with --skip-bad-rows.")
    return (f"{text} They are left out.",)


def text_field(fields: Mapping[str, object], name: str) -> str | None:
    """A field that holds text, None where it does not."""
    value = fields.get(name)
    return value if isinstance(value, str) and value.strip() else None

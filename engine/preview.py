"""What a person sees of a data set before training on it: its first rows at once, then every row's length and what limits cut.

A row is made into tokens once and these are not kept: what another limit would do follows from where its answers lie.
"""

import functools
import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine import datasets, hub, tokenizer_files
from engine.backends.base import Stop
from engine.data_files import BadRow, Row, Unit
from engine.data_formats import FORMATS
from engine.datasets import AUTO, Data
from engine.errors import BadInput
from engine.events import Progress
from engine.examples import Lengths, Shape, Size, answered_within, encoded, example
from engine.messages import Conversation
from engine.model_spec import ModelSpec
from engine.prompts import Format
from engine.tokenizers import Tokenizer

SHOWN_ROWS = 50
# How often figures are given while rows are counted, seconds.
_EVERY = 2.0
_REPORT_ROWS = 200


@dataclass(frozen=True)
class First:
    """The first rows of a data set. `lines` has the line (or row, as `unit` says) of each conversation, `bad` the rows among the first
    that cannot be used. Where the format is `unsure`, none is found or none of the rows is in it: then a person can say which of the
    `columns` stand for which of the `fields`, and `reason` says what is wrong."""

    format: str
    reason: str
    unit: Unit
    lines: tuple[int, ...]
    conversations: tuple[Conversation, ...]
    bad: tuple[BadRow, ...]
    rows: int
    unsure: bool
    columns: tuple[str, ...]
    fields: tuple[str, ...]

    def table(self) -> list[tuple[int, str, str, str, int]]:
        """A row for each conversation: line, system text, first question, last answer, number of messages."""
        return [
            (
                line,
                asked.system,
                next((message.text for message in asked.messages if message.role == "user"), ""),
                asked.messages[-1].text,
                len(asked.messages),
            )
            for line, asked in zip(self.lines, self.conversations, strict=True)
        ]


@dataclass(frozen=True)
class Cutoff:
    """What limits do to a data set: `rows` train, `cut` of them shorter than they were; `unlearnable` rows besides have no answer within
    the limits. `total` tokens train, `kept` of them are learnt and `lost` would be without limits. `longest` is the longest row that
    trains, in tokens."""

    rows: int
    cut: int
    unlearnable: int
    total: int
    kept: int
    lost: int
    longest: int


@dataclass(frozen=True)
class Measured:
    """The rows of `data` in tokens, only the first ones until they are `done`. `shapes` has one for each conversation that is counted,
    None where nothing is learnt; `anew` makes a row's tokens once more, by its place. `refused` are places of conversations that the prompt format does not take; `bad` has
    them besides the rows that cannot be used."""

    data: Data
    bad: tuple[BadRow, ...]
    shapes: tuple[Shape | None, ...] = field(repr=False)
    refused: frozenset[int] = field(repr=False)
    anew: Callable[[int, Lengths, bool], Size | None] = field(repr=False)

    @property
    def done(self) -> bool:
        """Whether this is all of the data."""
        return len(self.shapes) == len(self.data.conversations)

    @property
    def rows(self) -> int:
        """Conversations that are counted, without those that the prompt format refuses."""
        return len(self.shapes) - len(self.refused)

    def at(self, lengths: Lengths, learn_everything: bool = False) -> Cutoff:
        """What these limits would do. Quick, but for a limit of the question, which makes tokens of too long rows anew."""
        sizes = [size for size in self.sizes(lengths, learn_everything) if size]
        there = sum(size.targets for size in self._whole[learn_everything] if size)
        tokens, targets, cut = map(list, zip(*sizes)) if sizes else ([], [], [])
        left_out = self.rows - len(sizes)
        return Cutoff(
            len(sizes), len(cut) - cut.count(0), left_out, sum(tokens), sum(targets), there - sum(targets), max(tokens, default=0)
        )

    def sizes(self, lengths: Lengths, learn_everything: bool = False) -> Iterator[Size | None]:
        """What is left of each row within the limits, None where that is no answer; without rows that the format refuses."""
        total, source, target = (math.inf if limit is None else limit for limit in (lengths.total, lengths.source, lengths.target))
        for index, (shape, whole) in enumerate(zip(self.shapes, self._whole[learn_everything], strict=True)):
            if shape is None:
                if index not in self.refused:
                    yield None
                continue
            start, _, end = shape.answers[-1]
            if end <= total and start <= source and end - start <= target:
                yield whole
            elif start > source:
                yield self.anew(index, lengths, learn_everything)
            else:
                left = answered_within(shape, lengths)
                yield Size(left[0].tokens, left[0].learnt(learn_everything), shape.tokens - left[0].tokens) if left else None

    @functools.cached_property
    def _whole(self) -> dict[bool, list[Size | None]]:
        """Each row's size without limits, by whether everything is learnt."""
        return {every: [shape and Size(shape.tokens, shape.learnt(every), 0) for shape in self.shapes] for every in (False, True)}

    def histogram(self, bins: int = 40) -> list[tuple[int, int, int]]:
        """How many rows have from `low` to `high` tokens, both included, without limits: at most so many stretches of one width, which
        hold all rows."""
        lengths = [shape.tokens for shape in self.shapes if shape]
        if not lengths:
            return []
        least = min(lengths)
        width = math.ceil((max(lengths) - least + 1) / bins)
        counts = Counter((length - least) // width for length in lengths)
        return [(least + index * width, least + (index + 1) * width - 1, counts[index]) for index in range(max(counts) + 1)]

    def longest(self, count: int) -> list[int]:
        """Places in `data.conversations` of the longest rows, the longest first."""
        places = (index for index, shape in enumerate(self.shapes) if shape)
        return heapq.nlargest(count, places, key=lambda index: self.shapes[index].tokens)


def first(
    source: str | Path,
    format: str = AUTO,
    columns: Mapping[str, str] | None = None,
    report: hub.Report = lambda progress: None,
    public: bool = False,
) -> First:
    """The first 50 rows, as the format that is asked for or that the first 100 are in. `public` as in `datasets.load`. Raises BadInput where nothing can be read, there
    is no such format or column, EngineError where the Hub does not answer."""
    head = datasets.head(source, format, columns, report, public=public)
    found = tuple(dict.fromkeys(str(name) for row in head.rows if isinstance(row, Row) for name in row.fields))
    shown = head.rows[:SHOWN_ROWS]
    try:
        form, reason = head.form(format)
    except BadInput as error:
        if not found:
            raise
        fields = tuple(dict.fromkeys(name for form in FORMATS.values() for name in form.names))
        bad = tuple(row for row in shown if isinstance(row, BadRow))
        return First("", str(error), head.unit, (), (), bad, len(shown), True, found, fields)
    lines: list[int] = []
    conversations: list[Conversation] = []
    bad: list[BadRow] = []
    for row in shown:
        made = head.converted(row, form)
        if isinstance(made, BadRow):
            bad.append(made)
        else:
            conversations += made
            lines += [row.line] * len(made)
    none = "" if conversations else f"; none of these rows is in it: in {head.unit} {bad[0].line}, {bad[0].reason}"
    return First(
        form.name,
        reason + none,
        head.unit,
        tuple(lines),
        tuple(conversations),
        tuple(bad),
        len(shown),
        not conversations,
        found,
        form.names,
    )


def measuring(
    source: str | Path,
    spec: ModelSpec,
    form: Format,
    format: str = AUTO,
    columns: Mapping[str, str] | None = None,
    system: str = "",
    report: hub.Report = lambda progress: None,
    stop: Stop = lambda: False,
    public: bool = False,
) -> Iterator[Progress | Measured]:
    """Read a data set and make every row tokens, without keeping those: what is counted so far soon and every other second, all of it at
    the end, or what there is where it is stopped. `system` stands before rows that bring no system text. `report` hears of what
    comes before that. `public` as in `datasets.load`. Raises BadInput or EngineError where the data or the tokenizer cannot be read, or the format suits no row.
    """
    data = datasets.load(source, format, columns, report, public=public)
    tokenizer = tokenizer_files.opened(spec, report)
    yield from counting(data, tokenizer, form, system, stop)


def counting(data: Data, tokenizer: Tokenizer, form: Format, system: str = "", stop: Stop = lambda: False) -> Iterator[Progress | Measured]:
    """As `measuring`, of data that is read."""
    shapes: list[Shape | None] = []
    refused: dict[int, str] = {}

    def anew(index: int, lengths: Lengths, learn_everything: bool) -> Size | None:
        made = example(tokenizer, data.conversations[index].or_system(system), form, lengths, learn_everything)
        return made.size if made else None

    def so_far() -> Measured:
        by_line = {data.lines[index]: reason for index, reason in reversed(refused.items())}
        bad = sorted((*data.bad, *(BadRow(line, reason) for line, reason in by_line.items())), key=lambda each: each.line)
        return Measured(data, tuple(bad), tuple(shapes), frozenset(refused), anew)

    count, told = len(data.conversations), -math.inf
    for index, conversation in enumerate(data.conversations):
        if stop():
            break
        if index and not index % _REPORT_ROWS:
            yield Progress(f"Counting tokens: {index:,} of {count:,} rows", index / count)
            if time.monotonic() - told > _EVERY:
                yield so_far()
                told = time.monotonic()
        try:
            row = encoded(tokenizer, conversation.or_system(system), form)
        except BadInput as error:  # turns that the prompt format does not take
            refused[index] = str(error)
            row = None
        shapes.append(row.shape if row else None)
    if len(refused) == count:
        raise BadInput(refused[0])
    yield so_far()


def ended(counts: Iterable[Progress | Measured], report: hub.Report) -> Measured:
    """The last of what `measuring` or `counting` gives; what is under way is reported."""
    for each in counts:
        if isinstance(each, Progress):
            report(each)
    return each

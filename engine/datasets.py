"""Data to finetune on: a file or Hub data set read, its format found, each row made a conversation or reported with its line.

What is good is kept whatever else a file holds. Splits are the same for the same seed.
"""

import itertools
import math
import random
import shlex
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine import data_files, data_hub, hub, paths
from engine.data_files import BadRow, Row, Unit
from engine.data_formats import FORMATS, DataFormat, Unfit
from engine.errors import BadInput
from engine.events import Progress
from engine.messages import Conversation
from engine.model_files import local_path
from engine.paths import public_name

AUTO = "auto"
_SAMPLE_ROWS = 100
_REPORT_ROWS = 20_000
# Read for a visitor of a public host, who may train on no more.
MOST_PUBLIC_ROWS = 10_000


@dataclass(frozen=True)
class Draw:
    """Take at most `rows` rows at random, the same ones for the same seed, and the `last` rows of all besides."""

    rows: int
    last: int
    seed: int


@dataclass(frozen=True)
class Data:
    """A data set as conversations, whose answers are marked as learnt.

    `lines` has the line (or row, as `unit` says) of each conversation; a row of several instances gives several. `bad` are the
    rows left out, `rows` counts good and bad. `reason` says why this format. `sha256` is that of the file, or of a Hub data
    set's rows as canonical JSON. `there` counts the rows read, of which `rows` were taken.
    """

    conversations: tuple[Conversation, ...]
    lines: tuple[int, ...]
    bad: tuple[BadRow, ...]
    format: str
    reason: str
    source: str
    sha256: str
    rows: int
    unit: Unit
    there: int


@dataclass(frozen=True)
class Head:
    """The beginning of a data set: its first `rows`, with the fields that a person's columns make of them, and `rest`, which reads on.
    `path` is None for one of the Hub."""

    name: str
    path: Path | None
    unit: Unit
    rows: tuple[Row | BadRow, ...]
    rest: Iterator[Row | BadRow]
    columns: Mapping[str, str]

    def fields(self) -> list[Mapping[str, object]]:
        """Of those rows that can be read, as a format sees them."""
        return [row.fields for row in (_renamed(row, self.columns) for row in self.rows) if isinstance(row, Row)]

    def form(self, format: str = AUTO) -> tuple[DataFormat, str]:
        """The format that is asked for or found, and the reason. Raises BadInput as `detect` does."""
        if format != AUTO:
            return FORMATS[format], "this format was asked for"
        if not (fields := self.fields()):
            first = next(row for row in self.rows if isinstance(row, BadRow))
            raise BadInput(
                f"{public_name(self.name)} has no rows that can be read: in line {first.line}, {first.reason}.{_remedy(first, fields)}"
            )
        name, reason = detect(fields)
        return FORMATS[name], reason

    def converted(self, row: Row | BadRow, form: DataFormat) -> tuple[Conversation, ...] | BadRow:
        """A row's conversations, or what is wrong with it."""
        row = _renamed(row, self.columns)
        if isinstance(row, BadRow):
            return row
        try:
            return form.convert(row.fields)
        except Unfit as error:
            return BadRow(row.line, str(error))


def local_file(source: str | Path) -> Path | None:
    """The local file that is meant, None for a Hub data set. Raises BadInput for what is neither."""
    path = local_path(str(source))
    if path.exists() or path.suffix.lower() in data_files.KINDS or not data_hub.NAME.fullmatch(str(source)):
        return path
    return None


def head(
    source: str | Path,
    format: str = AUTO,
    columns: Mapping[str, str] | None = None,
    report: hub.Report = lambda progress: None,
    limit: int | None = None,
    public: bool = False,
) -> Head:
    """Begin to read a data set, as `load` does. Raises BadInput where there is no such format or column, or no row."""
    if format != AUTO and format not in FORMATS:
        raise BadInput(f"There is no data format {format!r}. There are: {AUTO}, {', '.join(FORMATS)}.")
    if limit is not None and limit < 1:
        raise BadInput(f"The limit of rows is {limit}; it must be at least 1.")
    name, path = str(source), local_file(source)
    unit, found = data_files.opened(path) if path else data_hub.opened(name, report, public)
    rest = itertools.islice(found, limit)
    rows = tuple(itertools.islice(rest, _SAMPLE_ROWS))
    if not rows:
        raise BadInput(f"{public_name(name)} has no rows.")
    _check_columns(columns or {}, rows)
    return Head(name, path, unit, rows, rest, columns or {})


def load(
    source: str | Path,
    format: str = AUTO,
    columns: Mapping[str, str] | None = None,
    report: hub.Report = lambda progress: None,
    limit: int | None = None,
    draw: Draw | None = None,
    public: bool = False,
) -> Data:
    """Read at most `limit` rows of a local file, or of a Hub data set `owner/name[@config][:split]` (default split: train). With
    `draw` all are read, and those drawn are kept, in their order.

    `columns` says which column of the data is a format's field: `{"instruction": "my question column"}`. `public` as in
    `data_hub.opened`: it reads for a visitor of a public host, and no further than to the first row too many. Raises BadInput then, and
    where nothing can be read or no row is good, EngineError where the Hub does not answer.
    """
    begun = head(source, format, columns, report, limit, public)
    name, path, unit = begun.name, begun.path, begun.unit
    checksum = None if path else data_hub.RowsChecksum()
    form, reason = begun.form(format)
    conversations: list[Conversation] = []
    lines: list[int] = []
    bad: list[BadRow] = []
    count = there = 0

    def counted() -> Iterator[Row | BadRow]:
        nonlocal there
        for row in itertools.chain(begun.rows, begun.rest):
            there += 1
            if public and max(there, len(conversations)) > MOST_PUBLIC_ROWS:
                raise BadInput(
                    f"On this public host a run may have at most {MOST_PUBLIC_ROWS:,} rows of data; this one has more. Bring fewer rows in step 2."
                )
            if not there % _REPORT_ROWS:
                report(Progress(f"Reading {name}: {there:,} rows"))
            if checksum:
                checksum.add(row)
            yield row

    for row in _drawn(counted(), draw) if draw else counted():
        count += 1
        made = begun.converted(row, form)
        if isinstance(made, BadRow):
            bad.append(made)
        else:
            conversations += made
            lines += [row.line] * len(made)
    if not conversations:
        raise BadInput(
            f"{public_name(name)} has no rows that can be used as {form.name}: in {unit} {bad[0].line}, {bad[0].reason}."
            + _remedy(bad[0], begun.fields())
        )
    digest = checksum.hexdigest() if checksum else paths.sha256(path)
    return Data(tuple(conversations), tuple(lines), tuple(bad), form.name, reason, name, digest, count, unit, there)


def detect(rows: Sequence[Mapping[str, object]]) -> tuple[str, str]:
    """The format that most of these rows are in, and the reason as a clause for people. Raises BadInput, with the columns there
    are, where no format fits any row."""
    signs = Counter((form.name, sign) for fields in rows if (form := _fitting(fields)) and (sign := form.sign(fields)))
    if not signs:
        known = "; ".join(f"{form.name} ({form.fields})" for form in FORMATS.values())
        raise BadInput(f"No known format fits these rows.{_hint(rows)} Known by themselves are: {known}.")
    forms = Counter()
    for (name, _), count in signs.items():
        forms[name] += count
    best = forms.most_common(1)[0][0]
    return best, next(sign for (name, sign), _ in signs.most_common() if name == best)


def split(count: int, held_out: int | float, seed: int, order: Literal["random", "last"]) -> tuple[list[int], list[int]]:
    """Indices 0..count-1 to train on and to hold out, both ascending. `held_out` is a number of rows, or as a float in (0, 1) a
    share of them, rounded and at least one; 0 holds out none. Raises BadInput where nothing would be left to train on."""
    number = held_out_rows(count, held_out)
    last = range(count - number, count)
    kept_back = set(last if order == "last" else random.Random(seed).sample(range(count), number))
    return [index for index in range(count) if index not in kept_back], sorted(kept_back)


def held_out_rows(count: int, held_out: int | float) -> int:
    """How many of `count` rows `split` holds out. Raises BadInput as it does."""
    if isinstance(held_out, float) and held_out and not 0 < held_out < 1:
        raise BadInput(f"{held_out} rows cannot be held out: give a whole number of rows, or a share between 0 and 1.")
    if held_out < 0:
        raise BadInput(f"{held_out} rows cannot be held out: give 0 for none.")
    number = max(1, math.floor(held_out * count + 0.5)) if isinstance(held_out, float) and held_out else int(held_out)
    if number >= count:
        raise BadInput(f"{number} of {count} rows are to be held out, which leaves none to train on. Hold out fewer, or add rows.")
    return number


def at_most_half(held_out: int | float, count: int) -> int | float:
    """A number of rows to hold out, or what a run makes of it: where there are few, half of them are needed to learn from."""
    return min(held_out, count // 2) if held_out >= 1 else held_out


def _drawn(rows: Iterable[Row | BadRow], draw: Draw) -> Iterator[Row | BadRow]:
    """Reservoir sampling: however many rows there are, no more are held than are drawn."""
    chance = random.Random(draw.seed)
    kept: list[tuple[int, Row | BadRow]] = []
    tail: deque[Row | BadRow] = deque()
    for number, row in enumerate(rows, 1 - draw.last):
        tail.append(row)
        if number < 1:
            continue
        earlier = number, tail.popleft()
        if len(kept) < draw.rows:
            kept.append(earlier)
        elif (place := chance.randrange(number)) < draw.rows:
            kept[place] = earlier
    yield from (row for _, row in sorted(kept, key=lambda each: each[0]))
    yield from tail


def _renamed(row: Row | BadRow, columns: Mapping[str, str]) -> Row | BadRow:
    if isinstance(row, BadRow) or not columns:
        return row
    taken = set(columns.values())
    fields = {name: value for name, value in row.fields.items() if name not in taken}
    return replace(row, fields=fields | {field: row.fields[column] for field, column in columns.items() if column in row.fields})


def _check_columns(columns: Mapping[str, str], head: Iterable[Row | BadRow]) -> None:
    sample = [row.fields for row in head if isinstance(row, Row)]
    for field, column in columns.items():
        if sample and not any(column in fields for fields in sample):
            raise BadInput(f"There is no column {column!r} to take as {field}.{_hint(sample)}")


def _fitting(fields: Mapping[str, object]) -> DataFormat | None:
    return next((form for form in FORMATS.values() if form.sign(fields)), None)


def _remedy(bad: BadRow, sample: Sequence[Mapping[str, object]]) -> str:
    """What to do where all rows are bad, as this one is."""
    if "not UTF-8" in bad.reason:
        return " Save the file as UTF-8, which spreadsheets call CSV UTF-8, and bring it again."
    return _hint(sample)


def _hint(sample: Sequence[Mapping[str, object]]) -> str:
    found = list(dict.fromkeys(str(name)[:60] for fields in sample for name in fields))
    if not found:
        return ""
    shown = ", ".join(map(repr, found[:20])) + (" …" if len(found) > 20 else "")
    return (
        f" The columns are {shown}. Say which of them is a format's field, such as its instruction or its output, in step 2 of the page, by "
        f"--column instruction={shlex.quote(found[0])}, as data.columns in a recipe, or as COLUMNS in the notebook."
    )

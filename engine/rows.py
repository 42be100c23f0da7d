"""From a recipe's data to rows of tokens: read, reported on, held out, cut to length. What is previewed is what trains.

Of a data set that is larger than a run no more is held than the run learns from.
"""

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine import datasets, hub, telling
from engine.data_files import BadRow
from engine.datasets import Data, Draw
from engine.errors import BadInput
from engine.events import Event, Notice, Progress
from engine.examples import Example, example
from engine.prompts import Format
from engine.recipe import DataRecipe, Recipe
from engine.tokenizers import Tokenizer

LEAST_ROWS = 2
_MEND = "Mend them, or set data.skip_bad_rows to leave them out."
_REPORT_ROWS = 5_000


class Examples(Sequence[Example]):
    """Examples in five bytes a token instead of some forty: a run may have hundreds of thousands."""

    def __init__(self, examples: Iterator[Example]):
        self._ids, self._learn, self._ends, self._cut = array("i"), bytearray(), array("q", [0]), array("i")
        for each in examples:
            self._ids.extend(each.ids)
            self._learn.extend(each.learn)
            self._ends.append(len(self._ids))
            self._cut.append(each.cut)

    def __len__(self) -> int:
        return len(self._cut)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = slice(self._ends[index], self._ends[index + 1])
        return Example(tuple(self._ids[place]), tuple(map(bool, self._learn[place])), self._cut[index])


@dataclass(frozen=True)
class Rows:
    """What is learnt and what is kept for testing, as tokens. `cut` of these rows are cut; besides, `left_out` rows have no answer
    within the limits, and `undrawn` were not drawn."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    cut: int
    left_out: int
    undrawn: int


def needed(recipe: Recipe) -> Draw | None:
    """Which rows a run of so many steps can learn from at most, None where it is all of them."""
    plan, data = recipe.optimization, recipe.data
    if plan.steps is None or (plan.epochs or 2) < 2:
        return None
    learnt = plan.steps * plan.batch
    if data.held_out_from == "last":
        return Draw(learnt, int(data.held_out), plan.seed) if data.held_out == int(data.held_out) else None
    held_out = data.held_out if data.held_out >= 1 else learnt * data.held_out / (1 - data.held_out)
    return Draw(learnt + math.ceil(held_out), 0, plan.seed)


def check_named(plan: DataRecipe) -> None:
    """Raises BadInput where a recipe names no data."""
    if not plan.source:
        raise BadInput("The recipe names no data. Give a file with --data, or a file or Hub data set as data.source.")


def check_begins(plan: DataRecipe) -> None:
    """Raises BadInput where a recipe names no data, or a file whose first rows are not what it says. Of the Hub nothing is asked."""
    check_named(plan)
    if datasets.local_file(plan.source):
        datasets.head(plan.source, plan.format, plan.columns).form(plan.format)


def read(plan: DataRecipe, report: hub.Report, draw: Draw | None = None, public: bool = False) -> Data:
    """The conversations of a recipe's data, or of those rows that are drawn. `public` as in `datasets.load`. Raises BadInput where there are too few, or bad
    ones that are not to be skipped."""
    check_named(plan)
    data = datasets.load(plan.source, plan.format, plan.columns, report, draw=draw, public=public)
    if data.bad and not plan.skip_bad_rows:
        raise BadInput(f"{_told(data, data.bad)} {_MEND}")
    if len(data.conversations) < LEAST_ROWS:
        raise BadInput(
            f"{len(data.conversations) or 'No'} row of {plan.source} can be used; at least {LEAST_ROWS} are needed. {_told(data, data.bad)}".strip()
        )
    return data


def encoded(plan: DataRecipe, data: Data, seed: int, tokenizer: Tokenizer, form: Format, tell: Callable[[Event], None]) -> Rows:
    """The rows as tokens, split. Tells what was skipped and cut (faults, rows 11 and 13). Raises BadInput where nothing is left."""
    lengths = plan.lengths
    refused: list[BadRow] = []

    def made(indices: list[int]) -> Iterator[Example]:
        for number, index in enumerate(indices, 1):
            if not number % _REPORT_ROWS:
                tell(Progress(f"Making tokens of {number:,} of {len(indices):,} rows"))
            asked = data.conversations[index].or_system(plan.system)
            try:
                row = example(tokenizer, asked, form, lengths, plan.learn == "everything")
            except BadInput as error:  # turns that the prompt format does not take
                refused.append(BadRow(data.lines[index], str(error).rstrip(".")))
                continue
            if row:
                yield row

    count = len(data.conversations)
    if data.there > data.rows:
        tell(Notice(f"{data.rows:,} of {data.there:,} rows are drawn: the steps can learn from no more."))
    held_out = datasets.at_most_half(plan.held_out, count)
    if held_out != plan.held_out:
        tell(Notice(f"{held_out} of {count} rows are held out instead of {plan.held_out}: the other half is needed to learn from."))
    learnt, tested = datasets.split(count, held_out, seed, plan.held_out_from)
    train, test = Examples(made(learnt)), Examples(made(tested))
    if len(refused) == count:
        raise BadInput(f"{refused[0].reason}.")
    bad = sorted((*data.bad, *refused), key=lambda each: each.line)
    if bad and not plan.skip_bad_rows:
        raise BadInput(f"{_told(data, bad)} {_MEND}")
    if bad:
        tell(Notice(_told(data, bad)))
    cut = sum(bool(row.cut) for row in (*train, *test))
    lost = count - len(train) - len(test) - len(refused)
    if cut:
        ends = "is longer than the limit and is cut; it" if cut == 1 else "are longer than the limit and are cut; each"
        tell(Notice(f"{cut:,} of {telling.counted(count, 'row')} {ends} still ends with the end token."))
    if lost:
        out = "is left out: its" if lost == 1 else "are left out: their"
        tell(Notice(f"{telling.counted(lost, 'row')} {out} question alone fills the limit, so there is no answer to learn."))
    if not train:
        raise BadInput(f"No row has an answer within {plan.max_length} tokens. Raise “Longest row” (data.max_length).")
    return Rows(train, test, cut, lost, data.there - data.rows)


def _told(data: Data, bad: Sequence[BadRow]) -> str:
    """How many rows are bad, and the first of them; nothing where none is."""
    if not bad:
        return ""
    shown = "; ".join(f"{data.unit} {each.line}: {each.reason}" for each in bad[:3])
    return f"{len(bad):,} of {data.rows:,} rows cannot be read ({shown}{' …' if len(bad) > 3 else ''})."

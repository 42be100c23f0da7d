"""From conversations to training examples: the tokens of a row, which of them are targets, cut to length.

Every example ends in an end token that is a target, cut or not: a model that never learns to end never does.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from statistics import fmean, median

from engine.errors import BadInput
from engine.messages import Conversation, Message
from engine.prompts import Format, encoded_pieces
from engine.tokenizers import Tokenizer


@dataclass(frozen=True)
class Lengths:
    """Limits in tokens, None for none. `total` holds for a whole row; `source` for all that stands before the last answer,
    `target` for that answer with its end token (QLoRA's source_max_len and target_max_len)."""

    total: int | None = 512
    source: int | None = None
    target: int | None = None

    def __post_init__(self):
        for what, limit, least in (("row", self.total, 2), ("question", self.source, 1), ("answer", self.target, 2)):
            if limit is not None and limit < least:
                raise BadInput(f"The limit of a {what} is {limit} tokens; it must be at least {least}.")


@dataclass(frozen=True)
class Example:
    """Token ids of a row; `learn[i]` says whether token i is a target. `cut` tokens were left out for the limits."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    cut: int


@dataclass(frozen=True)
class Statistics:
    """Tokens of `rows` rows that can be learnt from: of all together, of single rows, and how many of them are targets.
    `cut` of these rows were cut; `unlearnable` rows besides have no answer within the limits."""

    rows: int
    total: int
    min: int
    median: float
    mean: float
    p95: int
    max: int
    targets: int
    cut: int
    unlearnable: int

    @property
    def target_share(self) -> float:
        """Targets over all tokens, 0 where there are none."""
        return self.targets / self.total if self.total else 0.0


def statistics(examples: Iterable[Example | None]) -> Statistics:
    """Figures of examples, which are not kept: they may come one after the other."""
    lengths: list[int] = []
    targets = cut = unlearnable = 0
    for each in examples:
        if each is None:
            unlearnable += 1
            continue
        lengths.append(len(each.ids))
        targets += sum(each.learn)
        cut += each.cut > 0
    lengths = sorted(lengths) or [0]
    return Statistics(
        rows=len(lengths) if lengths[-1] else 0,
        total=sum(lengths),
        min=lengths[0],
        median=median(lengths),
        mean=fmean(lengths),
        p95=lengths[math.ceil(0.95 * len(lengths)) - 1],
        max=lengths[-1],
        targets=targets,
        cut=cut,
        unlearnable=unlearnable,
    )


def example(
    tokenizer: Tokenizer, conversation: Conversation, form: Format, lengths: Lengths, learn_everything: bool = False
) -> Example | None:
    """A row to train on, or None where no answer is left to learn within the limits.

    Targets are the tokens of the answers marked `train` and the end tokens behind them, or with `learn_everything` all
    tokens but the first, which nothing foretells. What stands before the last answer is shortened to `source` by leaving out
    the oldest turns, then the end of the question; an answer by its end. Where the total limit falls into a question, the row
    ends with the answer before it. Raises BadInput where the format does not accept the turns, or has nothing to end them with.
    """
    row = _encoded(tokenizer, conversation, form)
    if row is None:
        return None
    whole = len(row.ids)
    if lengths.source is not None and row.answers[-1].start > lengths.source:
        row = _with_shorter_question(tokenizer, conversation, form, lengths.source)
    if row and lengths.target is not None and len(row.ids) - row.answers[-1].start > lengths.target:
        row = _cut(row, row.answers[-1:], row.answers[-1].start + lengths.target)
    if row and lengths.total is not None and len(row.ids) > lengths.total:
        row = _cut(row, row.answers, lengths.total)
    if row is None:
        return None
    learn = (False, *[True] * (len(row.ids) - 1)) if learn_everything else tuple(row.learn)
    return Example(tuple(row.ids), learn, whole - len(row.ids))


@dataclass(frozen=True)
class _Answer:
    """Where in a row an answer that is learnt lies: its text from `start` to `text_end`, its end token up to `end`."""

    start: int
    text_end: int
    end: int


@dataclass(frozen=True)
class _Row:
    """A row up to the end token of the last answer that is learnt. `ending` are the ids that end an answer here."""

    ids: list[int]
    learn: list[bool]
    answers: list[_Answer]
    ending: list[int]


def _encoded(tokenizer: Tokenizer, conversation: Conversation, form: Format) -> _Row | None:
    """A whole conversation, None where nothing in it is learnt. What stands behind the last answer is left out."""
    ids: list[int] = []
    learn: list[bool] = []
    answers: list[_Answer] = []
    ending: list[int] = []
    for piece, new in encoded_pieces(tokenizer, conversation, form):
        start, end = len(ids), len(ids) + len(new)
        ids += new
        learn += [piece.learn] * len(new)
        if piece.learn and not piece.control and new:
            answers.append(_Answer(start, end, end))
        elif piece.learn and piece.control:
            ending = ending or new
            text = answers.pop() if answers and answers[-1].end == start else _Answer(start, start, start)
            answers.append(replace(text, end=end))
    if not answers:
        return None
    ending = ending or [tokenizer.end]
    if None in ending:
        raise BadInput("This model's tokenizer has no token that ends a text, so a model could not learn to end. Choose another model.")
    row = _Row(ids, learn, answers, ending)
    last = answers[-1]
    return _ended(row, last.end, [] if last.end > last.text_end else ending)


def _ended(row: _Row, length: int, ending: list[int]) -> _Row:
    """The first `length` tokens of a row, the last of which belongs to an answer, and `ending` behind them."""
    answers = [answer for answer in row.answers if answer.start < length]
    answers[-1] = _Answer(answers[-1].start, min(answers[-1].text_end, length), length + len(ending))
    return _Row(row.ids[:length] + ending, row.learn[:length] + [True] * len(ending), answers, row.ending)


def _cut(row: _Row, answers: list[_Answer], limit: int) -> _Row | None:
    """As much of a row as fits `limit` and ends in one of `answers`, of which at least one token and the end are left."""
    for answer in reversed(answers):
        missing = [] if answer.end > answer.text_end else row.ending
        if answer.end + len(missing) <= limit:
            return _ended(row, answer.end, missing)
        length = min(limit - len(row.ending), answer.text_end)
        if length > answer.start:
            return _ended(row, length, row.ending)
    return None


def _with_shorter_question(tokenizer: Tokenizer, conversation: Conversation, form: Format, limit: int) -> _Row | None:
    """The row with at most `limit` tokens before its last answer, None where not one character of the question fits. Turns are
    shortened as text and rendered anew, so that the markers around them stay whole."""
    last = max(index for index, message in enumerate(conversation.messages) if message.train)
    shorter = replace(conversation, messages=conversation.messages[: last + 1])
    while _question_tokens(tokenizer, shorter, form) > limit and (fewer := shorter.without_oldest_turn()) != shorter:
        shorter = fewer
    asked = next((index for index in reversed(range(len(shorter.messages))) if shorter.messages[index].role == "user"), None)
    if asked is None:
        return None
    text = shorter.messages[asked].text

    def with_characters(count: int) -> Conversation:
        messages = (*shorter.messages[:asked], Message("user", text[:count]), *shorter.messages[asked + 1 :])
        return replace(shorter, messages=messages)

    count = _most(len(text), limit, lambda count: _question_tokens(tokenizer, with_characters(count), form))
    return _encoded(tokenizer, with_characters(count), form) if count else None


def _question_tokens(tokenizer: Tokenizer, conversation: Conversation, form: Format) -> int:
    """Tokens before the last answer, which is not read: it may be long."""
    answer = replace(conversation.messages[-1], text="x")
    return _encoded(tokenizer, replace(conversation, messages=(*conversation.messages[:-1], answer)), form).answers[-1].start


def _most(most: int, limit: int, tokens: Callable[[int], int]) -> int:
    """The largest count up to `most` with `tokens(count)` within `limit`, 0 where there is none. Tokens grow about as counts do:
    guesses in proportion take turns with halving."""
    low, high = 0, most + 1
    at_low, at_high = tokens(0), tokens(most)
    if at_high <= limit or at_low > limit:
        return most if at_high <= limit else 0
    halve = False
    while high - low > 1 and at_low < limit:
        guess = (low + high) // 2 if halve else low + (high - low) * (limit - at_low) // (at_high - at_low)
        guess = min(max(guess, low + 1), high - 1)
        count = tokens(guess)
        if count <= limit:
            low, at_low = guess, count
        else:
            high, at_high = guess, count
        halve = not halve
    return low

"""From conversations to training examples: the tokens of a row, which of them are targets, cut to length.

Every example ends in an end token that is a target, cut or not: a model that never learns to end never does.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import NamedTuple

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

    @property
    def size(self) -> "Size":
        return Size(len(self.ids), sum(self.learn), self.cut)


class Size(NamedTuple):
    """Tokens of a row that trains, how many of them are targets, and how many were left out for the limits."""

    tokens: int
    targets: int
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


def statistics(sizes: Iterable[Size | None]) -> Statistics:
    """Figures of rows, None for those without an answer within the limits."""
    lengths: list[int] = []
    targets = cut = unlearnable = 0
    for each in sizes:
        if each is None:
            unlearnable += 1
            continue
        lengths.append(each.tokens)
        targets += each.targets
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


class Answer(NamedTuple):
    """Where in a row an answer that is learnt lies: its text from `start` to `text_end`, its end token up to `end`."""

    start: int
    text_end: int
    end: int


class Shape(NamedTuple):
    """What has to be known of a row's tokens to cut it: where its learnt answers lie, the last of which ends it, and how many
    tokens end an answer here."""

    answers: tuple[Answer, ...]
    ending: int

    @property
    def tokens(self) -> int:
        """The row's length."""
        return self.answers[-1].end

    @property
    def targets(self) -> int:
        """Tokens of answers and of their ends."""
        return sum(answer.end - answer.start for answer in self.answers)

    def learnt(self, everything: bool = False) -> int:
        """How many tokens training learns."""
        return self.tokens - 1 if everything else self.targets


@dataclass(frozen=True)
class Row:
    """A row up to the end token of the last answer that is learnt. `ending` are the ids that end an answer here."""

    ids: tuple[int, ...]
    shape: Shape
    ending: tuple[int, ...]

    def learn(self, everything: bool = False) -> tuple[bool, ...]:
        """For each token whether training learns it."""
        if everything:
            return (False, *[True] * (len(self.ids) - 1))
        flags: list[bool] = []
        for answer in self.shape.answers:
            flags += [False] * (answer.start - len(flags)) + [True] * (answer.end - answer.start)
        return tuple(flags)


def example(
    tokenizer: Tokenizer, conversation: Conversation, form: Format, lengths: Lengths, learn_everything: bool = False
) -> Example | None:
    """A row to train on, or None where no answer is left to learn within the limits.

    Targets are the tokens of the answers marked `train` and the end tokens behind them, or with `learn_everything` all
    tokens but the first, which nothing foretells. What stands before the last answer is shortened to `source` by leaving out
    the oldest turns, then the end of the question; an answer by its end. Where the total limit falls into a question, the row
    ends with the answer before it. Raises BadInput where the format does not accept the turns, or has nothing to end them with.
    """
    whole = encoded(tokenizer, conversation, form)
    row = within(tokenizer, conversation, form, whole, lengths) if whole else None
    return Example(row.ids, row.learn(learn_everything), len(whole.ids) - len(row.ids)) if row else None


def encoded(tokenizer: Tokenizer, conversation: Conversation, form: Format) -> Row | None:
    """A whole conversation as a row, None where nothing in it is learnt. What stands behind the last answer is left out. Raises
    BadInput as `example` does."""
    ids: list[int] = []
    answers: list[Answer] = []
    ending: list[int | None] = []
    for piece, new in encoded_pieces(tokenizer, conversation, form):
        start, end = len(ids), len(ids) + len(new)
        ids += new
        if piece.learn and not piece.control and new:
            answers.append(Answer(start, end, end))
        elif piece.learn and piece.control:
            ending = ending or new
            text = answers.pop() if answers and answers[-1].end == start else Answer(start, start, start)
            answers.append(text._replace(end=end))
    if not answers:
        return None
    ending = ending or [tokenizer.end]
    if None in ending:
        raise BadInput("This model's tokenizer has no token that ends a text, so a model could not learn to end. Choose another model.")
    last = answers.pop()
    missing = [] if last.end > last.text_end else ending
    shape = Shape((*answers, last._replace(end=last.end + len(missing))), len(ending))
    return Row((*ids[: last.end], *missing), shape, tuple(ending))


def within(tokenizer: Tokenizer, conversation: Conversation, form: Format, row: Row, lengths: Lengths) -> Row | None:
    """As much of a conversation's whole row as the limits leave, None where that is no answer."""
    shorter = shortened(tokenizer, conversation, form, row.shape, lengths)
    if shorter is None:
        return None
    if shorter:
        row = encoded(tokenizer, shorter[-1], form)
    kept = answered_within(row.shape, lengths)
    if kept is None:
        return None
    shape, own = kept
    return row if shape is row.shape else Row((*row.ids[:own], *row.ending[: shape.tokens - own]), shape, row.ending)


def answered_within(shape: Shape, lengths: Lengths) -> tuple[Shape, int] | None:
    """What the limits of an answer and of the whole row leave of a row of this shape, None where that is no answer: the shape, and
    how many tokens at its beginning are the row's own; an ending stands behind them where that is fewer than all."""
    kept = shape, shape.tokens
    last = shape.answers[-1]
    if lengths.target is not None and last.end - last.start > lengths.target:
        kept = _cut(shape, len(shape.answers) - 1, last.start + lengths.target)
    if kept and lengths.total is not None and kept[0].tokens > lengths.total:
        kept = _cut(kept[0], 0, lengths.total)
    return kept


def _cut(shape: Shape, first: int, limit: int) -> tuple[Shape, int] | None:
    """As much of a row as fits `limit` and ends in an answer, the `first` one or a later one, of which at least one token and the end
    are left."""
    for place in range(len(shape.answers) - 1, first - 1, -1):
        start, text_end, end = shape.answers[place]
        missing = 0 if end > text_end else shape.ending
        own = end if end + missing <= limit else min(limit - shape.ending, text_end)
        if own == end or own > start:
            missing = missing if own == end else shape.ending
            answer = Answer(start, min(text_end, own), own + missing)
            return Shape((*shape.answers[:place], answer), shape.ending), own
    return None


def shortened(
    tokenizer: Tokenizer, conversation: Conversation, form: Format, shape: Shape, lengths: Lengths
) -> tuple[Conversation, ...] | None:
    """How a conversation comes to have at most `lengths.source` tokens before its last answer: without its oldest turns, then with the
    end of its question gone. Nothing where its row of this shape has no more, None where not one character of the question fits.
    Turns are shortened as text, to be rendered anew, so that the markers around them stay whole."""
    limit = lengths.source
    if limit is None or shape.answers[-1].start <= limit:
        return ()
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
    return (shorter, with_characters(count)) if count else None


def _question_tokens(tokenizer: Tokenizer, conversation: Conversation, form: Format) -> int:
    """Tokens before the last answer, which is not read: it may be long."""
    answer = replace(conversation.messages[-1], text="x")
    return encoded(tokenizer, replace(conversation, messages=(*conversation.messages[:-1], answer)), form).shape.answers[-1].start


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

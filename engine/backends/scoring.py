"""What a model thinks of given texts: log-probabilities, many texts at a time. Each backend that can tell them has its own scorer.

All logarithms are natural.
"""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix

from engine.backends.base import Stop
from engine.blend import Blend
from engine.errors import BadInput
from engine.tokenizers import Tokenizer

# Which of the asked it is, and its figures.
Scored = tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Text:
    """Token ids of a text; `learn[i]` says whether the log-probability of token i, given all before it, is wanted. That of the first
    token is never told: nothing foretells it."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]


@dataclass(frozen=True)
class Choice:
    """A text, and what may go on from it: the log-probability of each candidate is wanted, up to a number that all of them share."""

    before: str
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Ask:
    """What is asked of a text: for each (place, token) the log-probability of that token behind the first `place` ids. `ids` are those
    that have to be read for it: what stands behind the last place has not."""

    ids: tuple[int, ...]
    wanted: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, text: Text) -> "Ask":
        wanted = tuple((place, token) for place, token in enumerate(text.ids) if place and text.learn[place])
        return cls(text.ids[: wanted[-1][0]] if wanted else (), wanted)


class Scorer(ABC):
    """Scores with one loaded backend. Answers come in an order of the scorer's own, each as soon as it is there. `stop` is asked
    between two batches and ends the iterator. `known` are those whose figures are at hand: what is made after a break comes out of the
    same batches as it would have without, and so has the same figures."""

    # Tokens that a text and its candidates may have together.
    context: int
    # None where the tokenizer is on another machine.
    tokenizer: Tokenizer | None

    @abstractmethod
    def choices(self, asked: Sequence[Choice], blend: Blend, stop: Stop, known: Container[int] = ()) -> Iterator[Scored]:
        """For each text the log-probabilities of its candidates, in their order. Raises BadInput for a text longer than the context."""

    @abstractmethod
    def likelihoods(self, texts: Sequence[Text], blend: Blend, stop: Stop, known: Container[int] = ()) -> Iterator[Scored]:
        """For each text the log-probabilities of its wanted tokens, in their order. Raises BadInput for a text longer than the context,
        or where the backend tells none."""

    def tokens(self, choice: Choice) -> int:
        """How long a text is with its longest candidate, 0 where that is not known here."""
        if self.tokenizer is None:
            return 0
        before, rests = divided(self.tokenizer, choice)
        return len(before) + max(map(len, rests))


def divided(tokenizer: Tokenizer, choice: Choice) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The ids that a text has before each of its candidates, and the ids that are each candidate's own.

    Text and candidate are made tokens together, and what all candidates begin with counts to the text: so it is right for tokenizers
    that put a space before a text, those that have " A" as one token, and those that have it as two.
    """
    start = tokenizer.start()
    whole = [(*start, *tokenizer.ids(choice.before + candidate, control=False)) for candidate in choice.candidates]
    shared = len(commonprefix(whole))
    return whole[0][:shared], tuple(ids[shared:] for ids in whole)


def check_length(number: int, length: int, context: int) -> None:
    """Raise BadInput where a text does not fit the model."""
    if length > context:
        raise BadInput(
            f"Text {number + 1} has {length:,} tokens, and this model takes {context:,} here. Shorten it, or choose a model with a longer context."
        )

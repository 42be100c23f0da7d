"""Two answers to one prompt, made at the same time: a conversation with two ends, of which one can be kept.

A comparison comes from a client each time, so all of it is checked like a stranger's.
"""

import contextvars
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event as Flag
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from engine.backends.base import Stop
from engine.blend import Blend
from engine.errors import BadInput
from engine.events import Event
from engine.settings import Settings
from engine.threads import ROOT, Facts, Thread, Turn, explained

At = Literal[0, 1]


@dataclass(frozen=True)
class Side:
    """What one of the two answers is made with; an empty `model` stands for the loaded one."""

    model: str
    blend: Blend


class Comparison(Settings):
    """A conversation and the last turn of each side. Up to where the sides part they share its turns."""

    thread: Thread
    ends: tuple[int, int]

    @model_validator(mode="after")
    def _ends_are_there(self) -> Self:
        known = {ROOT, *(turn.id for turn in self.thread.turns)}
        if not known.issuperset(self.ends):
            raise ValueError("a side ends on nothing")
        return self

    @classmethod
    def of(cls, thread: Thread) -> Self:
        """Both sides at the end of a conversation."""
        return cls(thread=thread, ends=(thread.leaf, thread.leaf))

    @classmethod
    def read(cls, value: object) -> Self:
        """A client's comparison, None for an empty one. Raises BadInput in one line for anything out of bounds."""
        if value is None:
            return cls.of(Thread.new())
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise BadInput(f"This is not a comparison of this app: {explained(error)}.") from error

    def side(self, at: At) -> Thread:
        """One side as a conversation."""
        return self.thread.up_to(self.ends[at])

    def shared(self) -> tuple[Turn, ...]:
        """The turns that both sides begin with, oldest first."""
        left, right = (self.side(at).path() for at in (0, 1))
        return tuple(one for one, other in zip(left, right, strict=False) if one.id == other.id)

    def asked(self, text: str, system: str = "") -> Self:
        """With a message at the end of both sides. Raises BadInput for an empty one or where there is no room."""
        thread = self.thread.with_room(text, answers=2).model_copy(update={"system": system})
        first = thread.up_to(self.ends[0]).asked(text)
        if self.ends[0] == self.ends[1]:
            return type(self).of(first)
        second = first.up_to(self.ends[1]).asked(text)
        return type(self)(thread=second, ends=(first.leaf, second.leaf))

    def to_answer_again(self, system: str = "") -> Self:
        """Ready for other answers to the last message of each side."""
        thread = self.thread.with_room(answers=2).model_copy(update={"system": system})
        left, right = (thread.up_to(end).to_answer_again().leaf for end in self.ends)
        return type(self)(thread=thread, ends=(left, right))

    def answered(self, answers: Sequence[tuple[str, Facts | None]]) -> Self:
        """With an answer on each side; one of no text leaves its side unanswered."""
        thread, ends = self.thread, []
        for end, (text, facts) in zip(self.ends, answers, strict=True):
            thread = thread.up_to(end).answered(text, facts)
            ends.append(thread.leaf)
        return type(self)(thread=thread, ends=tuple(ends))

    def swapped(self) -> Self:
        """With the sides exchanged."""
        return type(self)(thread=self.thread, ends=self.ends[::-1])

    def kept(self, at: At, onto: Thread | None = None) -> Thread:
        """The conversation with one side on the screen and the other as a branch; on top of what was said in it meanwhile,
        where `onto` is the conversation as it is now."""
        onto = onto or self.thread
        return onto.grafted(self.side(1 - at).path()).grafted(self.side(at).path())


def together(answers: Sequence[Callable[[Stop], Iterator[Event]]], stop: Stop) -> Iterator[tuple[int, Event]]:
    """Make several answers at the same time: their events as they come, each with the number of its answer. `stop` and
    closing the iterator end all of them. Each runs in a copy of the caller's context."""
    arrived: queue.SimpleQueue[tuple[int, Event | None]] = queue.SimpleQueue()
    gone = Flag()

    def make(number: int, answer: Callable[[Stop], Iterator[Event]]) -> None:
        try:
            for event in answer(lambda: gone.is_set() or stop()):
                arrived.put((number, event))
        finally:
            arrived.put((number, None))

    with ThreadPoolExecutor(len(answers)) as pool:
        # Whose answer it is stands in the context: a host that lends GPUs looks there for the quota of whoever asks.
        made = [pool.submit(contextvars.copy_context().run, make, number, answer) for number, answer in enumerate(answers)]
        try:
            under_way = len(answers)
            while under_way:
                number, event = arrived.get()
                if event is None:
                    under_way -= 1
                else:
                    yield number, event
        finally:
            gone.set()
    for each in made:
        each.result()

"""A conversation as a visitor's browser keeps it: a tree of turns, of which one path is on the screen.

Editing a message or answering again adds a branch; nothing said is lost. Every value comes from a client, so all of it
is checked like a stranger's: roles, sizes, and that the tree is one.
"""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from engine.errors import BadInput
from engine.events import Finished, FinishReason
from engine.messages import MAX_HISTORY_CHARS, MAX_HISTORY_MESSAGES, MAX_MESSAGE_CHARS, Conversation, Message, checked_text
from engine.paths import public_name
from engine.settings import MAX_SYSTEM_CHARS, ChatSettings, Settings

MAX_TURNS = 1_000
MAX_THREAD_CHARS = 2 * MAX_HISTORY_CHARS
MAX_TITLE_CHARS = 120
NAME_CHARS = 60
ROOT = -1


def _text(what: str, limit: int) -> AfterValidator:
    """As `checked_text`, for a field: its complaint becomes that of the schema."""

    def check(text: str) -> str:
        try:
            return checked_text(text, what, limit)
        except BadInput as error:
            raise ValueError(str(error)) from None

    return AfterValidator(check)


Text = Annotated[str, _text("A message", MAX_MESSAGE_CHARS)]
Name = Annotated[str, _text("A name", 1_000)]
ThreadId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Thumb = Literal[-1, 0, 1]


class Facts(Settings):
    """How an answer came about: what is shown under it. Times in seconds."""

    tokens: int = Field(ge=0)
    tokens_per_second: float = Field(ge=0)
    ttft_seconds: float = Field(ge=0)
    finish_reason: FinishReason
    seed: int = Field(ge=0)
    model: Name
    backend: Name
    adapter: Name | None = None
    dropped_messages: int = Field(0, ge=0)
    settings: ChatSettings = ChatSettings()

    @classmethod
    def of(cls, event: Finished, settings: ChatSettings) -> Self:
        """The facts of an answer that was made with `settings`. Conversations travel: they name a model without its folder."""
        fields = {name: getattr(event, name) for name in cls.model_fields if name != "settings"}
        return cls(**{**fields, "model": public_name(event.model)}, settings=settings)

    def and_then(self, later: Self) -> Self:
        """The facts of an answer that was cut off and then continued."""
        seconds = sum(each.tokens / each.tokens_per_second for each in (self, later) if each.tokens_per_second)
        tokens = self.tokens + later.tokens
        return later.model_copy(
            update={
                "tokens": tokens,
                "tokens_per_second": round(tokens / seconds, 2) if seconds else 0.0,
                "ttft_seconds": self.ttft_seconds,
            }
        )


class Turn(Settings):
    """One message. `parent` is the id of the turn before it, ROOT for the first; `thumb` is the visitor's verdict."""

    # A changed copy is checked again where it becomes part of a thread.
    model_config = ConfigDict(revalidate_instances="always")

    id: int = Field(ge=0)
    parent: int = Field(ge=ROOT)
    role: Literal["user", "assistant"]
    text: Text
    facts: Facts | None = None
    thumb: Thumb = 0


@dataclass(frozen=True)
class Place:
    """Where a turn stands among those that begin at the same point: `ids` oldest first, `at` counts from 0."""

    at: int
    ids: tuple[int, ...]


class Thread(Settings):
    """A tree of turns in the order they came about; `leaf` is the last turn on the screen (ROOT: none). `updated` in
    seconds since 1970. An empty `title` stands for the beginning of the first message."""

    id: ThreadId
    title: Annotated[str, _text("The title", MAX_TITLE_CHARS)] = ""
    updated: float = Field(0.0, ge=0, le=1e11)
    system: Annotated[str, _text("The system text", MAX_SYSTEM_CHARS)] = ""
    turns: tuple[Turn, ...] = Field((), max_length=MAX_TURNS)
    leaf: int = ROOT

    @model_validator(mode="after")
    def _is_one_tree(self) -> Self:
        roles: dict[int, str] = {ROOT: "start"}
        last = ROOT
        for turn in self.turns:
            if turn.id <= last or turn.parent not in roles:
                raise ValueError(f"turn {turn.id} hangs on nothing")
            if turn.role == "assistant" and roles[turn.parent] != "user":
                raise ValueError(f"turn {turn.id} answers nothing")
            roles[turn.id] = turn.role
            last = turn.id
        if self.leaf not in roles:
            raise ValueError(f"there is no turn {self.leaf}")
        if sum(len(turn.text) for turn in self.turns) > MAX_THREAD_CHARS:
            raise ValueError(f"it has more than {MAX_THREAD_CHARS:,} characters; please start a new one")
        return self

    @classmethod
    def new(cls, system: str = "") -> Self:
        """An empty conversation under an id of its own."""
        return cls(id=secrets.token_hex(8), system=system)

    @classmethod
    def read(cls, value: object) -> Self:
        """A client's conversation, None for a new one. Raises BadInput in one line for anything out of bounds."""
        if value is None:
            return cls.new()
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise BadInput(f"This is not a conversation of this app: {explained(error)}.") from error

    @property
    def name(self) -> str:
        """What a list shows."""
        if self.title:
            return self.title
        words = " ".join(self.turns[0].text.split()) if self.turns else ""
        return words if len(words) <= NAME_CHARS else words[: NAME_CHARS - 1].rstrip() + "…"

    def turn(self, turn_id: int) -> Turn:
        """The turn of that id. Raises BadInput where there is none."""
        for turn in self.turns:
            if turn.id == turn_id:
                return turn
        raise BadInput("That message is no longer in this conversation.")

    def path(self) -> tuple[Turn, ...]:
        """The turns on the screen, oldest first."""
        by_id = {turn.id: turn for turn in self.turns}
        path = []
        at = self.leaf
        while at != ROOT:
            path.append(by_id[at])
            at = by_id[at].parent
        return tuple(reversed(path))

    def place(self, turn: Turn) -> Place:
        """A turn among its siblings of the same role."""
        ids = tuple(each.id for each in self.turns if each.parent == turn.parent and each.role == turn.role)
        return Place(ids.index(turn.id), ids)

    def conversation(self) -> Conversation:
        """What a model sees of it. Raises BadInput where the path is too long to be sent."""
        path = self.path()
        if len(path) > MAX_HISTORY_MESSAGES or sum(len(turn.text) for turn in path) > MAX_HISTORY_CHARS:
            raise BadInput(
                f"The conversation has {len(path)} messages; the limit is {MAX_HISTORY_MESSAGES} messages and "
                f"{MAX_HISTORY_CHARS:,} characters. Please start a new one."
            )
        return Conversation(tuple(Message(turn.role, turn.text) for turn in path), self.system)

    def _with(self, **changes: object) -> Self:
        """A checked copy, as of now, and never older than itself: a browser leaves out what is. Raises BadInput where it would grow
        out of bounds."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return self.read({**fields, "updated": max(time.time(), self.updated), **changes})

    def with_room(self, text: str = "", answers: int = 1) -> Self:
        """Itself, where a message for each of so many answers, and they, will find room; else BadInput, before anything is
        generated."""
        chars = sum(len(turn.text) for turn in self.turns) + answers * (len(text) + MAX_MESSAGE_CHARS)
        if len(self.turns) + 2 * answers > MAX_TURNS or chars > MAX_THREAD_CHARS:
            raise BadInput(
                f"The conversation is full: with all its versions it may have {MAX_TURNS:,} messages and {MAX_THREAD_CHARS:,} "
                "characters. Please start a new one."
            )
        return self

    def _grown(self, parent: int, role: str, text: str, facts: Facts | None = None) -> Self:
        turn = Turn(id=self.turns[-1].id + 1 if self.turns else 0, parent=parent, role=role, text=text, facts=facts)
        return self._with(turns=(*self.turns, turn), leaf=turn.id)

    def asked(self, text: str) -> Self:
        """With a user's message at the end of what is on the screen. Raises BadInput for an empty one."""
        text = checked_text(text)
        if not text.strip():
            raise BadInput("Write a message first.")
        return self.with_room(text)._grown(self.leaf, "user", text)

    def edited(self, turn_id: int, text: str) -> Self:
        """With a user's message put differently: a branch beside the message as it was sent."""
        turn = self.turn(turn_id)
        if turn.role != "user":
            raise BadInput("Only messages of your own can be edited.")
        return self._with(leaf=turn.parent).asked(text)

    def to_answer_again(self, turn_id: int | None = None) -> Self:
        """Ready for another answer to the question that `turn_id` answers (None: the last one on the screen)."""
        path = self.path() if turn_id is None else self.up_to(turn_id).path()
        for turn in reversed(path):
            if turn.role == "user":
                return self.with_room()._with(leaf=turn.id)
        raise BadInput("There is no message to answer again.")

    def to_continue(self) -> Turn:
        """The cut-off answer at the end of the screen. Raises BadInput where there is none."""
        if self.leaf != ROOT and (turn := self.turn(self.leaf)).role == "assistant" and turn.text:
            if len(turn.text) >= MAX_MESSAGE_CHARS:
                raise BadInput(f"The answer has {MAX_MESSAGE_CHARS:,} characters, the most a message may have. Ask for the rest instead.")
            return turn
        raise BadInput("There is no answer to continue.")

    def answered(self, text: str, facts: Facts | None) -> Self:
        """With an answer to the message at the end of the screen; an answer of no text leaves it unanswered."""
        return self._grown(self.leaf, "assistant", text[:MAX_MESSAGE_CHARS], facts) if text else self

    def extended(self, text: str, facts: Facts | None) -> Self:
        """With more text at the end of the answer at the end of the screen."""
        turn = self.to_continue()
        joined = turn.facts.and_then(facts) if turn.facts and facts else facts or turn.facts
        return self._replaced(turn, text=(turn.text + text)[:MAX_MESSAGE_CHARS], facts=joined, thumb=0)

    def _replaced(self, turn: Turn, **changes: object) -> Self:
        new = turn.model_copy(update=changes)
        return self._with(turns=tuple(new if each.id == turn.id else each for each in self.turns))

    def undone(self) -> tuple[Self, str]:
        """Without the last question on the screen and all that hangs on it, and that question's text. An earlier version
        of the question comes back on the screen."""
        asked = [turn for turn in self.path() if turn.role == "user"]
        if not asked:
            raise BadInput("There is no message to take back.")
        last = asked[-1]
        gone = {last.id}
        for turn in self.turns:
            if turn.parent in gone:
                gone.add(turn.id)
        left = self._with(turns=tuple(turn for turn in self.turns if turn.id not in gone), leaf=last.parent)
        others = [turn.id for turn in left.turns if turn.parent == last.parent and turn.role == "user"]
        return left.showing(others[-1]) if others else left, last.text

    def showing(self, turn_id: int) -> Self:
        """With the branch of that turn on the screen, down to its newest end."""
        leaf = self.turn(turn_id).id
        newest = {turn.parent: turn.id for turn in self.turns}
        while leaf in newest:
            leaf = newest[leaf]
        return self._with(leaf=leaf)

    def up_to(self, turn_id: int) -> Self:
        """With that turn as the last on the screen; ROOT for none at all."""
        return self._with(leaf=turn_id if turn_id == ROOT else self.turn(turn_id).id)

    def grafted(self, path: Iterable[Turn]) -> Self:
        """With a path of turns from its first message on the screen, e.g. that of another copy of it: what is here already
        is shared, the rest becomes a branch."""
        turns, leaf = list(self.turns), ROOT
        for turn in path:
            here = (each.id for each in turns if (each.parent, each.role, each.text) == (leaf, turn.role, turn.text))
            parent, leaf = leaf, next(here, None)
            if leaf is None:
                leaf = turns[-1].id + 1 if turns else 0
                turns.append(turn.model_copy(update={"id": leaf, "parent": parent}))
        return self._with(turns=tuple(turns), leaf=leaf)

    def thumbed(self, turn_id: int, thumb: Thumb) -> Self:
        """With a verdict on an answer."""
        turn = self.turn(turn_id)
        if turn.role != "assistant" or thumb not in (-1, 0, 1):
            raise BadInput("A thumb is 1, -1 or 0 (none), and belongs to an answer.")
        return self._replaced(turn, thumb=thumb)

    def renamed(self, title: str) -> Self:
        """Under another title; an empty one brings the beginning of the first message back."""
        return self._with(title=" ".join(checked_text(title, "The title").split())[:MAX_TITLE_CHARS], updated=self.updated)


def explained(error: ValidationError) -> str:
    """The first complaint of a schema in a few words."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: {what}" if where else what

"""Messages and conversations: pure values, and the limits that a stranger's history is held to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from engine.errors import BadInput

Role = Literal["system", "user", "assistant"]
MAX_MESSAGE_CHARS = 32_000
MAX_HISTORY_MESSAGES = 400
MAX_HISTORY_CHARS = 200_000


@dataclass(frozen=True)
class Message:
    """One turn. `train` marks text that a finetuning run learns to produce."""

    role: Role
    text: str
    train: bool = False


@dataclass(frozen=True)
class Conversation:
    """A system text (may be empty) and the turns after it, oldest first."""

    messages: tuple[Message, ...] = ()
    system: str = ""

    def add(self, role: Role, text: str) -> "Conversation":
        """The conversation with one more message at its end."""
        return replace(self, messages=(*self.messages, Message(role, text)))

    @property
    def continues(self) -> bool:
        """Whether it ends with an assistant's text, which is then to be gone on with."""
        return bool(self.messages) and self.messages[-1].role == "assistant"

    def or_system(self, system: str) -> "Conversation":
        """The conversation with this system text where it brings none."""
        return self if self.system or not system else replace(self, system=system)

    def alternating(self) -> "Conversation":
        """Neighbours of one role as one message: after a stopped answer two questions stand in a row, which many chat
        templates refuse."""
        joined: list[Message] = []
        for message in self.messages:
            if joined and joined[-1].role == message.role:
                message = Message(message.role, f"{joined.pop().text}\n\n{message.text}", message.train)
            joined.append(message)
        return replace(self, messages=tuple(joined))

    def without_oldest_turn(self) -> "Conversation":
        """Drop the oldest user message with the answer that follows it; the last one, with what follows it, stays."""
        asked = [index for index, message in enumerate(self.messages) if message.role == "user"] or [len(self.messages) - 1]
        return replace(self, messages=self.messages[next((index for index in asked if index), asked[-1]) :])


def checked_text(text: object, what: str = "The message", limit: int = MAX_MESSAGE_CHARS) -> str:
    """A stranger's text, or BadInput when it is not text or too long. NULs and lone surrogates are removed."""
    if not isinstance(text, str):
        raise BadInput(f"{what} must be text.")
    if len(text) > limit:
        raise BadInput(f"{what} has {len(text):,} characters; the limit is {limit:,}. Please shorten it.")
    return text.replace("\x00", "").encode("utf-8", "ignore").decode("utf-8")


def checked_history(history: object) -> tuple[Message, ...]:
    """Messages from `{"role", "content"}` rows that came from a client.

    Content may be text or Gradio's list of parts, of which the text parts are read. Roles other than user and
    assistant are refused: the system text has a field of its own, so that a client cannot slip one in unseen.
    """
    if not isinstance(history, Iterable) or isinstance(history, (str, bytes, Mapping)):
        raise BadInput("The history must be a list of messages.")
    rows = list(history)
    if len(rows) > MAX_HISTORY_MESSAGES:
        raise BadInput(f"The conversation has {len(rows)} messages; the limit is {MAX_HISTORY_MESSAGES}. Please start a new one.")
    messages = []
    for row in rows:
        if not isinstance(row, Mapping) or row.get("role") not in ("user", "assistant"):
            raise BadInput("Every message of the history needs the role user or assistant.")
        content = row.get("content")
        if isinstance(content, list):
            parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
            content = "".join(part for part in parts if isinstance(part, str))
        messages.append(Message(row["role"], checked_text(content, "A message of the history")))
    if sum(len(message.text) for message in messages) > MAX_HISTORY_CHARS:
        raise BadInput(f"The conversation has more than {MAX_HISTORY_CHARS:,} characters. Please start a new one.")
    return tuple(messages)

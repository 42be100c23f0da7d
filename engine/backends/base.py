"""The small interface that every source of answers has."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine.events import FinishReason
from engine.messages import Conversation
from engine.settings import ChatSettings

# True once the person has asked to stop. Asked between tokens.
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Delta:
    """New text of an answer (whole characters) and how many tokens made it; the last one says why it ended."""

    text: str
    tokens: int = 0
    reason: FinishReason | None = None


@dataclass(frozen=True)
class Loaded:
    """What is loaded: for the status line, and for the context limit (in tokens)."""

    model: str
    backend: str
    device: str
    quantization: str
    compute_dtype: str
    context: int
    prompt: str
    notes: tuple[str, ...] = ()


class Backend(ABC):
    """A loaded base model with any number of adapters. One answer at a time; `close` gives everything back.

    `adapter` is an adapter's id as given to `attach`, or None for the base alone.
    """

    loaded: Loaded

    @abstractmethod
    def attach(self, adapter: str) -> None:
        """Make an adapter ready by id, folder or Hub id, without reloading the base. Raises BadInput or EngineError."""

    @abstractmethod
    def detach(self, adapter: str) -> None:
        """Forget an adapter and free its memory."""

    @abstractmethod
    def adapters(self) -> list[str]:
        """Ids of the attached adapters."""

    @abstractmethod
    def prompt(self, adapter: str | None) -> str:
        """The name of the prompt format to use with an adapter: its own where it has one, else the model's."""

    @abstractmethod
    def encode(self, conversation: Conversation, prompt: str) -> list[int]:
        """Token ids that a conversation's next answer goes on from, or the rest of its last one where that is open."""

    @abstractmethod
    def generate(self, ids: list[int], settings: ChatSettings, seed: int, adapter: str | None, stop: Stop) -> Iterator[Delta]:
        """Go on from `ids`. Ends within one token of `stop()` being true, and when it is closed."""

    @property
    def alive(self) -> bool:
        """False once it can give no more answers, because the process behind it is gone."""
        return True

    @property
    def process_id(self) -> int:
        """The process that holds the weights, for whoever asks how much memory it takes."""
        return os.getpid()

    @abstractmethod
    def close(self) -> None:
        """Give memory and processes back."""

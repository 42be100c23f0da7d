"""The small interface that every source of answers has."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from engine import adapters, paths
from engine.blend import Blend
from engine.errors import BadInput
from engine.events import FinishReason
from engine.messages import Conversation
from engine.prompts import encode, prompt_format
from engine.settings import ChatSettings
from engine.tokenizers import Tokenizer

if TYPE_CHECKING:
    from engine.backends.scoring import Scorer

# True once the person has asked to stop. Asked between tokens.
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Delta:
    """New text of an answer (whole characters) and how many tokens made it; the last one says why it ended."""

    text: str
    tokens: int = 0
    reason: FinishReason | None = None


@dataclass(frozen=True)
class Prompt:
    """What an answer goes on from. `tokens` is its length, an estimate where the tokenizer is elsewhere; `content` is for the
    backend that made it alone."""

    tokens: int
    content: Any


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
    """A loaded base model with any number of adapters; `close` gives everything back.

    An adapter goes by its id as given to `attach`; a `Blend` says which of them an answer is made with.
    """

    loaded: Loaded
    # How many answers it makes at a time; who asks for more waits.
    slots: int = 1

    @abstractmethod
    def attach(self, adapter: str) -> None:
        """Make an adapter ready by id, folder or Hub id. Raises BadInput or EngineError."""

    @abstractmethod
    def detach(self, adapter: str) -> None:
        """Forget an adapter and free its memory."""

    @abstractmethod
    def adapters(self) -> list[str]:
        """Ids of the attached adapters."""

    @abstractmethod
    def prompt_format(self, adapter: str | None) -> str:
        """The name of the prompt format to use with an adapter: its own where it has one, else the model's."""

    def system(self, adapter: str | None) -> str:
        """The system text that an adapter was trained with, for conversations that bring none; empty where there was none."""
        return ""

    @abstractmethod
    def encode(self, conversation: Conversation, form: str) -> Prompt:
        """What a conversation's next answer goes on from, in the prompt format of that name; or the rest of its last answer
        where that is open."""

    @abstractmethod
    def generate(self, prompt: Prompt, settings: ChatSettings, seed: int, blend: Blend, stop: Stop, cold: bool = False) -> Iterator[Delta]:
        """Go on from `prompt`. Ends within one token of `stop()` being true, and when it is closed.

        `cold` forbids what is faster at the price of the last bits (cached prefixes), so that the same seed gives the same
        text. Raises BadInput for an adapter that is not attached."""

    def scorer(self) -> "Scorer":
        """What tells the probabilities of given texts. Raises BadInput where this backend cannot."""
        raise BadInput("A model that is loaded for chat tells no probabilities of texts. Measure it with `python -m engine evaluate`.")

    @property
    def weights(self) -> str:
        """What the base's weights are known by, to tell whether they are still the same: a commit, a hash, or a name. Raises BadInput
        where this backend cannot tell."""
        raise BadInput("A model that is loaded for chat does not tell which weights it has.")

    def adapter_weights(self, blend: Blend) -> str:
        """The same of the adapters of a blend, empty where there are none."""
        found = [adapters.find(adapter, lambda progress: None) for adapter in blend.adapters]
        return "+".join(paths.sha256(each.weights) for each in found)

    def check_blend(self, blend: Blend) -> None:
        """Raise BadInput where an adapter of a blend is not attached."""
        for adapter in blend.adapters:
            if adapter not in self.adapters():
                raise BadInput(f"The adapter {adapter!r} is not loaded.")

    @property
    def alive(self) -> bool:
        """False once it can give no more answers, because the process behind it is gone."""
        return True

    @property
    def process_id(self) -> int:
        """The process that holds the weights, for whoever asks how much memory it takes; 0 where it is on another machine."""
        return os.getpid()

    @abstractmethod
    def close(self) -> None:
        """Give memory and processes back."""


class Adapted(Protocol):
    """An attached adapter; `prompt` names its own prompt format, where it has one, `system` is the text it was trained with."""

    prompt: str | None
    system: str


class LocalBackend(Backend):
    """A backend that has the tokenizer and the adapters at hand."""

    prompting: Tokenizer
    attached: Mapping[str, Adapted]

    def adapters(self) -> list[str]:
        return list(self.attached)

    def prompt_format(self, adapter: str | None) -> str:
        own = self.attached[adapter].prompt if adapter in self.attached else None
        return own or self.loaded.prompt

    def system(self, adapter: str | None) -> str:
        return self.attached[adapter].system if adapter in self.attached else ""

    def encode(self, conversation: Conversation, form: str) -> Prompt:
        ids = list(encode(self.prompting, conversation, prompt_format(form), answering=True).ids)
        return Prompt(len(ids), ids)

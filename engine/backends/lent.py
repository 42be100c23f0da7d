"""A model whose GPU is lent for the length of one answer, as on a ZeroGPU Space: each answer is made in a forked process.

What lends is a decorator of generator functions; arguments and what is yielded are pickled between the processes.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

from engine.backends.base import Backend, Delta, Prompt, Stop
from engine.blend import Blend
from engine.errors import EngineError
from engine.messages import Conversation
from engine.settings import ChatSettings

# Takes (prompt, settings, seed, blend, cold) and yields an answer, or the error that ended it.
Task = Callable[[Prompt, ChatSettings, int, Blend, bool], Iterator[Delta | EngineError]]
Lend = Callable[[Task], Task]


class LentBackend(Backend):
    """A loaded backend whose answers are made where `lend` runs them. Adapters are to be attached before the first answer: a process
    that was forked already does not hear of later ones."""

    def __init__(self, backend: Backend, lend: Lend):
        self._backend = backend
        self.slots = backend.slots
        self.loaded = replace(backend.loaded, notes=(*backend.loaded.notes, "the GPU is lent for one answer at a time"))

        def task(prompt: Prompt, settings: ChatSettings, seed: int, blend: Blend, cold: bool) -> Iterator[Delta | EngineError]:
            if torch := sys.modules.get("torch"):  # a forked process waits for ever for the threads that its parent counted with
                torch.set_num_threads(1)
            try:  # of an exception only the name of its class would come back
                yield from backend.generate(prompt, settings, seed, blend, lambda: False, cold)
            except EngineError as error:
                yield error

        self._answer = lend(task)

    def generate(self, prompt: Prompt, settings: ChatSettings, seed: int, blend: Blend, stop: Stop, cold: bool = False) -> Iterator[Delta]:
        """As `Backend.generate`; closing the iterator ends the work and gives the GPU back."""
        self.check_blend(blend)
        with closing(self._answer(prompt, settings, seed, blend, cold)) as answer:
            for each in answer:
                if isinstance(each, EngineError):
                    raise each
                yield each
                if stop() and not each.reason:
                    yield Delta("", reason="cancelled")
                    return

    def attach(self, adapter: str) -> None:
        self._backend.attach(adapter)

    def detach(self, adapter: str) -> None:
        self._backend.detach(adapter)

    def adapters(self) -> list[str]:
        return self._backend.adapters()

    def prompt_format(self, adapter: str | None) -> str:
        return self._backend.prompt_format(adapter)

    def system(self, adapter: str | None) -> str:
        return self._backend.system(adapter)

    def encode(self, conversation: Conversation, form: str) -> Prompt:
        return self._backend.encode(conversation, form)

    @property
    def alive(self) -> bool:
        return self._backend.alive

    def close(self) -> None:
        self._backend.close()

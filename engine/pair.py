"""Two models at a time: the one that everybody has, and a second one that a comparison loads beside it.

The second one is given back when nobody has compared with it for ten minutes, or the first one makes way for another.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from engine.blend import NO_ADAPTER
from engine.errors import BadInput, EngineError
from engine.models import resolve
from engine.runtime import Runtime

IDLE_SECONDS = 600


class Pair:
    """Thread-safe."""

    def __init__(self, first: Runtime):
        self.first, self.second = first, first.beside()
        self._lock = threading.Lock()
        self._users = 0
        self._idle: threading.Timer | None = None

    @contextlib.contextmanager
    def lent(self, models: Sequence[str]) -> Iterator[list[Runtime]]:
        """A runtime for each of the models, empty for the loaded one; where it is another, that begins to load. Raises
        BadInput where they are more than one other, or it does not fit beside the loaded one, and EngineError where somebody
        else compares with another one."""
        loaded = self.first.state.model
        ids = [resolve(model, self.first.load_settings).id if model else loaded for model in models]
        others = set(ids) - {loaded}
        if len(others) > 1:
            raise BadInput(
                f"Neither side is the loaded model{f', {loaded}' if loaded else ''}. Choose it for one side, or load one of the two in the Chat tab first."
            )
        if not others:
            yield [self.first for _ in ids]
            return
        with self._lock:
            self._hold(others.pop())
            self._users += 1
        try:
            yield [self.first if each == loaded else self.second for each in ids]
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._give_back_later()

    def _hold(self, model: str) -> None:
        """Have the second model loaded, or loading."""
        state = self.second.state
        if state.model == model and state.phase in ("loading", "ready"):
            return
        if self._users and state.phase in ("loading", "ready"):
            raise EngineError(f"Somebody compares with {state.model} at the moment. Please try again when that has ended.")
        self.second.unload()
        own = resolve(model, self.first.load_settings).adapter  # any other is the sides' own choice
        self.second.load(model, own or NO_ADAPTER, layout=self.first.load_settings.layout)

    def _give_back_later(self) -> None:
        if self._idle:
            self._idle.cancel()
        self._idle = threading.Timer(IDLE_SECONDS, self._give_back_unused)
        self._idle.daemon = True
        self._idle.start()

    def _give_back_unused(self) -> None:
        with self._lock:
            if not self._users:
                self.second.unload()

    def give_back(self) -> None:
        """Unload the second model; answers under way end with what they have."""
        self.second.unload()

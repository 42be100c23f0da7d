"""The one model that an app has loaded: loads it behind the page, lends it to as many answers as it can make, switches it.

Thread-safe. A request made while a model loads waits for it; a failed load keeps its reason for whoever asks.
"""

import sys
import threading
import traceback
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

from engine import hardware, models
from engine.backends import open_backend
from engine.backends.base import Backend, Loaded, Stop
from engine.backends.lent import Lend, LentBackend
from engine.backends.turns import Turns
from engine.blend import BASE, NO_ADAPTER, Blend
from engine.chat import stream
from engine.errors import EngineError
from engine.events import Event, Failed, Notice, Progress
from engine.messages import Conversation
from engine.model_spec import ModelSpec
from engine.settings import ChatSettings, Layout, LoadSettings

WAIT_SECONDS = 0.2
MAX_WAITING = 24
# Beyond so many adapters those that were used longest ago are let go.
MOST_ADAPTERS = 6
READY = "Ready"
_NOTHING = "No model is loaded. Choose one and load it."
FAILED = "This host could not load its model; its log says why."


@dataclass(frozen=True)
class State:
    """What a status line needs to know. `text` is for people; `loaded` is there when `phase` is ready."""

    phase: Literal["idle", "loading", "ready", "failed"]
    model: str
    text: str
    fraction: float | None = None
    loaded: Loaded | None = None
    adapters: tuple[str, ...] = ()


class Runtime:
    """Holds one backend. `isolated` and `turns` as in `open_backend`; `lend` is what lends a GPU for one answer, where that is so: such a
    model is loaded in this process, and in the thread that asks for it. With `discreet` answers do not tell why no model is loaded, which
    may name what is the owner's."""

    def __init__(
        self, load_settings: LoadSettings | None = None, isolated: bool = True, turns: Turns | None = None, lend: Lend | None = None
    ):
        self.load_settings = load_settings or LoadSettings()
        self.discreet = False
        self._isolated = isolated and not lend
        self._lend = lend
        self._turns = turns or Turns()
        self._condition = threading.Condition()
        self._answering = 0
        self._attaching = threading.Lock()
        self._in_use: Counter[str] = Counter()  # adapters of answers under way
        self._used: list[str] = []  # adapters that are attached for answers, the latest used last
        self._line: list[object] = []  # who waits for the model, in order of arrival
        self._backend: Backend | None = None
        self._state = State("idle", "", _NOTHING)
        self._load_number = 0
        self._before: tuple[str, str, Layout] | None = None  # model, adapter and layout to go back to where a load fails
        self.wanted_adapter: str | None = None
        self._beside: list[Runtime] = []

    @property
    def state(self) -> State:
        with self._condition:
            return self._state

    def load(self, model: str, adapter: str | None = None, log: bool = False, layout: Layout | None = None) -> None:
        """Begin to load a model by id or path, in the background (a lent GPU's at once); a load under way is cancelled, and the model that was
        loaded is given back first, because two may not fit. Where the load fails or is cancelled, that one is loaded
        again. Raises BadInput at once for what is no model or too large.

        `adapter` None takes the one that is part of the model, else its default one, if any; `layout` None the one in use. `log`
        also prints progress on stderr."""
        self._begin(model, adapter, log, layout=layout)

    def _begin(
        self, model: str, adapter: str | None, log: bool, because: str = "", failed: int | None = None, layout: Layout | None = None
    ) -> None:
        """As `load`. `because` is why a former model comes back; `failed` the load whose place it takes, if that one is
        still the newest."""
        spec = models.resolve(model, self.load_settings)
        machine = hardware.machine()
        with self._condition:
            if failed is not None and failed != self._load_number:
                return
            if self._backend:  # what the loaded model holds is given back before the next one is loaded
                machine = replace(machine, memory_free=machine.memory)
            models.check_fit(spec, machine, self.load_settings)
            if self._state.phase == "ready":
                self._before = (self._state.model, self.wanted_adapter or NO_ADAPTER, self.load_settings.layout)
            if layout:
                self.load_settings = self.load_settings.model_copy(update={"layout": layout})
            if because:
                self._before = None
            self._load_number += 1
            number = self._load_number
            self._state = State("loading", spec.id, f"{because} Back to {spec.id}" if because else f"Loading {spec.id}")
            wanted = spec.adapter or spec.default_adapter if adapter is None else adapter
            self.wanted_adapter = None if wanted == NO_ADAPTER else wanted
        loading = (number, spec, self.wanted_adapter, log, because)
        if self._lend:
            self._load(*loading)
        else:
            threading.Thread(target=self._load, args=loading, daemon=True).start()

    def refused(self, model: str, text: str) -> None:
        """Stand as after a load that failed, for the reason in `text`: of a model that `load` would not even begin with."""
        with self._condition:
            self._load_number += 1
            number = self._load_number
        self._settle(number, State("failed", model, text))

    def cancel_load(self) -> None:
        """End a load under way; what it has downloaded so far stays on disk, so the next try goes on from there."""
        with self._condition:
            if self._state.phase != "loading":
                return
            self._load_number += 1
            number, because = self._load_number, f"Loading {self._state.model} was cancelled."
        if not self._go_back(number, because):
            self._settle(number, State("idle", "", f"{because} Choose a model and load it."))

    def unload(self) -> None:
        """Give the loaded model and its memory back, after the answer under way has ended with what it has."""
        with self._condition:
            self._load_number += 1
            self._before = None
            self._state = State("idle", "", _NOTHING)
            self._condition.notify_all()
        self._wait_for_answers()
        self._replace_backend(None)

    def alone(self) -> AbstractContextManager[bool]:
        """The processor for whatever is to be done undisturbed in the block: answers pause meanwhile."""
        return self._turns.turn(object())

    def close(self) -> None:
        """End everything at once: a load under way, the loaded model, its process."""
        with self._condition:
            self._load_number += 1
            self._state = State("idle", "", _NOTHING)
            self._condition.notify_all()
        self._replace_backend(None)

        for other in self._beside:
            other.close()

    def beside(self) -> "Runtime":
        """An empty one for another model on the same machine: answers of both take turns, and `close` closes both."""
        other = Runtime(self.load_settings, self._isolated, self._turns, self._lend)
        self._beside.append(other)
        return other

    def memory(self) -> int:
        """Bytes that the loaded model's process takes now, with what it holds on GPUs; 0 without one."""
        with self._condition:
            backend = self._backend
        return hardware.process_memory(backend.process_id) if backend and backend.process_id else 0

    def _wait_for_answers(self) -> None:
        """Wait for the answers under way, which end by themselves: their stop flags are up since the model changed."""
        with self._condition:
            self._condition.wait_for(lambda: not self._answering)

    def _replace_backend(self, backend: Backend | None) -> None:
        with self._condition:
            old, self._backend = self._backend, backend
        if old:
            old.close()

    def _load(self, number: int, spec: ModelSpec, adapter: str | None, log: bool, because: str) -> None:
        self._wait_for_answers()
        self._replace_backend(None)
        backend: Backend | None = None
        try:
            backend = open_backend(
                spec,
                self.load_settings,
                lambda progress: self._progress(number, progress, log, because),
                self._isolated,
                lambda: number != self._load_number,
                self._turns,
            )
            if adapter:
                self._progress(number, Progress(f"Loading the adapter {adapter}"), log, because)
                backend.attach(adapter)
            if self._lend:
                backend = LentBackend(backend, self._lend)
        except Exception as error:
            if backend:
                backend.close()
            expected = isinstance(error, EngineError)
            text = str(error) if expected else f"Loading {spec.title} failed unexpectedly ({type(error).__name__}: {error})."
            if log:
                print(text, file=sys.stderr, flush=True)
            if not expected:
                traceback.print_exc()
            if not self._go_back(number, text):
                self._settle(number, State("failed", spec.id, text))
            return
        with self._condition:
            if number != self._load_number:
                backend.close()
                return
            self._backend = backend
        self._settle(number, self._ready(backend, because or READY))

    def _go_back(self, number: int, because: str) -> bool:
        """Load the model again that was there before a load that came to nothing, True where there was one: whoever waits
        goes on waiting for it."""
        with self._condition:
            before = self._before
        if not before:
            return False
        try:
            model, adapter, layout = before
            self._begin(model, adapter, False, because, number, layout)
        except EngineError:
            return False
        return True

    def _ready(self, backend: Backend, text: str = READY) -> State:
        return State("ready", backend.loaded.model, text, loaded=backend.loaded, adapters=tuple(backend.adapters()))

    def _progress(self, number: int, progress: Progress, log: bool, because: str) -> None:
        with self._condition:
            if number != self._load_number:
                return
            if log and progress.text != self._state.text:
                print(progress.text, file=sys.stderr, flush=True)
            text = f"{because} {progress.text}" if because else progress.text
            self._state = replace(self._state, text=text, fraction=progress.fraction)

    def _settle(self, number: int, state: State) -> None:
        with self._condition:
            if number == self._load_number:
                self._state = state
                self._condition.notify_all()

    def _refresh(self, backend: Backend) -> None:
        with self._condition:
            if self._backend is backend:
                self._state = self._ready(backend)

    def _ready_backend(self) -> Backend:
        with self._condition:
            if self._backend is None or self._state.phase != "ready":
                raise EngineError(FAILED if self.discreet and self._state.phase == "failed" else self._state.text)
            return self._backend

    def chat(
        self,
        conversation: Conversation,
        settings: ChatSettings,
        blend: Blend = BASE,
        stop: Stop = lambda: False,
        form: str | None = None,
        cold: bool = False,
    ) -> Iterator[Event]:
        """As `engine.chat.stream`, on the loaded model; first waits, with Progress events, for a load under way and, where
        the model makes no more answers at a time, for those before this one."""
        if not (yield from self._turn(stop)):
            return
        number = self._load_number
        held: Counter[str] = Counter()
        try:
            backend = self._ready_backend()
            for adapter in blend.adapters:
                if adapter not in backend.adapters():
                    yield Progress(f"Loading the adapter {adapter}")
                self._hold(backend, adapter)
                held[adapter] += 1
            yield from stream(backend, conversation, settings, lambda: stop() or number != self._load_number, blend, form, cold)
            if not backend.alive:
                self._settle(
                    number,
                    State(
                        "failed", backend.loaded.model, "The model's process ended unexpectedly, perhaps for lack of memory. Load it again."
                    ),
                )
        except EngineError as error:
            yield Failed(str(error), error.exit_code)
        finally:
            with self._condition:
                self._answering -= 1
                self._in_use -= held
                self._condition.notify_all()

    def _hold(self, backend: Backend, adapter: str) -> None:
        """Have an adapter attached, and note that an answer uses it. Where there are many, those that no answer uses and that are not
        the model's own make room. Raises BadInput or EngineError."""
        with self._attaching:
            attached = backend.adapters()
            self._used = [each for each in self._used if each in attached and each != adapter]
            if adapter not in attached:
                unused = [each for each in self._used if not self._in_use[each] and each != self.wanted_adapter]
                try:
                    for each in unused[: max(0, len(attached) + 1 - MOST_ADAPTERS)]:
                        backend.detach(each)
                    backend.attach(adapter)
                finally:
                    self._refresh(backend)
            self._used.append(adapter)
            with self._condition:
                self._in_use[adapter] += 1

    def _slots(self) -> int:
        return self._backend.slots if self._backend else 1

    def _turn(self, stop: Stop) -> Generator[Event, None, bool]:
        """Wait for a load under way and, in order of arrival, for the answers before; True once this one may begin."""
        ticket = object()
        with self._condition:
            if len(self._line) >= MAX_WAITING:
                full = Failed(f"The model is busy: {MAX_WAITING} others wait for it already. Please try again in a minute.")
            else:
                full = None
                self._line.append(ticket)
        if full:
            yield full
            return False
        try:
            while not stop():
                with self._condition:
                    state, ahead = self._state, self._line.index(ticket)
                    if state.phase != "loading" and not ahead and self._answering < self._slots():
                        self._answering += 1
                        return True
                yield (
                    Progress(state.text, state.fraction)
                    if state.phase == "loading"
                    else Progress(f"Waiting for the model: number {ahead + 1} in line")
                )
                with self._condition:
                    self._condition.wait(WAIT_SECONDS)
            yield Notice("Stopped before the answer began.")
            return False
        finally:
            with self._condition:
                self._line.remove(ticket)
                self._condition.notify_all()

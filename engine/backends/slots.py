"""Slots of a llama.cpp server: each keeps the cache of a conversation, and is given to what goes on with it."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from engine.backends.base import Stop
from engine.blend import BASE, Blend

STOP_CHECK_SECONDS = 0.05


@dataclass(eq=False)
class Slot:
    """`ids` are the tokens whose keys and values it holds, made with `blend`."""

    number: int
    blend: Blend = BASE
    ids: list[int] = field(default_factory=list)
    # False from when an answer was cut off until the server has noticed.
    idle: bool = True

    def goes_on(self, ids: list[int], blend: Blend) -> int:
        """How many tokens at the start of `ids` need not be read again, if they are most of what it holds."""
        if blend != self.blend:
            return 0
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, ids, strict=False))
        shared = sum(1 for _ in same)
        return shared if 2 * shared > len(self.ids) else 0


class Slots:
    """Thread-safe. Free slots are kept in the order in which they were given back, oldest first."""

    def __init__(self, count: int, settle: Callable[[Slot], None]):
        """`settle` waits until a slot that is not idle is."""
        self._settle = settle
        self._condition = threading.Condition()
        self._free = [Slot(number) for number in range(count)]

    @contextlib.contextmanager
    def taken(self, ids: list[int], blend: Blend, stop: Stop) -> Iterator[Slot | None]:
        """The free slot whose conversation `ids` goes on with, else the one unused longest; waits for one, None where `stop()` comes
        first."""
        slot = self._take(ids, blend, stop)
        try:
            yield slot
        finally:
            if slot and slot.idle:
                self._give_back(slot)
            elif slot:
                threading.Thread(target=self._give_back, args=(slot,), daemon=True).start()

    def _give_back(self, slot: Slot) -> None:
        if not slot.idle:
            self._settle(slot)
        with self._condition:
            self._free.append(slot)
            self._condition.notify()

    def _take(self, ids: list[int], blend: Blend, stop: Stop) -> Slot | None:
        with self._condition:
            while not self._free:
                if stop():
                    return None
                self._condition.wait(STOP_CHECK_SECONDS)
            # The first of the free ones is the one unused longest, and `max` takes the first of equals. What is only a common
            # beginning, such as the system text, is not worth another conversation's cache.
            best = max(self._free, key=lambda slot: slot.goes_on(ids, blend))
            self._free.remove(best)
            return best

    def forget(self) -> None:
        """All free slots are empty: their server was started anew."""
        with self._condition:
            for slot in self._free:
                slot.ids = []

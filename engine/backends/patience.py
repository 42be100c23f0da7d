"""Asking a server that may be busy: again where that may help, later each time, and not before the time it says."""

import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from engine.backends.server_client import Passing
from engine.errors import EngineError

T = TypeVar("T")
ATTEMPTS = 6
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# A server that asks to wait longer than this (seconds) is asked another day.
LONGEST_ASKED = 600.0


class Patience:
    """Shared by all that ask one server at a time. Waits end at once where `stopped` is set. `now` gives seconds, `pause` waits for
    so many, `chance` gives numbers from 0 to 1 that keep those who wait apart."""

    def __init__(
        self,
        stopped: threading.Event,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ):
        self._stopped, self._now, self._pause, self._chance = stopped, now, pause or stopped.wait, chance
        self._lock, self._opens = threading.Lock(), 0.0

    def ask(self, request: Callable[[], T]) -> T:
        """What `request` gives, asked up to six times where it raises Passing. Raises the last of these, EngineError where the server
        wants a longer wait than is worth it or where it was stopped, and whatever else `request` raises."""
        for attempt in itertools.count(1):
            self._wait_for_opening()
            if self._stopped.is_set():
                raise EngineError("It was stopped.")
            try:
                return request()
            except Passing as error:
                if error.after is not None and error.after > LONGEST_ASKED:
                    raise EngineError(f"{error} It asks for {error.after / 60:,.0f} minutes: start again then.") from error
                if attempt == ATTEMPTS:
                    raise
                if error.after is None:
                    self._pause(min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT) * (0.5 + self._chance() / 2))
                else:
                    with self._lock:
                        self._opens = max(self._opens, self._now() + error.after)

    def _wait_for_opening(self) -> None:
        """Not all at the very moment: those who waited together would come together."""
        while (left := self._opens - self._now()) > 0 and not self._stopped.is_set():
            self._pause(left + self._chance())

"""Counts of rows under way: each is made once for all who wait for it, and ends when nobody does."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from engine.backends.base import Stop
from engine.events import Progress
from engine.preview import Measured

Told = Progress | Measured


@dataclass(eq=False)
class _Count:
    """`number` counts what was told, `last` is the latest of it; `error` is what it ended with."""

    number: int = 0
    last: Told | None = None
    over: bool = False
    error: Exception | None = None


@dataclass(eq=False)
class _Listener:
    session: str
    key: tuple
    place: str
    given_up: bool = False


@dataclass
class Counts:
    """A session waits for the count of one key, the one that it asked for last, once at each place of the page."""

    _going: dict[tuple, _Count] = field(default_factory=dict)
    _listeners: list[_Listener] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def heard(self, session: str, key: tuple, make: Callable[[Stop], Iterator[Told]], place: str = "", calm: float = 0) -> Iterator[Told]:
        """What a count tells, the latest where it is told faster than it is taken; `make` begins it where none is under way, and is
        to end when its argument comes true. Raises what the count raises. Ends early where the session asks for another key, or again
        at the same `place`, which it may do for `calm` seconds before anything begins."""
        me = _Listener(session, key, place)
        with self._changed:
            self._give_up(session, key, place)
            self._listeners.append(me)
        try:
            with self._changed:
                if key not in self._going and self._changed.wait_for(lambda: me.given_up, calm):
                    return
                count = self._going.get(key)
                if count is None:
                    count = self._going[key] = _Count()
                    threading.Thread(target=self._work, args=(key, count, make), daemon=True).start()
            seen = 0
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: count.number > seen or count.over or me.given_up)
                    new, seen, last, over = count.number > seen, count.number, count.last, count.over
                if me.given_up:
                    return
                if new:
                    yield last
                elif count.error:
                    raise count.error
                elif over:
                    return
        finally:
            with self._changed:
                self._listeners.remove(me)

    def only(self, session: str, key: tuple) -> None:
        """What the session waits for is given up where it is a count of other rows."""
        with self._changed:
            self._give_up(session, key)

    def _give_up(self, session: str, key: tuple, place: str | None = None) -> None:
        for each in self._listeners:
            each.given_up |= bool(session) and each.session == session and (each.key != key or each.place == place)
        self._changed.notify_all()

    def _work(self, key: tuple, count: _Count, make: Callable[[Stop], Iterator[Told]]) -> None:
        def nobody() -> bool:
            with self._changed:
                left = not any(each.key == key and not each.given_up for each in self._listeners)
                if left and self._going.get(key) is count:
                    del self._going[key]  # who comes now begins anew
                return left

        try:
            for each in make(nobody):
                with self._changed:
                    count.number, count.last = count.number + 1, each
                    self._changed.notify_all()
        except Exception as error:
            count.error = error
        finally:
            with self._changed:
                if self._going.get(key) is count:
                    del self._going[key]
                count.over = True
                self._changed.notify_all()

"""Turns on the processor for answers that cannot be made together: those of other servers and of other adapter scales.

Answers of one group run side by side. While another group waits, a group has the turn for half a second and gives it up.
"""

import contextlib
import threading
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from engine.backends.base import Stop

SLICE_SECONDS = 0.5
STOP_CHECK_SECONDS = 0.05


@dataclass(eq=False)
class _Ticket:
    """One answer that waits for its group's turn."""

    group: Hashable
    admitted: bool = False


class Turns:
    """Shared by all that compete for the same processor. Thread-safe; groups get their turns in order of arrival."""

    def __init__(self, slice_seconds: float = SLICE_SECONDS):
        self._slice = slice_seconds
        self._condition = threading.Condition()
        self._group: Hashable = None
        self._inside = 0
        self._since = 0.0
        self._waiting: list[_Ticket] = []

    @contextlib.contextmanager
    def turn(self, group: Hashable, stop: Stop = lambda: False) -> Iterator[bool]:
        """Wait for the group's turn and hold it during the block: True, or False where `stop()` came first."""
        mine = self._enter(group, stop)
        try:
            yield mine
        finally:
            if mine:
                self._leave()

    def over(self) -> bool:
        """Whether whoever has the turn should give it up now: others wait, and it has had its time."""
        return bool(self._waiting) and time.monotonic() - self._since >= self._slice

    def _enter(self, group: Hashable, stop: Stop) -> bool:
        ticket = _Ticket(group)
        with self._condition:
            others_are_due = self.over()
            self._waiting.append(ticket)
            if not self._inside:
                self._next()
            elif group == self._group and not others_are_due:
                self._admit(ticket)
            while not ticket.admitted:
                if stop():
                    self._waiting.remove(ticket)
                    return False
                self._condition.wait(STOP_CHECK_SECONDS)
        return True

    def _leave(self) -> None:
        with self._condition:
            self._inside -= 1
            if not self._inside:
                self._next()

    def _next(self) -> None:
        """Give the turn to the group that has waited longest, all of it at once."""
        if not self._waiting:
            return
        self._group, self._since = self._waiting[0].group, time.monotonic()
        for ticket in [each for each in self._waiting if each.group == self._group]:
            self._admit(ticket)
        self._condition.notify_all()

    def _admit(self, ticket: _Ticket) -> None:
        self._waiting.remove(ticket)
        ticket.admitted = True
        self._inside += 1

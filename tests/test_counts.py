"""Counts under way: one for all who ask, ended when nobody waits, given up for another of the same session."""

import threading

import pytest
from builders import until

from ui.finetune.counts import Counts


class Counting:
    """A count of two tells, the second of which waits until it may come."""

    def __init__(self):
        self.begun, self.go, self.stopped = 0, threading.Event(), threading.Event()

    def __call__(self, stop):
        self.begun += 1
        yield "one"
        while not self.go.wait(0.01):
            if stop():
                self.stopped.set()
                return
        yield "two"


def test_two_who_ask_share_one_count():
    counts, count = Counts(), Counting()
    first, second = (counts.heard(name, ("key",), count) for name in "ab")
    assert (next(first), next(second)) == ("one", "one")
    count.go.set()
    assert (*first, *second) == ("two", "two") and count.begun == 1


def test_a_count_ends_when_nobody_waits_and_begins_anew():
    counts, count = Counts(), Counting()
    heard = counts.heard("a", ("key",), count)
    next(heard)
    heard.close()
    assert count.stopped.wait(10)
    count.go.set()
    assert list(counts.heard("a", ("key",), count))[-1] == "two" and count.begun == 2


def test_a_session_that_asks_for_other_rows_gives_up_the_first():
    counts, old, new = Counts(), Counting(), Counting()
    first = counts.heard("a", ("old",), old)
    next(first)
    second = counts.heard("a", ("new",), new)
    next(second)
    assert list(first) == [] and old.stopped.wait(10)
    assert next(counts.heard("b", ("old",), old)) == "one" and not new.stopped.is_set(), "another session's asking gives up nothing"
    new.go.set()
    assert list(second) == ["two"]


def test_a_session_that_asks_again_goes_on_with_the_same_count():
    counts, count = Counts(), Counting()
    first = counts.heard("a", ("key",), count)
    next(first)
    second = counts.heard("a", ("key",), count)
    assert next(second) == "one" and list(first) == []
    count.go.set()
    assert list(second) == ["two"] and count.begun == 1


def test_two_places_of_a_session_hear_the_same_count():
    counts, count = Counts(), Counting()
    first, second = (counts.heard("a", ("key",), count, place) for place in ("data", "recipe"))
    assert (next(first), next(second)) == ("one", "one")
    count.go.set()
    assert (*first, *second) == ("two", "two") and count.begun == 1


def test_what_is_typed_on_is_counted_once():
    counts, early = Counts(), Counting()
    heard: list = []
    waiting = threading.Thread(target=lambda: heard.extend(counts.heard("a", ("h",), early, calm=30)))
    waiting.start()
    until(lambda: counts._listeners)
    counts.only("a", ("hi",))
    waiting.join(10)
    assert not waiting.is_alive() and not early.begun and heard == []


def test_what_a_count_fails_with_is_told_to_all():
    def broken(stop):
        raise ValueError("no such rows")
        yield

    counts = Counts()
    for session in "ab":
        with pytest.raises(ValueError, match="no such rows"):
            list(counts.heard(session, ("key",), broken))

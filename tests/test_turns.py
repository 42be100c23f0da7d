"""Turns on the processor, slots of a server, and blends as values: what runs beside what, and in which order."""

import threading
import time

import pytest
from builders import until
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.slots import Slots
from engine.backends.turns import Turns
from engine.blend import BASE, MAX_PARTS, Blend
from engine.errors import BadInput


class Runner:
    """A thread that holds turns of one group over and over, as an answer does, until it is ended."""

    def __init__(self, turns: Turns, group: str, log: list[str]):
        self._turns, self._group, self._log = turns, group, log
        self.ended = threading.Event()
        self.steps = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self.ended.is_set():
            with self._turns.turn(self._group, self.ended.is_set) as mine:
                while mine and not self.ended.is_set():
                    self._log.append(self._group)
                    self.steps += 1
                    time.sleep(0.001)
                    if self._turns.over():
                        break


def test_one_group_runs_side_by_side_and_gives_no_turn_up():
    turns, log = Turns(slice_seconds=0), []
    with turns.turn("a") as first, turns.turn("a") as second:
        assert first and second and not turns.over()
    assert log == []


def test_groups_alternate_and_never_run_together():
    turns, log = Turns(slice_seconds=0.01), []
    runners = [Runner(turns, group, log) for group in ("a", "a", "b", "c")]
    until(lambda: min(runner.steps for runner in runners) > 60)
    for runner in runners:
        runner.ended.set()
    changes = sum(left != right for left, right in zip(log, log[1:], strict=False))
    assert 3 <= changes < len(log) / 3, "each has a slice of several steps"


def test_who_arrives_late_does_not_overtake_those_who_wait():
    turns, order = Turns(slice_seconds=0), []

    def ask(group: str) -> threading.Thread:
        def run() -> None:
            with turns.turn(group):
                order.append(group)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    with turns.turn("a"):
        threads = []
        for count, group in enumerate(("b", "c", "a"), 1):
            threads.append(ask(group))
            until(lambda count=count: len(turns._waiting) == count)
    for thread in threads:
        thread.join(5)
    assert order == ["b", "c", "a"]


def test_who_stops_while_waiting_has_no_turn():
    turns = Turns()
    with turns.turn("a"), turns.turn("b", lambda: True) as mine:
        assert not mine
    with turns.turn("b") as mine:
        assert mine and not turns.over()


def taken(slots: Slots, ids: list[int], blend: Blend = BASE) -> int:
    with slots.taken(ids, blend, lambda: False) as slot:
        slot.ids, slot.blend = list(ids), blend
        return slot.number


def test_a_conversation_comes_back_to_its_slot():
    slots = Slots(3, print)
    first, second = taken(slots, [1, 2, 3, 4]), taken(slots, [5, 6, 7, 8])
    assert first != second
    assert taken(slots, [1, 2, 3, 4, 9]) == first
    assert taken(slots, [5, 6, 7, 8, 9]) == second
    assert taken(slots, [1, 2, 3, 4, 9, 9], Blend.of(["x"])) not in (first, second), "another blend shares nothing"


def test_a_short_common_beginning_costs_no_other_conversation_its_cache():
    slots = Slots(2, print)
    first = taken(slots, [1, *range(100, 140)])
    assert taken(slots, [1, *range(200, 240)]) != first
    assert taken(slots, [1, *range(100, 140), 7]) == first


def test_the_slot_unused_longest_is_given_away():
    slots = Slots(2, print)
    first, second = taken(slots, [1]), taken(slots, [2])
    assert taken(slots, [3]) == first and taken(slots, [4]) == second


def test_a_full_server_makes_others_wait_until_they_stop():
    slots = Slots(1, print)
    with slots.taken([1], BASE, lambda: False), slots.taken([2], BASE, lambda: True) as none:
        assert none is None


@given(st.lists(st.tuples(st.sampled_from(["none", "", None, "a", "b", "c", "d", "e"]), st.floats(-1, 2)), max_size=6))
def test_a_blend_is_within_bounds_or_refused(chosen):
    names, scales = [name for name, _ in chosen], [scale for _, scale in chosen]
    try:
        blend = Blend.of(names, scales)
    except BadInput:
        real = [name for name in names if name not in ("none", "", None)]
        assert len(set(real)) < len(real) or len(real) > MAX_PARTS or any(not 0 <= scale <= 1.5 for scale in scales)
        return
    assert all(0 < scale <= 1.5 for _, scale in blend.parts)
    assert (blend.label is None) == (blend == BASE)
    assert blend.strongest is None or dict(blend.parts)[blend.strongest] == max(dict(blend.parts).values())


@pytest.mark.parametrize(
    "names, scales, words", [(["a"], [1, 2], "1 adapters and 2"), (["a", "a"], [1, 1], "twice"), (["a"], [float("nan")], "between")]
)
def test_blends_that_are_none(names, scales, words):
    with pytest.raises(BadInput, match=words):
        Blend.of(names, scales)


def test_what_a_blend_is_called():
    assert Blend.of(["mini", "pirate"], [0.7, 0.3]).label == "mini × 0.7 + pirate × 0.3"
    assert Blend.of(["mini"]).label == "mini" and Blend.of(["mini"], [0]) == BASE

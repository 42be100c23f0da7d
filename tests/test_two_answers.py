"""Two answers at a time where one model makes them in turns: the worker's line, and blends that change between tokens."""

import io
import itertools
import json
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from test_transformers_backend import GREEDY, begun, opened

from engine import adapters
from engine.backends.scripted import ScriptedBackend
from engine.blend import Blend
from engine.errors import BadInput
from engine.settings import ChatSettings
from engine.worker import Worker

SAMPLED = ChatSettings(temperature=1, max_new_tokens=30)


def sent(*requests: dict, then=lambda worker, coming, line: None) -> list[dict]:
    """What a worker over the scripted backend sends until all requests are served; `then` sees each line of it, and may stop
    answers or put requests."""
    coming: queue.Queue = queue.Queue()
    coming.get = partial(coming.get, block=False)  # it ends where it would wait
    lines = []

    class Out(io.StringIO):
        def write(self, text: str) -> None:
            lines.append(json.loads(text))
            then(worker, coming, lines[-1])

    worker = Worker(Out())
    worker._backend = ScriptedBackend(["word"], ends=False, seconds_per_token=0)
    for request in requests:
        coming.put(request)
    with pytest.raises(queue.Empty):
        worker.run(coming)
    return lines


def generate(number: int, *adapters: str) -> dict:
    arguments = {"ids": [], "settings": {"max_new_tokens": 3}, "seed": 1, "blend": [[adapter, 1.0] for adapter in adapters]}
    return {"id": number, "op": "generate", "arguments": arguments}


def reasons(lines: list[dict], number: int) -> list:
    """Why the deltas of a request say that it ended; `done` for the line that closes it, and None for a token."""
    return ["done" if line.get("done") else line["delta"][2] for line in lines if line["id"] == number]


WHOLE = [None, None, None, "length", "done"]


@pytest.mark.parametrize("seconds, order", [(0, [1, 2] * 5), (1e12, [1] * 5 + [2] * 5)])
def test_answers_take_turns_of_a_slice(monkeypatch, seconds, order):
    monkeypatch.setattr("engine.worker.SLICE_SECONDS", seconds)
    lines = sent(generate(1), generate(2))
    assert [line["id"] for line in lines] == order and reasons(lines, 1) == reasons(lines, 2) == WHOLE


def after(number: int, *requests: dict):
    """For `sent`: these requests come once the first line for request `number` has gone out."""
    waiting = list(requests)

    def then(worker, coming, line):
        while line["id"] == number and waiting:
            coming.put(waiting.pop(0))

    return then


def test_who_comes_to_an_answer_that_was_alone_is_next():
    lines = sent(generate(1), then=after(1, generate(2)))
    assert [line["id"] for line in lines][:3] == [1, 1, 2]


def test_all_else_is_served_between_two_tokens():
    encode = {"id": 2, "op": "encode", "arguments": {"messages": [["user", "Hi"]], "system": "", "form": "plain"}}
    attach = {"id": 3, "op": "attach", "arguments": {"adapter": "scripted-a"}}
    lines = sent(generate(1), then=after(1, encode, attach))
    assert [line["id"] for line in lines] == [1, 2, 2, 3, 3, 1, 1, 1, 1] and "ids" in lines[1] and "attached" in lines[3]


def test_a_stop_ends_one_answer_alone(monkeypatch):
    monkeypatch.setattr("engine.worker.SLICE_SECONDS", 0)
    lines = sent(generate(1), generate(2), then=lambda worker, coming, line: line["id"] == 2 and worker.stop(2))
    assert reasons(lines, 1) == WHOLE and reasons(lines, 2) == [None, "cancelled", "done"]


def test_an_error_ends_one_answer_alone(monkeypatch):
    monkeypatch.setattr("engine.worker.SLICE_SECONDS", 0)
    lines = sent(generate(1), generate(2, "nope"), {"id": 3, "op": "nonsense"})
    assert reasons(lines, 1) == WHOLE and reasons(lines, 2) == reasons(lines, 3) == ["done"]
    refused, failed = (next(line for line in lines if line["id"] == number) for number in (2, 3))
    assert "not loaded" in refused["error"] and refused["exit_code"] == 2
    assert "Unexpected failure" in failed["error"] and failed["exit_code"] == 1


@pytest.fixture(scope="module")
def adapted(tiny, two_adapters, tmp_path_factory):
    """A backend with both adapters, for tests that only ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUANACO_HOME", str(tmp_path_factory.mktemp("home")))
        backend = opened(tiny)
    for adapter in two_adapters:
        backend.attach(adapter)
    return backend


# Strengths of the two adapters, for the one answer and for the other.
PAIRS = [((0, 0), (1, 0)), ((1, 0), (0, 1)), ((0.5, 0), (1.5, 0)), ((0.5, 1), (0, 0))]


@pytest.mark.long
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
@pytest.mark.parametrize("pair", PAIRS)
def test_two_answers_in_turns_are_what_each_is_alone(adapted, two_adapters, pair, settings):
    blends = [Blend.of(two_adapters, scales) for scales in pair]
    alone = [list(begun(adapted, blend, settings)) for blend in blends]
    assert alone[0] != alone[1]
    steps = itertools.zip_longest(*(begun(adapted, blend, settings) for blend in blends))
    assert [[delta for delta in answer if delta] for answer in zip(*steps, strict=True)] == alone


@pytest.mark.long
def test_answers_on_several_threads_are_what_each_is_alone(adapted, two_adapters):
    blends = [Blend.of(two_adapters, scales) for scales in itertools.chain(*PAIRS)]
    alone = [list(begun(adapted, blend, SAMPLED)) for blend in blends]
    with ThreadPoolExecutor(len(blends)) as threads:
        assert list(threads.map(lambda blend: list(begun(adapted, blend, SAMPLED)), blends)) == alone


def test_adapters_come_and_go_during_an_answer(tiny, two_adapters):
    backend = opened(tiny)
    one, two = (Blend.of([adapter]) for adapter in two_adapters)
    alone = list(begun(backend))
    answer = begun(backend)
    seen = [next(answer)]
    backend.attach(two_adapters[0])
    seen.append(next(answer))
    ended = begun(backend, one)
    next(ended)
    backend.attach(two_adapters[1])
    seen.append(next(answer))
    other = begun(backend, two)
    next(other)
    next(ended)
    backend.detach(two_adapters[0])  # while its blend is in force
    with pytest.raises(BadInput, match="not loaded"):
        next(ended)
    seen.append(next(answer))
    assert next(other).tokens
    backend.detach(two_adapters[1])
    assert [*seen, *answer] == alone


def test_an_adapter_attached_on_two_threads_at_once_is_there_once(tiny, two_adapters, monkeypatch):
    backend, both, load, injected = opened(tiny), threading.Barrier(2), adapters.load_tensors, []
    inject = backend._inject
    monkeypatch.setattr(adapters, "load_tensors", lambda found: both.wait(30) and False or load(found))
    monkeypatch.setattr(backend, "_inject", lambda *args: injected.append(inject(*args)))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(backend.attach, two_adapters[:1] * 2))
    assert backend.adapters() == two_adapters[:1] and len(injected) == 1

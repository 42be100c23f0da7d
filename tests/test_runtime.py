"""The loaded model of an app, and a backend in a process of its own (faults, rows 1, 26, 35)."""

import threading

import psutil
import pytest
from builders import until

from engine import models
from engine.backends import open_backend
from engine.backends.base import Loaded
from engine.backends.scripted import ScriptedBackend
from engine.blend import BASE, Blend
from engine.errors import BadInput, EngineError
from engine.events import Failed, Finished, Notice, Progress, Token
from engine.messages import Conversation
from engine.runtime import Runtime, State
from engine.services import Services
from engine.settings import ChatSettings, LoadSettings
from engine.threads import Facts

HELLO = Conversation().add("user", "Hello")
SHORT = ChatSettings(max_new_tokens=5)


def wait(runtime, phase):
    """Until the runtime has settled in `phase`; its state changes are the condition."""
    with runtime._condition:
        assert runtime._condition.wait_for(lambda: runtime._state.phase == phase, 120), runtime._state


def ready() -> Runtime:
    """A runtime with the scripted model loaded."""
    runtime = Runtime()
    runtime.load("scripted")
    wait(runtime, "ready")
    return runtime


def until_token(events) -> None:
    """Take events until the answer has begun."""
    while not isinstance(next(events), Token):
        pass


def test_a_message_sent_while_loading_waits_its_turn(monkeypatch):
    gate = threading.Event()

    def slow(spec, load, report, isolated, cancelled, turns):
        report(Progress("Loading slowly", 0.5))
        assert gate.wait(30)
        return ScriptedBackend(seconds_per_token=0)

    monkeypatch.setattr("engine.runtime.open_backend", slow)
    runtime = Runtime()
    runtime.load("scripted")
    events = runtime.chat(HELLO, SHORT)
    assert isinstance(next(events), Progress)
    gate.set()
    assert isinstance(list(events)[-1], Finished)


def test_a_failed_load_keeps_its_reason(monkeypatch):
    def broken(*args):
        raise EngineError("no luck today")

    monkeypatch.setattr("engine.runtime.open_backend", broken)
    runtime = Runtime()
    runtime.load("scripted")
    wait(runtime, "failed")
    assert list(runtime.chat(HELLO, SHORT))[-1] == Failed("no luck today", 1)


def test_what_is_no_model_is_refused_at_once_and_changes_nothing():
    runtime = ready()
    with pytest.raises(BadInput):
        runtime.load("no such model")
    assert isinstance(list(runtime.chat(HELLO, SHORT))[-1], Finished)


def test_a_newer_load_wins_and_the_older_backend_is_closed(monkeypatch):
    gate, begun, made = threading.Event(), threading.Event(), []

    def slow(spec, load, report, isolated, cancelled, turns):
        backend = ScriptedBackend(seconds_per_token=0)
        made.append(backend)
        if len(made) == 1:
            begun.set()
            assert gate.wait(30)
        return backend

    monkeypatch.setattr("engine.runtime.open_backend", slow)
    runtime = Runtime()
    runtime.load("scripted")
    assert begun.wait(30)
    runtime.load("scripted")
    wait(runtime, "ready")
    gate.set()
    until(lambda: made[0].closed)
    assert not made[1].closed


def test_closing_one_answer_frees_the_model_for_the_next():
    runtime = ready()
    first = runtime.chat(HELLO, ChatSettings(max_new_tokens=4096))
    until_token(first)
    backend = runtime._backend
    first.close()
    produced = backend.produced
    assert isinstance(list(runtime.chat(HELLO, SHORT))[-1], Finished)
    assert backend.produced <= produced + 5


def test_stop_while_waiting_for_another_answer():
    runtime = ready()
    first = runtime.chat(HELLO, ChatSettings(max_new_tokens=4096))
    until_token(first)
    assert list(runtime.chat(HELLO, SHORT, stop=lambda: True))[-1] == Notice("Stopped before the answer began.")
    first.close()


def test_a_load_ends_the_answer_under_way_and_keeps_its_text():
    runtime = ready()
    events = runtime.chat(HELLO, ChatSettings(max_new_tokens=4096))
    until_token(events)
    runtime.load("scripted")
    finished = list(events)[-1]
    assert finished.finish_reason == "cancelled" and finished.text
    wait(runtime, "ready")
    assert isinstance(list(runtime.chat(HELLO, SHORT))[-1], Finished)


def test_unloading_ends_the_answer_with_its_text_and_gives_the_model_back():
    runtime = ready()
    backend = runtime._backend
    events = runtime.chat(HELLO, ChatSettings(max_new_tokens=4096))
    until_token(events)
    unloading = threading.Thread(target=runtime.unload)
    unloading.start()
    finished = list(events)[-1]
    unloading.join(10)
    assert finished.finish_reason == "cancelled" and finished.text and backend.closed
    assert runtime.state.phase == "idle" and runtime.memory() == 0
    assert "No model is loaded" in list(runtime.chat(HELLO, SHORT))[-1].text


def test_a_load_is_cancelled(monkeypatch):
    begun = threading.Event()

    def endless(spec, load, report, isolated, cancelled, turns):
        report(Progress("Fetching", 0.3))
        begun.set()
        until(cancelled)
        raise EngineError("Loading was cancelled.")

    monkeypatch.setattr("engine.runtime.open_backend", endless)
    runtime = Runtime()
    runtime.load("scripted")
    assert begun.wait(30)
    waiting = runtime.chat(HELLO, SHORT)
    next(waiting)
    runtime.cancel_load()
    assert "cancelled" in list(waiting)[-1].text and runtime.state.phase == "idle"
    assert "cancelled" in runtime.state.text
    runtime.cancel_load()


def test_those_who_wait_are_told_their_place_and_served_in_order():
    runtime = ready()
    first = runtime.chat(HELLO, ChatSettings(max_new_tokens=4096))
    until_token(first)
    second, third = runtime.chat(HELLO, SHORT), runtime.chat(HELLO, SHORT)
    assert "number 1 in line" in next(second).text
    assert "number 2 in line" in next(third).text
    second.close()
    until(lambda: "number 1 in line" in next(third).text)
    first.close()
    assert isinstance(list(third)[-1], Finished) and not runtime._line


def test_a_full_line_says_so_at_once(monkeypatch):
    monkeypatch.setattr("engine.runtime.MAX_WAITING", 2)
    runtime = ready()
    answers = [runtime.chat(HELLO, ChatSettings(max_new_tokens=4096)) for _ in range(3)]
    until_token(answers[0])
    for waiting in answers[1:]:
        next(waiting)
    assert [type(event) for event in runtime.chat(HELLO, SHORT)] == [Failed]
    assert "busy: 2 others wait" in list(runtime.chat(HELLO, SHORT))[-1].text
    for answer in answers:
        answer.close()
    assert not runtime._line


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_load_that_comes_to_nothing_brings_the_former_model_back(monkeypatch, cancelled):
    begun = threading.Event()

    def broken(spec, load, report, isolated, stopped, turns):
        if spec.id != "scripted":
            begun.set()
            until(lambda: stopped() or not cancelled)
            raise EngineError("No luck.")
        return ScriptedBackend(seconds_per_token=0)

    runtime = ready()
    monkeypatch.setattr("engine.runtime.open_backend", broken)
    runtime.load("starter")
    assert begun.wait(30)
    if cancelled:
        runtime.cancel_load()
    until(lambda: runtime.state.phase == "ready")
    assert runtime.state.model == "scripted" and ("was cancelled" if cancelled else "No luck.") in runtime.state.text
    assert isinstance(list(runtime.chat(HELLO, SHORT))[-1], Finished)


@pytest.mark.long
def test_an_adapter_that_fails_to_load_gives_the_model_back(tiny):
    runtime = Runtime()
    runtime.load(str(tiny), "no-such-adapter")
    wait(runtime, "failed")
    assert "no-such-adapter" in runtime.state.text
    assert not [child for child in psutil.Process().children() if "engine.worker" in " ".join(child.cmdline())]


def test_adapters_that_nobody_used_for_long_are_let_go(monkeypatch):
    monkeypatch.setattr("engine.runtime.MOST_ADAPTERS", 3)
    runtime = Runtime(isolated=False)
    runtime.load("scripted", "scripted-own")
    wait(runtime, "ready")
    runtime._backend = backend = ScriptedBackend(seconds_per_token=0, slots=4)
    backend.attach("scripted-own")

    def answer(adapter: str):
        events = runtime.chat(HELLO, SHORT, Blend.of([f"scripted-{adapter}"]))
        until_token(events)
        return events

    under_way = answer("a")
    for adapter in "babcd":
        list(answer(adapter))
        assert len(backend.adapters()) <= 3 and {"scripted-own", "scripted-a"} < {*backend.adapters()}
    list(answer("own"))
    assert isinstance(list(under_way)[-1], Finished)
    list(answer("d"))
    list(answer("e"))
    assert backend.adapters() == ["scripted-own", "scripted-d", "scripted-e"] == list(runtime.state.adapters)
    busy = [answer(adapter) for adapter in "fgh"]
    assert len(backend.adapters()) == 4, "none that an answer uses is taken away"
    assert all(isinstance(list(each)[-1], Finished) for each in busy)
    assert "has no adapter" in list(runtime.chat(HELLO, SHORT, Blend.of(["x"])))[-1].text
    list(answer("i"))
    assert len(backend.adapters()) == 3 and not runtime._in_use


@pytest.mark.long
def test_a_dead_worker_is_no_longer_called_ready(tiny):
    runtime = Runtime()
    runtime.load(str(tiny))
    wait(runtime, "ready")
    runtime._backend._process.kill()
    assert "ended unexpectedly" in list(runtime.chat(HELLO, SHORT))[-1].text
    assert runtime.state.phase == "failed"
    runtime.close()


def test_read_only_services_refuse_what_a_visitor_may_not():
    services = Services(Runtime(), read_only=True)
    for name in ("someone/model", "/etc", "guanaco-7b", "starter"):
        with pytest.raises(BadInput, match="public host"):
            services.load(name)
    with pytest.raises(BadInput, match="public host"):
        services.blend("/etc/adapter", 1, None, 1)
    assert services.blend("none", 1, "", 1) == BASE


def test_a_public_host_shows_no_paths():
    path = "/secret/place/model"
    runtime = Runtime()
    runtime._state = State(
        "ready",
        path,
        "Ready",
        loaded=Loaded(path, "transformers", "CPU", "NF4", "float32", 512, "chat"),
        adapters=("/secret/place/adapter",),
    )
    runtime.wanted_adapter = "/secret/place/adapter"
    services = Services(runtime, read_only=True)
    assert "secret" not in repr(services.state()) and "secret" not in repr(services.adapter_choices() + services.model_choices())
    assert services.blend("adapter", 0.5, None, 1).parts == (("/secret/place/adapter", 0.5),)
    told = Finished("Hi", 1, 1, 1.0, 1.0, 0.0, "stop", 1, "llama.cpp", path, Blend.of(["/secret/place/adapter"], [0.5]).label)
    assert "secret" not in repr(Facts.of(told, SHORT)) and Facts.of(told, SHORT).adapter == "adapter × 0.5"
    runtime._state = State("failed", path, f"The model {path} is damaged")
    assert "secret" not in repr(services.state())
    runtime._state = State("ready", "big", "Ready", loaded=Loaded("big", "remote", "gpu-box.secret:8000", "none", "none", 512, "chat"))
    assert "secret" not in repr(services.state())


def test_loading_what_is_loaded_changes_nothing():
    runtime = ready()
    backend = runtime._backend
    Services(runtime).load("scripted")
    assert runtime._backend is backend and runtime.state.phase == "ready"


@pytest.fixture
def worker(tiny):
    backend = open_backend(models.resolve(str(tiny)), LoadSettings(), lambda progress: None, isolated=True)
    yield backend
    backend.close()


@pytest.mark.long
def test_a_worker_answers_as_the_backend_in_it(worker, tiny):
    direct = open_backend(models.resolve(str(tiny)), LoadSettings(), lambda progress: None)
    ids = worker.encode(HELLO, "chat")
    assert ids == direct.encode(HELLO, "chat")
    settings = ChatSettings(max_new_tokens=20, temperature=1)
    texts = ["".join(delta.text for delta in backend.generate(ids, settings, 3, BASE, lambda: False)) for backend in (worker, direct)]
    assert texts[0] == texts[1]
    with pytest.raises(BadInput, match="There is no adapter"):
        worker.attach("nope")


@pytest.mark.long
def test_a_stopped_worker_is_ready_for_the_next_answer(worker):
    ids = worker.encode(HELLO, "chat")
    long = ChatSettings(max_new_tokens=400, temperature=1)
    deltas = worker.generate(ids, long, 1, BASE, lambda: False)
    next(deltas)
    deltas.close()
    asked = iter([False] * 3 + [True] * 10_000)
    assert list(worker.generate(ids, long, 1, BASE, lambda: next(asked)))[-1].reason == "cancelled"
    assert list(worker.generate(ids, SHORT, 1, BASE, lambda: False))[-1].reason in ("length", "stop")


@pytest.mark.long
def test_a_worker_makes_two_answers_at_a_time(worker):
    """What it sends arrives in order: whatever has come of the first answer came before the last token seen of the second."""
    assert worker.slots == 2
    ids = worker.encode(HELLO, "chat")
    long = ChatSettings(max_new_tokens=4096, temperature=0)
    first, second = (worker.generate(ids, long, 1, BASE, lambda: False) for _ in range(2))
    assert next(first).tokens
    (told,) = worker._answers.values()
    assert worker.encode(HELLO, "chat") == ids
    while not next(second).tokens:
        pass
    seen = told.qsize()
    while told.qsize() == seen:
        assert next(second).tokens
    assert next(second).tokens
    second.close()
    number = next(worker._numbers)
    third = worker._ask("generate", number, ids=ids.content, settings=long.model_dump(), seed=1, blend=())
    until(lambda: "delta" in next(third))
    worker._send(id=number, op="stop")
    assert [answer for answer in third if answer][-1]["delta"][2] == "cancelled"
    assert not any("done" in answer for answer in told.queue), "the first has gone on all the time"
    assert next(first).tokens
    first.close()


@pytest.mark.long
def test_a_crash_of_the_worker_is_told_and_costs_no_conversation(worker):
    from engine.chat import stream

    both = [stream(worker, HELLO, ChatSettings(max_new_tokens=4096, temperature=0)) for _ in range(2)]
    for events in both:
        next(events)
    worker._process.kill()
    assert all("ended unexpectedly" in list(events)[-1].text for events in both)
    assert "ended unexpectedly" in list(stream(worker, HELLO, SHORT))[-1].text


@pytest.mark.long
def test_closing_ends_the_process(worker):
    process = psutil.Process(worker._process.pid)
    worker.close()
    assert not process.is_running()


@pytest.mark.long
def test_a_load_can_be_cancelled(tiny):
    with pytest.raises(EngineError, match="cancelled"):
        open_backend(models.resolve(str(tiny)), LoadSettings(), lambda progress: None, isolated=True, cancelled=lambda: True)
    assert not [child for child in psutil.Process().children() if "engine.worker" in " ".join(child.cmdline())]


@pytest.mark.long
def test_bad_input_in_the_worker_arrives_as_bad_input(tmp_path, tiny):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(BadInput, match="model.safetensors"):
        open_backend(models.resolve(str(folder)), LoadSettings(), lambda progress: None, isolated=True)

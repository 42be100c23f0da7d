"""A model whose GPU is lent for one answer: made in a forked process, stopped there, failing in words."""

import threading

import lending
import pytest

from engine import hardware, models
from engine.backends.base import Delta
from engine.backends.lent import LentBackend
from engine.backends.scripted import ScriptedBackend
from engine.blend import BASE, Blend
from engine.errors import BadInput, EngineError
from engine.events import Failed, Finished
from engine.messages import Conversation
from engine.runtime import Runtime
from engine.settings import ChatSettings

HELLO = Conversation().add("user", "Hello")


def deltas(backend, stop=lambda: False, blend=BASE) -> list[Delta]:
    prompt = backend.encode(HELLO, backend.prompt_format(None))
    return list(backend.generate(prompt, ChatSettings(max_new_tokens=50), 7, blend, stop))


def test_an_answer_is_made_elsewhere_and_is_the_same():
    inner = ScriptedBackend(["one ", "two ", "three"])
    lent = LentBackend(inner, lending.lend)
    assert [each.text for each in deltas(lent)] == [each.text for each in deltas(ScriptedBackend(["one ", "two ", "three"]))]
    assert inner.produced == 0 and lent.slots == inner.slots and "lent" in " ".join(lent.loaded.notes)


@pytest.mark.parametrize("how", ["stopped", "closed"])
def test_it_ends_with_whoever_listens(how):
    lent = LentBackend(ScriptedBackend(["word "], ends=False, seconds_per_token=0.01), lending.lend)
    prompt, heard = lent.encode(HELLO, "plain"), []
    answer = lent.generate(prompt, ChatSettings(max_new_tokens=4096), 7, BASE, lambda: how == "stopped" and len(heard) == 3)
    for each in answer:
        heard.append(each)
        if how == "closed" and len(heard) == 4:
            answer.close()
    assert len(heard) == 4 and (heard[-1].reason == "cancelled") == (how == "stopped")
    assert not lending.processes[-1].is_alive() and lending.processes[-1].exitcode == 0


class Failing(ScriptedBackend):
    def generate(self, *asked, **how):
        yield Delta("So far ", 1)
        raise BadInput("The GPU ran out of memory while answering.")


def test_what_fails_there_is_said_here():
    with pytest.raises(BadInput, match="ran out of memory"):
        deltas(LentBackend(Failing(), lending.lend))
    with pytest.raises(BadInput, match="not loaded"):
        deltas(LentBackend(ScriptedBackend(), lending.lend), blend=Blend.of(["nowhere"], [1.0]))


def test_a_host_that_lends_loads_in_the_thread_that_asks(monkeypatch):
    threads = []
    monkeypatch.setattr("engine.runtime.open_backend", lambda *asked: threads.append(threading.current_thread()) or ScriptedBackend())
    runtime = Runtime(lend=lending.lend)
    runtime.load("scripted")
    assert runtime.state.phase == "ready" and threads == [threading.current_thread()]
    said = list(runtime.chat(HELLO, ChatSettings(max_new_tokens=5)))
    assert isinstance(said[-1], Finished) and said[-1].tokens == 5
    runtime.close()


def test_a_host_that_has_no_gpu_to_lend_says_so():
    def refused(task):
        def answer(*asked):
            raise EngineError("You have exceeded your free ZeroGPU quota. Try again in 2:10:00.")
            yield

        return answer

    runtime = Runtime(lend=refused)
    runtime.load("scripted")
    assert list(runtime.chat(HELLO, ChatSettings()))[-1] == Failed("You have exceeded your free ZeroGPU quota. Try again in 2:10:00.", 1)


@pytest.mark.long
def test_a_real_model_with_adapters_answers_alike(tiny, two_adapters):
    from engine.backends.transformers import TransformersBackend
    from engine.settings import LoadSettings

    opened = TransformersBackend(models.resolve(str(tiny)), LoadSettings(quantization="none"), lambda progress: None)
    for adapter in two_adapters:
        opened.attach(adapter)
    lent = LentBackend(opened, lending.lend)
    for blend in (BASE, Blend.of([two_adapters[0]], [1.5]), Blend.of(two_adapters, [1.0, 0.5])):
        assert deltas(lent, blend=blend) == deltas(opened, blend=blend)


def test_the_gpu_of_such_a_host_is_known_without_a_driver(monkeypatch):
    hardware._gpus.cache_clear()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setenv("ZEROGPU_CUDA_DEVICE_NAME", "NVIDIA Something")
    try:
        machine = hardware.machine()
        assert machine.has_gpu and machine.gpus[0].name == "NVIDIA Something" and machine.gpus[0].memory > 70e9
        assert hardware.compute_dtype([gpu.capability for gpu in machine.gpus]) == "bfloat16"
    finally:
        hardware._gpus.cache_clear()

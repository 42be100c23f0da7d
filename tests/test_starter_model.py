"""The real starter, end to end: 4-bit layers, adapters, figures, the command line."""

import json

import builders
import pytest
from conftest import SHARED, shared

from engine import models, runs
from engine.backends import open_backend
from engine.blend import BASE, Blend
from engine.chat import stream
from engine.events import Evaluated, Finished, Sample, Started, Token
from engine.messages import Conversation
from engine.settings import ChatSettings, LoadSettings

pytestmark = pytest.mark.long
SHORT = SHARED / "instruct/short.jsonl"
QUESTION = Conversation().add("user", "What is the capital of France?")


@pytest.fixture(scope="module")
def backend(starter_home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUANACO_HOME", str(starter_home))
        yield open_backend(models.resolve("starter"), LoadSettings(backend="transformers"), lambda progress: None)


def logits(backend, blend=BASE):
    import torch

    prompt = backend.encode(QUESTION, backend.prompt_format(blend.strongest))
    return backend._forward(torch.tensor([prompt.content]), None, blend)[0]


def test_every_projection_is_linear4bit(backend):
    import bitsandbytes
    import torch

    layers = {
        name: module for name, module in backend._model.named_modules() if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    }
    assert len(layers) == 30 * 7
    assert all(isinstance(layer, bitsandbytes.nn.Linear4bit) and layer.weight.dtype == torch.uint8 for layer in layers.values())
    logits(backend)
    packed = [name for name, layer in layers.items() if getattr(layer.weight.quant_state, "packing_format_for_cpu", False)]
    assert not packed, "weights stay as they are, whatever this CPU could do with others"


def test_it_knows_the_capital_of_france(backend):
    finished = list(stream(backend, QUESTION, ChatSettings(temperature=0, max_new_tokens=40)))[-1]
    assert "Paris" in finished.text
    assert finished.finish_reason == "stop" and finished.tokens_per_second > 0


def test_an_adapter_changes_the_output_and_off_restores_it_exactly(backend, starter_home, tmp_path):
    import torch

    before = logits(backend)
    adapter = str(builders.adapter(tmp_path / "adapter", "starter", starter_home / "models" / "starter" / "transformers"))
    backend.attach(adapter)
    assert torch.equal(logits(backend), before)
    assert not torch.allclose(logits(backend, Blend.of([adapter])), before, atol=1e-2)
    assert torch.equal(logits(backend), before)
    backend.detach(adapter)
    assert torch.equal(logits(backend), before)


@pytest.mark.parametrize("text", ["Répète : « ça va, Noël ? »", "用中文说你好", "Say 🦙 and 👩‍👩‍👧", "قل مرحبا"])
def test_any_language_streams_whole(backend, text):
    events = list(stream(backend, Conversation().add("user", text), ChatSettings(seed=1, temperature=1.2, max_new_tokens=24)))
    shown = "".join(event.text for event in events if isinstance(event, Token))
    assert shown == events[-1].text and "\ufffd" not in shown


def test_same_seed_same_answer_cold(backend):
    texts = {list(stream(backend, QUESTION, ChatSettings(seed=11, max_new_tokens=12)))[-1].text for _ in range(2)}
    assert len(texts) == 1


def test_the_prompt_is_the_models_own_template(backend):
    tokenizer = backend._tokenizer
    rows = [{"role": "user", "content": "Grüße, 你好 🦙!"}]
    assert (
        backend.encode(Conversation().add("user", rows[0]["content"]), "chat").content
        == tokenizer.apply_chat_template(rows, add_generation_prompt=True)["input_ids"]
    )


@pytest.mark.parametrize("backend", ["transformers", "llama.cpp"])
def test_the_command_line_gives_the_figures_of_the_contract(starter, run_engine, backend):
    done = run_engine(
        "chat", "--json", "--backend", backend, "--temperature", "0", "--max-new-tokens", "6", "What is the capital of France?"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {"text", "tokens", "seconds", "ttft_seconds", "tokens_per_second", "backend", "finish_reason"} <= set(document)
    assert (document["backend"], document["finish_reason"], document["tokens"], document["adapter"]) == (backend, "length", 6, None)


def test_a_gguf_file_given_by_path_answers_as_the_starter(starter_home, backend, monkeypatch, home):
    path = starter_home / "models" / "starter" / "gguf" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    given = open_backend(models.resolve(str(path)), LoadSettings(backend="transformers"), lambda progress: None)
    settings = ChatSettings(temperature=0, max_new_tokens=12)
    answers = [list(stream(each, QUESTION, settings))[-1] for each in (given, backend)]
    assert all(isinstance(answer, Finished) for answer in answers)
    assert answers[0].text == answers[1].text


@shared
def test_the_starter_preset_learns_real_rows(starter_home, home, run_engine):
    """As a person would, without a GPU (faults, row 1): from the command to an adapter that answers."""
    home.mkdir()
    (home / "models").symlink_to(starter_home / "models")
    done = run_engine("train", "starter", "--data", str(SHORT), "--json")
    row = json.loads(done.stdout)
    events = runs.all_events(runs.find(row["id"]))
    losses = [event.loss for event in events if isinstance(event, Evaluated)]
    begun = next(event for event in events if isinstance(event, Started))
    assert (begun.rows, begun.held_out, begun.device) == (48, 16, "CPU") and row["status"] == "done"
    assert losses[-1] < 0.94 * losses[0], losses
    assert len({event.step for event in events if isinstance(event, Sample)}) == 2
    answered = run_engine("chat", "--adapter", row["id"], "--max-new-tokens", "8", "--json", "Why is the sky blue?")
    assert json.loads(answered.stdout)["adapter"] == row["id"], answered.stderr

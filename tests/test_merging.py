"""Merged weights: what the base with its adapter computes, in a folder that this app and plain transformers open."""

import json
from dataclasses import replace

import pytest
import torch
import training
from exporting import copied, exported, full, left
from safetensors.torch import load_file, save_file

from engine import adapters, checkpoints, hardware, hub, likeness, merging, models, paths
from engine.backends import open_backend
from engine.blend import BASE, Blend
from engine.errors import BadInput, EngineError
from engine.messages import Conversation
from engine.settings import ChatSettings, LoadSettings

pytestmark = pytest.mark.long

UNQUANTIZED = LoadSettings(backend="transformers", quantization="none")


@pytest.fixture(scope="module")
def run(spelling):
    return spelling[0]


@pytest.fixture(scope="module")
def base(spelling):
    return spelling[1]


def nearest(values):
    return values.half().float()


def test_it_is_whole_and_says_what_was_measured(merged):
    folder, done = merged
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md", "recipe.yaml"} <= set(done.files)
    assert paths.damaged(folder) is None and paths.read_manifest(folder)["files"]["model.safetensors"]
    found = done.checks["merged"]
    assert found["same_answers"] == found["prompts"] == 1 and found["mean_logit_difference"] < 0.01 * found["logit_spread"]
    assert found["adapter_effect"] > 10 * found["mean_logit_difference"] and "1 of 1 greedy answers" in done.notes[0]
    assert "1 of 1 greedy answers" in (folder / "README.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float16" and "quantization_config" not in config
    assert "tiny-letters" in (folder / "README.md").read_text() and str(folder.parent) not in (folder / "README.md").read_text()


def test_every_matrix_is_the_four_bit_base_with_the_adapter_in_float32(merged, run, base):
    from bitsandbytes.functional import dequantize_4bit

    backend = open_backend(models.resolve(str(base)), LoadSettings(backend="transformers"), lambda progress: None)
    name = "model.layers.1.self_attn.q_proj"
    held = backend.base.model.get_submodule(name).weight
    unpacked = dequantize_4bit(held.data, held.quant_state).float()
    backend.close()
    found = adapters.read(run.adapter, "run")
    lora = adapters.load_tensors(found)
    side_a, side_b = (lora[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB")
    stored = load_file(merged[0] / "model.safetensors")
    assert torch.equal(stored[f"{name}.weight"].float(), nearest(unpacked + 2 * side_b @ side_a))
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert torch.equal(stored["model.norm.weight"].float(), nearest(load_file(base / "model.safetensors")["model.norm.weight"]))


def said(backend, blend) -> str:
    prompt = backend.encode(Conversation().add("user", "Count 1"), "chat")
    settings = ChatSettings(temperature=0, max_new_tokens=12)
    return "".join(delta.text for delta in backend.generate(prompt, settings, 0, blend, stop=lambda: False))


def test_it_opens_here_and_answers_like_the_base_with_its_adapter(merged, run, base):
    alone = open_backend(models.resolve(str(merged[0])), UNQUANTIZED, lambda progress: None)
    answer = said(alone, BASE)
    assert alone.loaded.prompt == "chat"
    alone.close()
    both = open_backend(models.resolve(str(base)), LoadSettings(backend="transformers"), lambda progress: None)
    both.attach(str(run.adapter))
    assert said(both, Blend.of([str(run.adapter)])) == answer
    both.close()


def test_it_opens_in_plain_transformers(merged):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged[0]), AutoTokenizer.from_pretrained(merged[0])
    rows = [{"role": "user", "content": "Count 1"}]
    prompt = tokenizer.apply_chat_template(rows, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    assert model.dtype == torch.float16
    assert model.generate(**prompt, max_new_tokens=3, do_sample=False).shape[1] > prompt["input_ids"].shape[1]


def test_other_prompt_formats_become_its_chat_template(tiny, rows, tmp_path):
    """What transformers renders is what the model was trained in, system text included."""
    from transformers import AutoTokenizer

    data = {"prompt_format": "guanaco", "system": 'Say "yes".'}
    short = {"optimization": {"steps": 1}, "cadence": {"save_every": 9, "eval_every": 9}}
    run = training.fresh(training.plan(tiny, rows, data=data, **short), tmp_path / "run")
    training.trained(run)
    exported(run, "merged", tmp_path / "out")
    spec = models.resolve(str(tmp_path / "out"))
    assert spec.prompt == "guanaco"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    rows = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Two?"}]
    rendered = tokenizer.apply_chat_template(rows, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    backend = open_backend(spec, UNQUANTIZED, lambda progress: None)
    conversation = Conversation(system='Say "yes".').add("user", "One?").add("assistant", "1").add("user", "Two?")
    assert rendered == list(backend.encode(conversation, "guanaco").content)
    backend.close()


def changed(run, change, tmp_path):
    """A copy of the run whose adapter's matrices are changed."""
    other = copied(run, tmp_path / "changed")
    arrays = load_file(other.adapter / adapters.WEIGHTS)
    change(arrays)
    save_file(arrays, other.adapter / adapters.WEIGHTS)
    paths.write_manifest(other.adapter)
    return other


def test_values_beyond_float16_are_kept_as_bfloat16(run, tmp_path):
    """Bfloat16 holds them, if with fewer digits."""

    def large(arrays):
        for side, value in (("A", 400.0), ("B", 400.0)):
            name = f"base_model.model.model.layers.1.mlp.gate_proj.lora_{side}.weight"
            arrays[name] = torch.zeros_like(arrays[name])
            arrays[name][0, 0] = value

    done = exported(changed(run, large, tmp_path), "merged", tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16} and done.checks
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_several_shards_are_one_model(run, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(merging, "SHARD_BYTES", 50_000)
    exported(run, "merged", tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert (
        len(shards) > 2 and set(index["weight_map"].values()) == {path.name for path in shards} and shards[0].name.startswith("model-00001")
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters() * 2 == index["metadata"]["total_size"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_run_computed_in_fewer_digits_is_judged_by_them(base, rows, tmp_path, dtype):
    """Its own rounding is no fault of what was written."""
    short = {"optimization": {"steps": 2, "learning_rate": 0.02}, "cadence": {"save_every": 9, "eval_every": 9}}
    run = training.fresh(training.plan(base, rows, quantization={"compute_dtype": dtype}, **short), tmp_path / "run")
    training.trained(run)
    found = exported(run, "merged", tmp_path / "out").checks["merged"]
    assert found["mean_logit_difference"] < likeness.MOST_APART[dtype] / 2 * found["logit_spread"]


def test_what_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    honest = merging._weights
    monkeypatch.setattr(merging, "_weights", lambda *each: ((name, values * 1.1) for name, values in honest(*each)))
    with pytest.raises(EngineError, match="does not answer like the base with the adapter.*logits differ by"):
        exported(run, "merged", tmp_path / "out")
    assert left(tmp_path) in (["home"], [])


def test_too_little_memory_is_told_with_numbers(run, tmp_path, monkeypatch):
    machine = hardware.machine()
    monkeypatch.setattr(hardware, "machine", lambda: replace(machine, memory=2_000_000, memory_free=1_000_000, gpus=()))
    with pytest.raises((BadInput, EngineError), match=r"needs.*GB"):
        exported(run, "merged", tmp_path / "out")
    assert left(tmp_path) in (["home"], [])


def test_too_little_disk_is_told_with_numbers(run, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "free_bytes", lambda target: 1_000_000)
    with pytest.raises(EngineError, match=r"needs \d+\.\d MB of disk, and 1\.0 MB are free"):
        exported(run, "merged", tmp_path / "out")
    assert not [name for name in left(tmp_path) if "out" in name]


def test_a_disk_that_fills_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(EngineError, match="the disk is full.*Nothing was kept"):
        exported(run, "merged", tmp_path / "out")
    assert not [name for name in left(tmp_path) if "out" in name]


def test_a_base_that_changed_is_refused(run, tmp_path):
    other = copied(run, tmp_path / "other")
    path = other.adapter / adapters.PLAYGROUND
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_revision": "another"}))
    paths.write_manifest(other.adapter)
    with pytest.raises(BadInput, match="weights of .*tiny-letters changed since the run"):
        exported(other, "merged", tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""What is trained: precision by what a GPU can do, which layers, which bases and adapters are refused (faults, rows 3-5, 8, 9)."""

import json
import shutil

import builders
import pytest
import torch
import training
from hub_server import HubServer
from training import fresh, plan, prepared, trained

from engine import adapters, memory, runs, trainee
from engine.errors import BadInput
from engine.events import Ended, Evaluated, Started


@pytest.mark.parametrize("capability, dtype", [((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_bfloat16_is_taken_where_the_gpu_has_it_and_float16_where_not(capability, dtype, tiny, rows, monkeypatch):
    """No GPU here: the capability is mocked, and loading is stopped where the choice has been made."""
    asked = {}

    def load(*args, **kwargs):
        asked.update(kwargs)
        raise ValueError("stop here")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    wanted = plan(tiny, rows, quantization={"compute_dtype": "bfloat16"})
    with pytest.raises(BadInput, match="stop here"):
        prepared(wanted)
    assert asked["dtype"] == asked["quantization_config"].bnb_4bit_compute_dtype == getattr(torch, dtype)
    _, notes = trainee._held(wanted)
    assert notes == (
        [] if dtype == "bfloat16" else ["the recipe asks for bfloat16, which this GPU has not; float16 is taken, with scaled losses"]
    )


def test_without_a_gpu_16_bits_are_float32_and_said_so(tiny, rows):
    learner = prepared(plan(tiny, rows, quantization={"compute_dtype": "float16"}))
    assert learner.base.dtype == "float32" and any("asks for float16" in note for note in learner.notes)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "none"])
@pytest.mark.parametrize("held", ["packed", "unpacked"])
def test_the_adapter_alone_learns_in_float32_whatever_holds_the_base(tiny, rows, kind, held):
    learner = prepared(plan(tiny, rows, quantization={"kind": kind}, memory={"base_weights": held}))
    learning = [name for name, parameter in learner.model.named_parameters() if parameter.requires_grad]
    assert len(learning) == 28 and all("lora_" in name for name in learning)
    assert all(parameter.dtype == torch.float32 for parameter in learner.parameters)
    assert learner.unpacked == (held == "unpacked" and kind != "none")
    assert learner.model.get_input_embeddings().weight.shape[0] == len(learner.base.tokenizer), "no embedding is resized"
    assert learner.pad not in learner.base.ends


def test_weights_unpacked_once_are_those_that_packed_ones_stand_for(tiny, rows):
    packed, unpacked = (prepared(plan(tiny, rows, memory={"base_weights": held})) for held in ("packed", "unpacked"))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        both = [each.base.model.eval()(input_ids=ids, row_ends=[0, 37]).logits for each in (packed, unpacked)]
    assert torch.allclose(*both, atol=1e-5)


def test_weights_stay_packed_where_memory_is_short(tiny, rows, monkeypatch):
    monkeypatch.setattr(memory, "SPARE_BYTES", 1 << 60)
    learner = prepared(plan(tiny, rows))
    assert not learner.unpacked and any("stay packed" in note and "GB are free" in note for note in learner.notes)


def test_layers_that_are_not_there_are_told_with_those_that_are(tiny, gpt2, rows, tmp_path):
    for model, there in ((tiny, "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"), (gpt2, "c_attn, c_fc, c_proj")):
        with pytest.raises(BadInput, match=f"no layers called nope.*It has: {there}"):
            trained(fresh(plan(model, rows, lora={"targets": ["nope"]}), tmp_path / f"{model.name}-nope"))


def test_an_embedding_is_no_target_and_an_output_layer_gives_its_lora_alone(tiny, rows, tmp_path):
    with pytest.raises(BadInput, match="an embedding"):
        trained(fresh(plan(tiny, rows, lora={"targets": ["embed_tokens"]}), tmp_path / "embedding"))
    run = fresh(plan(tiny, rows, lora={"targets": ["lm_head", "q_proj"]}), tmp_path / "head")
    assert trained(run)[0].status == "done"
    modules = adapters.lora_modules(adapters.load_tensors(adapters.read(run.adapter, "head")))
    assert "lm_head" in modules and len(modules) == 3


def test_a_model_of_another_family_is_trained_without_packing(gpt2, rows, tmp_path):
    run = fresh(plan(gpt2, rows, quantization={"kind": "none"}, samples={"prompts": []}), tmp_path / "gpt2")
    ended, events = trained(run)
    losses = [event.loss for event in events if isinstance(event, Evaluated)]
    assert ended.status == "done" and losses[-1] < losses[0]
    assert not trainee.packing.suits(prepared(plan(gpt2, rows, quantization={"kind": "none"})).model.get_base_model())


def test_an_encoder_decoder_is_refused_before_anything_is_fetched(tmp_path, rows):
    folder = tmp_path / "t5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    (folder / "model.safetensors").write_bytes(b"\0" * 4000)
    with pytest.raises(BadInput, match="encoder-decoder model .t5"):
        trained(fresh(plan(folder, rows), tmp_path / "local"))


@pytest.mark.long
def test_an_encoder_decoder_on_the_hub_is_refused_before_its_weights_are_fetched(tmp_path, rows, run_engine):
    folder = tmp_path / "t5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    (folder / "model.safetensors").write_bytes(b"\0" * 4000)
    with HubServer({"someone/t5": folder}) as server:
        file = training.written(plan("starter", rows).model_copy(update={"model": "someone/t5"}), tmp_path / "recipe.yaml")
        done = run_engine("train", str(file), HF_ENDPOINT=server.url)
    assert done.returncode == 2 and "encoder-decoder" in done.stderr
    assert not any(path.endswith(".safetensors") for _, path, _ in server.requests)


@pytest.mark.parametrize("name", ["scripted"])
def test_what_has_no_weights_is_refused(name, rows, tmp_path):
    with pytest.raises(BadInput, match="no weights here"):
        trained(fresh(plan(name, rows), tmp_path / "run"))


def test_an_adapter_of_another_base_is_no_start(tiny, rows, tmp_path):
    other = builders.model(tmp_path / "other-llama", hidden=32)
    named = builders.adapter(tmp_path / "named", other, other)
    unnamed = builders.adapter(tmp_path / "unnamed", tiny, other)
    for adapter, words in ((named, "other-llama.*tiny-llama"), (unnamed, "does not fit the loaded base.*tiny-llama")):
        with pytest.raises(BadInput, match=words):
            trained(fresh(plan(tiny, rows, lora={"start_from": str(adapter)}), tmp_path / f"run-{adapter.name}"))


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.999])
def test_damaged_weights_are_told_by_the_file(tiny, rows, two_adapters, tmp_path, part):
    """Cut, both the base's and those of the adapter to start from."""
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    shutil.copytree(tiny, model)
    shutil.copytree(two_adapters[0], adapter)
    for name, file, base, start in (
        ("base", model / "model.safetensors", model, "none"),
        ("start", adapter / adapters.WEIGHTS, tiny, str(adapter)),
    ):
        file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
        with pytest.raises(BadInput, match="model" if name == "base" else "damaged: adapter_model.safetensors"):
            trained(fresh(plan(base, rows, lora={"start_from": start}), tmp_path / name))


def test_a_flipped_bit_in_a_copy_that_this_app_keeps_is_found(tiny, rows, home, tmp_path):
    """The 4-bit copy is checked whenever it is read; a damaged one is made anew from the base."""
    first = fresh(plan(tiny, rows), tmp_path / "first")
    trained(first)
    (copy,) = (home / "models" / "quantized").iterdir()
    weights = next(copy.glob("*.safetensors"))
    flipped = bytearray(weights.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    weights.write_bytes(flipped)
    second = fresh(plan(tiny, rows), tmp_path / "second")
    assert trained(second)[0].status == "done"
    assert training.adapter_bytes(first) == training.adapter_bytes(second)


def test_a_run_says_how_the_base_is_held(tiny, rows, tmp_path):
    run = fresh(plan(tiny, rows), tmp_path / "run")
    trained(run)
    begun = next(event for event in runs.all_events(run) if isinstance(event, Started))
    assert (begun.device, begun.dtype, begun.quantization) == ("CPU", "float32", "NF4 double-quantized")
    assert begun.parameters == sum(tensor.numel() for tensor in adapters.load_tensors(adapters.read(run.adapter, "run")).values())
    assert isinstance(runs.all_events(run)[-1], Ended)

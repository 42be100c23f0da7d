"""The transformers backend on tiny random models (faults, rows 2, 3, 8, 9)."""

import builtins
import shutil

import builders
import pytest

from engine import adapters, hardware, models, paths
from engine.backends import open_backend
from engine.backends.pretrained import bits_and_bytes
from engine.blend import BASE, Blend
from engine.chat import stream
from engine.errors import BadInput, EngineError
from engine.messages import Conversation
from engine.settings import ChatSettings, LoadSettings

HELLO = Conversation().add("user", "Hello")
GREEDY = ChatSettings(temperature=0, max_new_tokens=12)


def opened(folder, **load):
    return open_backend(models.resolve(str(folder)), LoadSettings(**load), lambda progress: None)


def begun(backend, blend=BASE, settings=GREEDY, seed=1):
    """An answer's deltas, yet to be made."""
    prompt = backend.encode(HELLO, backend.prompt_format(blend.strongest))
    return backend.generate(prompt, settings, seed, blend, lambda: False)


def ids_of(backend, settings=GREEDY, adapter=None, seed=1, scale=1.0):
    """The answer's raw text: what identifies its tokens."""
    return "".join(delta.text for delta in begun(backend, Blend.of([adapter], [scale]), settings, seed))


@pytest.mark.parametrize("load, kind, double", [({}, "nf4", True), ({"quantization": "fp4", "double_quantization": False}, "fp4", False)])
def test_linear_layers_are_4_bit_with_every_field_set(tiny, load, kind, double):
    import bitsandbytes
    import torch

    backend = opened(tiny, **load)
    layers = [module for name, module in backend._model.named_modules() if "proj" in name]
    assert len(layers) == 14 and all(isinstance(layer, bitsandbytes.nn.Linear4bit) for layer in layers)
    state = layers[0].weight.quant_state
    assert (state.quant_type, state.nested, layers[0].compute_dtype) == (kind, double, torch.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_config_for_bitsandbytes_leaves_nothing_to_its_defaults(dtype):
    import torch

    config = bits_and_bytes(LoadSettings(), getattr(torch, dtype))
    assert (
        config.load_in_4bit,
        config.bnb_4bit_quant_type,
        config.bnb_4bit_use_double_quant,
        config.bnb_4bit_compute_dtype,
        config.bnb_4bit_quant_storage,
    ) == (True, "nf4", True, getattr(torch, dtype), torch.uint8)


@pytest.mark.parametrize("capability, dtype", [((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_compute_type_of_a_gpu_reaches_the_loader(tiny, monkeypatch, capability, dtype):
    """No GPU here: the capability is mocked, and loading is stopped where the choice has been made."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    asked = {}

    def load(*args, **kwargs):
        asked.update(kwargs)
        raise ValueError("stop here")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    with pytest.raises(BadInput, match="stop here"):
        opened(tiny)
    assert asked["dtype"] == asked["quantization_config"].bnb_4bit_compute_dtype == getattr(torch, dtype)
    assert asked["device_map"] == {"": 0}


@pytest.fixture
def asked_of_two_gpus(tiny, monkeypatch):
    """How a model of 4 GB in 4 bits is asked for with two GPUs of so many GiB each, and LoadSettings."""
    import torch

    asked = {}

    def load(*args, **kwargs):
        asked.update(kwargs)
        raise ValueError("stop here")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    monkeypatch.setattr("engine.memory.weight_bytes", lambda *of: 4 * 2**30)

    def ask(gib: int, **settings) -> dict:
        gpus = (hardware.Gpu("A", gib * 2**30, (8, 0)),) * 2
        machine = hardware.Machine("computer", "Linux", 2, 2**35, 2**35, gpus)
        monkeypatch.setattr(hardware, "machine", lambda: machine)
        with pytest.raises(BadInput, match="stop here"):
            opened(tiny, **settings)
        return asked

    return ask


def test_limits_spread_a_model_over_gpus(asked_of_two_gpus):
    asked = asked_of_two_gpus(40, max_memory_gib={0: 10, "cpu": 20})
    assert (asked["device_map"], asked["max_memory"]) == ("auto", {0: 10 * 2**30, "cpu": 20 * 2**30})


def test_only_a_model_too_large_for_one_gpu_is_spread_by_itself(asked_of_two_gpus, monkeypatch):
    assert asked_of_two_gpus(16)["device_map"] == {"": 0}
    assert asked_of_two_gpus(6)["device_map"] == "auto"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    asked = asked_of_two_gpus(6, max_memory_gib={"0": 10})
    assert asked["device_map"] == {"": 1} and asked["max_memory"] is None, "each process has a GPU of its own"


def test_greedy_answers_are_those_of_generate(tiny):
    import torch

    backend = opened(tiny, quantization="none")
    prompt = backend.encode(HELLO, "chat").content
    expected = backend._model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=list(backend._end_ids))[
        0, len(prompt) :
    ]
    assert ids_of(backend) == backend._tokenizer.decode(expected, skip_special_tokens=True).rstrip("\ufffd")


def test_a_long_prompt_in_chunks_gives_the_same(tiny, monkeypatch):
    backend = opened(tiny, quantization="none")
    whole = ids_of(backend)
    monkeypatch.setattr("engine.backends.transformers.PREFILL_CHUNK", 3)
    assert ids_of(backend) == whole
    pieces = -(-backend.encode(HELLO, "chat").tokens // 3)
    assert [delta.tokens for delta in begun(backend)][: pieces + 1] == [0] * (pieces - 1) + [1, 1], "it pauses between pieces"


def test_same_seed_same_answer_other_seed_another(tiny):
    backend = opened(tiny)
    settings = ChatSettings(temperature=1.5, top_p=1, max_new_tokens=30)
    assert ids_of(backend, settings, seed=5) == ids_of(backend, settings, seed=5)
    assert len({ids_of(backend, settings, seed=seed) for seed in range(4)}) > 1


def test_the_kept_4_bit_copy_answers_as_the_fresh_one(tiny, home):
    fresh = ids_of(opened(tiny))
    copies = list((home / "models" / "quantized").iterdir())
    assert len(copies) == 1 and not paths.damaged(copies[0])
    assert ids_of(opened(tiny)) == fresh


def test_a_damaged_copy_is_not_used(tiny, home):
    fresh = ids_of(opened(tiny))
    weights = next((home / "models" / "quantized").iterdir()) / "model.safetensors"
    flip(weights, -3)
    assert ids_of(opened(tiny)) == fresh


def test_a_changed_model_gets_a_new_copy(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    before = ids_of(opened(folder))
    shutil.rmtree(folder)
    builders.model(folder, seed=9)
    assert ids_of(opened(folder)) != before


def test_adapters_attach_switch_and_leave_without_reloading(tiny, two_adapters):
    backend = opened(tiny)
    weight = backend._model.get_input_embeddings().weight
    base = ids_of(backend)
    for adapter in two_adapters:
        backend.attach(adapter)
    one, two = (ids_of(backend, adapter=adapter) for adapter in two_adapters)
    assert len({base, one, two}) == 3
    assert ids_of(backend) == base and ids_of(backend, adapter=two_adapters[0]) == one
    assert backend.adapters() == two_adapters
    backend.detach(two_adapters[0])
    assert backend.adapters() == two_adapters[1:] and ids_of(backend, adapter=two_adapters[1]) == two
    with pytest.raises(BadInput, match="not loaded"):
        ids_of(backend, adapter=two_adapters[0])
    backend.detach(two_adapters[1])
    assert backend.adapters() == [] and ids_of(backend) == base
    backend.attach(two_adapters[0])
    assert ids_of(backend, adapter=two_adapters[0]) == one
    assert backend._model.get_input_embeddings().weight is weight


def test_an_adapter_computes_what_peft_computes(tiny, two_adapters):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    backend = opened(tiny, quantization="none")
    backend.attach(two_adapters[0])
    prompt = torch.tensor([backend.encode(HELLO, "chat").content])
    ours, _ = backend._forward(prompt, None, Blend.of(two_adapters[:1]))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), two_adapters[0])(prompt).logits[:, -1]
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_an_adapter_of_another_base_is_refused_with_both_named(tiny, tmp_path):
    other = builders.model(tmp_path / "other-base", hidden=96)
    stranger = builders.adapter(tmp_path / "stranger", other, other)
    backend = opened(tiny)
    with pytest.raises(BadInput, match=f"{other}.*{tiny}"):
        backend.attach(str(stranger))
    builders.change_config(stranger, base_model_name_or_path=str(tiny))  # it lies about its base: the shapes tell
    with pytest.raises(BadInput, match=r"does not fit the loaded base .*tiny-llama.* as \d+ x \d+"):
        backend.attach(str(stranger))
    assert backend.adapters() == []
    assert ids_of(backend)


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_cut_weights_are_named(tiny, tmp_path, share):
    folder = tmp_path / "cut"
    shutil.copytree(tiny, folder)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadInput, match="damaged.*model.safetensors"):
        opened(folder)


@pytest.mark.parametrize("place", [0, 8, 200, -1000, -1])
def test_flipped_bits_are_found_where_a_manifest_has_the_checksum(tiny, tmp_path, place):
    folder = tmp_path / "flipped"
    shutil.copytree(tiny, folder)
    paths.write_manifest(folder)
    flip(folder / "model.safetensors", place)
    with pytest.raises(BadInput, match="damaged: the checksum of model.safetensors"):
        opened(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_cut_adapters_are_named(tiny, two_adapters, tmp_path, share):
    folder = tmp_path / "cut"
    shutil.copytree(two_adapters[0], folder)
    weights = folder / adapters.WEIGHTS
    data = weights.read_bytes()
    weights.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadInput, match="damaged: adapter_model.safetensors"):
        opened(tiny).attach(str(folder))


def test_an_adapter_with_nan_is_damaged(tiny, two_adapters, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "nan"
    shutil.copytree(two_adapters[0], folder)
    tensors = load_file(folder / adapters.WEIGHTS)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / adapters.WEIGHTS)
    with pytest.raises(BadInput, match="NaN"):
        opened(tiny).attach(str(folder))


@pytest.mark.parametrize("starts_before", [0, 1])
def test_without_bitsandbytes_it_says_why_and_still_chats(tiny, monkeypatch, starts_before):
    for _ in range(starts_before):
        opened(tiny)  # leaves a 4-bit copy on disk, which must not be chosen then
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.partition(".")[0] == "bitsandbytes":
            raise ImportError("libbitsandbytes: wrong ELF class")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    backend = opened(tiny)
    assert backend.loaded.quantization == "unquantized"
    assert any("wrong ELF class" in note for note in backend.loaded.notes)
    assert ids_of(backend)


def test_an_adapter_that_peft_cannot_take_is_explained_and_forgotten(tiny, two_adapters, tmp_path, monkeypatch):
    backend = opened(tiny)
    base = ids_of(backend)

    def broken(*args, **kwargs):
        raise ImportError("torchao is too old")

    with monkeypatch.context() as patch:
        patch.setattr("peft.set_peft_model_state_dict", broken)
        for _ in range(2):
            with pytest.raises(EngineError, match="torchao is too old"):
                backend.attach(two_adapters[0])
    assert ids_of(backend) == base and backend.adapters() == []
    backend.attach(two_adapters[0])
    assert ids_of(backend, adapter=two_adapters[0]) != base


def test_a_rank_pattern_that_lies_is_refused(tiny, two_adapters, tmp_path):
    folder = tmp_path / "liar"
    shutil.copytree(two_adapters[0], folder)
    builders.change_config(folder, r=2, rank_pattern={"nonexistent": 8})
    with pytest.raises(BadInput, match="has rank 4, its config says 2"):
        opened(tiny).attach(str(folder))


@pytest.mark.parametrize("temperature", [1e-300, 1e-37, 0.009])
def test_a_vanishing_temperature_is_greedy(tiny, temperature):
    backend = opened(tiny)
    assert ids_of(backend, ChatSettings(temperature=temperature, max_new_tokens=12)) == ids_of(backend)


def test_broken_numbers_are_told(tiny):
    import torch

    backend = opened(tiny, quantization="none")
    with torch.no_grad():
        backend._model.lm_head.weight[0, 0] = float("nan")
    events = list(stream(backend, HELLO, ChatSettings(max_new_tokens=5)))
    assert "NaN" in events[-1].text


def test_context_is_no_longer_than_memory_allows(tiny, monkeypatch):
    from dataclasses import replace

    from engine import hardware

    backend = opened(tiny, quantization="none")
    assert backend.slots == 2
    backend._model.config.max_position_embeddings = 200_000
    plenty, little = [], []
    assert backend._context(plenty) == 200_000 and not plenty
    poor = replace(hardware.machine(), memory_free=8_192 * backend._spec.shape.cache_bytes(1, 4))
    monkeypatch.setattr(hardware, "machine", lambda: poor)
    assert backend._context(little) == 2048 and "2,048 tokens" in little[0]


def test_a_tokenizer_that_is_missing_is_named(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(BadInput, match="tokenizer"):
        opened(folder)


def test_chat_on_a_tiny_model_ends_with_figures(tiny):
    finished = list(stream(opened(tiny), HELLO, GREEDY))[-1]
    assert (finished.model, finished.backend, finished.prompt_tokens > 0) == (str(tiny), "transformers", True)

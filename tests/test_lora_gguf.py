"""An adapter in llama.cpp computes what it computes in PEFT, and is refused for the same reasons (faults, rows 7, 8)."""

import dataclasses
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import builders
import gguf
import gguf_builders
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engine import adapters, lora_gguf, models, starter
from engine.errors import BadInput, EngineError
from engine.lora_gguf import convert

# Largest difference of any log-probability: 2.4e-6 seen in float32; 3.4e-3 where the base is float16, to which llama.cpp
# rounds activations too, and for the Gemmas, whose GELU it reads from a float16 table; 0.07 for the likeliest token of the
# starter, where it rounds activations to 8 bits.
EXACT, HALF, STARTER = 2e-5, 1e-2, 0.2
PROMPTS = [[(7 * place + start) % 250 + 3 for place in range(length)] for start, length in ((1, 3), (2, 40))]


def expected(model, prompts=PROMPTS) -> np.ndarray:
    """Log-probabilities after each prompt by torch, [prompts, vocabulary]."""
    import torch

    with torch.no_grad():
        return np.stack([model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).numpy() for ids in prompts])


def tuned(model, folder, base, seed=1, std=0.1, **fields):
    """Put a random adapter on a model by PEFT and save it, claiming `base`. Gives the adapted model."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **fields}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=std)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    builders.change_config(folder, base_model_name_or_path=str(base))
    return adapted


def found(folder):
    return adapters.find(str(folder), lambda progress: None)


def scores(server, **scales) -> np.ndarray:
    return np.stack([gguf_builders.logprobs(server, ids, 259, **scales) for ids in PROMPTS])


def difference(one, other) -> float:
    return float(np.abs(one - other).max())


def kept(folder):
    return sorted((folder / "adapters" / "gguf").glob("*/adapter.gguf"))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", gguf_builders.ARCHITECTURES)
@pytest.mark.long
def test_every_family_computes_what_peft_computes(family, half, tmp_path):
    model = gguf_builders.tiny(family)
    if half:
        model = model.half().float()  # numbers that float16 holds, so that only its arithmetic differs
    path = gguf_builders.write(model, tmp_path / "base.gguf", half=half)
    plain = expected(model)
    adapted = expected(tuned(model, tmp_path / "adapter", path))
    server = gguf_builders.server(path, convert(found(tmp_path / "adapter"), gguf_builders.described(path)))
    close = HALF if half or family.startswith("gemma") else EXACT
    assert difference(scores(server), plain) < close
    assert difference(scores(server, _0=1.0), adapted) < close
    assert difference(plain, adapted) > 0.5
    assert difference(scores(server, _0=0.0), scores(server)) == 0


def test_twice_alpha_is_twice_the_scale(tmp_path):
    model = gguf_builders.tiny("llama")
    path = gguf_builders.write(model, tmp_path / "base.gguf")
    tuned(model, tmp_path / "one", path)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    builders.change_config(tmp_path / "two", lora_alpha=16)
    base = gguf_builders.described(path)
    server = gguf_builders.server(path, *(convert(found(tmp_path / name), base) for name in ("one", "two")))
    assert difference(scores(server, _0=2.0), scores(server, _1=1.0)) < EXACT
    assert difference(scores(server, _0=1.0), scores(server, _1=1.0)) > 0.1


@pytest.mark.parametrize(
    "fields",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}},
        {"alpha_pattern": {"k_proj": 3, "layers.0.self_attn.v_proj": 32}},
        {"use_rslora": True, "rank_pattern": {"down_proj": 7}, "alpha_pattern": {"down_proj": 5, "o_proj": 1}},
        {"target_modules": ["k_proj", "lm_head"], "r": 3, "lora_alpha": 7},
    ],
)
def test_every_module_keeps_its_own_scale(fields, tmp_path):
    model = gguf_builders.tiny("llama", tied=False)
    path = gguf_builders.write(model, tmp_path / "base.gguf")
    adapted = expected(tuned(model, tmp_path / "adapter", path, **fields))
    server = gguf_builders.server(path, convert(found(tmp_path / "adapter"), gguf_builders.described(path)))
    assert difference(scores(server, _0=1.0), adapted) < EXACT


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("large", [False, True])
def test_other_numeric_types_keep_their_values(small, kind, large, monkeypatch):
    """What is read without torch is what torch reads, and no number is rounded on its way (float64 to float32 aside)."""
    import torch
    from safetensors.torch import save_file as save_torch

    weights = small.folder / adapters.WEIGHTS
    stored = {key: torch.from_numpy(array).to(getattr(torch, kind)) for key, array in load_file(weights).items()}
    save_torch(stored, weights)
    arrays = adapters.load_arrays(found(small.folder))
    assert all(np.array_equal(arrays[key], tensor.double().numpy()) for key, tensor in stored.items())
    monkeypatch.setattr(lora_gguf, "EXACT_BYTES", 0 if large else 10**9)
    written = {tensor.name: tensor.data for tensor in gguf.GGUFReader(convert(found(small.folder), small.base)).tensors}
    side = written["blk.1.ffn_up.weight.lora_b"]
    assert side.dtype == (np.float16 if large and kind == "float16" else np.float32)
    assert np.array_equal(side, stored["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"].float().numpy())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny Llama as GGUF and an adapter for it."""
    folder = tmp_path_factory.mktemp("made")
    model = gguf_builders.tiny("llama")
    path = gguf_builders.write(model, folder / "base.gguf")
    tuned(model, folder / "adapter", path)
    return folder


@pytest.fixture
def small(made, tmp_path):
    """A copy of that adapter to change, and its base."""
    folder = tmp_path / "adapter"
    shutil.copytree(made / "adapter", folder)
    return SimpleNamespace(folder=folder, base=gguf_builders.described(made / "base.gguf"))


def changed(folder, change):
    arrays = load_file(folder / adapters.WEIGHTS)
    change(arrays)
    save_file(arrays, folder / adapters.WEIGHTS)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda arrays: arrays.pop(f"{Q}.lora_A.weight"), "only one of its two matrices"),
        (lambda arrays: arrays[f"{Q}.lora_B.weight"].__setitem__((0, 0), np.nan), "NaN"),
        (lambda arrays: arrays.__setitem__(f"{Q}.lora_A.weight", np.zeros((4, 65), np.float32)), "changes .*q_proj as 64 x 65, .* 64 x 64"),
        (lambda arrays: arrays.__setitem__(f"{Q}.lora_A.weight", np.zeros((5, 64), np.float32)), "rank 5, its config says 4"),
        (lambda arrays: arrays.__setitem__(f"{Q}.lora_A.weight", np.zeros((4, 64), np.int8)), "stored as I8"),
        (lambda arrays: arrays.__setitem__("base_model.model.model.norm.weight", np.zeros(64, np.float32)), "no LoRA matrix"),
        (lambda arrays: arrays.clear(), "holds no tensors"),
    ],
)
def test_damaged_matrices_are_refused(small, home, change, words):
    changed(small.folder, change)
    with pytest.raises(BadInput, match=words):
        convert(found(small.folder), small.base)
    assert not kept(home)


@pytest.mark.parametrize(
    "module, rows, words",
    [
        ("lm_head", 259, "shares with its embeddings"),
        ("model.embed_tokens", 259, "linear layers only"),
        ("model.layers.2.self_attn.q_proj", 64, "no such layer"),
        ("layers.0.attention.wq", 64, "no such layer"),
        ("model.norm", 64, "no such layer"),
    ],
)
def test_layers_that_llama_cpp_cannot_adapt_are_refused(small, module, rows, words):
    def add(arrays):
        arrays[f"base_model.model.{module}.lora_A.weight"] = np.ones((4, 64), np.float32)
        arrays[f"base_model.model.{module}.lora_B.weight"] = np.ones((rows, 4), np.float32)

    changed(small.folder, add)
    with pytest.raises(BadInput, match=words):
        convert(found(small.folder), small.base)


@pytest.mark.parametrize("architecture", ["gpt2", "mistral3", "llama4", "x" * 1000])
def test_an_unknown_architecture_is_refused_by_name(small, architecture):
    with pytest.raises(BadInput, match=f"'{architecture[:60]}'.* Qwen2"):
        convert(found(small.folder), dataclasses.replace(small.base, architecture=architecture))


def test_another_base_is_refused_by_name_even_when_kept(small):
    convert(found(small.folder), small.base)
    builders.change_config(small.folder, base_model_name_or_path="someone/else")
    with pytest.raises(BadInput, match=f"someone/else.*{small.base.spec.source}"):
        convert(found(small.folder), small.base)


def test_a_base_of_another_shape_is_refused_even_when_kept(small):
    convert(found(small.folder), small.base)
    other = {**small.base.tensors, "blk.0.attn_q.weight": (64, 96)}
    with pytest.raises(BadInput, match="64 x 64, and the base has a layer of 96 x 64"):
        convert(found(small.folder), dataclasses.replace(small.base, tensors=other))


@pytest.mark.parametrize("heads", [0, 5])
def test_head_counts_that_cannot_be_are_refused(small, heads):
    with pytest.raises(BadInput, match=f"says {heads} heads"):
        convert(found(small.folder), dataclasses.replace(small.base, heads=heads))


def test_it_is_made_once_and_again_when_anything_changed(small, home):
    first = convert(found(small.folder), small.base)
    stamp = first.stat().st_mtime_ns
    assert convert(found(small.folder), small.base) == first and first.stat().st_mtime_ns == stamp
    changed(small.folder, lambda arrays: arrays[f"{Q}.lora_B.weight"].__setitem__((0, 0), 0.5))
    second = convert(found(small.folder), small.base)
    builders.change_config(small.folder, alpha_pattern={"q_proj": 3})
    third = convert(found(small.folder), small.base)
    fourth = convert(found(small.folder), dataclasses.replace(small.base, kv_heads=1))
    assert kept(home) == sorted({first, second, third, fourth}) and len(kept(home)) == 4


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-9] + b"\x55" + data[-8:], lambda data: b""])
def test_a_damaged_file_is_made_again(small, damage):
    path = convert(found(small.folder), small.base)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert convert(found(small.folder), small.base).read_bytes() == whole


def test_many_at_once_make_one(small, home):
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: convert(found(small.folder), small.base), range(8)))) == 1
    assert [path.name for path in (home / "adapters" / "gguf").iterdir()] == [kept(home)[0].parent.name]


def test_a_full_disk_is_told_before_anything_is_written(small, home, monkeypatch):
    monkeypatch.setattr("engine.hub.free_bytes", lambda target: 1000)
    with pytest.raises(EngineError, match="GUANACO_HOME to a larger disk"):
        convert(found(small.folder), small.base)
    assert not kept(home)


def test_what_fails_on_the_way_leaves_nothing(small, home, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OSError):
        convert(found(small.folder), small.base)
    assert list((home / "adapters" / "gguf").iterdir()) == []


def test_the_file_says_what_it_is(small):
    reader = gguf.GGUFReader(convert(found(small.folder), small.base))
    said = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert said == {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0}


def test_torch_is_not_imported(small, home):
    base = {**dataclasses.asdict(small.base), "spec": None}
    code = (
        "import json, sys; from engine import adapters, lora_gguf, model_spec\n"
        "name, base = json.loads(sys.argv[1])\n"
        "base['spec'] = model_spec.ModelSpec(name, 'local', name, adapters.find(name, print).base, 'chat', '')\n"
        "lora_gguf.convert(adapters.find(name, print), lora_gguf.GgufBase(**base))\n"
        "print([each for each in ('torch', 'transformers', 'peft') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps([str(small.folder), base])], capture_output=True, text=True)
    assert (done.stdout.strip(), len(kept(home))) == ("[]", 1), done.stderr


@pytest.mark.long
@pytest.mark.usefixtures("starter")
def test_the_real_starter_with_an_adapter(tmp_path):
    """llama.cpp on the 4-bit file as shipped, transformers in float32 on the folder converted from it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = models.resolve("starter")
    path = starter.gguf(print)
    tokenizer = AutoTokenizer.from_pretrained(spec.folder)
    prompts = [tokenizer.encode(text) for text in ("The capital of France is", "Water boils at", "def add(a, b):\n    return a")]
    model = AutoModelForCausalLM.from_pretrained(spec.folder, dtype=torch.float32).eval()
    plain = expected(model, prompts)
    adapted = expected(tuned(model, tmp_path / "adapter", spec.source, std=0.05, r=8, lora_alpha=16), prompts)
    server = gguf_builders.server(path, convert(found(tmp_path / "adapter"), gguf_builders.described(path, spec.source)))
    for ids, without, with_adapter in zip(prompts, plain, adapted, strict=True):
        assert np.abs(with_adapter - without).max() > 1.5
        for ours, scales in ((without, {}), (with_adapter, {"_0": 1.0})):
            theirs = gguf_builders.logprobs(server, ids, len(ours), **scales)
            assert ours.argmax() == theirs.argmax() and abs(ours.max() - theirs.max()) < STARTER

"""What an adapter's files may say, and that no pickle of a stranger is ever opened (faults, rows 6, 7)."""

import json
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import adapters
from engine.errors import BadInput

GOOD = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "someone/base",
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
    "inference_mode": True,
    "peft_version": "0.21.2",
    "init_lora_weights": True,
    "auto_mapping": None,
    "loftq_config": {},
    "use_dora": False,
    "qalora_group_size": 16,
}


def test_what_peft_writes_is_read():
    config = adapters.parse_config(GOOD, "good")
    assert (config.r, config.lora_alpha, config.target_modules) == (8, 16, ["q_proj", "v_proj"])


@pytest.mark.parametrize(
    "field, value",
    [
        ("auto_mapping", {"base_model_class": "os.system", "parent_library": "os"}),
        ("runtime_config", {"ephemeral_gpu_offload": True}),
        ("megatron_core", "os"),
        ("megatron_config", {"a": 1}),
        ("tokenizer_name_or_path", "evil/repo"),
        ("tokenizer_kwargs", {"trust_remote_code": True}),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 4]]),
        ("trainable_token_indices", [1]),
        ("use_dora", True),
        ("lora_bias", True),
        ("eva_config", {"rho": 2}),
        ("exclude_modules", ["x"]),
        ("target_parameters", ["a.b"]),
        ("alora_invocation_tokens", [1]),
        ("never_heard_of", "x"),
        ("peft_type", "PROMPT_TUNING"),
        ("task_type", "SEQ_CLS"),
        ("bias", "all"),
        ("r", 0),
        ("r", 10**6),
        ("r", "8; rm"),
        ("lora_alpha", float("inf")),
        ("lora_alpha", -1),
        ("lora_alpha", 1e-50),
        ("target_modules", "(a+)+$"),
        ("target_modules", ["(a+)+$"]),
        ("target_modules", [5]),
        ("rank_pattern", {"^(a+)+$": 4}),
        ("rank_pattern", {"q_proj": "x"}),
        ("rank_pattern", {"q_proj": 0}),
        ("alpha_pattern", {"q_proj": float("nan")}),
        ("alpha_pattern", {"q_proj": 0}),
    ],
)
def test_a_hostile_field_is_refused_by_name(field, value):
    with pytest.raises(BadInput, match=f"'{field}"):
        adapters.parse_config({**GOOD, field: value}, "hostile")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner),
    )
)
def test_any_json_is_read_or_refused_clearly(data):
    try:
        adapters.parse_config(data, "any")
    except BadInput as error:
        assert "any" in str(error)


def test_ranks_and_scales_are_those_of_peft():
    import torch
    from peft import LoraConfig, get_peft_model

    fields = {"r": 4, "lora_alpha": 6, "rank_pattern": {"b.up": 2, "down": 3}, "alpha_pattern": {"up": 5, "b.down": 7, "d.wn": 1}}
    names = ("a.up", "a.down", "b.up", "b.down", "b.bup")
    for stabilised in (False, True):
        model = torch.nn.ModuleDict()
        for name in names:
            part, leaf = name.split(".")
            if part not in model:
                model[part] = torch.nn.ModuleDict()
            model[part][leaf] = torch.nn.Linear(8, 8)
        tuned = get_peft_model(model, LoraConfig(target_modules=["up", "down", "bup"], use_rslora=stabilised, **fields))
        config = adapters.parse_config({**GOOD, **fields, "use_rslora": stabilised}, "good")
        for name in names:
            layer = tuned.get_submodule(f"base_model.model.{name}")
            assert (config.rank(name), config.scale(name)) == (layer.r["default"], layer.scaling["default"])


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def _pickled(folder, canary, name="adapter_model.bin"):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(GOOD))
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    return folder


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.pkl"])
def test_a_strangers_pickle_is_refused_unopened(tmp_path, name):
    folder = _pickled(tmp_path / "evil", tmp_path / "canary", name)
    for given_name in (str(folder), str(folder / name)):
        with pytest.raises(BadInput, match="safetensors only"):
            adapters.find(given_name, lambda progress: None)
    assert not (tmp_path / "canary").exists()


def test_even_an_official_pickle_may_hold_tensors_only(tmp_path):
    folder = _pickled(tmp_path / "evil", tmp_path / "canary")
    with pytest.raises(BadInput, match="more than tensors"):
        adapters.convert_pickle(folder / "adapter_model.bin", tmp_path / "out.safetensors", "guanaco-7b")
    assert not (tmp_path / "canary").exists() and not (tmp_path / "out.safetensors").exists()


def test_an_official_pickle_of_tensors_becomes_safetensors(tmp_path):
    import torch
    from safetensors.torch import load_file

    matrix = torch.randn(4, 8)
    torch.save({"base_model.model.q.lora_A.weight": matrix}, tmp_path / "adapter_model.bin")
    adapters.convert_pickle(tmp_path / "adapter_model.bin", tmp_path / "out.safetensors", "guanaco-7b")
    assert torch.equal(load_file(tmp_path / "out.safetensors")["base_model.model.q.lora_A.weight"], matrix)


@pytest.mark.parametrize(
    "content, words",
    [("{", "damaged"), ("[1]", "JSON object"), ("\x00", "damaged"), ("[" * 100_000, "damaged"), (" " * 6_000_000, "far too many")],
)
def test_a_broken_config_is_refused(tmp_path, content, words):
    (tmp_path / "adapter_config.json").write_text(content)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match=words):
        adapters.find(str(tmp_path), lambda progress: None)


def test_no_adapter_of_that_name():
    with pytest.raises(BadInput, match="There is no adapter 'nope'"):
        adapters.find("nope", lambda progress: None)


def test_a_folder_that_is_no_adapter(tmp_path):
    with pytest.raises(BadInput, match="no adapter_config.json"):
        adapters.find(str(tmp_path), lambda progress: None)

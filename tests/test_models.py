"""The registry, and what is refused before anything is downloaded or loaded (faults, rows 3, 4, 35)."""

import contextlib
import json
import struct

import builders
import pytest

from engine import hardware, memory, model_spec, models
from engine.errors import BadInput
from engine.hardware import GIB, Gpu, Machine
from engine.runtime import Runtime
from engine.services import Services
from engine.settings import LoadSettings

LAPTOP = Machine("computer", "Linux x86_64", 2, 8 * GIB, 6 * GIB, ())
T4 = Machine("colab", "Linux x86_64", 2, 12 * GIB, 10 * GIB, (Gpu("Tesla T4", 15 * GIB, (7, 5)),))
CONTRACT = {
    "starter",
    *(f"guanaco-{size}" for size in ("7b", "13b", "33b", "65b")),
    *(f"openorca-{size}" for size in ("7b", "13b", "70b")),
    "smollm3-3b",
    "llama-3.2-1b",
    "qwen2.5-0.5b",
}


def test_ids_of_the_contract_are_there():
    assert set(models.MODELS) >= CONTRACT


@pytest.mark.parametrize(
    "model, billions",
    [
        ("guanaco-7b", 6.74),
        ("guanaco-13b", 13.02),
        ("guanaco-33b", 32.53),
        ("guanaco-65b", 65.29),
        ("openorca-70b", 68.98),
        ("starter", 0.1345),
        ("llama-3.2-1b", 1.236),
        ("qwen2.5-0.5b", 0.494),
        ("smollm3-3b", 3.075),
    ],
)
def test_shapes_have_the_published_parameter_counts(model, billions):
    assert models.MODELS[model].shape.parameters / 1e9 == pytest.approx(billions, rel=0.002)


def test_double_quantization_saves_what_the_paper_says():
    shape = models.MODELS["guanaco-65b"].shape
    single, double = (memory.weight_bytes(shape, LoadSettings(double_quantization=flag), True) for flag in (False, True))
    assert (single - double) * 8 / shape.linear_parameters == pytest.approx(0.373, abs=0.001)
    assert (single - double) / 1e9 == pytest.approx(3, abs=0.05)


def test_every_model_with_an_adapter_has_it_for_its_base():
    for spec in models.MODELS.values():
        if spec.adapter:
            assert models.ADAPTERS[spec.adapter].base == spec.source
            assert models.ADAPTERS[spec.adapter].prompt == spec.prompt


@pytest.mark.parametrize("machine, fitting, not_fitting", [(LAPTOP, "qwen2.5-1.5b", "guanaco-13b"), (T4, "guanaco-13b", "guanaco-33b")])
def test_fit_is_decided_with_numbers(machine, fitting, not_fitting):
    models.check_fit(models.MODELS[fitting], machine)
    with pytest.raises(BadInput, match=r"does not fit: needs \d+\.\d GB .* GB can be used.*These fit: .*starter|qwen"):
        models.check_fit(models.MODELS[not_fitting], machine)


def test_a_model_larger_than_memory_is_refused_before_loading(monkeypatch, tiny):
    from engine.backends import open_backend

    monkeypatch.setattr(hardware, "machine", lambda: Machine("computer", "Linux", 2, GIB, GIB // 4, ()))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(BadInput, match="does not fit: needs 1.0 GB of memory, 0.2 GB can be used"):
        open_backend(models.resolve(str(tiny)), LoadSettings(), lambda progress: None)


@pytest.mark.parametrize(
    "capabilities, dtype",
    [
        ([], "float32"),
        ([(7, 5)], "float16"),
        ([(7, 0)], "float16"),
        ([(8, 0)], "bfloat16"),
        ([(9, 0)], "bfloat16"),
        ([(8, 6), (7, 5)], "float16"),
    ],
)
def test_compute_type_follows_the_capability(capabilities, dtype):
    assert hardware.compute_dtype(capabilities) == dtype
    assert dtype in hardware.dtype_reason(dtype, capabilities)


def test_an_old_gpu_is_told_why_it_computes_in_float16():
    assert "7.5) has no bfloat16" in hardware.dtype_reason("float16", [(7, 5)])


def test_gpus_are_read_from_the_drivers_tool(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Tesla T4, 15360, 7.5'\necho 'garbage'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "_torch_is_for_cpu", lambda: False)
    hardware._gpus.cache_clear()
    assert hardware.machine().gpus == (Gpu("Tesla T4", 15360 * 2**20, (7, 5)),)
    hardware._gpus.cache_clear()


@pytest.mark.parametrize("visible, left", [(None, "abc"), ("0", "a"), ("2,0", "ca"), ("", ""), ("-1", ""), ("9", ""), ("GPU-1234", "a")])
def test_hidden_gpus_do_not_count(monkeypatch, visible, left):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert "".join(hardware._visible(list("abc"))) == left


@pytest.mark.parametrize("name", ["", "  ", None, "x" * 2000, "~nosuchuser/x", "a" * 300, "\0"])
def test_names_that_can_be_no_name_are_refused_in_one_line(name):
    with pytest.raises(BadInput) as error:
        models.resolve(name)
    assert "\n" not in str(error.value)


def test_different_sources_never_share_a_folder():
    assert len({model_spec.folder_name(name) for name in ("a/b--c", "a--b/c", "a/b-c")}) == 3


@pytest.mark.parametrize(
    "name, words",
    [
        ("startr", "Did you mean starter"),
        ("no such thing", "Known models"),
        ("weights.bin", "pickle"),
        ("model.pt", "pickle"),
        ("../x", "There is no model"),
        ("a/b/c", "There is no model"),
    ],
)
def test_names_that_are_no_model(name, words):
    with pytest.raises(BadInput, match=words):
        models.resolve(name)


def test_hub_ids_are_taken_as_they_are():
    assert models.resolve("someone/some-model").kind == "hub"


def _folder(tmp_path, config: dict | str, *files: str):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (folder / name).write_bytes(b"x")
    return str(folder)


@pytest.mark.parametrize(
    "config, files, words",
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, ["model.safetensors"], "encoder-decoder"),
        ({"model_type": "my-own", "auto_map": {"AutoModel": "x.py"}}, ["model.safetensors"], "code of its own, which is never allowed"),
        ({"model_type": "bert"}, ["pytorch_model.bin"], "pickles"),
        ({"model_type": "llama"}, [], "no safetensors"),
        ("{", ["model.safetensors"], "damaged"),
        ("[]", ["model.safetensors"], "JSON object"),
    ],
)
def test_local_folders_that_cannot_run(tmp_path, config, files, words):
    with pytest.raises(BadInput, match=words):
        models.resolve(_folder(tmp_path, config, *files))


def test_a_folder_without_config(tmp_path):
    with pytest.raises(BadInput, match="no config.json"):
        models.resolve(str(tmp_path))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"GGUF", "no GGUF file|not a model file"),
        (b"tjgg" + b"\0" * 8, "GGJT"),
        (b"GGUF" + struct.pack("<I", 1), "version 1"),
        (b"GGUF" + struct.pack("<I", 3), "damaged"),
        (b"", "not a model file"),
    ],
)
def test_gguf_files_that_are_none(tmp_path, content, words):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        models.resolve(str(path))


def test_shape_of_a_local_folder_is_known_before_loading(tiny):
    spec = models.resolve(str(tiny))
    assert (spec.shape.layers, spec.shape.hidden, spec.prompt, spec.on_disk) == (2, 64, "chat", True)


def test_a_base_without_chat_template_is_plain(tmp_path):
    folder = builders.model(tmp_path / "base", tokenizer=builders.byte_tokenizer(chat_template=None))
    assert models.resolve(str(folder)).prompt == "plain"


def test_a_gguf_file_that_was_replaced_is_converted_again(tmp_path, home):
    import os

    from engine import paths
    from engine.models import ModelSpec

    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF one")
    spec = ModelSpec(str(path), "local", path.name, str(path), "chat", "unknown")
    with paths.building(spec.folder) as folder:
        (folder / "config.json").write_text("{}")
        paths.write_manifest(folder, origin=spec.origin)
    assert spec.on_disk
    path.write_bytes(b"GGUF another")
    os.utime(path, (1, 1))
    assert not spec.on_disk


def test_a_gguf_file_too_large_to_convert_is_refused_before_reading(tmp_path, monkeypatch, home):
    from engine import conversion

    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    monkeypatch.setattr(conversion.gguf_file, "architecture", lambda header: models.MODELS["guanaco-7b"].shape)
    monkeypatch.setattr(hardware, "machine", lambda: LAPTOP)
    with pytest.raises(BadInput, match=r"needs 30\.\d GB of memory; 6\.0 GB are free"):
        conversion.gguf_to_folder(path, tmp_path / "out", lambda progress: None)


def test_listing_has_what_the_contract_names():
    row = models.listing(LAPTOP)[0]
    assert row["id"] == "starter" and row["fits"] is True and row["on_disk"] is False
    assert {"kind", "size", "prompt_format", "licence"} <= set(row)


def test_a_licence_is_asked_only_of_what_would_be_fetched(monkeypatch, home):
    """Without a GPU Llama 3.2 1B comes as GGUF from a repository that is not gated."""
    gated = {"llama-3.2-1b": False, "llama-3.1-8b": True, "openorca-7b": True, "qwen2.5-0.5b": False}
    for machine, expected in ((LAPTOP, gated), (T4, gated | {"llama-3.2-1b": True})):
        monkeypatch.setattr(hardware, "machine", lambda machine=machine: machine)
        listed = {row["id"]: row["gated"] for row in models.listing(machine)}
        for name, asked in expected.items():
            assert listed[name] == asked
            with contextlib.closing(Runtime(isolated=False)) as runtime:
                about = Services(runtime).about_model(name)
            assert ("set HF_TOKEN" in about) == asked, (machine, about)
    assert models.MODELS["llama-3.2-1b"].asks_licence(LAPTOP, LoadSettings(backend="transformers"))

"""A run as GGUF: llama.cpp opens it, reads texts as the same tokens, and computes what the merged weights compute."""

import builders
import gguf
import gguf_builders
import numpy as np
import pytest
import torch
import training
from exporting import exported, full, left
from test_merging import UNQUANTIZED, said

from engine import gguf_export, gguf_tokenizer, hub, merging, models, paths
from engine.backends import open_backend
from engine.blend import BASE
from engine.errors import BadInput, EngineError
from engine.settings import LoadSettings

pytestmark = pytest.mark.long

SHORT = {"optimization": {"steps": 3, "learning_rate": 0.02}, "cadence": {"save_every": 9, "eval_every": 9}}


def made(base, rows, folder, **data):
    """A short run on a base."""
    run = training.fresh(training.plan(base, rows, data=data, **SHORT), folder)
    training.trained(run)
    return run


@pytest.fixture(scope="module")
def run(spelling):
    return spelling[0]


@pytest.fixture(scope="module")
def base(spelling):
    return spelling[1]


@pytest.fixture(scope="module")
def out(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUANACO_HOME", str(tmp_path_factory.mktemp("home")))
        return folder, exported(run, "gguf", folder)


def test_it_is_two_files_with_a_card_and_says_what_was_measured(out):
    folder, done = out
    assert {"counting-F16.gguf", "adapter.gguf", "README.md", "recipe.yaml", "manifest.json", "losses.png"} == set(done.files)
    assert paths.damaged(folder) is None and "tags:\n- qlora\n- guanaco-playground\n- gguf" in (folder / "README.md").read_text()
    found = done.checks["gguf"]
    assert found["texts"] == len(gguf_export.TEXTS) + 1 and found["same_answers"] == found["prompts"] == 1
    assert found["mean_logprob_difference"] < 0.01 and "llama.cpp gives 1 of 1" in (folder / "README.md").read_text()


def test_it_opens_here_and_answers_like_the_merged_weights(out, merged):
    answers = []
    for place, load in ((merged[0], UNQUANTIZED), (out[0] / "counting-F16.gguf", LoadSettings(backend="llama.cpp"))):
        backend = open_backend(models.resolve(str(place)), load, lambda progress: None)
        answers.append(said(backend, BASE))
        backend.close()
    assert answers[0] and answers[0] == answers[1]


def test_the_header_says_what_it_is(out):
    fields = gguf.GGUFReader(out[0] / "counting-F16.gguf").fields
    said = {name: field.contents() for name, field in fields.items()}
    assert (said["general.architecture"], said["general.type"], said["general.file_type"]) == ("llama", "model", 1)
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"], said["tokenizer.ggml.add_bos_token"]) == ("gpt2", "gpt-2", False)
    assert said["tokenizer.ggml.eos_token_id"] == 2 and "<|im_start|>" in said["tokenizer.chat_template"]


def test_the_adapter_alone_computes_on_the_base_in_gguf_what_peft_does(out, run, base, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    path = gguf_builders.write(model, tmp_path / "base.gguf")
    server = gguf_builders.server(path, out[0] / "adapter.gguf")
    ids = [5, 80, 90, 100]
    theirs = gguf_builders.logprobs(server, ids, 259, _0=1.0)
    with torch.no_grad():
        ours = PeftModel.from_pretrained(model, run.adapter).eval()(torch.tensor([ids])).logits[0, -1].log_softmax(-1).numpy()
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("family", ["qwen2", *(pytest.param(name, marks=pytest.mark.long) for name in ("mistral", "qwen3", "smollm3"))])
def test_other_families_are_written_too(family, rows, tmp_path):
    """What is compared in the export itself: tokens, greedy answers, log-probabilities."""
    model = gguf_builders.tiny(family, tied=False, layers=2)
    tokenizer = builders.byte_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    with torch.no_grad():
        model.lm_head.weight[[index for index, token in enumerate(tokens) if not (len(token) == 1 and token.isascii())]] = 0
    model.save_pretrained(tmp_path / family)
    tokenizer.save_pretrained(tmp_path / family)
    done = exported(made(tmp_path / family, rows, tmp_path / "run"), "gguf", tmp_path / "out")
    assert done.checks["gguf"]["mean_logprob_difference"] < 0.01


def test_positions_scaled_as_in_llama_3_are_written(rows, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = builders.byte_tokenizer()
    rope = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    settings = LlamaConfig.from_pretrained(builders.model(tmp_path / "plain", letters=True)).to_dict()
    config = LlamaConfig(**settings | {"rope_parameters": rope | {"original_max_position_embeddings": 32}})
    model = LlamaForCausalLM.from_pretrained(tmp_path / "plain", config=config)
    model.save_pretrained(tmp_path / "scaled")
    tokenizer.save_pretrained(tmp_path / "scaled")
    run = made(tmp_path / "scaled", rows, tmp_path / "run")
    done = exported(run, "gguf", tmp_path / "out")
    assert done.checks["gguf"]["mean_logprob_difference"] < 0.01
    assert any(tensor.name == "rope_freqs.weight" for tensor in gguf.GGUFReader(tmp_path / "out" / "run-F16.gguf").tensors)


def test_a_tokenizer_with_byte_fallback_is_written(rows, tmp_path):
    base = builders.model(tmp_path / "base", tokenizer=builders.sentencepiece_tokenizer(), letters=True)
    run = made(base, rows, tmp_path / "run", prompt_format="plain", max_length=250)
    done = exported(run, "gguf", tmp_path / "out")
    said = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "out" / "run-F16.gguf").fields.items()}
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.add_bos_token"], said["tokenizer.ggml.add_space_prefix"]) == (
        "llama",
        True,
        True,
    )
    assert "loop.first" in said["tokenizer.chat_template"] and done.checks["gguf"]["mean_logprob_difference"] < 0.01


def test_an_architecture_without_a_name_in_gguf_is_refused_before_anything(base, run, tmp_path, monkeypatch):
    monkeypatch.setitem(gguf_export.ARCHITECTURES, "llama", None)
    monkeypatch.delitem(gguf_export.ARCHITECTURES, "llama")
    monkeypatch.setattr(merging, "merged", lambda *each: pytest.fail("it was merged"))
    with pytest.raises(BadInput, match="'llama', which is not written as GGUF here: mistral.*--to merged"):
        exported(run, "gguf", tmp_path / "out")
    assert not [name for name in left(tmp_path) if "out" in name]


def test_a_way_of_splitting_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(BadInput, match="splits text in a way"):
        gguf_tokenizer._splitting({"pre_tokenizer": {"type": "Whitespace"}})
    split = {"type": "Split", "pattern": {"Regex": r" ?[^\s\p{L}\p{N}]+|\p{N}{1,3}| ?\p{L}+"}}
    assert (
        gguf_tokenizer._splitting({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]}}) == "llama-bpe"
    )


def test_weights_in_another_order_are_found(run, tmp_path, monkeypatch):
    monkeypatch.setitem(gguf_export.lora_gguf.INTERLEAVED, "llama", False)
    with pytest.raises(EngineError, match="does not answer like the merged weights.*log-probabilities differ"):
        exported(run, "gguf", tmp_path / "out")
    assert not [name for name in left(tmp_path) if "out" in name]


def test_other_tokens_are_found(run, tmp_path, monkeypatch):
    honest = gguf_tokenizer._tokens

    def swapped(*arguments):
        tokens, types = honest(*arguments)
        one, other = tokens.index("e"), tokens.index("l")
        tokens[one], tokens[other] = "l", "e"
        return tokens, types

    monkeypatch.setattr(gguf_tokenizer, "_tokens", swapped)
    with pytest.raises(EngineError, match="as other tokens.*nothing was kept"):
        exported(run, "gguf", tmp_path / "out")
    assert not [name for name in left(tmp_path) if "out" in name]


def test_too_little_disk_is_told_and_a_disk_that_fills_leaves_nothing(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(hub, "free_bytes", lambda target: 1_000_000)
        with pytest.raises(EngineError, match=r"needs \d+\.\d GB of disk, and 1\.0 MB are free"):
            exported(run, "gguf", tmp_path / "out")
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(EngineError, match="the disk is full.*Nothing was kept"):
        exported(run, "gguf", tmp_path / "out")
    assert not [name for name in left(tmp_path) if "out" in name]

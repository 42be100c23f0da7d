"""The self-test: each check passes here and notices what it is there for; a crash, a hang and a secret stay where they are."""

import errno
import importlib
import importlib.metadata
import json
import os
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from engine import checkpoints, hardware, optimizers, paths, requirements, self_test
from engine.backends import pretrained
from engine.backends.llama_process import LlamaProcess, NotInstalled
from engine.backends.server_client import ServerClient
from engine.self_checks import CHECKS, Check, machine, models, numbers
from engine.self_checks.__main__ import outcome

CANARY = "hf_canary0123456789"
T4 = (7, 5)


def found(name: str, place):
    """What the check of that name finds, in this process and an empty folder in `place`."""
    check = next(check for check in CHECKS if check.name == name)
    return outcome(check.module, check.function, Path(tempfile.mkdtemp(dir=place)))


def _files(home) -> list:
    return [path for path in home.rglob("*") if path.is_file()]


def fails(name: str, place, words: str):
    result = found(name, place)
    assert (result.status, words in result.text) == ("failed", True), result
    return result


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
@pytest.mark.long
def test_every_check_is_well_here(name, tmp_path, home):
    result = found(name, tmp_path)
    assert result.status == ("skipped" if name == "hub" else "ok") and not result.advice, result
    json.dumps(result.figures)
    assert not _files(home), "the person's own state is left alone"
    assert os.environ["GUANACO_HOME"] == str(home) and "HF_HUB_OFFLINE" not in os.environ


def test_a_version_out_of_range_or_missing_is_named_with_the_command(tmp_path, monkeypatch):
    listed = tmp_path / "requirements.txt"
    listed.write_text("# ranges\ntorch>=2.8,<99\npeft>=99,<100\nno-such-package>=1\n")
    monkeypatch.setattr(requirements, "REQUIREMENTS", listed)
    result = fails("versions", tmp_path, "no-such-package is not installed")
    assert f"peft {importlib.metadata.version('peft')} is not in <100,>=99" in result.text and "torch 2" in result.text
    shown = self_test.report([self_test.Result("versions", result, 0.1)], 0.1)
    assert "Run: pip install 'peft<100,>=99' 'no-such-package>=1'" in shown, "it can be pasted"
    assert "pip install" in result.advice and "no-such-package>=1" in result.advice and "torch" not in result.advice


@pytest.mark.parametrize("version, status", [("0.10.0", "failed"), ("0.15.1", "failed"), ("0.16.0", "ok")])
def test_a_torchao_that_peft_refuses_is_named(version, status, tmp_path, monkeypatch):
    honest = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == "torchao" else honest(name))
    result = found("versions", tmp_path)
    assert result.status == status and f"torchao {version}" in result.text
    assert ("pip uninstall torchao" in result.advice) == (status == "failed")


def test_the_hub_is_not_contacted_and_no_value_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HF_ENDPOINT", "https://user:password@example.org")
    result = found("hub", tmp_path)
    assert result.status == "skipped" and "it would leave this machine" in result.text
    assert "HF_TOKEN is set, HF_ENDPOINT is set, HF_HUB_OFFLINE is not set" in result.text
    assert CANARY not in str(result) and "example" not in str(result)


def test_a_home_that_cannot_be_written_to_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GUANACO_HOME", str(tmp_path / "file" / "home"))
    fails("disk", tmp_path, "Set GUANACO_HOME to a folder you can write to")


def test_a_disk_that_refuses_or_changes_a_file_is_told(tmp_path, monkeypatch, home):
    def refused(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(paths.os, "fsync", refused)
        assert "GUANACO_HOME" in fails("disk", tmp_path, "Read-only file system").advice
    with monkeypatch.context() as patch:
        blocks, honest = iter(range(10**6)), open
        patch.setattr(machine, "open", lambda path, mode, **options: _Flipping(honest(path, mode, **options), blocks), raising=False)
        fails("disk", tmp_path, "did not come back as it was written")
    assert not _files(home)


class _Flipping:
    """A file of which one block is read back changed."""

    def __init__(self, file, blocks):
        self._file, self._blocks = file, blocks

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def read(self, count):
        data = self._file.read(count)
        return b"x" + data[1:] if next(self._blocks) == 5 else data


def test_models_without_room_are_named(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(10**12, 0, 20 * 10**9))
    text = found("disk", tmp_path).text
    assert "20.0 GB free: no room for guanaco-13b, guanaco-33b" in text and "guanaco-7b" not in text


@pytest.fixture
def t4(monkeypatch):
    """A GPU of capability 7.5 in every check's eyes; the sums are made on the processor."""
    card = {"name": "Tesla T4", "memory_bytes": 15 * 2**30, "memory_free_bytes": 14 * 2**30, "capability": "7.5"}
    monkeypatch.setattr(pretrained, "cuda_capabilities", lambda: [T4])
    monkeypatch.setattr(numbers, "_gpu", lambda torch, index: card)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


def test_a_gpu_without_bfloat16_computes_in_float16_and_says_so(t4, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        shown = found("device", tmp_path)
    assert shown.figures["dtype"] == "float16" and "Tesla T4 (15.0 GB, 14.0 free, capability 7.5)" in shown.text
    assert "computing in float16: this GPU (capability 7.5) has no bfloat16" in shown.text
    tried = found("16 bits", tmp_path)
    assert tried.status == "ok" and tried.figures["dtype"] == "float16" and 1e-5 < tried.figures["error"]
    assert "emulated, and not used" in tried.text and "a scaled float16 step is" in tried.text
    assert found("4 bits", tmp_path).figures["dtype"] == "float16"


def test_a_newer_gpu_computes_in_bfloat16(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "cuda_capabilities", lambda: [(8, 0), (9, 0)])
    tried = found("16 bits", tmp_path)
    assert tried.status == "ok" and tried.figures["dtype"] == "bfloat16" and "scaled" not in tried.text


def test_scaled_steps_that_go_wrong_are_noticed(t4, tmp_path, monkeypatch):
    scaler, unscaled = torch.amp.GradScaler, torch.amp.GradScaler._unscale_grads_
    with monkeypatch.context() as patch:
        patch.setattr(scaler, "_unscale_grads_", lambda self, optimizer, by, *rest: unscaled(self, optimizer, by / by, *rest))
        fails("16 bits", tmp_path, "off the one in float32")
    monkeypatch.setattr(scaler, "_maybe_opt_step", lambda self, optimizer, state, *_, **__: optimizer.step())
    fails("16 bits", tmp_path, "a step that overflows is not passed over")


def test_a_wrong_product_is_noticed(tmp_path, monkeypatch):
    honest = torch.Tensor.__matmul__
    for factor in (1.01, float("nan")):
        monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b, by=factor: honest(a, b) * (by if a.dtype == torch.float32 else 1))
        fails("16 bits", tmp_path, "a product of 512 x 512 matrices is")


def test_a_gpu_that_torch_cannot_use_is_told_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "driver", lambda: ("550.54.15", ["Tesla T4"]))
    result = fails("device", tmp_path, "Tesla T4 is here, and torch (built for CPUs only) cannot use it: Torch not compiled with CUDA")
    assert "Install a torch with CUDA" in result.advice and result.figures["driver"] == "550.54.15"


def test_the_driver_is_asked_for_what_programs_may_see(monkeypatch):
    monkeypatch.setattr(hardware, "_driver_says", lambda query: ["Tesla T4, 550.54.15", "NVIDIA A100, 550.54.15"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert hardware.driver() == ("550.54.15", ["Tesla T4", "NVIDIA A100"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert hardware.driver() == ("550.54.15", ["NVIDIA A100"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware.driver() == ("", [])


def test_faults_of_4_bit_weights_are_noticed(tmp_path, monkeypatch):
    import bitsandbytes
    from bitsandbytes import functional

    layer, unpack = bitsandbytes.nn.Linear4bit, functional.dequantize_4bit
    faults = [
        (functional, "dequantize_4bit", lambda *given, **options: 1.2 * unpack(*given, **options), "weights in NF4 are"),
        (functional, "dequantize_4bit", lambda *given, **options: 1.02 * unpack(*given, **options), "4-bit forward in float32"),
        (layer, "forward", lambda self, x, honest=layer.forward: honest(self, x).detach(), "no gradient reaches"),
        (layer, "forward", lambda self, x, honest=layer.forward: honest(self, x / 2 + x.detach() / 2), "4-bit gradient in float32"),
        (layer, "forward", lambda self, x, honest=layer.forward: honest(self, x) * float("nan"), "4-bit forward in float32 is nan off"),
    ]
    for owner, name, faulty, words in faults:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, faulty)
            assert "bitsandbytes" in fails("4 bits", tmp_path, words).advice
    for asked, given, words in (("quant_type", "fp4", "weights in NF4 are 12"), ("compress_statistics", False, "a second time")):
        with monkeypatch.context() as patch:
            honest = bitsandbytes.nn.Params4bit
            patch.setattr(
                bitsandbytes.nn, "Params4bit", lambda *all, asked=asked, given=given, **options: honest(*all, **options | {asked: given})
            )
            fails("4 bits", tmp_path, words)


def test_bitsandbytes_that_cannot_be_imported_is_a_failure_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for name in ("4 bits", "paged optimizer"):
        assert "pip install" in fails(name, tmp_path, "bitsandbytes cannot be imported (ModuleNotFoundError").advice


def test_a_wrong_step_and_a_lost_state_of_the_optimizer_are_noticed(tmp_path, monkeypatch):
    from bitsandbytes import functional

    with monkeypatch.context() as patch:
        patch.setattr(functional, "optimizer_update_32bit", lambda *_, **__: None)
        fails("paged optimizer", tmp_path, "away from AdamW's")
    monkeypatch.setattr(optimizers, "restore", lambda *_: None)
    assert "adamw_torch" in fails("paged optimizer", tmp_path, "away from AdamW's").advice


def test_it_says_that_nothing_is_paged_here(tmp_path):
    result = found("paged optimizer", tmp_path)
    assert "does not page here" in result.text and result.figures["pages"] is False and result.figures["elements"] >= 1e5


@pytest.mark.long
def test_an_adapter_that_changes_on_its_way_is_noticed(tmp_path, monkeypatch):
    import peft

    honest = checkpoints.hand_over

    def changed(run, weights, *rest):
        honest(run, {name: tensor + 1e-6 for name, tensor in weights.items()}, *rest)

    for owner, name, faulty, words in (
        (checkpoints, "hand_over", changed, "is not the one that was learnt"),
        (peft, "set_peft_model_state_dict", lambda *_, **__: None, "read back has a held-out loss"),
        (models, "_chatted", lambda *_: ({}, "NF4"), "in the chat the adapter answers"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, faulty)
            fails("adapter", tmp_path, words)


@pytest.mark.long
@pytest.mark.parametrize("device, words", [("CPU", "on a CPU it should be none"), ("Tesla T4", "3% may be")])
def test_a_resumed_run_that_lost_its_optimizer_is_noticed(device, words, tmp_path, monkeypatch):
    monkeypatch.setattr(optimizers, "restore", lambda *_: None)
    honest = models._done

    def elsewhere(run):
        told = honest(run)
        for event in told:
            if isinstance(event, models.Started):
                object.__setattr__(event, "device", device)
        return told

    monkeypatch.setattr(models, "_done", elsewhere)
    assert fails("resume", tmp_path, words).figures["away"] > models.RESUME_TOLERANCE


def test_a_run_that_does_not_end_well_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    fails("resume", tmp_path, "learnt nothing")


def test_llama_cpp_that_is_missing_or_answers_something_else_is_noticed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ServerClient, "post", lambda *_: {"content": "\u00e9"})
        fails("llama.cpp", tmp_path, "llama.cpp goes on from 'Count 1' with 'é', transformers with")

    def missing(*_):
        raise NotInstalled("llama.cpp cannot be imported here (ImportError: no).")

    monkeypatch.setattr(LlamaProcess, "__init__", missing)
    assert "xllamacpp" in fails("llama.cpp", tmp_path, "cannot be imported here").advice


def _faulty(*names: str, seconds: float = 30) -> list[Check]:
    return [Check(name, "faulty_checks", name, seconds) for name in names]


@pytest.fixture
def with_faults(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))


@pytest.mark.long
def test_a_crash_and_an_error_take_no_other_check_down(with_faults):
    told = []
    results = list(self_test.run(told.append, _faulty("well", "well", "crashes", "well", "raises", "well")))
    assert [each.outcome.status for each in results] == ["ok", "ok", "failed", "ok", "failed", "ok"]
    assert "SIGSEGV" in results[2].outcome.text and "crashed" in results[2].outcome.advice
    assert results[4].outcome.text == "RuntimeError: CUDA error: no kernel image is available" and results[4].outcome.advice
    first, second, *_, fourth, _, sixth = (each.outcome.figures.get("pid") for each in results)
    assert first == second != fourth != sixth and results[1].outcome.figures["files"] == 0
    assert told[0] == "1/6 well …" and len(told) == 6
    assert "**failed** crashes" in self_test.report(results, 1.0).splitlines()[4]


@pytest.mark.long
def test_a_hang_ends_at_its_limit_and_says_where(with_faults):
    hung, after = self_test.run(lambda line: None, [*_faulty("hangs", seconds=2), *_faulty("well")])
    assert hung.outcome.status == "failed" and after.outcome.status == "ok" and 2 <= hung.seconds < 2 + self_test.GRACE_SECONDS
    assert hung.outcome.text.startswith("no answer within 2 seconds (outcome in engine/self_checks/__main__.py, line ")


@pytest.mark.long
def test_the_rest_goes_on_without_bitsandbytes(tmp_path, monkeypatch):
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes/__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    wanted = [check for check in CHECKS if check.name in ("16 bits", "4 bits", "llama.cpp")]
    results = {each.name: each.outcome for each in self_test.run(lambda line: None, wanted)}
    assert [each.status for each in results.values()] == ["ok", "failed", "ok"]
    assert "bitsandbytes cannot be imported (OSError: libcudart.so.13" in results["4 bits"].text


def test_a_report_holds_no_secret_no_name_and_no_home(with_faults, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("A_KEY", "123456")
    monkeypatch.setenv("HOME", str(tmp_path / "users/somebody"))
    results = list(self_test.run(lambda line: None, _faulty("tells")))
    text, document = self_test.report(results, 1.0), self_test.document(results, 1.0)
    assert text.splitlines()[-1].endswith(r"*** in ~/models, \*loud\* \<b>".replace("***", r"\*\*\*"))
    assert document["checks"][0]["figures"] == {"where": ["~/x"], "token": {"value": "***"}, "number": 123456}
    for secret in (CANARY, "somebody", str(tmp_path)):
        assert secret not in text and secret not in json.dumps(document)


def test_a_name_in_a_path_outside_the_home_is_left_out(monkeypatch):
    monkeypatch.setattr(self_test.getpass, "getuser", lambda: "somebody")
    assert self_test._without_secrets("/data/somebody/guanaco, C:\\x\\somebody, somebody") == "/data/USER/guanaco, C:\\x\\USER, somebody"


@pytest.mark.long
def test_the_command_gives_one_document_and_code_1_where_a_check_fails(run_engine, tmp_path, monkeypatch, home):
    done = run_engine("doctor", "--json", HF_TOKEN=CANARY)
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert (document["ok"], document["failed"], document["skipped"]) == (len(CHECKS) - 1, 0, 1) and document["seconds"] > 1
    assert [each["name"] for each in document["checks"]] == [check.name for check in CHECKS]
    assert all(each["text"] and each["seconds"] >= 0 for each in document["checks"])
    assert CANARY not in done.stdout + done.stderr and "HF_TOKEN is set" in done.stdout and f"1/{len(CHECKS)} versions …" in done.stderr
    assert not _files(home)
    (tmp_path / "file").write_text("")
    done = run_engine("doctor", GUANACO_HOME=str(tmp_path / "file" / "home"))
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[0].startswith(f"### Guanaco Playground self-test: {len(CHECKS) - 2} ok, 1 failed, 1 skipped, ")
    assert sum(line.startswith("- **ok** ") for line in lines) == len(CHECKS) - 2 and "- **failed** disk" in done.stdout


def test_every_check_is_where_it_is_said_to_be():
    for check in CHECKS:
        assert callable(getattr(importlib.import_module(check.module), check.function)) and check.seconds > 0

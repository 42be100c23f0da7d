"""What a GPU alone shows, on a tiny model in processes of their own; left out where there is none. Other tests hide it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import training
from conftest import GPUS, ROOT

from engine import runs
from engine.events import Adjusted, Ended, Evaluated, Notice, Sample, Started, Step
from engine.hardware import GIB

# Takes all memory of the GPU but so many bytes, says that it has, and holds it until it is ended.
HOLD = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


def environment(**more: str) -> dict[str, str]:
    """That of a process which sees the GPU."""
    seen = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return {**seen, **({} if GPUS == "all" else {"CUDA_VISIBLE_DEVICES": GPUS}), **more}


def asked_with_gpu(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120).stdout.strip()


@pytest.fixture(scope="session")
def gpus() -> int:
    """How many GPUs there are; the test is skipped where that is none."""
    if not shutil.which("nvidia-smi"):
        pytest.skip("this machine has no NVIDIA GPU")
    found = asked_with_gpu("import torch; print(torch.cuda.device_count())")
    if found in ("", "0"):
        pytest.skip("the torch that is installed does not use this machine's GPU")
    return int(found)


@pytest.fixture(scope="session")
def sees_bfloat16(gpus) -> bool:
    return asked_with_gpu("import torch; print(torch.cuda.get_device_capability(0)[0] >= 8)") == "True"


def engine(*words: str | Path, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "engine", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=300)


def trained(recipe, tmp_path, *options: str) -> tuple[runs.Run, list]:
    """A run on the GPU by the command line, and its events."""
    run = runs.Run(tmp_path / "run")
    done = engine("train", training.written(recipe, tmp_path / "recipe.yaml"), "--run-dir", run.folder, *options)
    assert done.returncode == 0, done.stderr
    return run, runs.all_events(run)


def held_out(events: list) -> list[float]:
    return [event.loss for event in events if isinstance(event, Evaluated)]


@pytest.mark.long
def test_the_self_test_finds_everything_well(gpus, home):
    found = json.loads(engine("doctor", "--json").stdout)
    checks = {each["name"]: each for each in found["checks"]}
    for name in ("device", "16 bits", "4 bits", "paged optimizer", "adapter", "resume"):
        assert checks[name]["status"] == "ok", checks[name]
    assert "pages its state to main memory" in checks["paged optimizer"]["text"]
    assert "on cuda:0" in checks["4 bits"]["text"]


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("kind", ["nf4", "none"])
def test_it_learns_and_the_chat_answers_with_it(kind, dtype, gpus, sees_bfloat16, home, tiny, rows, tmp_path):
    quantization = {"kind": kind, "compute_dtype": dtype}
    recipe = training.plan(tiny, rows, quantization=quantization, optimization={"optimizer": "paged_adamw_32bit"})
    run, events = trained(recipe, tmp_path)
    started = next(event for event in events if isinstance(event, Started))
    taken = "float16" if dtype == "bfloat16" and not sees_bfloat16 else dtype
    assert started.device != "CPU" and started.dtype == taken and started.quantization.startswith("NF4" if kind == "nf4" else "unq")
    assert all(event.memory > 2**20 for event in events if isinstance(event, Step)) and any(isinstance(event, Sample) for event in events)
    losses = held_out(events)
    assert losses[-1] < losses[0] - 0.1
    options = ("--adapter", run.adapter, "--backend", "transformers", "--quantization", kind, "--max-new-tokens", "4", "--json")
    done = engine("chat", "--model", tiny, *options, "Count 1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] > 0


@pytest.mark.long
def test_in_float32_it_learns_what_a_processor_learns(gpus, home, tiny, rows, tmp_path):
    recipe = training.plan(tiny, rows, quantization={"compute_dtype": "float32"}, lora={"dropout": 0.0})
    alone = training.fresh(recipe, tmp_path / "alone")
    training.trained(alone)
    _, events = trained(recipe, tmp_path)
    assert held_out(events) == pytest.approx(held_out(runs.all_events(alone)), rel=1e-3)


@pytest.mark.long
def test_a_gpu_that_is_full_trains_in_smaller_passes(gpus, home, tiny, tmp_path):
    data = tmp_path / "long.jsonl"
    data.write_text("".join(json.dumps({"instruction": f"Say {number}", "output": "one two " * 55}) + "\n" for number in range(515)))
    sections = {
        "data": {"max_length": 480, "learn": "everything"},
        "optimization": {"batch": 512, "steps": 2},
        "cadence": {"save_every": 1},
        "samples": {"prompts": []},
    }
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(int(1.6 * GIB))], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        _, events = trained(training.plan(tiny, data, **sections), tmp_path)
    finally:
        holder.communicate("")
    changes = [event.changes for event in events if isinstance(event, Adjusted)]
    assert changes and all("optimization.accumulation" in each for each in changes), events
    assert isinstance(events[-1], Ended) and events[-1].status == "done"
    assert not any(isinstance(event, Notice) and "skipped" in event.text for event in events)


@pytest.mark.long
def test_a_process_for_each_gpu(gpus, home, tiny, rows, tmp_path):
    recipe = training.written(training.plan(tiny, rows), tmp_path / "recipe.yaml")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(gpus + 1), "-m", "engine", "train", str(recipe)]
    command = [sys.executable, *command, "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and f"--nproc-per-node {gpus}," in done.stderr, done.stderr

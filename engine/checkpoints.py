"""Checkpoints of a run: complete or absent, checked before older ones go, and the newest sound one found again.

Each is a folder of safetensors and JSON: the adapter, the optimizer's state, the step. Everything else of a run follows from the
recipe and the step, so that a resumed run is the uninterrupted one.
"""

import functools
import json
import os
import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from engine import adapters, paths, trouble
from engine.errors import EngineError
from engine.events import Saved
from engine.line_files import full_disk_told
from engine.runs import Run

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
_reading = threading.Lock()


@dataclass(frozen=True)
class Checkpoint:
    """What is needed to go on after `step`. `weights`: tensors by PEFT's names; `optimizer`: tensors as `optimizers.state` gives
    them; `numbers`: plain values, the optimizer's under "optimizer"."""

    step: int
    weights: dict
    optimizer: dict
    numbers: dict


def save(run: Run, checkpoint: Checkpoint, config: dict, keep: int) -> Saved:
    """Write a checkpoint, read it back, and only then let older ones than the `keep` newest go.

    `config` is the adapter's. Raises EngineError where the disk is full or what was read back differs; older ones then stay
    (faults, rows 20 and 21).
    """
    began = time.monotonic()
    target = run.checkpoints / f"step-{checkpoint.step}"
    tensors = (*checkpoint.weights.values(), *checkpoint.optimizer.values())
    need = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    with full_disk_told(run.folder, need), paths.building(target) as folder:
        _write_adapter(folder, checkpoint.weights, config)
        write_tensors(folder / OPTIMIZER, checkpoint.optimizer)
        (folder / STATE).write_text(json.dumps({"step": checkpoint.step, **checkpoint.numbers}), encoding="utf-8")
        paths.write_manifest(folder)
    if wrong := damaged(target):
        shutil.rmtree(target, ignore_errors=True)
        raise EngineError(
            f"The checkpoint of step {checkpoint.step} could not be written soundly: {wrong}. Older ones are kept. Check the disk."
        )
    saved = run.steps_saved()
    passed_over = [step for step in saved if step > checkpoint.step]  # damaged, or this run would have gone on from them
    for step in (*passed_over, *saved[: len(saved) - len(passed_over)][:-keep]):
        shutil.rmtree(run.checkpoints / f"step-{step}", ignore_errors=True)
    size = sum(path.stat().st_size for path in target.iterdir())
    return Saved(checkpoint.step, size, round(time.monotonic() - began, 3))


def hand_over(run: Run, weights: dict, config: dict, facts: dict, dtype) -> None:
    """Write the finished adapter: PEFT's two files and `playground.json` with `facts`, complete or absent. Raises EngineError
    where the disk is full."""
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    need = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    with full_disk_told(run.folder, need), paths.building(run.adapter) as folder:
        _write_adapter(folder, weights, config)
        (folder / adapters.PLAYGROUND).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
        paths.write_manifest(folder)


def _write_adapter(folder: Path, weights: dict, config: dict) -> None:
    write_tensors(folder / adapters.WEIGHTS, weights)
    (folder / adapters.CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")


def write_tensors(path: Path, tensors: dict) -> None:
    """Write torch tensors as safetensors. Raises OSError where the disk is full or fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:  # it hides the system's error in its text
        found = re.search(r"os error (\d+)", str(error))
        if not found:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def damaged(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None when it is sound. One without a manifest is not one of ours."""
    return paths.damaged(folder) if (folder / paths.MANIFEST).is_file() else f"it has no {paths.MANIFEST}"


def sound_step(run: Run) -> int:
    """The step that a resumed run goes on after, 0 where it begins anew. Checkpoints whose files look as before are not read again."""
    with _reading:
        return next((step for step in reversed(run.steps_saved()) if _sound(run.checkpoints / f"step-{step}")), 0)


def _sound(folder: Path) -> bool:
    try:
        files = sorted(folder.iterdir())
        states = tuple((path.name, found.st_size, found.st_mtime_ns) for path in files for found in [path.stat()])
    except FileNotFoundError:  # it goes at this moment
        return False
    return _found_sound(folder, states)


@functools.lru_cache(maxsize=256)
def _found_sound(folder: Path, states: tuple) -> bool:
    """`states` say how the folder's files look."""
    return damaged(folder) is None


def newest(run: Run) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, None where there is none, and what is to be told of those that had to be passed over
    (faults, row 22)."""
    passed_over = []
    for step in reversed(run.steps_saved()):
        folder = run.checkpoints / f"step-{step}"
        wrong = damaged(folder)
        if not wrong:
            return _load(folder), [trouble.passed_over(*each, step) for each in passed_over]
        passed_over.append((step, wrong))
    return None, [trouble.passed_over(*each, 0) for each in passed_over]


def _load(folder: Path) -> Checkpoint:
    from safetensors.torch import load_file

    numbers = paths.read_object(folder / STATE, f"{STATE} of {folder.name}")
    return Checkpoint(numbers["step"], load_file(folder / adapters.WEIGHTS), load_file(folder / OPTIMIZER), numbers)

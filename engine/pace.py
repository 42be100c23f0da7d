"""How long a training takes, before it begins: tokens a second as earlier runs and probes had them, else estimated; durations in words.

Imports no torch. Figures are for what learning takes; samples on the way come on top.
"""

import contextlib
import functools
import heapq
import itertools
import json
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

from engine import datasets, hardware, paths, runs, telling, trouble
from engine.architecture import Architecture
from engine.errors import BadInput
from engine.events import Started, Step
from engine.hardware import Machine
from engine.memory import PASS_TOKENS, lora_parameters, unpacks
from engine.recipe import Recipe
from engine.rows import needed
from engine.runs import PLAYGROUND, Run

# Dense 16-bit TFLOP/s of tensor cores with float32 sums, as NVIDIA's data sheets give them; the first that stands in a GPU's name counts.
GPU_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "A10G": 70,
    "A10": 125,
    "A40": 150,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "T4": 65,
    "V100": 112,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
_OTHER_GPU = "T4"
# Share of it that QLoRA reaches: 4-bit weights are unpacked at each use, and single rows fill no GPU. An assumption.
GPU_UTILISATION = 0.2
# Share of numpy's matrix speed on one core, times cores, that training reaches on a CPU. The starter on 2 idle cores: 0.31 with rows of
# 35 tokens, 0.44 with 140, 0.38 with 330 and checkpointing.
CPU_EFFICIENCY = 0.4
# So many of its operations take as long as unpacking one 4-bit weight (NF4, double-quantized): 620 and 730 in the latter two.
_UNPACKING = 650
# A core of a laptop that is not here to be measured, in GFLOP/s of float32. An assumption.
_CORE_GFLOPS = 30
# Answers are about so much of a row where only they are learnt.
_ANSWER_SHARE = 0.7
_MATRIX, _MEASURE_SECONDS, _LOOK_AGAIN = 512, 0.15, 120
# How many earlier runs, newest first, and how many of each one's last steps tell the pace.
_RUNS, _LAST_STEPS = 3, 5
# Probes leave no folder: what the latest of them measured is kept apart.
_PROBES, _MOST_PROBES = "probes.jsonl", 40
# A test only goes forward: half of what learning from a token takes.
_TEST_SHARE = 0.5


@dataclass
class _Seen:
    """The fastest that this machine's processors were seen, in FLOP/s, and until when they are not looked at again."""

    fastest: float = 0.0
    until: float = -math.inf


_seen, _looking = _Seen(), threading.Lock()


@dataclass(frozen=True)
class Pace:
    """Real tokens a second that a training learns from. `text` says where the figure is from, `place` where it holds: `here`, or
    on which machine."""

    tokens_per_second: float
    source: Literal["measured", "estimated"]
    text: str
    place: str = "here"


def pace(shape: Architecture, recipe: Recipe, machine: Machine, source_model: str) -> Pace:
    """How fast a recipe trains a base of this shape on a machine. `source_model` is the base by its id or source.

    Measured where earlier runs or probes of this GUANACO_HOME trained that base here, held and computed alike; else estimated.
    """
    here = _is_here(machine)
    place = "here" if here else f"on {machine.summary}"
    found = _earlier(recipe, machine, {source_model, recipe.model}, shape) if here else []
    if found:
        rate = median(record.tokens_per_second for record in found)
        return Pace(rate, "measured", f"{rate:,.0f} tokens a second, measured in {_called(found)} of this base here.", place)
    flops, text = speed(machine, here)
    rate = flops / (flops_per_token(shape, recipe) + _unpacking(shape, recipe, machine))
    return Pace(rate, "estimated", f"About {_rounded(rate):,} tokens a second, estimated from {text}.", place)


def seconds(steps: int, tokens_per_step: float, pace: Pace) -> float:
    """How long so many steps of so many real tokens take."""
    return steps * tokens_per_step / pace.tokens_per_second


def flops_per_token(shape: Architecture, recipe: Recipe) -> float:
    """Floating-point operations that learning from one token takes.

    Two a weight forward and two backward, since the base stands still, and two more where activations are computed again; six a
    number of the adapter, which learns; attention over half a row on average; the head where targets are.
    """
    again = 1 if recipe.memory.activation_checkpointing else 0
    weights = shape.linear_parameters * 2 * (2 + again)
    adapter = lora_parameters(shape, recipe) * 2 * (3 + again)
    attention = 2 * recipe.data.max_length * shape.query_width * shape.layers * (3 + again)
    share = 1 if recipe.data.learn == "everything" else _ANSWER_SHARE
    return weights + adapter + attention + 4 * share * shape.vocabulary * shape.hidden


def duration_words(seconds: float) -> str:
    """A length of time for people: `under a minute`, `about 6 minutes`, `about 2 hours 10 minutes`, `about 3 days 4 hours`."""
    if not math.isfinite(seconds):
        return "longer than can be told"
    if seconds < 60:
        return "under a minute"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {telling.counted(minutes, 'minute')}"
    hours, tens = divmod(round(minutes / 10), 6)
    if hours < 10:
        return f"about {telling.counted(hours, 'hour')}" + (f" {tens * 10} minutes" if tens else "")
    hours = round(minutes / 60)
    if hours < 48:
        return f"about {telling.counted(hours, 'hour')}"
    days, rest = divmod(hours, 24)
    # Half a day is much of a few days, and little of many.
    return f"about {days} days" + (f" {telling.counted(rest, 'hour')}" if rest else "") if days < 7 else f"about {round(hours / 24)} days"


@dataclass(frozen=True)
class Work:
    """What a run does with its data: how many rows it learns from, how many it is tested on, and its steps."""

    learnt: int
    tested: int
    steps: int


def work(recipe: Recipe, rows: int) -> Work:
    """Of so many rows that can be used, no more are taken than the steps can learn from. Raises BadInput where all would be held out."""
    if draw := needed(recipe):
        rows = min(rows, draw.rows + draw.last)
    tested = datasets.held_out_rows(rows, datasets.at_most_half(recipe.data.held_out, rows))
    return Work(rows - tested, tested, recipe.optimization.steps_over(rows - tested))


def tests(recipe: Recipe, steps: int) -> int:
    """How often a run of so many steps is tested: before, after and on the way."""
    return 2 + (steps - 1) // recipe.cadence.eval_every


def sentence(recipe: Recipe, rows: int, mean_tokens: float, pace: Pace) -> str:
    """What a run does and how long it takes, e.g. `3 passes over 412 rows, 78 updates, about 6 minutes here (measured), 12 more are held
    out to test on.`

    `rows` counts all that can be used; those that the recipe holds out are tested on, not learnt from. Tests are part of the time,
    samples are not. Raises BadInput where nothing would be left to learn from.
    """
    found = work(recipe, rows)
    took = duration_words(whole_seconds(recipe, rows, mean_tokens, pace))
    measured = " (measured)" if pace.source == "measured" else ""
    kept = f", {found.tested:,} more {'is' if found.tested == 1 else 'are'} held out to test on" if found.tested else ""
    left = f" drawn from {rows:,}" if found.learnt + found.tested < rows else ""
    over = f"{_passes(recipe, found.learnt, found.steps)} over {telling.counted(found.learnt, 'row')}{left}"
    return f"{over}, {telling.counted(found.steps, 'update')}, {took} {pace.place}{measured}{kept}."


def whole_seconds(recipe: Recipe, rows: int, mean_tokens: float, pace: Pace) -> float:
    """How long a run takes over so many rows, its tests included. Raises BadInput as `work`."""
    found = work(recipe, rows)
    tokens = (found.steps * recipe.optimization.batch + _TEST_SHARE * tests(recipe, found.steps) * found.tested) * mean_tokens
    return seconds(1, tokens, pace)


def _passes(recipe: Recipe, rows: int, steps: int) -> str:
    """How often rows are seen, in words; the recipe's own number where whole batches make of it nearly that."""
    plan = recipe.optimization
    times = steps * plan.batch / rows
    if times < 1:
        return f"{times:.1f} passes" if 0.1 <= round(times, 1) < 1 else "Less than one pass"
    if plan.epochs and plan.epochs <= times <= 1.1 * plan.epochs:
        times = plan.epochs
    shown = f"{times:,.1f}".removesuffix(".0")
    return f"{'' if abs(times - float(shown.replace(',', ''))) < 0.005 else 'About '}{shown} {'pass' if shown == '1' else 'passes'}"


def _rounded(speed: float) -> float:
    """To two digits: an estimate knows no more."""
    digits = 1 - math.floor(math.log10(speed))
    return round(speed, digits) if digits > 0 else int(round(speed, digits))


def _is_here(machine: Machine) -> bool:
    return replace(hardware.machine(), memory_free=0) == replace(machine, memory_free=0)


def _unpacking(shape: Architecture, recipe: Recipe, machine: Machine) -> float:
    """What unpacking 4-bit weights at each use adds to a token on a CPU, as operations. More rows a pass share it."""
    if machine.has_gpu or recipe.quantization.kind == "none" or unpacks(shape.linear_parameters, recipe, machine):
        return 0
    row = recipe.data.max_length
    tokens = row * max(1, min(recipe.optimization.micro_batch, PASS_TOKENS // row))
    uses = 3 if recipe.memory.activation_checkpointing else 2
    return uses * _UNPACKING * shape.linear_parameters / tokens


def speed(machine: Machine, here: bool) -> tuple[float, str]:
    """FLOP/s that training, or scoring, reaches on a machine, and where that is from, as a clause."""
    if machine.has_gpu:  # a base that is spread over several works in one at a time
        gpu = machine.gpus[0]
        name = next((name for name in GPU_TFLOPS if re.search(rf"\b{name}\b", gpu.name)), None)
        tflops = GPU_TFLOPS[name or _OTHER_GPU]
        known = (
            f"{tflops} TFLOP/s of this GPU" if name else f"{tflops} TFLOP/s of a {_OTHER_GPU}, since the speed of {gpu.name} is not known"
        )
        return GPU_UTILISATION * tflops * 1e12, f"the {known}, of which training uses about a fifth"
    if here:
        measured = cpu_speed()
        return CPU_EFFICIENCY * measured, f"this processor's speed, {measured / 1e9:,.0f} GFLOP/s in float32"
    return CPU_EFFICIENCY * machine.cores * _CORE_GFLOPS * 1e9, f"{_CORE_GFLOPS} GFLOP/s a core, as many laptops have"


def cpu_speed() -> float:
    """FLOP/s of this machine's processors in float32: the most that looks of 0.2 seconds saw, one every few minutes at most."""
    with _looking:
        if time.monotonic() > _seen.until:
            _seen.fastest = max(_seen.fastest, _measured_speed())
            _seen.until = time.monotonic() + _LOOK_AGAIN
        return _seen.fastest


def _measured_speed() -> float:
    """FLOP/s of a product of matrices on one core by its own processor time, times cores: whatever else is busy now, a chat, a training,
    would leave threads that wait for each other a small part of what they can do."""
    import numpy
    import psutil
    import threadpoolctl

    left = numpy.random.default_rng(0).standard_normal((_MATRIX, _MATRIX), dtype=numpy.float32)
    right = left.T.copy()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        left @ right  # reserves its buffers
        count, began = 0, time.thread_time()
        while time.thread_time() - began < _MEASURE_SECONDS:
            left @ right
            count += 1
        spent = time.thread_time() - began
    cores = hardware.machine().cores
    return 2 * _MATRIX**3 * count / spent * min(cores, psutil.cpu_count(logical=False) or cores)


def note_probe(recipe: Recipe, device: str, tokens_per_second: float) -> None:
    """Keep what a probe measured, which counts as an earlier run does: by the `recipe` that was in force at its end, on a `device` as
    `Started` calls it. Where the disk does not take it, it is not kept."""
    path = paths.home() / _PROBES
    said = {"when": time.time(), "recipe": recipe.model_dump(mode="json"), "device": device, "tokens_per_second": tokens_per_second}
    partial = path.with_name(f".partial-{os.getpid()}-{_PROBES}")
    with contextlib.suppress(OSError):
        kept = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        partial.write_text("".join(f"{line}\n" for line in [*kept, json.dumps(said)][-_MOST_PROBES:]), encoding="utf-8")
        os.replace(partial, path)


def _called(records: Sequence["_Record"]) -> str:
    kinds = [kind for kind, probed in (("run", False), ("probe", True)) if any(record.probed == probed for record in records)]
    if len(records) == 1:
        return f"{'a' if records[0].probed else 'an earlier'} {kinds[0]}"
    return f"{len(records)} earlier {' and '.join(f'{kind}s' for kind in kinds)}"


def _earlier(recipe: Recipe, machine: Machine, names: set[str], shape: Architecture) -> list["_Record"]:
    """The newest runs and probes that are like this one."""
    device = machine.gpus[0].name if machine.gpus else "CPU"
    wanted = _kind(recipe, machine, shape)
    newest = heapq.merge(_probes(), _records(), key=lambda record: record.when, reverse=True)
    alike = (
        record for record in newest if record.names & names and record.device == device and _kind(record.recipe, machine, shape) == wanted
    )
    return list(itertools.islice(alike, _RUNS))


def _records() -> Iterator["_Record"]:
    """What runs tell, the newest first, as they are asked for."""
    for run in runs.every():
        if run.trained_on_the_hub:
            continue
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            if record := _record(run.folder, _size(run.events), run.begun):
                yield record


def _probes() -> tuple["_Record", ...]:
    """What probes told, the newest first."""
    path = paths.home() / _PROBES
    try:
        state = path.stat()
    except FileNotFoundError:
        return ()
    return _read_probes(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_probes(path: Path, size: int, changed: int) -> tuple["_Record", ...]:
    """`size` and `changed` say which state of the file is meant. Lines that another version wrote are passed over."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(line)
            recipe = Recipe.model_validate(said["recipe"])
            speed, when = float(said["tokens_per_second"]), float(said["when"])
            found.append(_Record(frozenset((recipe.model,)), recipe, str(said["device"]), speed, when, probed=True))
    return tuple(sorted(found, key=lambda record: record.when, reverse=True))


def _kind(recipe: Recipe, machine: Machine, shape: Architecture) -> tuple[object, ...]:
    """What of a recipe tells how fast a base learns here."""
    held = recipe.quantization
    return recipe.memory.activation_checkpointing, held.kind, held.double, unpacks(shape.linear_parameters, recipe, machine)


@dataclass(frozen=True)
class _Record:
    """What a run, or a probe, tells of its pace: its base's names, the recipe that was in force at its end, the device, and when (seconds
    since 1970) it was begun."""

    names: frozenset[str]
    recipe: Recipe
    device: str
    tokens_per_second: float
    when: float
    probed: bool = False


@functools.lru_cache(maxsize=2_000)
def _record(folder: Path, size: int, when: float) -> _Record | None:
    """The record of a run whose log has `size` bytes; None where it made no step, or cannot be read."""
    run = Run(folder)
    try:
        recipe = run.recipe
    except BadInput:
        return None
    events = runs.all_events(run)
    in_force = runs.in_force(events)
    started = next((event for event in reversed(in_force) if isinstance(event, Started)), None)
    steps = [event.tokens_per_second for event in in_force if isinstance(event, Step)]
    if not (started and steps):
        return None
    names = frozenset((recipe.model, *_sources(run)))
    return _Record(names, trouble.in_force(recipe, events), started.device, median(steps[-_LAST_STEPS:]), when)


def _sources(run: Run) -> Iterator[str]:
    """How the run's lineage calls its base."""
    try:
        facts = json.loads((run.folder / PLAYGROUND).read_text(encoding="utf-8"))
        yield from (facts[key] for key in ("base", "base_id") if isinstance(facts.get(key), str))
    except (OSError, ValueError, AttributeError):
        return


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

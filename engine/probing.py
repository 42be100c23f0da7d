"""A probe: ten real steps on the longest rows of a recipe's data, in a process of its own, to see what a run takes before it begins.

It stands in line with other trainings and is not listed among runs; its folder goes when it was looked at, stopped or left alone. Its
pace is kept for `engine.pace`.
"""

import contextlib
import heapq
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from engine import hardware, hub, jobs, memory, models, pace, paths, rows, runs, tokenizer_files, trouble
from engine.errors import BadInput
from engine.events import Adjusted, Ended, Progress, Started, Step
from engine.examples import example
from engine.hardware import GIB
from engine.messages import Conversation
from engine.model_files import read_config
from engine.prompts import chosen_format
from engine.recipe import Recipe
from engine.runs import Run
from engine.telling import counted

PROBE_STEPS = 10
# The first steps warm caches and allocators up.
_WARM_UP = 2
# Nobody looks at a probe that ended so long ago, in seconds.
_LEFT_ALONE = 600
_NEVER = 1_000_000
_REPORT_ROWS = 2_000
_looking = threading.Lock()
# What probes came to, by folder: these are gone once that is known.
_outcomes: dict[Path, "Probe"] = {}


@dataclass(frozen=True)
class Probe:
    """What a probe came to. Figures are None where it made too few steps: `peak_bytes` and `predicted_bytes` of the GPU's memory
    where there is one, without what CUDA itself takes, else of the whole process. `changes` are dotted keys of the recipe that
    had to be changed on the way, with their values. `text` says it all for people."""

    status: Literal["done", "does not fit", "failed", "stopped"]
    steps: int
    peak_bytes: int | None
    seconds_per_step: float | None
    tokens_per_second: float | None
    predicted_bytes: int | None
    changes: dict[str, str | float | bool]
    text: str

    @property
    def whole_peak(self) -> int | None:
        """`peak_bytes` with what CUDA itself takes of a GPU: what a plan's total stands for."""
        return self.peak_bytes and self.peak_bytes + (memory.RUNTIME_BYTES if hardware.machine().has_gpu else 0)


def start(recipe: Recipe, report: hub.Report, public: bool = False) -> Run:
    """Begin a probe of a recipe. `public` as in `datasets.load`. Raises BadInput or EngineError where its data or tokenizer cannot be read, as the run would."""
    _remove_left_alone()
    longest, tokens = _longest(recipe, report, public)
    folder = Path(tempfile.mkdtemp(prefix="probe-", dir=paths.probes()))
    try:
        _rows_file(folder).write_text("".join(f"{json.dumps(_row(each))}\n" for each in longest), encoding="utf-8")
        return jobs.start_unlisted(_of_few_steps(recipe, _rows_file(folder), tokens), folder)
    except BaseException:
        _remove(folder)
        raise


def outcome(run: Run) -> Probe | None:
    """What a probe came to; None while it waits or runs. The same however often it is asked."""
    with _looking:
        if run.folder not in _outcomes:
            if run.process:
                return None
            _outcomes[run.folder] = _looked_at(run)
            _remove(run.folder)
        return _outcomes[run.folder]


def stop(run: Run) -> None:
    """End a probe at once; nothing of it is kept. One that ended by itself stays what it came to."""
    with _looking, contextlib.suppress(BadInput):
        jobs.kill(run)
        _outcomes[run.folder] = _nothing("stopped", "The probe was stopped.")
        _remove(run.folder)


def _longest(recipe: Recipe, report: hub.Report, public: bool) -> tuple[list[Conversation], int]:
    """As many of the rows with the most tokens as a step takes, and how many tokens the longest has."""
    spec = models.resolve(recipe.model)
    data = rows.read(recipe.data, report, rows.needed(recipe), public)
    tokenizer = tokenizer_files.opened(spec, report)
    limits = recipe.data
    form, lengths = chosen_format(limits.prompt_format, spec.prompt, tokenizer), limits.lengths
    wanted = max(rows.LEAST_ROWS, recipe.optimization.batch)

    def counted() -> Iterator[tuple[int, int]]:
        """Tokens and index of rows, the longest texts first, until as many as are wanted fill the limit."""
        full = 0
        texts = [sum(len(message.text) for message in each.messages) for each in data.conversations]
        for count, index in enumerate(sorted(range(len(texts)), key=lambda index: -texts[index]), 1):
            if not count % _REPORT_ROWS:
                report(Progress(f"Looking for the longest rows: {count:,} of {len(texts):,}", count / len(texts)))
            with contextlib.suppress(BadInput):  # turns that the prompt format does not take
                asked = data.conversations[index]
                made = example(tokenizer, asked.or_system(limits.system), form, lengths, limits.learn == "everything")
                if made:
                    yield len(made.ids), index
                    full += len(made.ids) == limits.max_length
            if full == wanted:
                return

    found = heapq.nlargest(wanted, counted())
    if not found:
        raise BadInput(f"No row has an answer within {limits.max_length} tokens. Raise “Longest row” (data.max_length).")
    chosen = [data.conversations[index] for _, index in found]
    return chosen * (1 if len(chosen) > 1 else rows.LEAST_ROWS), found[0][0]


def _row(conversation: Conversation) -> dict:
    """A conversation in the data format `messages`."""
    turns = [{"role": message.role, "content": message.text} for message in conversation.messages]
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    return {"messages": [*system, *turns]}


def _of_few_steps(recipe: Recipe, source: Path, tokens: int) -> Recipe:
    """The recipe for a probe's rows: all that memory and time hang on as it is, nothing tested, sampled or saved on the way. No row
    is longer than `tokens`, and what is foretold is for rows of that length."""
    return recipe.changed(
        {
            "data.source": str(source),
            "data.format": "messages",
            "data.columns": {},
            "data.held_out": 0,
            "data.skip_bad_rows": True,
            "data.max_length": max(8, tokens),
            "optimization.steps": PROBE_STEPS,
            "optimization.epochs": None,
            "samples.prompts": [],
            "cadence.save_every": _NEVER,
            "cadence.eval_every": _NEVER,
        }
    )


def _looked_at(run: Run) -> Probe:
    """What an ended probe's events tell."""
    try:
        asked = run.recipe
    except BadInput:
        return _nothing("stopped", "The probe was stopped.")
    events = runs.all_events(run)
    last = events[-1] if events else None
    adjusted = [event for event in events if isinstance(event, Adjusted)]
    steps = [event for event in runs.in_force(events) if isinstance(event, Step)]
    if len(steps) == PROBE_STEPS:
        made = trouble.in_force(asked, events)
        found = _measured(made, steps, adjusted)
        device = next(event.device for event in reversed(events) if isinstance(event, Started))
        pace.note_probe(made, device, found.tokens_per_second)
        return found
    if isinstance(last, Ended) and last.status == "failed":
        if trouble.EXHAUSTED in last.text:
            return _nothing("does not fit", f"It does not fit: {last.text}", len(steps), adjusted)
        return _nothing("failed", f"The probe failed: {last.text}", len(steps), adjusted)
    if isinstance(last, Ended) and last.status == "paused":
        told = "its numbers went wrong. Try a lower learning rate"
        return _nothing("failed", f"The probe ended after {counted(len(steps), 'step')}: {told}.", len(steps), adjusted)
    if isinstance(last, Ended):
        return _nothing("stopped", "The probe was stopped.", len(steps), adjusted)
    told = f"The probe's process was ended after {counted(len(steps), 'step')} and could not say why. That is how a system ends what takes too much memory."
    return _nothing("failed", told, len(steps), adjusted)


def _nothing(
    status: Literal["does not fit", "failed", "stopped"], text: str, steps: int = 0, adjusted: list[Adjusted] | None = None
) -> Probe:
    return Probe(status, steps, None, None, None, None, _changes(adjusted or []), text)


def _measured(recipe: Recipe, steps: list[Step], adjusted: list[Adjusted]) -> Probe:
    each = median(step.seconds for step in steps[_WARM_UP:])
    peak = max(step.memory for step in steps)
    tokens = steps[-1].tokens_per_second * sum(step.seconds for step in steps) / len(steps)
    predicted = _foretold(recipe)
    took = f"{each:.1f} s" if each >= 1 else f"{1000 * each:.0f} ms"
    told = [
        f"{len(steps)} steps on the longest rows, of up to {recipe.data.max_length} tokens: {took} a step, "
        f"{peak / GIB:.1f} GB of {'GPU memory' if hardware.machine().has_gpu else 'memory'} at most"
        + (f"; {predicted / GIB:.1f} GB were foretold." if predicted else "."),
        *(f"On the way: {event.text}" for event in adjusted),
    ]
    return Probe("done", len(steps), peak, each, tokens / each, predicted, _changes(adjusted), " ".join(told))


def _changes(adjusted: list[Adjusted]) -> dict[str, str | float | bool]:
    return {key: value for event in adjusted for key, value in event.changes.items()}


def _foretold(recipe: Recipe) -> int | None:
    """What the planner says of what a step's `memory` counts: on a GPU torch's own, so neither CUDA's context nor what is paged."""
    spec, machine = models.resolve(recipe.model), hardware.machine()
    if spec.shape is None and spec.in_safetensors:
        spec = models.described(spec, read_config(spec.folder))
    if spec.shape is None:
        return None
    plan = memory.training_plan(spec.shape, recipe, machine)
    return plan.resident - memory.RUNTIME_BYTES if machine.has_gpu else plan.total


def _rows_file(folder: Path) -> Path:
    return folder.with_suffix(".jsonl")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _rows_file(folder).unlink(missing_ok=True)


def _remove_left_alone() -> None:
    """Remove probes that ended, or were killed, a while ago."""
    for path in paths.probes().iterdir():
        folder = path.with_suffix("")
        with contextlib.suppress(OSError):  # another process removes it too
            ages = [each.stat().st_mtime for each in (path, folder / runs.EVENTS) if each.exists()]
            if time.time() - max(ages, default=0) > _LEFT_ALONE and not Run(folder).process:
                _remove(folder)

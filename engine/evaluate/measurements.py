"""Measurements in their folders: `settings.json`, `facts.json`, `rows.jsonl`, `events.jsonl`, `result.json`. Written by the process that
measures (`engine.evaluate.measuring`), read by all.

A row is a whole line, there as soon as its item is scored; a line that a killed process left unfinished is dropped.
"""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from engine import adapters, jobs, models, paths, runs
from engine.blend import NO_ADAPTER
from engine.errors import BadInput
from engine.evaluate.perplexity import As
from engine.events import Ended, Event, Progress, Queued
from engine.line_files import full_disk_told
from engine.model_files import absolute_path
from engine.runs import Job
from engine.settings import MAX_SEED, MAX_SYSTEM_CHARS, BackendName, LoadSettings, Settings

SETTINGS, FACTS, ROWS, RESULT = "settings.json", "facts.json", "rows.jsonl", "result.json"
Name = Literal["perplexity", "mmlu", "crows"]
Phase = Literal["waiting", "starting", "measuring", "done", "stopped", "failed", "interrupted"]
Told = TypeVar("Told")
# What a result of each measure has at least.
_FIGURES = {
    "perplexity": {"perplexity", "tokens"},
    "mmlu": {"average", "groups", "subjects", "questions"},
    "crows": {"average", "categories", "pairs"},
}
# What a resumed measurement must find as it was, and how people call it.
_FIXED = {
    "weights": "the model",
    "adapter_sha256": "the adapter",
    "data_sha256": "the data",
    "backend": "the backend",
    "quantization": "how the weights are held",
    "compute_dtype": "the type computed in",
    "device": "the device",
    "context": "the length of the context",
    "prompt_format": "the prompt format",
    "system": "the system text",
    "items": "the number of items",
}


class MeasurementSettings(Settings):
    """What is measured, on what, of whom."""

    measure: Name = Field(title="Measure", description="Perplexity, MMLU or CrowS-Pairs.")
    model: str = Field("starter", min_length=1, max_length=1_000, title="Model", description="A model id, a Hub id, a folder or a file.")
    load: LoadSettings = LoadSettings(backend=BackendName.transformers)
    adapter: str = Field(
        NO_ADAPTER, max_length=1_000, title="Adapter", description="An adapter id, a run, a Hub id or a folder; none: the base."
    )
    data: str = Field(
        "",
        max_length=1_000,
        title="Data",
        description="A file or a Hub data set, owner/name[@config][:split]. Empty, for MMLU: the published questions.",
    )
    read_as: As = Field("auto", title="Read as", description="For perplexity: a text as a whole, or the answers of a data set's rows.")
    prompt_format: str = Field(
        "auto", title="Prompt format", description="For answers: how turns become text; auto is the adapter's or model's own."
    )
    system: str | None = Field(
        None, max_length=MAX_SYSTEM_CHARS, title="System text", description="For answers, where a row has none; empty: the adapter's own."
    )
    max_length: int = Field(
        512, ge=8, le=32_768, title="Longest row", description="For perplexity, in tokens: of a row, or of a window of a text."
    )
    shots: Literal[0, 5] = Field(5, title="Shots", description="For MMLU: answered questions of the subject that stand before each one.")
    shots_from: str = Field(
        "",
        max_length=1_000,
        title="Shots from",
        description="For MMLU: other data to take them from. Empty: the first five rows of a subject.",
    )
    skip_bad_rows: bool = Field(
        True, title="Skip bad rows", description="Measure on the rows that can be read; otherwise one bad row stops it."
    )
    limit: int | None = Field(
        None, ge=1, le=10_000_000, title="Sample", description="So many items, drawn from all groups alike. Empty: all."
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, title="Seed", description="The same seed draws the same sample.")

    def with_absolute_paths(self) -> "MeasurementSettings":
        """The same, its files and folders named so that they are found from any folder."""
        return self.model_copy(
            update={
                "model": models.absolute(self.model, self.load),
                "adapter": adapters.absolute(self.adapter),
                "data": absolute_path(self.data),
                "shots_from": absolute_path(self.shots_from),
            }
        )


@dataclass(frozen=True)
class Measurement(Job):
    """A measurement's folder, by what lies where in it. What is damaged, or of another version, raises BadInput."""

    PLAN = SETTINGS

    @property
    def settings(self) -> MeasurementSettings:
        """Raises BadInput where it was deleted meanwhile, too."""
        kept = self._read(SETTINGS)
        if kept is None:
            raise self.deleted()
        try:
            return MeasurementSettings.model_validate(kept)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BadInput(f"{SETTINGS} of {self.id} is damaged, or of another version: {where}: {first['msg']}.") from error

    @property
    def facts(self) -> dict:
        """What it was begun with, empty before that: hashes, how the model is held, how many items."""
        return self._read(FACTS) or {}

    @property
    def result(self) -> dict | None:
        """Its figures, None until it is done."""
        found = self._read(RESULT)
        if found is not None:
            figures = _FIGURES.get(str(found.get("measure")))
            if not (figures and figures <= found.keys()):
                raise BadInput(f"{RESULT} of {self.id} is damaged, or of another version.")
        return found

    def _read(self, name: str) -> dict | None:
        """The JSON object in one of its files, None where there is none."""
        try:
            return paths.read_object(self.folder / name, f"{name} of {self.id}")
        except FileNotFoundError:
            return None

    def deleted(self) -> BadInput:
        return BadInput(f"{self.id} was deleted meanwhile.")

    @property
    def rows(self) -> Path:
        return self.folder / ROWS

    def read_rows(self) -> list[dict]:
        """The rows so far, each item once."""
        found: dict[str, dict] = {}
        with contextlib.suppress(FileNotFoundError), open(self.rows, "rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    with contextlib.suppress(ValueError, TypeError, KeyError):  # one that a failing disk mangled is scored again
                        row = json.loads(line)
                        found.setdefault(row["key"], row)
        return list(found.values())

    def keep_facts(self, facts: dict) -> None:
        """Note what it begins with, or see that it goes on with the same. Raises BadInput that names what changed."""
        before = self.facts
        if not before:
            _written(self.folder / FACTS, facts)
            return
        changed = [called for key, called in _FIXED.items() if before.get(key) != facts[key]]
        if changed:
            raise BadInput(f"{self.id} cannot go on: since it began {' and '.join(changed)} changed. Put that back, or start a new one.")

    def keep_result(self, result: dict) -> None:
        _written(self.folder / RESULT, result)


def _written(path: Path, value: dict) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    with full_disk_told(path.parent, len(text)):
        partial = path.with_name(f".{path.name}")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


def create(settings: MeasurementSettings) -> Measurement:
    """A new measurement's folder. Raises EngineError where the disk is full."""
    settings = settings.with_absolute_paths()
    name = "-".join(
        (
            settings.measure,
            paths.public_name(settings.model),
            *([] if settings.adapter == NO_ADAPTER else [paths.public_name(settings.adapter)]),
        )
    )
    made = Measurement(runs.fresh_in(paths.measurements(), name))
    _written(made.folder / SETTINGS, settings.model_dump(mode="json"))
    return made


def start(settings: MeasurementSettings) -> Measurement:
    """Measure in a process of its own, which outlives this one."""
    made = create(settings)
    _spawn(made)
    return made


def resume(measurement: Measurement) -> None:
    """Go on with a measurement that was stopped, failed or was killed. Raises BadInput where it is under way or done."""
    if measurement.process:
        raise BadInput(f"{measurement.id} is under way already.")
    if measurement.result:
        raise BadInput(f"{measurement.id} is done: there is nothing to go on with.")
    _spawn(measurement)


def _spawn(measurement: Measurement) -> None:
    jobs.spawn(
        measurement, [sys.executable, "-m", "engine", "evaluate", measurement.settings.measure, "--resume", measurement.id, "--json"]
    )


def every() -> list[Measurement]:
    """All measurements of this GUANACO_HOME, newest first."""
    found = (Measurement(path.parent) for path in paths.measurements().glob(f"*/{SETTINGS}"))
    return sorted(found, key=lambda each: each.begun, reverse=True)


def of_all(tell: Callable[[Measurement], Told]) -> list[Told]:
    """What is to be told of each measurement, newest first; of one that is deleted meanwhile nothing."""
    told = []
    for each in every():
        try:
            told.append(tell(each))
        except BadInput:
            if each.begun:
                raise
    return told


def find(name: str) -> Measurement:
    """The measurement of that id. Raises BadInput with the latest ids."""
    there = every()
    meant = next((each for each in there if each.id == name), None)
    if meant:
        return meant
    known = ", ".join(each.id for each in there[:5])
    raise BadInput(f"There is no measurement {name!r}. " + (f"The latest are: {known}." if known else "Nothing has been measured yet."))


def phase(measurement: Measurement, events: Iterable[Event]) -> Phase:
    """What a measurement is doing, from its events, whether its process lives, and whether it has its result: one that was killed before
    it said so is done as well."""
    last = next((event for event in reversed(list(events)) if isinstance(event, (Queued, Progress, Ended))), None)
    if measurement.process:
        if isinstance(last, Queued):
            return "waiting"
        return "measuring" if isinstance(last, Progress) and last.fraction is not None else "starting"
    if (measurement.folder / RESULT).is_file():
        return "done"
    return last.status if isinstance(last, Ended) else "interrupted"


def summary(measurement: Measurement) -> dict:
    """A measurement as a row of a history: what, of whom, how far, its result where there is one, and what it was made with. Of one that is
    damaged, or that another version wrote, the text says so. Raises BadInput where it was deleted meanwhile."""
    events = runs.all_events(measurement)
    progress = next((event for event in reversed(events) if isinstance(event, Progress)), None)
    ended = events[-1] if events and isinstance(events[-1], Ended) else None
    kept, wrong = {"settings": {}, "facts": {}, "result": None}, ""
    try:
        kept["settings"] = measurement.settings.model_dump(mode="json")
        kept["facts"] = measurement.facts
        kept["result"] = measurement.result
    except BadInput as error:  # the others are still listed
        wrong = str(error)
    row = {
        "id": measurement.id,
        "folder": str(measurement.folder),
        "status": "failed" if wrong and not measurement.process else phase(measurement, events),
        **kept,
        "done": _count(measurement),
        "text": wrong or (ended.text if ended else progress.text if progress else ""),
        "fraction": progress.fraction if progress else None,
        "when": measurement.begun,
    }
    if not row["when"]:
        raise measurement.deleted()
    return row


def _count(measurement: Measurement) -> int:
    with contextlib.suppress(FileNotFoundError):
        stat = measurement.rows.stat()
        return _lines(measurement.rows, stat.st_size, stat.st_mtime_ns)
    return 0


@functools.lru_cache(maxsize=256)
def _lines(path: Path, size: int, changed: int) -> int:
    return path.read_bytes().count(b"\n")

"""One measurement from its settings to its result, in this process: what `python -m engine evaluate` does.

It may be stopped or killed at any moment, loses no row that is scored, and goes on to the same figures.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict

from engine import adapters, hub, jobs, models, paths, telling
from engine.backends import open_backend
from engine.backends.base import Backend
from engine.blend import NO_ADAPTER, Blend
from engine.data_hub import NAME
from engine.evaluate import crows, mmlu, perplexity
from engine.evaluate.measure import Measure, Subject, sample
from engine.evaluate.measurements import Measurement, MeasurementSettings
from engine.events import Ended, Notice, Progress
from engine.jobs import Tell
from engine.line_files import LineFile
from engine.prompts import prompt_format

_TELL_SECONDS = 0.5
TITLES = {"perplexity": "Perplexity", "mmlu": "MMLU", "crows": "CrowS-Pairs"}
# Names of measures to what reads their data.
_READERS: dict[str, Callable[[MeasurementSettings, hub.Report], Measure]] = {
    "perplexity": lambda plan, report: perplexity.read(plan.data, plan.read_as, plan.max_length, plan.skip_bad_rows, report),
    "mmlu": lambda plan, report: mmlu.read(plan.data, plan.shots, plan.shots_from, plan.skip_bad_rows, report),
    "crows": lambda plan, report: crows.read(plan.data, plan.skip_bad_rows, report),
}


def read(settings: MeasurementSettings, report: hub.Report) -> Measure:
    """What is measured, its data read and checked. Raises BadInput or EngineError."""
    return _READERS[settings.measure](settings, report)


def of_base(settings: MeasurementSettings) -> MeasurementSettings:
    """The same measurement of the bare base, in the prompt format and with the system text that the adapter's is made with. Raises
    BadInput where there is no such adapter."""
    found = adapters.looked_at(settings.adapter)
    form = (found.prompt or settings.prompt_format) if settings.prompt_format == "auto" else settings.prompt_format
    system = found.system if settings.system is None else settings.system
    return settings.model_copy(update={"adapter": NO_ADAPTER, "prompt_format": form, "system": system})


def work(measurement: Measurement, tell: Tell) -> Ended:
    """Measure in this process when the machine is free, and tell everything as events, the last of which is given back. Raises BadInput
    where another process has the measurement, BadInput or EngineError where it fails."""
    return jobs.carried_out(measurement, tell, lambda both: measured(measurement, both), lambda: len(measurement.read_rows()))


def measured(measurement: Measurement, tell: Tell) -> Ended:
    """The same without waiting; the caller has the measurement and its log."""
    began = time.monotonic()
    settings = measurement.settings
    measure = read(settings, tell)
    for text in measure.told:
        tell(Notice(text))
    backend = open_backend(models.resolve(settings.model, settings.load), settings.load, tell)
    try:
        return _scored(measurement, settings, measure, backend, tell, began)
    finally:
        backend.close()


def _scored(measurement: Measurement, settings: MeasurementSettings, measure: Measure, backend: Backend, tell: Tell, began: float) -> Ended:
    blend = Blend.of([settings.adapter])
    for adapter in blend.adapters:
        backend.attach(adapter)
    scorer = backend.scorer()
    form = backend.prompt_format(blend.strongest) if settings.prompt_format == "auto" else settings.prompt_format
    system = backend.system(blend.strongest) if settings.system is None else settings.system
    # What memory allows may have changed since it began; where that is more, it goes on with as much as before.
    context = min(scorer.context, measurement.facts.get("context", scorer.context))
    subject = Subject(scorer, prompt_format(form), system, context)
    there = measure.items(subject)
    items = sample(there, settings.limit, settings.seed)
    measurement.keep_facts(_facts(settings, measure, backend, subject, blend, form, len(items), len(there)))
    rows = {row["key"]: row for row in measurement.read_rows()}
    known = {number for number, item in enumerate(items) if item.key in rows}
    title, of, before, started = TITLES[settings.measure], len(items), len(known), time.monotonic()
    log = LineFile(measurement.rows)
    try:
        tell(Progress(_so_far(title, before, of), before / of))
        told = time.monotonic()
        for _, row in measure.rows(subject, items, blend, lambda: measurement.asked_to_stop, known):
            if time.monotonic() - told > _TELL_SECONDS:  # rows come in batches: this is said of whole ones
                tell(Progress(_so_far(title, len(rows), of), len(rows) / of))
                told = time.monotonic()
            log.write(json.dumps(row))
            rows[row["key"]] = row
    finally:
        log.close()
    seconds = time.monotonic() - began
    if len(rows) < of:
        ended = Ended("stopped", len(rows), f"Stopped after {len(rows):,} of {of:,}; what was scored is kept.", round(seconds, 2))
    else:
        scored = [rows[item.key] for item in items]
        result = measure.result(scored) | {"told": [*measure.told, *measure.remarks(scored, context)]}
        pace = {"tokens": measure.tokens(of - before), "seconds": time.monotonic() - started}
        measurement.keep_result({"measure": settings.measure, **result, "pace": pace})
        ended = Ended("done", of, f"{title}: {words(settings.measure, result)}.", round(seconds, 2))
    tell(ended)
    return ended


def _so_far(title: str, done: int, of: int) -> str:
    return f"{title}: {done:,} of {of:,}"


def _facts(
    settings: MeasurementSettings,
    measure: Measure,
    backend: Backend,
    subject: Subject,
    blend: Blend,
    form: str,
    items: int,
    there: int,
) -> dict:
    """What it is measured with; hashes are hex SHA-256. `formed`, `variant`: see `Measure`. So many `items` are scored of those that are
    `there`."""
    loaded = asdict(backend.loaded)
    kept = {key: loaded[key] for key in ("model", "backend", "device", "quantization", "compute_dtype")}
    return {
        **kept,
        "context": subject.context,
        "notes": list(backend.loaded.notes),
        "weights": backend.weights,
        "adapter": settings.adapter,
        "adapter_sha256": backend.adapter_weights(blend),
        "data": settings.data if NAME.fullmatch(settings.data) else paths.public_name(settings.data),
        "data_sha256": measure.sha256,
        "prompt_format": form,
        "system": subject.system,
        "formed": measure.formed,
        "variant": measure.variant,
        "items": items,
        "there": there,
    }


def titled(measure: str, facts: dict) -> str:
    """What is measured, and in which way as soon as the data has been read."""
    return ", ".join(filter(None, (TITLES[measure], facts.get("variant"))))


def words(measure: str, result: dict) -> str:
    """A result in a few words."""
    if measure == "mmlu":
        what = f"{telling.counted(len(result['subjects']), 'subject')}, {telling.counted(result['questions'], 'question')}"
        return f"{_percent(result['average'], 'value')} right, the mean over {what}"
    if measure == "crows":
        return f"the stereotype is preferred in {_percent(result['average'], 'share')} of {telling.counted(result['pairs'], 'pair')}"
    found = result["perplexity"]
    interval = "" if found["low"] is None else f" ({found['low']:.2f} – {found['high']:.2f})"
    return f"{found['value']:.2f}{interval} over {result['tokens']:,} tokens"


def _percent(found: dict, key: str) -> str:
    return f"{found[key]:.1%} ({found['low']:.1%} – {found['high']:.1%})"

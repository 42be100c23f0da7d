"""What a run forgot: a few questions of MMLU and the perplexity of general answers, its base against what it became, item by item."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine import jobs, uploads
from engine.errors import BadInput
from engine.evaluate import comparing, measurements, pairs
from engine.evaluate.intervals import Paired
from engine.evaluate.measurements import Measurement, MeasurementSettings
from engine.model_files import local_path
from engine.runs import Run
from engine.settings import BackendName, LoadSettings

QUESTIONS, ROWS = 100, 40


@dataclass(frozen=True)
class Check:
    """Measurements of one kind of a run's base and of the run itself; `what` they are of, for people."""

    what: str
    base: Measurement
    tuned: Measurement

    @property
    def both(self) -> tuple[Measurement, Measurement]:
        return self.base, self.tuned


def plans(name: str, run: Run) -> dict[str, MeasurementSettings]:
    """What is measured of a run that goes by `name`, by what it is of."""
    recipe = run.recipe
    kept = recipe.quantization
    load = LoadSettings(backend=BackendName.transformers, quantization=kept.kind, double_quantization=kept.double)
    rows = next(iter(uploads.bundled().values()))
    learnt = recipe.data.source and local_path(recipe.data.source).resolve() == rows.resolve()
    general = f"{ROWS} answers that {'it learnt from' if learnt else 'it did not learn from'}"
    one = {"model": recipe.model, "adapter": name, "load": load}
    return {
        general: MeasurementSettings(measure="perplexity", data=str(rows), read_as="answers", limit=ROWS, **one),
        f"{QUESTIONS} questions of MMLU": MeasurementSettings(measure="mmlu", shots=0, limit=QUESTIONS, **one),
    }


def start(name: str, run: Run) -> list[Check]:
    """Begin all of them, each in a process of its own, one at a time. Raises BadInput or EngineError."""
    made = []
    for what, plan in plans(name, run).items():
        tuned, base = pairs.start(plan, with_base=True)
        made.append(Check(what, base, tuned))
    return made


def stop(checks: Sequence[Check]) -> None:
    """Ask those that are under way to end; what was scored is kept."""
    for each in (one for check in checks for one in check.both):
        with contextlib.suppress(BadInput):  # it has just ended
            jobs.stop(each)


def goes_on(check: Check) -> bool:
    return any(each.process for each in check.both)


def how_far(check: Check) -> str:
    """Which of the two is under way and how far, or why one failed; empty when both are done."""
    told = [(whose, measurements.summary(each)) for whose, each in (("yours", check.tuned), ("base", check.base))]
    left = [(whose, each["status"], each["text"]) for whose, each in told if each["status"] != "done"]
    # One of them waits while the other is measured.
    for whose, status, text in sorted(left, key=lambda each: each[1] == "waiting"):
        return f"{check.what}, {whose}: {text or status}"
    return ""


def words(check: Check) -> str:
    """What became of it. Raises BadInput where the two cannot be compared, as where one failed."""
    for each in check.both:
        if not each.result:
            raise BadInput(how_far(check))
    found = comparing.compared(check.base, check.tuned)
    paired = found.paired
    if found.measure == "perplexity":
        figures = f"perplexity {math.exp(paired.first):.2f} before, {math.exp(paired.second):.2f} after"
    else:
        figures = f"{paired.first:.0%} right before, {paired.second:.0%} after"
    return f"{check.what[0].upper()}{check.what[1:]}: {figures}. {_verdict(paired, lower_is_better=found.measure == 'perplexity')}"


def _verdict(paired: Paired, lower_is_better: bool) -> str:
    if paired.verdict == "same":
        return "The same on every one."
    if paired.verdict == "mixed":
        return comparing.mixed(paired)
    by = comparing.tested_by(paired)
    if paired.verdict == "chance":
        return f"No more of a difference than chance explains {by}."
    got_worse = (paired.difference.value > 0) == lower_is_better
    return f"It {'lost some of it' if got_worse else 'got better at it'}, more than chance explains {by}."

"""What a measurement will give before it is begun: how wide its interval will be, and how long it will take here."""

import contextlib
from dataclasses import dataclass
from statistics import median
from typing import Literal

from engine import hardware, models, pace
from engine.errors import BadInput
from engine.evaluate.measure import Measure
from engine.evaluate.measurements import MeasurementSettings, every

# How many earlier measurements, newest first, tell the speed.
_EARLIER = 3


@dataclass(frozen=True)
class Expectation:
    """`items` that will be scored of `there`; half of the interval's width at its widest (a share; None for perplexity, whose spread is
    not known before); scoring `seconds` (None where the model's size is not known), measured or estimated; `text` says it."""

    items: int
    there: int
    half_width: float | None
    seconds: float | None
    source: Literal["measured", "estimated"]
    text: str


def expected(settings: MeasurementSettings, measure: Measure) -> Expectation:
    """For the data that was read as `measure`."""
    there = measure.count
    items = min(there, settings.limit or there)
    half = measure.half_width(items, settings.seed)
    speed, source = _speed(settings)
    seconds = measure.tokens(items) / speed if speed else None
    about = "" if measure.counted else "about "
    said = [f"{items:,} of {about}{there:,}" if items < there else f"All {there:,}" if measure.counted else f"All, about {there:,}"]
    if half is not None:
        said.append(f"within ±{100 * half:.1f} points")
    if seconds is not None:
        said.append(f"{pace.duration_words(seconds)} here ({source})")
    return Expectation(items, there, half, seconds, source, ", ".join(said) + ".")


def _speed(settings: MeasurementSettings) -> tuple[float | None, Literal["measured", "estimated"]]:
    """Tokens a second, as earlier measurements of that model, held alike, had them here; else by the processor."""
    found: list[float] = []
    settings = settings.with_absolute_paths()  # as they are kept
    for each in every():
        with contextlib.suppress(BadInput, KeyError, TypeError):  # one that is damaged, or that another version wrote
            result = each.result
            if result and len(found) < _EARLIER and _alike(each.settings, settings) and result["pace"]["tokens"]:
                found.append(result["pace"]["tokens"] / max(result["pace"]["seconds"], 1e-3))
    if found:
        return median(found), "measured"
    try:
        shape = models.resolve(settings.model, settings.load).shape
    except BadInput:
        shape = None
    if shape is None or settings.load.backend == "remote":
        return None, "estimated"
    return pace.speed(hardware.machine(), here=True)[0] / (2 * shape.parameters), "estimated"


def _alike(one: MeasurementSettings, other: MeasurementSettings) -> bool:
    return (one.model, one.load, one.measure == "crows") == (other.model, other.load, other.measure == "crows")

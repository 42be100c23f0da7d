"""An adapter and its bare base, measured on the same items: what a paired test needs."""

from engine.blend import NO_ADAPTER
from engine.evaluate import measurements, measuring
from engine.evaluate.measurements import Measurement, MeasurementSettings


def start(settings: MeasurementSettings, with_base: bool) -> list[Measurement]:
    """Start a measurement, and one of the bare base behind it where that is wanted and there is an adapter. Raises BadInput or EngineError
    where there is no such adapter."""
    plans = [settings]
    if with_base and settings.adapter != NO_ADAPTER:
        plans.append(measuring.of_base(settings))
    return [measurements.start(plan) for plan in plans]

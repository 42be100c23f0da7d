"""An adapter and its bare base, measured on the same items: what a paired test needs."""

from engine import adapters
from engine.blend import NO_ADAPTER
from engine.evaluate import measurements
from engine.evaluate.measurements import Measurement, MeasurementSettings


def of_base(settings: MeasurementSettings) -> MeasurementSettings:
    """The same of the bare base, in the prompt format and with the system text of the adapter. Raises BadInput or EngineError where
    there is no such adapter."""
    found = adapters.looked_at(settings.adapter)
    form = (found.prompt or "auto") if settings.prompt_format == "auto" else settings.prompt_format
    return settings.of_base(form, found.system if settings.system is None else settings.system)


def start(settings: MeasurementSettings, with_base: bool) -> list[Measurement]:
    """Start a measurement, and one of the bare base behind it where that is wanted and there is an adapter."""
    plans = [settings]
    if with_base and settings.adapter != NO_ADAPTER:
        plans.append(of_base(settings))
    return [measurements.start(plan) for plan in plans]

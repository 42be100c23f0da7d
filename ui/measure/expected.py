"""What a measurement will give and how long it takes, before it is begun; nothing is fetched to say so."""

from engine import jobs, models
from engine.blend import NO_ADAPTER
from engine.data_hub import NAME
from engine.errors import BadInput
from engine.evaluate import expectations, measuring, mmlu
from engine.evaluate.measurements import MeasurementSettings
from engine.game import published
from engine.model_files import local_path

_FETCHED = "The questions ({size:.0f} MB) are fetched from {source} when it starts, and kept."
_ON_THE_HUB = "What is on the Hub is read when it starts."
_MISSING = {
    "perplexity": "Choose a text or a data set.",
    "crows": "Bring crows_pairs_anonymized.csv of github.com/nyu-mll/crows-pairs (CC BY-SA 4.0), which is not part of this app: upload it.",
}


def text(settings: MeasurementSettings, with_base: bool) -> str:
    """In a sentence or two. Raises BadInput that says what is missing or wrong."""
    check_here(settings)
    if not settings.data and not published.here(mmlu.PUBLISHED):
        size = published.pins()[mmlu.PUBLISHED].size / 1e6
        return _FETCHED.format(size=size, source=published.source())
    if settings.data and not local_path(settings.data).exists() and NAME.fullmatch(settings.data):
        return _ON_THE_HUB
    measure = measuring.read(settings, lambda progress: None)
    said = [expectations.expected(settings, measure).text, *measure.told]
    if with_base and settings.adapter != NO_ADAPTER:
        said.insert(1, "The bare base takes as long again.")
    return " ".join(said)


def check(settings: MeasurementSettings) -> None:
    """The same, and that the data can be read, which is fetched for it. Raises BadInput or EngineError."""
    check_here(settings)
    measuring.read(settings, lambda progress: None)


def check_here(settings: MeasurementSettings) -> None:
    """Raises BadInput where data is missing, or the model is none or too large for this machine (faults, row 35)."""
    if settings.measure in _MISSING and not settings.data:
        raise BadInput(_MISSING[settings.measure])
    models.check_fit(models.resolve(settings.model, settings.load), jobs.machine(), settings.load)

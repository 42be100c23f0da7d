"""What a training would cost as a Hugging Face Job, before anything is sent: the Hub's price, how long it takes there, the most it can be."""

import re
from dataclasses import asdict, dataclass

from engine import fitting, hub, memory, models, pace, preview, pushing, tokenizer_files
from engine.destinations import size_text
from engine.errors import BadInput, EngineError
from engine.hardware import GIB, Gpu, Machine
from engine.job_bundle import REPOSITORY, data_file
from engine.model_spec import ModelSpec
from engine.pace import duration_words
from engine.preview import Cutoff
from engine.prompts import chosen_format
from engine.recipe import Recipe

PRICES = "https://huggingface.co/pricing"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LEAST_SECONDS, MOST_SECONDS = 60, 7 * 86_400
# Of the memory a GPU is sold with, what its driver reports (as `fitting.MACHINES` has them).
_REPORTED = 0.9375
_AN_HOUR = {"second": 3600, "minute": 60, "hour": 1}
# Of a GPU that `fitting` does not know: all that the Hub has had since are newer.
_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Flavor:
    """A machine of the Hub for jobs. `dollars` an hour, None where the Hub does not say."""

    name: str
    title: str
    machine: Machine
    dollars: float | None

    @property
    def price(self) -> str:
        return f"${self.dollars:,.2f} an hour" if self.dollars is not None else f"price on {PRICES}"

    @property
    def text(self) -> str:
        return f"{self.name}: {self.title}, {self.price}"


@dataclass(frozen=True)
class Offer:
    """A training as a job. `limit` and `seconds` are the time limit and what the training is thought to take of it, None where that
    cannot be told; `most` and `likely` are dollars; `notes` are sentences for people, in the order to be read."""

    flavor: str
    limit: float
    seconds: float | None
    most: float | None
    likely: float | None
    notes: tuple[str, ...]

    def document(self) -> dict:
        return asdict(self)


def limit_of(text: str) -> float:
    """The seconds that a time limit such as `90m` or `2h` means. Raises BadInput."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", str(text).strip().lower())
    found = float(match[1]) * UNITS[match[2]] if match else 0
    if not LEAST_SECONDS <= found <= MOST_SECONDS:
        raise BadInput(f"{text!r} is no time limit. Give one from a minute to seven days, such as 90m or 2h.")
    return found


def flavors() -> list[Flavor]:
    """The machines that the Hub has for jobs, with a GPU first and cheap before dear. Raises EngineError where it does not say."""
    from huggingface_hub import HfApi

    with pushing.explained("The list of Hugging Face's machines", "could not be fetched"):
        listed = HfApi().list_jobs_hardware()
    found = [_flavor(each) for each in listed if each.accelerator is None or each.accelerator.type.lower() == "gpu"]
    return sorted(found, key=lambda each: (not each.machine.has_gpu, each.dollars or 0.0))


def flavor(name: str) -> Flavor:
    """The machine of that name. Raises BadInput with those there are."""
    every = flavors()
    found = next((each for each in every if each.name == name), None)
    if found is None:
        raise BadInput(f"The Hub has no machine {name!r} for jobs. There are: {', '.join(each.name for each in every)}.")
    return found


def _flavor(listed) -> Flavor:
    """From a `huggingface_hub.JobHardwareInfo`."""
    an_hour = _AN_HOUR.get(listed.unit_label)
    gpus, title = (), f"{listed.cpu}, {listed.ram}"
    if listed.accelerator:
        count = max(1, int(_number(listed.accelerator.quantity)))
        model = listed.accelerator.model
        known = fitting.MACHINES.get(model)
        each = Gpu(
            model, int(_number(listed.accelerator.vram) / count * GIB * _REPORTED), known.gpus[0].capability if known else _CAPABILITY
        )
        gpus, title = (each,) * count, f"{f'{count} × ' if count > 1 else ''}{model}, {listed.accelerator.vram}"
    ram = int(_number(listed.ram) * GIB)
    machine = Machine("computer", "Linux x86_64", max(1, int(_number(listed.cpu))), ram, int(0.9 * ram), gpus)
    return Flavor(listed.name, title, machine, listed.unit_cost_usd * an_hour if an_hour else None)


def _number(text: object) -> float:
    """The first number in a text such as `16 GB`."""
    found = re.search(r"\d+(\.\d+)?", str(text))
    return float(found[0]) if found else 0.0


def counted(plan: Recipe, report: hub.Report) -> Cutoff:
    """The rows that a recipe trains on, in tokens. Raises BadInput or EngineError where they cannot be read."""
    spec, data = models.resolve(plan.model), plan.data
    form = chosen_format(data.prompt_format, spec.prompt, tokenizer_files.opened(spec, report))
    made = preview.ended(preview.measuring(data.source, spec, form, data.format, data.columns, data.system, report), report)
    return made.at(data.lengths, data.learn == "everything")


def offer(plan: Recipe, spec: ModelSpec, chosen: Flavor, limit: float, rows: Cutoff | None) -> Offer:
    """What a training of a base of known shape would be as a job on that machine; `rows` None: not counted."""
    seconds, notes = None, [f"{chosen.text}."]
    try:
        needs = memory.training_plan(spec.shape, plan, chosen.machine)
        if not needs.fits:
            notes.append(
                f"It does not fit there: it takes {needs.resident / GIB:.1f} GB, and {needs.have / GIB:.1f} GB can be used. Choose a larger machine."
            )
        if rows:
            speed = pace.pace(spec.shape, plan, chosen.machine, plan.model)
            seconds = pace.whole_seconds(plan, rows.rows, rows.total / max(1, rows.rows), speed)
            notes.append(pace.sentence(plan, rows.rows, rows.total / max(1, rows.rows), speed))
    except EngineError as error:
        notes.append(f"How long it takes cannot be told: {error}")
    price = chosen.dollars / 3600 if chosen.dollars is not None else None
    most, likely = price and price * limit, price and seconds and price * seconds
    if likely is not None:
        about = f"about ${likely:,.2f}" if likely >= 0.01 else "less than $0.01"
        notes.append(f"That training costs {about}; installing and fetching the base come before it, and are paid as well.")
    limited = f"The job ends after {duration_words(limit).removeprefix('about ')} at the latest, and saves before it does"
    notes.append(f"{limited}: ${most:,.2f} at most." if most is not None else f"{limited}.")
    if seconds and seconds > limit:
        notes.append("It will probably not be done by then. Raise the time limit.")
    notes.append(_sent(plan))
    return Offer(chosen.name, limit, seconds, most, likely, tuple(notes))


def _sent(plan: Recipe) -> str:
    """What leaves this machine, and where it goes."""
    data = data_file(plan)
    rows = f", the data {data.name} ({size_text(data.stat().st_size)})" if data else ""
    return (
        f"What will be sent to Hugging Face: this program, the recipe{rows}, to your private data set {REPOSITORY}, where the adapter is put as well; "
        "and your token, as a secret of the job."
    )

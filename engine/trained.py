"""A finished run as exports see it: its checked adapter, its recipe, what happened on the way, and whose base it stands on.

Everything is read from the run's folder; the base itself need not be here.
"""

from dataclasses import dataclass
from statistics import fmean

from engine import adapters, gguf_hub, paths, runs, starter
from engine.adapters import Adapter
from engine.errors import BadInput
from engine.events import Evaluated, Event, Sample, Started, Step
from engine.hub import HUB_ID
from engine.model_files import local_path
from engine.model_spec import folder_name
from engine.models import MODELS
from engine.prompts import Format, prompt_format
from engine.recipe import Recipe
from engine.runs import Run

MOST_ROWS = 12
_UNSTATED = ("", "unknown", "see its page")


@dataclass(frozen=True)
class Point:
    """A place on the loss curve: the mean training loss of the steps since the point before, and the held-out loss, both in nats;
    None where there is none."""

    step: int
    training: float | None
    held_out: float | None


@dataclass(frozen=True)
class Trained:
    """A run that handed over an adapter. `events` are those in force."""

    run: Run
    recipe: Recipe
    adapter: Adapter
    events: tuple[Event, ...]

    @property
    def base(self) -> str:
        """What the base is called, without the folders that it lies in here."""
        return paths.public_name(self.adapter.base or self.recipe.model)

    @property
    def original(self) -> str | None:
        """The base's repository on the Hub, None for one that is a folder or file of somebody."""
        source = self.adapter.base or ""
        if source == starter.PACKAGE:
            return starter.ORIGINAL
        in_gguf = gguf_hub.parse(source)
        return in_gguf[0] if in_gguf else source if HUB_ID.fullmatch(source) else None

    @property
    def licence(self) -> str:
        """The base's licence, as this app's registry or the Hub calls it; empty where neither says."""
        spec = next((spec for spec in MODELS.values() if spec.source == self.adapter.base), None)
        stated = spec.licence if spec else paths.read_manifest(paths.models() / folder_name(self.adapter.base or "")).get("licence")
        return "" if stated in _UNSTATED else str(stated or "")

    @property
    def gated(self) -> bool:
        """Whether the base's owner asks everybody to accept a licence first, as far as the registry knows."""
        return any(spec.gated and spec.source == self.adapter.base for spec in MODELS.values())

    @property
    def form(self) -> Format:
        """The prompt format that it was trained in."""
        return prompt_format(self.adapter.prompt or "chat")

    @property
    def started(self) -> Started:
        """How the run began, or last went on."""
        return next(event for event in reversed(self.events) if isinstance(event, Started))

    @property
    def losses(self) -> list[Point]:
        """The loss curve in at most MOST_ROWS points: at every test on held-out rows, or evenly over the steps without any."""
        steps = [event for event in self.events if isinstance(event, Step)]
        tests = {event.step: event.loss for event in self.events if isinstance(event, Evaluated)}
        marks = sorted(tests) or [event.step for event in steps]
        if len(marks) > MOST_ROWS:
            marks = sorted({marks[round(index * (len(marks) - 1) / (MOST_ROWS - 1))] for index in range(MOST_ROWS)})
        points, before = [], 0
        for mark in marks:
            since = [event.loss for event in steps if before < event.step <= mark]
            points.append(Point(mark, fmean(since) if since else None, tests.get(mark)))
            before = mark
        return points

    @property
    def samples(self) -> list[tuple[str, str, str]]:
        """(prompt, answer before the first step, answer after the last) of every sample prompt."""
        told: dict[str, list[Sample]] = {}
        for event in self.events:
            if isinstance(event, Sample):
                told.setdefault(event.prompt, []).append(event)
        return [(prompt, each[0].text, each[-1].text) for prompt, each in told.items() if len(each) > 1]

    @property
    def shareable_recipe(self) -> Recipe:
        """The recipe without the folders of this machine: files and local models by their last name alone."""
        plan = self.recipe
        start = plan.lora.start_from
        return plan.model_copy(
            update={
                "model": paths.public_name(plan.model),
                "data": plan.data.model_copy(update={"source": paths.public_name(plan.data.source)}),
                "lora": plan.lora.model_copy(update={"start_from": paths.public_name(start)}),
            }
        )


def find(name: str) -> Trained:
    """The finished run of that id or folder. Raises BadInput where it handed over no adapter, or a damaged one."""
    run = runs.find(name)
    events = runs.in_force(runs.all_events(run))
    if not run.adapter.is_dir():
        hint = (
            "Let it end"
            if run.process
            else f"Go on with it: python -m engine train {run.folder / runs.RECIPE} --run-dir {run.folder} --resume"
        )
        raise BadInput(f"The run {run.id} has handed over no adapter yet: it is {runs.phase(run, events)}. {hint}.")
    found = adapters.read(run.adapter, run.id)
    adapters.load_arrays(found)
    if not any(isinstance(event, Started) for event in events):
        raise BadInput(f"{run.events} tells no training: the run's log is lost, and with it how the base was held. Train again.")
    return Trained(run, run.recipe, found, tuple(events))


def is_local(source: str) -> bool:
    """Whether a recipe's data is a file of this machine."""
    return bool(source) and local_path(source).is_file()

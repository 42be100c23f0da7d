"""Finetuning in cells: a recipe in one call, training that is followed in place, resuming after a lost runtime, what came of it."""

import contextlib
import time
from pathlib import Path

from engine import (
    checkpoints,
    drafts,
    fitting,
    hardware,
    inspecting,
    jobs,
    models,
    pictures,
    prompts,
    runs,
    telling,
    tokenizer_files,
    trying,
    uploads,
)
from engine.cells import colab
from engine.cells.showing import Line, picture, side_by_side
from engine.errors import BadInput, EngineError
from engine.events import Ended, Evaluated, Sample, Saved, Started, Step
from engine.findings import findings
from engine.recipe import Recipe
from engine.runs import Run

BUNDLED = "bundled"
# A run is tested and saved so often, whatever its length: the curve has enough points, and a lost runtime costs little.
_PARTS = 4
_LOOK = 0.3
_LOG_LINES = 5


def recipe(model: str, data: str, steps: int) -> Recipe:
    """The model's own recipe on this data, a file here, a data set of the Hub or `bundled` rows, for at most so many steps, as it
    fits this machine; every change made for that is printed. Raises BadInput where there is no such model or data, or no way to fit."""
    machine = hardware.machine()
    source = str(next(iter(uploads.bundled().values()))) if data == BUNDLED else data.strip()
    if Path(source).expanduser().is_file():
        # A copy that stays where runs stay, so that a resumed run finds it.
        source = str(uploads.keep(Path(source).expanduser(), Path(source).name))
    draft = drafts.with_model(drafts.with_data(drafts.Draft(), source, data), model)
    often = max(1, steps // _PARTS)
    changes = {"optimization.steps": steps, "cadence.eval_every": often, "cadence.save_every": often}
    plan = drafts.changed(draft, changes).recipe
    spec = models.resolve(plan.model)
    if spec.shape:
        plan, told = fitting.made_to_fit(spec.shape, plan, machine)
        for sentence in told:
            print(sentence)
    dtype = hardware.compute_dtype([gpu.capability for gpu in machine.gpus])
    print(f"{plan.model} learns on {machine.summary}: {hardware.dtype_reason(dtype, [gpu.capability for gpu in machine.gpus])}.")
    if not machine.has_gpu:
        print(f"No GPU here: the starter learns in minutes, larger bases take very long.{colab.where_gpus_are(machine)}")
    return plan


def show_data(plan: Recipe) -> None:
    """Print what the recipe's rows are: format and why, lengths, what is cut, one row as it trains. Raises BadInput where they cannot be
    read."""
    spec, line = models.resolve(plan.model), Line("Reading the rows")
    form = prompts.chosen_format(plan.data.prompt_format, spec.prompt, tokenizer_files.opened(spec, line.report))
    data = plan.data
    everything = data.learn == "everything"
    found = inspecting.inspected(data.source, spec, form, data.lengths, data.format, data.columns, everything, line.report)
    line.show(f"{Path(data.source).name if Path(data.source).is_file() else data.source}, in the prompt format {form.name}")
    print(found.table())


def train(plan: Recipe, name: str = "notebook") -> Run:
    """Start a run and follow it to its end."""
    run = jobs.start(plan, name)
    follow(run)
    return run


def resume() -> Run:
    """The latest run: it goes on to its end where it is not done, and is only followed where it is under way. Raises BadInput where
    there is none."""
    run = next(iter(runs.every()), None)
    if run is None:
        raise BadInput("No run is here yet: run the cell that trains. What an earlier runtime left on a Drive is found with DRIVE on.")
    if runs.finished(run):
        print(f"{run.id} is done: there is nothing to go on with.")
        return run
    if not run.process:
        saved = checkpoints.sound_step(run)
        print(f"{run.id} goes on after step {saved}." if saved else f"{run.id} had saved nothing yet and begins anew.")
        jobs.resume(run)
    follow(run)
    return run


def follow(run: Run) -> None:
    """Show a run in place until it ends, then its losses and what they say. The stop button of the cell asks the run to save and
    end. Raises EngineError, with what to do, where the run ends otherwise than done."""
    line = Line(f"{run.id} starts")
    offset = steps = 0
    asked = False
    while True:
        try:
            under_way = run.process is not None  # asked first: what it wrote before its end is read below
            events, offset = jobs.follow(run, offset)
            for event in events:
                match event:
                    case Step():
                        line.show(f"step {event.step}/{steps} · {telling.figures(event)}")
                    case Evaluated() | Sample() | Saved() | Ended():
                        pass  # the curve and the table below say it
                    case _ if text := telling.told(event):
                        print(text)
                if isinstance(event, Started):
                    steps = event.steps
            if not under_way and not events:
                break
            time.sleep(_LOOK)
        except KeyboardInterrupt:
            if asked:
                raise
            asked = True
            print("Saving. Stop once more to leave it alone: it ends by itself.")
            with contextlib.suppress(BadInput):  # it has just ended
                jobs.stop(run)
    _told(run)


def _told(run: Run) -> None:
    events = runs.all_events(run)
    made = runs.in_force(events)
    steps = [event for event in made if isinstance(event, Step)]
    tests = [event for event in made if isinstance(event, Evaluated)]
    if steps:
        picture(
            pictures.losses(
                [each.step for each in steps],
                [each.loss for each in steps],
                [each.step for each in tests],
                [each.loss for each in tests],
            )
        )
    found = findings(run.recipe, events)
    for each in found:
        print(each)
    if steps and not found:
        print("Nothing to find fault with.")
    phase = runs.phase(run, events)
    ended = made[-1] if made and isinstance(made[-1], Ended) else None
    if phase == "done":
        print(f"{run.id} is done.")
    elif ended:
        raise EngineError(f"{run.id}: {ended.text} The cell “Resume” goes on with it.")
    else:
        log = (run.folder / runs.OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_LINES:]
        raise EngineError("\n".join([f"{run.id} ended without a word. The cell “Resume” goes on with it. Its last lines:", *log]))


def before_and_after(run: Run) -> None:
    """Show what the recipe's sample prompts were answered before the first step and after the last."""
    for change in trying.changes(run):
        side_by_side(("Before", "After"), (change.before, change.after), change.prompt)

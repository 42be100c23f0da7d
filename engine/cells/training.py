"""Finetuning in cells: a recipe in one call, training that is followed in place, resuming after a lost runtime, what came of it."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine import (
    checkpoints,
    drafts,
    fitting,
    hardware,
    inspecting,
    jobs,
    merging,
    models,
    pictures,
    prompts,
    recipe_paths,
    rows,
    runs,
    telling,
    tokenizer_files,
    trying,
    uploads,
)
from engine.cells import colab, commands
from engine.cells.showing import Line, picture, side_by_side, stopped_says
from engine.errors import BadInput, EngineError
from engine.events import Ended, Evaluated, Event, Sample, Saved, Started, Step
from engine.findings import findings
from engine.recipe import Recipe
from engine.runs import Run

BUNDLED = "bundled"
# A run is tested and saved so often, whatever its length: the curve has enough points, and a lost runtime costs little.
_PARTS = 4
_LOOK = 0.3
_LOG_LINES = 5
_NAMED = 5


def recipe(model: str, data: str, steps: int, columns: Mapping[str, str] | None = None) -> Recipe:
    """The model's own recipe on this data, a file here, a data set of the Hub or `bundled` rows, for at most so many steps, as it
    fits this machine; every change made for that is printed. `columns` are as in `datasets.load`. Raises BadInput where there is no such
    model or data, or no way to fit; a data set of the Hub is looked for when its rows are read."""
    if not isinstance(steps, int) or steps < 1:
        raise BadInput(f"STEPS is {steps!r}; it must be a whole number from 1 on.")
    if not data.strip():
        raise BadInput(f"DATA is empty. Name a file, a data set of the Hub, or {BUNDLED}.")
    machine = hardware.machine()
    source = str(next(iter(uploads.bundled().values()))) if data.strip() == BUNDLED else data.strip()
    if Path(source).expanduser().is_file():
        # A copy that stays where runs stay, so that a resumed run finds it.
        source = str(uploads.keep(Path(source).expanduser(), Path(source).name))
    draft = drafts.with_model(drafts.with_data(drafts.Draft(), source, data, columns=columns), model)
    rows.check_begins(draft.recipe.data)
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


def start(plan: Recipe, name: str = "notebook", anew: bool = False) -> Run:
    """A run of this recipe, under way: unless `anew`, the latest one that is not done, as after a lost runtime, goes on; else one is
    begun. The latest others that are not done are named."""
    left = _unfinished()
    run = None if anew else next((each for each in left if _has_recipe(each, plan)), None)
    if others := [each for each in left if each != run]:
        print("Not done; the cell “Resume” goes on with one of them:", *map(_standing, others[:_NAMED]), sep="\n- ")
    if not run:
        return jobs.start(plan, name)
    print(f"{run.id} has this very recipe and is not done. To begin another one: training.start(plan, anew=True)")
    return resume(run.id)


def resume(name: str = "") -> Run:
    """The run of that id or folder, without a name the latest that is not done, gone on with where it is not under way. Where all are
    done, the latest. Raises BadInput where there is none."""
    latest = next(iter(runs.every()), None)
    if latest is None:
        raise BadInput("No run is here yet: run the cell that trains. What an earlier runtime left on a Drive is found with DRIVE on.")
    run = runs.find(name.strip()) if name.strip() else next(iter(_unfinished()), latest)
    if run.stopping:
        print(f"{run.id} is being saved and stopped, and goes on then.")
        with stopped_says("Run this cell again to go on."):
            while run.process:
                time.sleep(_LOOK)
    if runs.finished(run):
        print(f"{run.id} is done: there is nothing to go on with.")
    elif not run.process:
        saved = checkpoints.sound_step(run)
        print(f"{run.id} goes on after step {saved}." if saved else f"{run.id} had saved nothing yet and begins anew.")
        jobs.resume(run)
    return run


def _unfinished() -> list[Run]:
    """The runs that are not done, newest first."""
    return [run for run in runs.every() if not runs.finished(run)]


def _has_recipe(run: Run, plan: Recipe) -> bool:
    with contextlib.suppress(BadInput):  # a recipe of another version is another one
        return run.recipe == recipe_paths.absolute(plan)
    return False


def _standing(run: Run) -> str:
    """How far a run is, for a list."""
    about = runs.summary(run)
    return f"{run.id}: {about['status']} at step {about['step']} of {about['steps'] or '?'}, on {about['model']}"


def follow(run: Run) -> None:
    """Show a run in place until it ends, then its losses and what they say; of one that goes on what is new. The stop button of the cell
    asks the run to save and end. Raises EngineError, with what to do, where the run ends otherwise than done."""
    line = Line(run.id)
    offset = steps = 0
    asked = False
    while True:
        try:
            under_way = run.process is not None  # asked first: what it wrote before its end is read below
            events, end = jobs.follow(run, offset)
            for event in events if offset else _since_it_went_on(events):
                match event:
                    case Step():
                        line.show(f"step {event.step}/{steps} · {telling.figures(event)}")
                    case Evaluated() | Sample() | Saved() | Ended():
                        pass  # the curve and the table below say it
                    case _ if text := telling.told(event):
                        print(text)
                if isinstance(event, Started):
                    steps = event.steps
            offset = end
            if not under_way and not events:
                break
            time.sleep(_LOOK)
        except KeyboardInterrupt:
            if asked:
                raise EngineError(f"{run.id} saves and ends by itself. Run this cell again, and it goes on.") from None
            asked = True
            print("Saving. Stop once more to leave it alone: it ends by itself.")
            with contextlib.suppress(BadInput):  # it has just ended
                jobs.stop(run)
    _told(run, line)


def _since_it_went_on(events: Sequence[Event]) -> Sequence[Event]:
    """Of a run's events those after it last ended."""
    return events[max((number for number, event in enumerate(events, 1) if isinstance(event, Ended)), default=0) :]


def _told(run: Run, line: Line) -> None:
    """What a run that has ended says in all, its last step in the `line` that was shown meanwhile."""
    events = runs.all_events(run)
    made = runs.in_force(events)
    steps = [event for event in made if isinstance(event, Step)]
    tests = [event for event in made if isinstance(event, Evaluated)]
    if steps:
        line.show(f"step {steps[-1].step}/{runs.summary(run)['steps']} · loss {steps[-1].loss:.3f}")
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
        raise EngineError(f"{run.id}: {ended.text} Run this cell again and it goes on.")
    else:
        log = (run.folder / runs.OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_LINES:]
        raise EngineError("\n".join([f"{run.id} ended without a word. Run this cell again and it goes on. Its last lines:", *log]))


def to_adapter(run: Run) -> None:
    """Write a run's adapter into a folder here, unless that is there already. Raises EngineError where it fails, which it has explained
    then."""
    _export(run, "adapter")


def to_gguf(run: Run) -> None:
    """The same with its GGUF files. Where this machine has no memory for it, say what it takes and write none."""
    try:
        merging.check_memory(models.resolve(run.recipe.model))
    except EngineError as error:
        print(f"No GGUF files are written here. {error}")
        return
    _export(run, "gguf")


def _export(run: Run, kind: str) -> None:
    folder = Path(f"{run.id}-{kind}")
    if folder.exists():
        print(f"{folder} is there already. Delete that folder to have it written again.")
    else:
        commands.engine("export", run.id, str(folder), "--to", kind)


def before_and_after(run: Run) -> None:
    """Show what the recipe's sample prompts were answered before the first step and after the last."""
    changes = trying.changes(run)
    if not changes:
        print("There are no answers to put beside each other yet: the run is not done, or its recipe has no sample prompts.")
    for change in changes:
        side_by_side(("Before", "After"), (change.before, change.after), change.prompt)

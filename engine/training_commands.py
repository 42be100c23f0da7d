"""`python -m engine train`, `runs` and `estimate`: a training in the terminal with progress, time left and loss (Ctrl-C saves and
ends), what was trained, and what a training would take in memory."""

import json
import os
import shlex
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from engine import drafts, hardware, jobs, memory, models, presets, ranks, recipe, recipe_paths, rows, runs, telling
from engine.errors import BadInput, EngineError
from engine.events import Adjusted, Ended, Event, Progress, Started, Step
from engine.findings import Finding, findings
from engine.model_files import local_path
from engine.recipe import DataRecipe, Recipe
from engine.runs import Run
from engine.terminal import AsJson, log

DATA_HELP = (
    "Train on this file or Hub data set in place of the recipe's, in the recipe's format. A published preset is fitted to it as in the "
    "wizard: its format is found out, answers alone are learnt, in three passes, and a tenth of the rows is held out."
)


def train(
    what: Annotated[str, typer.Argument(metavar="RECIPE|PRESET", help=f"A recipe file, or a preset: {', '.join(presets.PRESETS)}.")],
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "",
    run_dir: Annotated[
        Path | None, typer.Option(help="The run's folder; without it a new one under GUANACO_HOME/runs.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir from its last checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """Finetune an adapter. Ctrl-C saves and ends; --resume goes on."""
    plan, name = recipe_of(what, data)
    run = _run(recipe_paths.absolute(plan), name, run_dir, resume)
    done = runs.finished(run)
    if not done:
        _end_on_signals(run)
        machine = hardware.machine()
        if not machine.has_gpu:
            hardware.limit_memory(machine.memory_free)
        try:
            with Terminal(run) as terminal:
                done = jobs.work(run, terminal.show)
        except EngineError as error:
            if not isinstance(error, BadInput) and not ranks.index():
                _log_findings(findings(run.recipe, runs.all_events(run)))
            raise
    if isinstance(done, Adjusted):
        jobs.go_on(run, *(["--json"] if as_json else []))
    if ranks.index():
        raise typer.Exit(0 if done.status == "done" else 1)
    told_at_the_end(run, done, as_json)


def told_at_the_end(run: Run, done: Ended, as_json: bool) -> None:
    """Say how a run ended, what its curves say and what to type now. Raises typer.Exit where it is not done."""
    found = findings(run.recipe, runs.all_events(run))
    print(json.dumps(_document(run, found), ensure_ascii=False) if as_json else done.text)
    _log_findings(found)
    if command := _next_command(run, done):
        log(command)
    if done.status != "done":
        raise typer.Exit(1)


def _log_findings(found: list[Finding]) -> None:
    for each in found:
        log(str(each))


def _document(run: Run, found: list[Finding]) -> dict:
    return {**runs.summary(run), "findings": [asdict(each) for each in found]}


def _next_command(run: Run, ended: Ended) -> str:
    """What a person would type now."""
    if ended.status == "done":
        return f"Chat with it: python -m engine chat --model {shlex.quote(run.recipe.model)} --adapter {shlex.quote(run.id)} PROMPT"
    if ended.status == "stopped":
        folder, count = shlex.quote(str(run.folder)), ranks.count()
        program = f"torchrun --nproc_per_node {count}" if count > 1 else "python"
        return f"Go on with: {program} -m engine train {folder}/{runs.RECIPE} --run-dir {folder} --resume"
    return ""


def list_runs(
    name: Annotated[str, typer.Argument(metavar="[RUN]", help="One run, by id or folder: what its curves say, and what to change.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the training runs, newest first: what they learn, how far they are, where the adapter is; or say more of one."""
    if name:
        run = runs.find(name)
        found = findings(run.recipe, runs.all_events(run))
        print(json.dumps(_document(run, found), ensure_ascii=False) if as_json else _told(run, found))
        return
    rows = [runs.summary(run) for run in runs.every()]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    if not rows:
        print("Nothing has been trained yet. Begin with: python -m engine train starter --data FILE")
        return
    width = max([32, *(len(row["id"]) for row in rows)]) + 2
    print(f"{'id':<{width}}{'status':<13}{'step':>12}  {'loss':>7}{'held out':>10}  model")
    for row in rows:
        steps = f"{row['step']}/{row['steps'] or '?'}"
        print(
            f"{row['id']:<{width}}{row['status']:<13}{steps:>12}  {_number(row['loss']):>7}{_number(row['eval_loss']):>10}  {row['model']}"
        )


def _told(run: Run, found: list[Finding]) -> str:
    row = runs.summary(run)
    losses = f"loss {_number(row['loss']) or '?'}, held out {_number(row['eval_loss']) or '?'}"
    lines = [f"{row['id']}: {row['status']} at step {row['step']} of {row['steps'] or '?'}, {losses}, on {row['model']}"]
    lines += [row["text"]] if row["text"] else []
    lines += [f"- {each}" for each in found]
    if row["step"] and not found:
        lines.append(f"- Nothing to find fault with{'.' if row['status'] == 'done' else ' so far.'}")
    return "\n".join(lines)


def estimate(
    model: Annotated[str, typer.Option(help="A model id, a Hub id or a folder; its shape is what counts.")] = models.STARTER,
    plan: Annotated[
        str, typer.Option("--recipe", metavar="FILE|PRESET", help="The recipe to train it by; without one its own preset.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Say what finetuning a model takes in memory, part by part, before anything is fetched or loaded."""
    spec = models.resolve(model)
    if spec.shape is None:
        raise BadInput(
            f"The shape of {model} is not known before it is fetched. Give a model of `python -m engine models`, or a folder with its config.json."
        )
    chosen = recipe_of(plan)[0] if plan else presets.of_model(spec.id)
    machine = hardware.machine()
    found = memory.training_plan(spec.shape, chosen, machine)
    if as_json:
        parts = [{**asdict(part), "pageable": part.pageable > 0, "pageable_bytes": part.pageable} for part in found.parts]
        figures = {"total": found.total, "resident": found.resident, "have": found.have, "fits": found.fits}
        print(json.dumps({"model": spec.id, "parts": parts, **figures}))
        return
    micro, length = chosen.optimization.micro_batch, chosen.data.max_length
    print(f"Finetuning {spec.title} with rows of {length} tokens, {micro} a pass, on: {machine.summary}")
    for part in sorted(found.parts, key=lambda part: -part.bytes):
        paged = f"  ({part.pageable / hardware.GIB:.2f} of it may be paged out)" if part.pageable else ""
        print(f"{part.bytes / hardware.GIB:>9.2f} GB  {part.title}{paged}")
    print(f"{found.total / hardware.GIB:>9.2f} GB  in all; {found.resident / hardware.GIB:.2f} GB of it must be there at once")
    verdict = "It fits" if found.fits else "It does not fit"
    print(f"{verdict}: {found.have / hardware.GIB:.1f} GB can be used here.")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def recipe_of(what: str, data: str = "") -> tuple[Recipe, str]:
    """The recipe that is meant, and what to call a run of it; with `data` in place of its own, which it reads in the same format. A
    preset that was made for a data set becomes for another what the wizard makes of it."""
    path = local_path(what)
    if path.is_file() or (what not in presets.PRESETS and path.suffix.lower() in (".yaml", ".yml")):
        plan, name = recipe.read(path), path.stem
    else:
        plan, name = presets.preset(what), what
        if data and plan.data.source:
            plan = drafts.on(plan, DataRecipe(source=data))
    return plan.changed({"data.source": data}) if data else plan, name


def _run(plan: Recipe, name: str, folder: Path | None, resume: bool) -> Run:
    """The run to work on: a new one, or the one that is to go on. Raises BadInput where the two are mixed up."""
    if ranks.count() > 1 and folder is None:
        raise BadInput("Several processes share this training: name its folder with --run-dir, so that they find each other.")
    if folder is None:
        if resume:
            raise BadInput("Say which run is to go on: give its folder with --run-dir (`python -m engine runs --json` lists them).")
        return _created(runs.fresh_folder(name), plan)
    folder = folder.expanduser().absolute()
    if ranks.index():  # the first process makes it
        return Run(folder)
    if not (resume and (folder / runs.RECIPE).is_file()):
        return _created(folder, plan)
    run = Run(folder)
    if recipe_paths.absolute(run.recipe) != plan:
        raise BadInput(
            f"{folder} was begun with another recipe. Resume it with its own, {folder / runs.RECIPE}, or choose another --run-dir."
        )
    return run


def _created(folder: Path, plan: Recipe) -> Run:
    rows.check_begins(plan.data)
    return runs.create(folder, plan)


def _end_on_signals(run: Run) -> None:
    """The first Ctrl-C (or a polite kill) asks to save and end; a second Ctrl-C ends at once."""

    def ask(number: int, frame: object) -> None:
        run.ask_to_stop(os.getpid())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if number == signal.SIGINT:
            log("\nSaving. Ctrl-C again ends at once, from the last checkpoint on the work is lost.")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)


class Terminal:
    """Events as a progress bar on a terminal, as lines elsewhere; all on stderr."""

    def __init__(self, run: Run):
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
        self._bar = Bar(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("Starting", total=None, figures="")
        self._steps = 0
        if not ranks.index():
            self._say(f"Run {run.id} in {run.folder}")

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        match event:
            case Progress():
                self._bar.update(self._task, description=event.text[:60])
            case Started():
                self._steps = event.steps
                self._bar.update(self._task, description="Training", total=event.steps, completed=event.resumed_from)
            case Step():
                self._bar.update(self._task, completed=event.step, figures=telling.figures(event))
                if not self._console.is_terminal:
                    self._say(f"step {event.step}/{self._steps}: {telling.figures(event)}")
        if text := telling.told(event):
            self._say(text)

    def _say(self, text: str) -> None:
        # Samples and rows are no markup, and may not steer a terminal.
        self._console.print("".join(each if each.isprintable() or each == "\n" else " " for each in text), markup=False)

"""Run folders: `recipe.yaml`, `events.jsonl`, `checkpoints/step-N/`, `adapter/`; written by the training process, read by all.

Events are whole lines. What a run is doing follows from them and from whether its process lives; so it is with other jobs.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import psutil

from engine import paths, recipe
from engine.errors import BadInput, EngineError
from engine.events import Ended, Evaluated, Event, Queued, Saved, Started, Step, from_json, to_json
from engine.line_files import LineFile, full_disk_told
from engine.recipe import Recipe

RECIPE, EVENTS, ADAPTER, CHECKPOINTS = "recipe.yaml", "events.jsonl", "adapter", "checkpoints"
_PROCESS, _STOP, _ELSEWHERE = "process.json", "stop", ".elsewhere"
_PARTIAL, LOCK, OUTPUT = f".{RECIPE}", ".lock", "output.log"
# Which job of the Hub trains it (`engine.hub_jobs`).
HUB_JOB = "hub_job.json"
# Where an adapter comes from: in a run's folder from its start, beside the adapter at its end.
PLAYGROUND = "playground.json"
# Says that a visitor of a public host began it.
_PUBLIC = ".public"
# What a run that never came to train may leave in its folder.
_OURS = {RECIPE, EVENTS, PLAYGROUND, f".{PLAYGROUND}", _PARTIAL, LOCK, OUTPUT, _PROCESS, _STOP, _PUBLIC}
_STEP = re.compile(r"step-(\d+)")
# A read of a growing file: so much at once, so that following a long run stays in little memory.
READ_BYTES = 4_000_000
Phase = Literal["waiting", "starting", "training", "done", "stopped", "paused", "failed", "interrupted"]
# Folders of jobs that this process asked itself to end.
_stopping: set[Path] = set()


@dataclass(frozen=True)
class Job:
    """Work that a process of its own does in a folder, where it says in events how far it is. `PLAN` is the file that it is begun with."""

    PLAN: ClassVar[str]
    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def begun(self) -> float:
        """When it was, in seconds since 1970; 0 where it was deleted meanwhile."""
        try:
            return (self.folder / self.PLAN).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @property
    def events(self) -> Path:
        return self.folder / EVENTS

    def ask_to_stop(self, process_id: int) -> None:
        """Ask the process that works on it to save and end. A later process is not meant. One that asks itself, as Ctrl-C does,
        needs no disk for it."""
        if process_id == os.getpid():
            _stopping.add(self.folder)
            return
        with full_disk_told(self.folder, 10):
            (self.folder / _STOP).write_text(str(process_id))

    @property
    def asked_to_stop(self) -> bool:
        """Whether this process was asked to."""
        if self.folder in _stopping:
            return True
        with contextlib.suppress(OSError):
            return (self.folder / _STOP).read_text() == str(os.getpid())
        return False

    @property
    def stopping(self) -> bool:
        """Whether the process that works on it was asked to, by another one."""
        with contextlib.suppress(OSError):
            asked = (self.folder / _STOP).read_text()
            return bool(process := self.process) and asked == str(process.pid)
        return False

    def claim(self, process_id: int) -> None:
        """Note a process as the one that works on it."""
        note_process(self.folder / _PROCESS, process_id)

    def disclaim(self) -> None:
        """Note that no process works on it any more."""
        _stopping.discard(self.folder)
        (self.folder / _PROCESS).unlink(missing_ok=True)
        (self.folder / _STOP).unlink(missing_ok=True)

    @property
    def process(self) -> psutil.Process | None:
        """The living process that works on it or waits to."""
        return noted_process(self.folder / _PROCESS)


@dataclass(frozen=True)
class Run(Job):
    """A training run's folder, by what lies where in it."""

    PLAN = RECIPE

    @property
    def recipe(self) -> Recipe:
        return recipe.read(self.folder / RECIPE)

    @property
    def adapter(self) -> Path:
        return self.folder / ADAPTER

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def public(self) -> bool:
        """Whether a visitor of a public host began it: its data is read as `data_hub.opened` says."""
        return (self.folder / _PUBLIC).exists()

    @property
    def trained_on_the_hub(self) -> bool:
        """Whether a job of the Hub trains it, or did."""
        return (self.folder / HUB_JOB).is_file()

    @property
    def hub_job_goes_on(self) -> bool:
        """Whether a job of the Hub trains it whose end was not seen here yet."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return not json.loads((self.folder / HUB_JOB).read_text(encoding="utf-8")).get("ended")
        return False

    def steps_saved(self) -> list[int]:
        """Steps that there are checkpoints of, oldest first; whether they are whole is for `engine.checkpoints` to say."""
        found = (_STEP.fullmatch(path.name) for path in self.checkpoints.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)


def note_process(path: Path, process_id: int, **about: str) -> None:
    """Write down a living process, with `about` beside it. Raises EngineError where the disk is full."""
    with contextlib.suppress(psutil.NoSuchProcess), full_disk_told(path.parent, 100):
        text = json.dumps({"pid": process_id, "started": _started(psutil.Process(process_id)), **about})
        partial = path.with_name(f".partial-{os.getpid()}{path.name}")
        partial.write_text(text)
        os.replace(partial, path)


def noted_process(path: Path) -> psutil.Process | None:
    """The process that `note_process` wrote down, if it lives. A number given again to another process is told by its start."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
        noted = json.loads(path.read_text())
        process = psutil.Process(noted["pid"])
        if _started(process) == noted["started"] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _started(process: psutil.Process) -> str:
    """When a process began, in a form that stays the same when the clock is set: Linux counts from the machine's start."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # proc_pid_stat(5): field 22, counted behind the name, which may hold spaces and parentheses.
        return f"{boot} {Path(f'/proc/{process.pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    return str(process.create_time())


class EventLog(LineFile):
    """Appends events to a job's file, each a whole line by one write, so that no reader sees half of one it would believe.
    Raises EngineError where the disk is full (faults, row 20)."""

    def __init__(self, job: Job):
        super().__init__(job.events)

    def append(self, event: Event) -> None:
        """Write one event."""
        self.write(to_json(event))


def read_events(job: Job, offset: int = 0) -> tuple[list[Event], int]:
    """The events that begin at byte `offset` or later, and the offset to go on from; a line under way waits for its end.
    A line that is no event, such as one that a failing disk mangled, is left out."""
    try:
        with open(job.events, "rb") as file:
            file.seek(offset)
            data = file.read(READ_BYTES)
    except FileNotFoundError:
        return [], 0
    whole = data[: data.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):
            events.append(from_json(line.decode("utf-8", "replace")))
    return events, offset + len(whole)


def all_events(job: Job) -> list[Event]:
    """Every event so far."""
    events, offset = read_events(job)
    while True:
        more, further = read_events(job, offset)
        if further == offset:
            return events
        events += more
        offset = further


def in_force(events: Iterable[Event]) -> list[Event]:
    """The events less those of steps that a resumed run made again."""
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Started):
            kept = [each for each in kept if getattr(each, "step", 0) <= event.resumed_from and not isinstance(each, Ended)]
        kept.append(event)
    return kept


def phase(run: Run, events: list[Event]) -> Phase:
    """What a run is doing, from its events and whether its process lives."""
    last = next((event for event in reversed(events) if isinstance(event, (Queued, Started, Step, Ended))), None)
    if run.process:
        if _silent_so_far(run):
            return "starting"
        if isinstance(last, Queued):
            return "waiting"
        return "training" if isinstance(last, (Started, Step)) else "starting"
    return last.status if isinstance(last, Ended) else "interrupted"


def _silent_so_far(job: Job) -> bool:
    """Whether the process that has the job has told nothing yet, so that all events are an earlier one's."""
    with contextlib.suppress(OSError):
        return job.events.stat().st_mtime_ns < (job.folder / _PROCESS).stat().st_mtime_ns
    return False


def finished(run: Run) -> Ended | None:
    """The end of a run that has nothing left to do, None where it has."""
    events = all_events(run)
    last = events[-1] if events else None
    return last if isinstance(last, Ended) and last.status == "done" and run.adapter.is_dir() else None


def create(folder: Path, plan: Recipe, listed: bool = True, public: bool = False) -> Run:
    """Make a run's folder with its recipe. One that never came to train gives way; one elsewhere is `listed` among the runs or not;
    a visitor's is `public`. Raises BadInput where there is another run."""
    run = Run(folder)
    if (folder / RECIPE).exists() and (run.process or any(isinstance(event, Started) for event in all_events(run))):
        raise BadInput(f"{folder} already holds a run. Go on with it by --resume, or choose another --run-dir.")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file. Choose another --run-dir, a folder that is empty or not there yet.")
    if folder.exists() and any(path.name not in _OURS for path in folder.iterdir()):
        raise BadInput(f"{folder} is not empty. Choose another --run-dir, one that is empty or not there yet.")
    try:
        with full_disk_told(folder.parent, 10_000):
            folder.mkdir(parents=True, exist_ok=True)
            for name in (EVENTS, PLAYGROUND, f".{PLAYGROUND}", _PUBLIC):
                (folder / name).unlink(missing_ok=True)
            if public:
                (folder / _PUBLIC).touch()
            partial = folder / _PARTIAL
            partial.write_text(plan.to_yaml(), encoding="utf-8")
            os.replace(partial, folder / RECIPE)
            if listed and folder.parent != paths.runs():
                known_by = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}{_ELSEWHERE}"
                (paths.runs() / known_by).write_text(str(folder), encoding="utf-8")
    except OSError as error:
        raise EngineError(f"{folder} cannot be used for a run ({error.strerror}). Choose another --run-dir.") from error
    return run


def fresh_folder(name: str) -> Path:
    """A new, empty folder for a run called after its recipe and the time. Two calls never give the same one. Raises EngineError where
    the disk is full."""
    return fresh_in(paths.runs(), name, {run.id for run in every()})


def fresh_in(parent: Path, name: str, taken: Collection[str] = ()) -> Path:
    """The same in another folder, for other jobs; never called as one of `taken`."""
    stem = f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-.')[:60] or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError), full_disk_told(parent, 10_000):
            if folder.name not in taken:
                folder.mkdir()
                return folder


def every() -> list[Run]:
    """All runs of this GUANACO_HOME, newest first, also those whose folder is elsewhere."""
    folders = [path.parent for path in paths.runs().glob(f"*/{RECIPE}")]
    for pointer in paths.runs().glob(f"*{_ELSEWHERE}"):
        folder = Path(pointer.read_text(encoding="utf-8"))
        if (folder / RECIPE).is_file():
            folders.append(folder)
    return sorted(map(Run, folders), key=lambda run: run.begun, reverse=True)


def known() -> dict[str, Run]:
    """All runs, newest first, by what they are known by: the id, or the folder where another run has that id."""
    found: dict[str, Run] = {}
    for run in sorted(every(), key=lambda run: run.folder.parent != paths.runs()):
        found[str(run.folder) if run.id in found else run.id] = run
    return dict(sorted(found.items(), key=lambda each: each[1].begun, reverse=True))


def known_as(name: str, public: bool = False) -> Run:
    """The run that `known` has by that name; no other folder is ever meant. With `public` those of visitors alone are there. Raises
    BadInput."""
    here = Path(name).name == name != ".." and (paths.runs() / name / RECIPE).is_file()
    run = Run(paths.runs() / name) if here else known().get(name)
    if run and (run.public or not public):
        return run
    raise BadInput(f"There is no run {name!r} any more. It may have been deleted.")


def find(name: str) -> Run:
    """The run of that id or folder. Raises BadInput with the latest ids, or where several folders are called so."""
    if (Path(name).expanduser() / RECIPE).is_file():
        return Run(Path(name).expanduser().resolve())
    runs = every()
    meant = [run for run in runs if run.id == name]
    if len(meant) > 1:
        raise BadInput(
            f"There are {len(meant)} runs {name!r}. Name the folder that is meant: {', '.join(str(run.folder) for run in meant)}."
        )
    if meant:
        return meant[0]
    known = ", ".join(run.id for run in runs[:5])
    raise BadInput(f"There is no run {name!r}. " + (f"The latest are: {known}." if known else "Nothing has been trained yet."))


def summary(run: Run) -> dict:
    """A row for `python -m engine runs --json`."""
    events = in_force(all_events(run))
    started = next((event for event in reversed(events) if isinstance(event, Started)), None)
    steps = [event for event in events if isinstance(event, Step)]
    saved = [event.step for event in events if isinstance(event, Saved)]
    ended = events[-1] if events and isinstance(events[-1], Ended) else None
    try:
        plan = run.recipe
        model, data = plan.model, plan.data.source
    except BadInput as error:  # one that a person or another version wrote; the other runs are still listed
        model, data = f"unreadable: {error}", ""
    return {
        "id": run.id,
        "folder": str(run.folder),
        "status": phase(run, events),
        "model": model,
        "data": data,
        "step": steps[-1].step if steps else 0,
        "steps": started.steps if started else None,
        "loss": steps[-1].loss if steps else None,
        "eval_loss": next((event.loss for event in reversed(events) if isinstance(event, Evaluated)), None),
        "saved_step": saved[-1] if saved else None,
        "adapter": str(run.adapter) if run.adapter.is_dir() else None,
        "text": ended.text if ended else "",
    }

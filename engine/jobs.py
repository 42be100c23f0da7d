"""Training runs as jobs, and what other jobs share with them: started in processes of their own, one at a time on a machine, stopped,
resumed, followed.

Who has the machine is a lock that the system frees when its holder dies; who waits stands in line with a ticket.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psutil
from filelock import FileLock, Timeout

from engine import children, hardware, paths, ranks, recipe_paths, runs
from engine.errors import BadInput, EngineError
from engine.events import Adjusted, Ended, Event, Queued, Step
from engine.hardware import Machine
from engine.line_files import full_disk_told
from engine.recipe import Recipe
from engine.runs import EventLog, Job, Run

Tell = Callable[[Event], None]
# How often a waiting job looks whether it is its turn, seconds.
_LOOK = 0.5
# Where folders are on their way out.
_GONE = ".guanaco-deleted"
# How far trainings and measurements stand back for other programs where that is not chosen by the variable, 0 (not at all) to 19.
NICENESS, NICENESS_VARIABLE = 19, "GUANACO_NICENESS"


def start(plan: Recipe, name: str, public: bool = False) -> Run:
    """Write a new run's folder and train it in a process of its own, which outlives this one. `name` becomes part of its id; `public` as
    in `runs.create`."""
    run = runs.create(runs.fresh_folder(name), recipe_paths.absolute(plan), public=public)
    _spawn(run)
    return run


def start_unlisted(plan: Recipe, folder: Path) -> Run:
    """The same in a folder elsewhere; it stands in line with the runs and is not listed among them."""
    run = runs.create(folder, recipe_paths.absolute(plan), listed=False)
    _spawn(run)
    return run


def resume(run: Run) -> None:
    """Go on with a run that stopped, was paused, failed or was killed; one that a job of the Hub trains is followed again. Raises
    BadInput where it is under way or done."""
    phase = runs.phase(run, runs.all_events(run))
    if run.process:
        raise BadInput(f"{run.id} is {phase} already.")
    if phase == "done":
        raise BadInput(f"{run.id} is done: there is nothing to go on with.")
    _spawn(run)


def machine() -> Machine:
    """This machine as a run that is begun now will find it: runs under way and in line, and whatever else has the machine, have ended by
    then and given their RAM back. Of a GPU all memory counts anyway."""
    now = hardware.machine()
    if now.has_gpu:
        return now
    under_way = [*(run.process for run in runs.every()), runs.noted_process(_holder_file())]  # the holder may be another kind of job
    taken = sum(map(hardware.process_memory, {process.pid for process in under_way if process}))
    return replace(now, memory_free=min(now.memory, now.memory_free + taken))


def spawn(job: Job, command: Sequence[str]) -> None:
    """Work on a job by a command, in a process that outlives this one; what it prints goes to the job's log."""
    detached = {"start_new_session": True} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    with full_disk_told(job.folder, 10), open(job.folder / runs.OUTPUT, "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=children.environment(), **detached)
    job.claim(process.pid)


def _spawn(run: Run) -> None:
    spawn(run, _command(run))


def follow_hub_jobs() -> None:
    """Follow the runs again that jobs of the Hub train and that nobody follows."""
    for run in runs.every():
        if run.hub_job_goes_on and not run.process:
            _spawn(run)


def _command(run: Run) -> list[str]:
    if run.hub_job_goes_on:
        return [sys.executable, "-m", "engine", "job", "--follow", str(run.folder)]
    return [sys.executable, "-m", "engine", "train", str(run.folder / runs.RECIPE), "--run-dir", str(run.folder), "--resume"]


def stop(job: Job) -> None:
    """Ask a job to save and end; a run does within one pass of a step. Raises BadInput where it is not under way."""
    process = job.process
    if not process:
        raise BadInput(f"{job.id} is not under way.")
    job.ask_to_stop(process.pid)


def kill(job: Job) -> None:
    """End a job's process at once; it can be resumed from what is on disk. Of a run on the Hub the job is cancelled, which whoever
    follows it sees. Raises BadInput where it is not under way, EngineError where the Hub does not answer."""
    process = job.process
    if not process:
        raise BadInput(f"{job.id} is not under way.")
    if isinstance(job, Run) and job.hub_job_goes_on:
        from engine import hub_jobs  # it starts jobs by this module

        return hub_jobs.cancel(job)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
        process.wait(10)


def end_at_once(run: Run) -> None:
    """`kill` a run, and note in its log that a person did: nobody is to take it for a crash."""
    on_the_hub = run.hub_job_goes_on
    kill(run)
    if on_the_hub:
        return
    made = max((event.step for event in runs.in_force(runs.all_events(run)) if isinstance(event, Step)), default=0)
    saved = _last_step(run)
    place = f"step {saved}" if saved else "the beginning"
    with contextlib.suppress(EngineError), owned(run):  # a full disk takes no note, and who has resumed it meanwhile has ended that
        with contextlib.closing(EventLog(run)) as log:
            log.append(Ended("stopped", made, f"Ended at once after step {made}. Resume goes on from {place}.", 0.0))


def remove(job: Job) -> None:
    """Remove a job's folder, which is whole or gone: it is renamed away first. Raises BadInput where it is under way, EngineError where
    the system does not let it go."""
    busy = BadInput(f"{job.id} is under way. Stop it first.")
    if job.process:
        raise busy
    away = job.folder.parent / _GONE
    try:
        with FileLock(job.folder / runs.LOCK, timeout=0):
            pass
        away.mkdir(exist_ok=True)
        os.replace(job.folder, away / f"{job.id}-{time.time_ns()}")
    except Timeout as error:
        raise busy from error
    except OSError as error:
        raise EngineError(f"{job.folder} cannot be deleted ({error.strerror}). Nothing was removed.") from error
    for gone in away.iterdir():  # also what an interrupted deletion left
        shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(OSError):
        away.rmdir()


def follow(job: Job, offset: int = 0) -> tuple[list[Event], int]:
    """The events from byte `offset` on, and the offset for the next call."""
    return runs.read_events(job, offset)


def work(run: Run, tell: Tell) -> Ended | Adjusted:
    """Train a run in this process when the machine is free. Every event goes to the run's log and to `tell`; the last one is
    given back: where that is an `Adjusted`, `go_on` is to be called, or this once more. Raises BadInput where another process has
    the run, EngineError after the run is noted as failed.

    Of several processes that share the training (`engine.ranks`) the first does so, and the others work along.
    """
    if ranks.index():
        return _work_along(run)
    if run.hub_job_goes_on:
        raise BadInput(f"A job of the Hub trains {run.id}. Follow it to its end first: python -m engine job --follow {run.id}")

    def train(both: Tell) -> Ended | Adjusted:
        from engine.train import train as trained  # not while it waits: it imports torch

        return trained(run, both)

    return carried_out(run, tell, train, lambda: _last_step(run))


def carried_out(job: Job, tell: Tell, do: Callable[[Tell], Ended | Adjusted], step: Callable[[], int]) -> Ended | Adjusted:
    """Do a job's work in this process when the machine is free. Every event goes to the job's log and to `tell`; the last one is given
    back. `step` says how far it is. Raises BadInput where another process has the job, EngineError after it is noted as failed."""
    with owned(job):
        log = EventLog(job)  # before the claim, as it may mend the file: what the file says after that is this process's
        job.claim(os.getpid())
        give_way()

        def both(event: Event) -> None:
            log.append(event)
            tell(event)

        last = None
        try:
            last = _when_free(job, both, do, step)
            return last
        except Exception as error:
            known = isinstance(error, EngineError)
            with contextlib.suppress(EngineError):  # a full disk takes not even this
                both(Ended("failed", step(), str(error) if known else f"{type(error).__name__}: {error}", 0.0))
            raise
        finally:
            log.close()
            if not isinstance(last, Adjusted):
                job.disclaim()


def trained_here(run: Run, watch: Callable[[Event], None] = lambda event: None) -> tuple[Ended | Adjusted, list[Event]]:
    """Train a run in this process, at its priority and without waiting for other runs, as tests do; its end and the events of this
    part, which are logged too."""
    from engine.train import train

    log, told = EventLog(run), []

    def tell(event: Event) -> None:
        log.append(event)
        told.append(event)
        watch(event)

    try:
        return train(run, tell), told
    finally:
        log.close()
        run.disclaim()


def go_on(run: Run, *options: str) -> NoReturn:
    """Go on with a run that was `Adjusted`, in a fresh process with these options of the command: what an accelerator held when memory ran out goes with the old one.
    Never returns. Of several processes each only ends: `torchrun --max-restarts` starts them again."""
    if ranks.count() > 1:
        sys.exit(1)
    command = [*_command(run), *options]
    if os.name == "posix":  # the same process to whoever watches it, with nothing of its memory
        os.execve(sys.executable, command, children.environment())
    run.disclaim()
    sys.exit(subprocess.call(command, env=children.environment()))


def _work_along(run: Run) -> Ended | Adjusted:
    """Be one of the other processes of a training: take part from when the first has the machine."""
    give_way()
    while not (runs.noted_process(_holder_file()) and _holder() == run.id):
        if done := runs.finished(run):
            return done
        time.sleep(_LOOK)
    from engine.train import train

    return train(run, lambda event: None)


def give_way() -> None:
    """Work at low priority, so that a chat beside it stays as fast as alone."""
    chosen = os.environ.get(NICENESS_VARIABLE, "")
    niceness = min(int(chosen), NICENESS) if chosen.isdigit() else NICENESS
    if not niceness:
        return
    psutil.Process().nice(niceness if os.name == "posix" else psutil.IDLE_PRIORITY_CLASS)
    # Linux shares the cores out among sessions first and weighs priorities only within one: a session is to give way as a whole. One
    # that this process does not lead is a person's terminal, or all of an app.
    if sys.platform == "linux" and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # kernels without that grouping
            Path("/proc/self/autogroup").write_text(str(niceness))


def _when_free(job: Job, tell: Tell, do: Callable[[Tell], Ended | Adjusted], step: Callable[[], int]) -> Ended | Adjusted:
    with _machine(job, tell) as free:
        if not free:
            ended = Ended("stopped", step(), "Stopped while it waited for the machine. Resume puts it in line again.", 0.0)
            tell(ended)
            return ended
        return do(tell)


def _last_step(run: Run) -> int:
    return max(run.steps_saved(), default=0)


@contextlib.contextmanager
def owned(job: Job) -> Iterator[None]:
    """The job's own lock: two processes never write one run (faults, row 23)."""
    try:
        with FileLock(job.folder / runs.LOCK, timeout=0):
            yield
    except Timeout as error:
        process = job.process
        who = f"process {process.pid}" if process else "another process"
        raise BadInput(f"{job.id} is under way already, in {who}. Stop that first, or follow it.") from error


@contextlib.contextmanager
def _machine(job: Job, tell: Tell) -> Iterator[bool]:
    """The machine's lock, held within the block, first come first served. Tells who has it while this job waits. False where
    it was asked to stop meanwhile."""
    lock = FileLock(paths.runs() / ".machine.lock")
    first_in_line = paths.runs() / f".ticket-{0:020}-{os.getpid()}"
    ticket = first_in_line if first_in_line.exists() else paths.runs() / f".ticket-{time.time_ns():020}-{os.getpid()}"
    runs.note_process(ticket, os.getpid(), run=job.id)
    told = None
    try:
        while True:
            ahead = [other for other in _tickets() if other < ticket.name]
            if not ahead:
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=0)
                    break
            if job.asked_to_stop:
                yield False
                return
            waits = Queued(_holder(), len(ahead) + 1)
            if waits != told:
                tell(waits)
                told = waits
            time.sleep(_LOOK)
        runs.note_process(_holder_file(), os.getpid(), run=job.id)
        ticket.unlink(missing_ok=True)
        yield True
    finally:
        ticket.unlink(missing_ok=True)
        if lock.is_locked:
            if os.name == "posix" and isinstance(next(reversed(runs.all_events(job)), None), Adjusted):
                runs.note_process(first_in_line, os.getpid(), run=job.id)  # `go_on` keeps this process's number
            _holder_file().unlink(missing_ok=True)
        lock.release()


def _tickets() -> list[str]:
    """Names of the tickets of living processes, first in line first; those of dead ones are removed."""
    found = []
    for path in sorted(paths.runs().glob(".ticket-*")):
        if runs.noted_process(path):
            found.append(path.name)
        else:
            path.unlink(missing_ok=True)
    return found


def _holder_file() -> Path:
    return paths.runs() / ".machine.json"


def _holder() -> str:
    """The id of the run or other job that has the machine."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(_holder_file().read_text())["run"])
    return "another run"

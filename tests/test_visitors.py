"""What visitors of a public host may take up of it: runs at a time, room on its disk, days."""

import os
import threading
import time
from pathlib import Path

import pytest
import training
from filelock import FileLock, Timeout

from engine import hub, jobs, paths, runs, visitors
from engine.errors import BadInput, EngineError
from engine.events import Ended
from engine.runs import EventLog, Run


@pytest.fixture(autouse=True)
def begun(monkeypatch) -> list[Run]:
    """Runs that were begun: this process stands for theirs."""
    found = []

    def spawn(run: Run) -> None:
        with pytest.raises(Timeout):  # nobody else counts until it counts
            FileLock(paths.runs() / ".visitors.lock").acquire(timeout=0)
        run.claim(os.getpid())
        found.append(run)

    monkeypatch.setattr(jobs, "_spawn", spawn)
    return found


@pytest.fixture(autouse=True)
def roomy(monkeypatch) -> None:
    """A disk with room, whatever this machine's has."""
    monkeypatch.setattr(hub, "free_bytes", lambda target: 10 * visitors.LEAST_FREE)


PLAN = training.plan(Path("starter"), "rows.jsonl")


def start() -> Run:
    return visitors.start(PLAN, "mine")


def created(name: str, public: bool = True) -> Run:
    """A run's folder that nothing works on."""
    return runs.create(runs.fresh_folder(name), PLAN, public=public)


def stopped(run: Run, hours: float = 0) -> Run:
    """A run as if it had been stopped so long ago."""
    log = EventLog(run)
    log.append(Ended("stopped", 0, "Stopped.", 0.0))
    log.close()
    run.disclaim()
    for path in (run.events, run.folder / runs.RECIPE):
        os.utime(path, (time.time() - hours * 3600,) * 2)
    return run


def test_visitors_have_three_runs_at_a_time_however_they_are_begun(begun):
    ended = [stopped(start()) for _ in range(5)]
    under_way = [start() for _ in range(3)]
    for again in (start, lambda: visitors.resume(ended[0])):
        with pytest.raises(BadInput, match="3 runs are under way or in line here already"):
            again()
    stopped(under_way[0])
    visitors.resume(ended[0])
    with pytest.raises(BadInput, match="3 runs"):
        visitors.resume(ended[1])
    assert ended[0].process and not ended[1].process and len(begun) == 9


def test_of_many_that_begin_at_once_three_do(begun):
    refused = []

    def try_it() -> None:
        try:
            start()
        except BadInput as error:
            refused.append(str(error))

    workers = [threading.Thread(target=try_it) for _ in range(9)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (len(begun), len(refused)) == (3, 6)


def test_a_visitors_run_has_a_name_that_nobody_guesses():
    one, other = start(), start()
    assert one.public and one.id.split("-")[1] == "mine" and one.id.split("-")[0] != other.id.split("-")[0]
    assert len(one.id.split("-")[0]) == 16


def test_a_run_that_is_gone_or_an_owners_is_not_gone_on_with(begun):
    run = stopped(start())
    jobs.remove(run)
    owners = stopped(created("owners", public=False))
    for each in (run, owners):
        with pytest.raises(BadInput, match="There is no run"):
            visitors.resume(each)
    assert len(begun) == 1


def test_visitors_runs_go_some_days_after_they_ended_with_what_was_made_of_them():
    old, young, loaded, goes_on = (created(name) for name in ("old", "young", "loaded", "goes on"))
    owners = created("owners", public=False)
    for run, hours in ((old, 73), (young, 71), (loaded, 99), (owners, 999), (goes_on, 99)):
        stopped(run, hours)
    goes_on.claim(os.getpid())
    for run in (old, young):
        visitors.packed(run).parent.mkdir(exist_ok=True)
        visitors.packed(run).touch()
        made = paths.adapters() / "gguf" / run.id
        made.mkdir(parents=True)
        paths.write_manifest(made, source=run.id)
    visitors.start(PLAN, "next", loaded=(loaded.id,))
    assert not old.folder.exists() and all(run.folder.exists() for run in (young, loaded, owners, goes_on))
    assert [path.stem for path in visitors.packed(old).parent.iterdir()] == [young.id]
    assert [path.name for path in (paths.adapters() / "gguf").iterdir()] == [young.id]


def test_on_a_disk_that_is_nearly_full_they_go_sooner_and_none_begins(monkeypatch, begun):
    hours_old, new = stopped(start(), 2), stopped(start())
    monkeypatch.setattr(hub, "free_bytes", lambda target: visitors.LEAST_FREE - 1)
    for again in (start, lambda: visitors.resume(new)):
        with pytest.raises(EngineError, match="The disk of this host is nearly full"):
            again()
    assert not hours_old.folder.exists() and new.folder.exists() and len(begun) == 2

"""Trainings as processes: killed at any moment, two at once, a lock left behind, a full disk, the commands."""

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import training
from builders import until
from conftest import ROOT
from filelock import FileLock
from training import STEPS, adapter_bytes, fresh, plan, started, trained, wait_for, written

from engine import checkpoints, jobs, paths, runs
from engine.blend import Blend
from engine.errors import BadInput, EngineError
from engine.events import Ended, Queued, Saved, Started, Step
from engine.messages import Conversation
from engine.runs import Run
from engine.runtime import Runtime
from engine.services import Services
from engine.settings import ChatSettings, LoadSettings


@pytest.fixture(scope="module")
def reference(whole):
    """The adapter of an undisturbed run, in bytes."""
    return adapter_bytes(whole[0])


def _told(run: Run, kind: type) -> list:
    return [event for event in runs.all_events(run) if isinstance(event, kind)]


# The command, in a process that kills itself as soon as a call of the system reaches a path.
_MORTAL = """
import os, shutil, signal, sys
module, name, end = sys.argv[1:4]
owner = sys.modules[module]
honest = getattr(owner, name)
def call(*arguments, **options):
    if str(arguments[-1 if name == "replace" else 0]).endswith(end):
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(*arguments, **options)
setattr(owner, name, call)
sys.argv[1:] = sys.argv[4:]
from engine.__main__ import main
sys.exit(main())
"""
MOMENTS = {
    "a checkpoint is written but not there yet": ("os", "replace", "step-4"),
    "a checkpoint is there and an older one still is": ("shutil", "rmtree", "step-2"),
    "all is learnt but the adapter": ("os", "replace", "adapter"),
}


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_same_weights(moment, tiny, rows, reference, tmp_path):
    file, run = written(plan(tiny, rows), tmp_path / "recipe.yaml"), Run(tmp_path / "run")
    command = [sys.executable, "-c", _MORTAL, *MOMENTS[moment], "train", str(file), "--run-dir", str(run.folder)]
    killed = subprocess.run(command, cwd=training.ROOT, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert runs.phase(run, runs.all_events(run)) == "interrupted" and run.process is None and not run.adapter.exists()
    saved = run.steps_saved()
    again = started(file, run.folder, "--resume")
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert _told(run, Started)[-1].resumed_from == saved[-1] and adapter_bytes(run) == reference
    assert not list(run.folder.rglob(".*.partial-*")) and run.steps_saved()[-2:] == [4, 6]


@pytest.mark.long
def test_ctrl_c_saves_and_a_done_run_stays_done(tiny, rows, reference, tmp_path):
    file, run = written(plan(tiny, rows, optimization={"steps": 400}), tmp_path / "recipe.yaml"), Run(tmp_path / "run")
    process = started(file, run.folder)
    wait_for(lambda: run.events.exists() and len(_told(run, Step)) >= 3, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Stopped after step" in out and "Saving" in err
    assert f"Go on with: python -m engine train {run.folder}/recipe.yaml --run-dir {run.folder} --resume" in err
    ended = _told(run, Ended)[-1]
    assert ended.status == "stopped" and run.steps_saved()[-1] == ended.step
    other = written(plan(tiny, rows), tmp_path / "other.yaml")
    refused = started(other, run.folder, "--resume")
    assert "another recipe" in refused.communicate(timeout=60)[1] and refused.returncode == 2
    refused = started(file, run.folder)
    assert "--resume" in refused.communicate(timeout=60)[1] and refused.returncode == 2


def _autogroup() -> str:
    """The line of this process's session, empty where the kernel does not group by sessions (such as within control groups)."""
    with contextlib.suppress(OSError):
        return Path("/proc/self/autogroup").read_text()
    return ""


@pytest.mark.parametrize(("chosen", "niceness"), [("", 19), ("5", 5), ("0", 0), ("much", 19)])
@pytest.mark.long
def test_a_training_stands_back_as_a_session(chosen, niceness):
    code = "import os; from engine import jobs; jobs.give_way(); print(os.nice(0))"
    grouped = bool(_autogroup())
    if grouped:
        code += "; print(open('/proc/self/autogroup').read())"
    child = {**os.environ, "GUANACO_NICENESS": chosen}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=child, start_new_session=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines() if line] == [str(niceness)] * (2 if grouped else 1)
    assert not grouped or _autogroup().split()[-1] == "0", "whoever starts it keeps its own"


@pytest.mark.long
def test_a_job_outlives_who_started_it_and_is_followed_stopped_and_resumed(tiny, rows, tmp_path):
    """Long enough that it is still under way when it is looked at."""
    long = plan(tiny, rows, optimization={"steps": 200}, cadence={"save_every": 20, "eval_every": 1000})
    undisturbed = fresh(long, tmp_path / "undisturbed")
    assert trained(undisturbed)[0].status == "done"
    run = jobs.start(long, "from a test")
    process = run.process
    assert process and process.pid != os.getpid() and run in runs.every()
    with pytest.raises(BadInput, match="already"):
        jobs.resume(run)
    offset, told = 0, []

    def made(kind: type) -> bool:
        nonlocal offset
        events, offset = jobs.follow(run, offset)
        told.extend(events)
        return any(isinstance(event, kind) for event in told)

    until(lambda: made(Step))
    assert runs.phase(run, told) == "training"
    jobs.kill(run)
    assert run.process is None and runs.phase(run, runs.all_events(run)) == "interrupted"
    jobs.resume(run)
    until(lambda: made(Ended), 400)  # whatever else the machine does goes before it
    until(lambda: run.process is None)
    assert runs.phase(run, runs.all_events(run)) == "done" and adapter_bytes(run) == adapter_bytes(undisturbed)
    for refused in (jobs.stop, jobs.kill, jobs.resume):
        with pytest.raises(BadInput):
            refused(run)


def test_one_run_is_not_written_by_two(tiny, rows, tmp_path):
    run = fresh(plan(tiny, rows), tmp_path / "run")
    with FileLock(run.folder / runs.LOCK), pytest.raises(BadInput, match="under way already"):
        jobs.work(run, print)
    assert not run.events.exists()


@pytest.fixture
def at_leisure(monkeypatch):
    """Training that is over at once, at a priority that the test process keeps."""
    from engine import train

    monkeypatch.setattr(jobs.psutil.Process, "nice", lambda self, value=None: 0)
    monkeypatch.setattr(train, "train", lambda run, tell: Ended("done", 0, run.id, 0.0))


def test_the_machine_goes_to_one_run_at_a_time_in_order(tiny, rows, tmp_path, at_leisure, monkeypatch):
    from engine import train

    busy, free, order = threading.Event(), threading.Event(), []

    def slowly(run, tell):
        busy.set()
        order.append(run.id)
        assert free.wait(30)
        return Ended("done", 0, run.id, 0.0)

    monkeypatch.setattr(train, "train", slowly)
    names = ["first", "second", "third"]
    queued = {name: [] for name in names}
    threads = []
    for name in names:
        run = fresh(plan(tiny, rows), tmp_path / name)

        def tell(event, name=name):
            queued[name].append(event)

        threads.append(threading.Thread(target=jobs.work, args=(run, tell)))
        threads[-1].start()
        if name == "first":
            assert busy.wait(30)
        else:
            until(lambda name=name: queued[name])
    assert [queued[name][0] for name in names[1:]] == [Queued("first", 1), Queued("first", 2)]
    free.set()
    for thread in threads:
        thread.join(30)
    assert order == names and not list(paths.runs().glob(".ticket-*"))


def test_a_waiting_run_can_be_stopped(tiny, rows, tmp_path, at_leisure):
    run = fresh(plan(tiny, rows), tmp_path / "run")
    with FileLock(paths.runs() / ".machine.lock"):
        ended = jobs.work(run, lambda event: run.ask_to_stop(os.getpid()) if isinstance(event, Queued) else None)
    assert ended.status == "stopped" and not list(paths.runs().glob(".ticket-*"))


@pytest.mark.long
def test_a_lock_of_a_dead_process_holds_nobody_up(tiny, rows, reference, tmp_path):
    """Both the run's own lock and the machine's, and a ticket that nobody will draw."""
    file, run = written(plan(tiny, rows), tmp_path / "recipe.yaml"), Run(tmp_path / "run")
    process = started(file, run.folder)
    wait_for(lambda: run.events.exists() and _told(run, Started), process)
    process.kill()
    process.communicate()
    (paths.runs() / ".ticket-0-1").write_text(json.dumps({"pid": process.pid, "started": "another boot 1"}))
    assert runs.phase(run, runs.all_events(run)) == "interrupted"
    jobs.resume(run)
    until(lambda: _told(run, Ended))
    assert _told(run, Queued) == [] and adapter_bytes(run) == reference


def test_a_failure_is_noted(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs.psutil.Process, "nice", lambda self, value=None: 0)
    run = fresh(plan(tiny, tmp_path / "missing.jsonl"), tmp_path / "run")
    with pytest.raises(BadInput, match="missing.jsonl"):
        jobs.work(run, lambda event: None)
    ended = runs.all_events(run)[-1]
    assert ended.status == "failed" and "missing.jsonl" in ended.text and runs.phase(run, [ended]) == "failed"


class _FullDisk:
    """Lets so many writes pass, then says that the disk is full, as long as it is full."""

    def __init__(self, monkeypatch, passes: float = float("inf")):
        import safetensors.torch

        self.writes, self.passes = 0, passes
        self.full = False
        for owner, name in (
            (os, "write"),
            (os, "fsync"),
            (os, "replace"),
            (os, "mkdir"),
            (paths.Path, "write_text"),
            (safetensors.torch, "save_file"),
        ):
            monkeypatch.setattr(owner, name, self._limited(getattr(owner, name)))

    def _limited(self, honest):
        def write(*arguments, **options):
            if self.full:
                self.writes += 1
                if self.writes > self.passes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return honest(*arguments, **options)

        return write


@pytest.mark.long
def test_a_disk_full_at_any_write_keeps_the_checkpoint(tiny, rows, reference, tmp_path, monkeypatch):
    """The disk fills up behind the first checkpoint, at every single write that follows in turn."""
    sections = {"samples": {"prompts": []}, "cadence": {"save_every": 2, "eval_every": 100}}
    number = 0
    while True:
        run = fresh(plan(tiny, rows, **sections), tmp_path / f"run{number}")
        with monkeypatch.context() as patch:
            disk = _FullDisk(patch, number)

            def watch(event):
                disk.full = disk.full or isinstance(event, Saved)

            try:
                ended, _ = trained(run, watch)
                break
            except EngineError as error:
                assert "is full" in str(error) and "free" in str(error) and "MB" in str(error)
        assert checkpoints.damaged(run.checkpoints / f"step-{run.steps_saved()[-1]}") is None
        assert not list(run.folder.rglob(".*.partial-*"))
        assert trained(run)[0].status == "done" and adapter_bytes(run) == reference
        number += 1
    assert number > 20 and ended.status == "done"


@pytest.mark.long
def test_the_commands(tiny, rows, tmp_path, run_engine):
    assert json.loads(run_engine("runs", "--json").stdout) == [] and "Nothing" in run_engine("runs").stdout
    file = written(plan(tiny, tmp_path / "elsewhere.jsonl"), tmp_path / "tiny.yaml")
    done = run_engine("train", str(file), "--data", str(rows), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["status"] == "done" and document["step"] == document["steps"] == STEPS
    assert "step 6/6: loss" in done.stderr and "tokens/s" in done.stderr and "left" in done.stderr
    outside = run_engine("train", str(file), "--data", str(rows), "--run-dir", str(tmp_path / "outside"))
    assert outside.returncode == 0 and "The adapter is in" in outside.stdout
    assert f"Chat with it: python -m engine chat --model {tiny} --adapter outside PROMPT" in outside.stderr
    again = run_engine("train", str(file), "--data", str(rows), "--run-dir", str(tmp_path / "outside"), "--resume")
    assert again.returncode == 0 and again.stdout == outside.stdout
    listed = json.loads(run_engine("runs", "--json").stdout)
    assert [row["id"] for row in listed] == ["outside", document["id"]] and all(row["status"] == "done" for row in listed)
    assert "outside" in run_engine("runs").stdout


BAD = {
    "no preset": (["train", "guanaco-8b"], "no preset 'guanaco-8b'.*guanaco-7b"),
    "no data": (["train", "starter"], "names no data.*--data"),
    "missing data": (["train", "starter", "--data", "nowhere.jsonl"], "There is no file nowhere.jsonl.*owner/name"),
    "missing recipe": (["train", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    "resume of nothing": (["train", "starter", "--resume"], "--run-dir"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", BAD)
def test_bad_commands_end_with_one_clear_line(case, run_engine):
    arguments, message = BAD[case]
    done = run_engine(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(message, done.stderr.strip().splitlines()[-1]), done.stderr
    assert not runs.every(), "nothing is left of what could not begin"


@pytest.mark.long
def test_a_trained_adapter_is_at_once_in_the_picker_and_answers_on_both_backends(starter_home, home, tmp_path):
    home.mkdir()
    (home / "models").symlink_to(starter_home / "models")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"instruction": f"Say {word}", "output": "Llama llama llama."}) + "\n" for word in ("a", "b", "c", "d"))
    )
    run = None
    for backend in ("llama.cpp", "transformers"):
        with contextlib.closing(Runtime(LoadSettings(backend=backend))) as runtime:
            services = Services(runtime)
            runtime.load("starter")
            until(lambda runtime=runtime: runtime.state.phase in ("ready", "failed"), 300)
            assert runtime.state.phase == "ready", runtime.state.text
            if run is None:
                assert all("trained here" not in shown for shown, _ in services.adapter_choices())
                run = runs.create(runs.fresh_folder("mine"), plan("starter", rows, optimization={"learning_rate": 0.002, "batch": 2}))
                trained(run)
            assert (f"{run.id} · trained here", run.id) in services.adapter_choices()
            settings = ChatSettings(temperature=0, max_new_tokens=12)
            ends = [list(runtime.chat(Conversation().add("user", "Say e"), settings, Blend.of([name])))[-1] for name in (None, run.id)]
            assert [end.adapter for end in ends] == [None, run.id]
            assert "llama llama" in ends[1].text and "llama llama" not in ends[0].text
            assert (f"{run.id} · loaded", run.id) in services.adapter_choices()

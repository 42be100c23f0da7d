"""Run folders: whole lines whatever happens, what counts after a resume, which run is meant."""

import errno
import json
import os

import psutil
import pytest
import training
from hypothesis import given
from hypothesis import strategies as st

from engine import jobs, paths, runs, training_commands
from engine.errors import BadInput, EngineError
from engine.events import Ended, Evaluated, Notice, Queued, Started, Step, to_json
from engine.runs import EventLog, Run


def _started(step: int = 0) -> Started:
    return Started("run", 6, step, 9, 3, 100, "CPU", "float32", "NF4", 4)


def _step(step: int, loss: float = 1.0) -> Step:
    return Step(step, loss, 1.0, 0.1, 0.5, 10.0, 1000, 1.0)


@pytest.fixture
def plan(tmp_path):
    return training.plan("starter", training.data(tmp_path / "rows.jsonl"))


@pytest.fixture
def run(plan, tmp_path) -> Run:
    return runs.create(tmp_path / "run", plan)


def _logged(run: Run, *events) -> None:
    log = EventLog(run)
    for event in events:
        log.append(event)
    log.close()


@given(cut=st.integers(0, 400))
def test_a_reader_gets_whole_events_only_and_each_once(cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    told = [Notice("ä" * 20), _started(), _step(1), Notice("two\nlines")]
    data = "".join(f"{to_json(event)}\n" for event in told).encode()
    run = Run(folder)
    run.events.write_bytes(data[:cut])
    first, offset = runs.read_events(run)
    run.events.write_bytes(data)
    rest, end = runs.read_events(run, offset)
    assert first + rest == told and end == len(data) and runs.read_events(run, end) == ([], end)


def test_a_line_that_a_killed_writer_left_is_cut_off(run):
    _logged(run, _step(1))
    with open(run.events, "ab") as file:
        file.write(b'{"event": "Step", "st')
    _logged(run, _step(2))
    assert runs.all_events(run) == [_step(1), _step(2)]


def test_a_line_that_is_no_event_is_left_out(run):
    run.events.write_bytes(to_json(_step(1)).encode() + b"\n\x00\xff\n[]\n" + to_json(_step(2)).encode() + b"\n")
    assert runs.all_events(run) == [_step(1), _step(2)]


def test_a_disk_that_takes_half_a_line_leaves_none(run, monkeypatch):
    log = EventLog(run)
    log.append(_step(1))
    honest = os.write
    monkeypatch.setattr(os, "write", lambda file, line: honest(file, line[: len(line) // 2]))
    with pytest.raises(EngineError, match="full"):
        log.append(_step(2))
    monkeypatch.undo()
    log.close()
    assert run.events.read_bytes() == f"{to_json(_step(1))}\n".encode()


def test_what_a_resumed_run_makes_again_counts_once():
    again = [_started(1), _step(2, 0.5)]
    events = [_started(), Evaluated(0, 3.0, 9), _step(1), _step(2), Evaluated(2, 2.0, 9), Ended("stopped", 2, "", 1.0), *again]
    assert runs.in_force(events) == [_started(), Evaluated(0, 3.0, 9), _step(1), *again]


def test_a_phase_follows_from_events_and_the_process(run):
    assert runs.phase(run, []) == "interrupted"
    for last, phase in ((Ended("paused", 2, "", 1.0), "paused"), (_step(1), "interrupted")):
        assert runs.phase(run, [last]) == phase
    run.claim(os.getpid())
    for last, phase in ((Ended("stopped", 2, "", 1.0), "starting"), (_step(1), "training"), (Queued("other", 1), "waiting")):
        assert runs.phase(run, [last]) == phase
    path = run.folder / "process.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "another boot 1"}))
    assert run.process is None  # the number belongs to another process by now


def test_a_process_that_goes_on_with_a_run_is_not_said_to_train_by_what_an_earlier_one_told(run):
    _logged(run, _started(), _step(1))
    os.utime(run.events, ns=(0, 0))  # a while ago
    run.claim(os.getpid())
    assert runs.phase(run, runs.all_events(run)) == "starting"
    _logged(run, Queued("other", 1))
    assert runs.phase(run, runs.all_events(run)) == "waiting"


def test_only_the_process_that_is_meant_stops(run):
    run.ask_to_stop(os.getpid() + 1)
    assert not run.asked_to_stop
    run.ask_to_stop(os.getpid())
    assert run.asked_to_stop
    run.disclaim()
    assert not run.asked_to_stop


def test_setting_the_clock_ends_no_run(run, monkeypatch):
    """psutil reckons the start of a process from the clock of today."""
    run.claim(os.getpid())
    began = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: began + 3600)
    assert run.process and runs.phase(run, [_step(1)]) == "training"


def test_a_full_disk_ends_a_run_in_a_sentence_before_it_begins_and_ctrl_c_needs_none(run, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(paths.Path, "write_text", full)
    for write in (lambda: run.claim(os.getpid()), lambda: run.ask_to_stop(os.getpid() + 1), lambda: jobs.work(run, print)):
        with pytest.raises(EngineError, match="is full.*then start or resume"):
            write()
    run.ask_to_stop(os.getpid())
    assert run.asked_to_stop
    run.disclaim()


def test_a_folder_is_taken_once_but_for_runs_that_never_began(run, plan, tmp_path):
    assert runs.create(run.folder, plan) == run
    _logged(run, Ended("failed", 0, "no data", 0.0))
    assert runs.create(run.folder, plan) == run and runs.all_events(run) == []
    (run.folder / "playground.json").write_text("{}")  # noted before training begins
    assert runs.create(run.folder, plan) == run and not (run.folder / "playground.json").exists()
    _logged(run, _started())
    with pytest.raises(BadInput, match="already holds a run.*--resume"):
        runs.create(run.folder, plan)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(BadInput, match="not empty"):
        runs.create(tmp_path / "full", plan)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file. Choose another --run-dir"):
        runs.create(tmp_path / "file", plan)
    with pytest.raises(EngineError, match="cannot be used"):
        runs.create(tmp_path / "file" / "run", plan)


def test_runs_are_found_by_id_and_folder_wherever_they_are(run, plan):
    inside = runs.create(runs.fresh_folder("my recipe!"), plan)
    assert inside.folder.parent == paths.runs() and inside.id.startswith("my-recipe-")
    another = runs.create(runs.fresh_folder("my recipe!"), plan)
    assert len({runs.fresh_folder("my recipe!") for _ in range(3)}) == 3
    assert another.id != inside.id and set(runs.every()) == {run, inside, another}
    assert runs.find(inside.id) == inside and runs.find("run") == run and runs.find(str(run.folder)) == run
    with pytest.raises(BadInput, match=f"no run 'nothing'.*{inside.id}"):
        runs.find("nothing")


def test_a_recipe_that_cannot_be_read_hides_no_other_run(run):
    (run.folder / "recipe.yaml").write_text("model: starter")
    assert "unreadable: recipe.yaml: the key 'optimization' is missing" in runs.summary(run)["model"]


def test_folders_of_one_name_are_both_listed(plan, tmp_path):
    both = {runs.create(tmp_path / name / "out", plan) for name in ("one", "two")}
    assert both <= set(runs.every())
    with pytest.raises(BadInput, match="2 runs 'out'. Name the folder.*one/out"):
        runs.find("out")


def test_a_summary_says_how_far_a_run_is(run):
    _logged(run, _started(), Evaluated(0, 2.0, 9), _step(1, 1.5))
    row = runs.summary(run)
    assert (row["status"], row["step"], row["steps"], row["loss"], row["eval_loss"]) == ("interrupted", 1, 6, 1.5, 2.0)
    assert row["adapter"] is None and row["saved_step"] is None and row["text"] == ""


def test_a_long_id_is_apart_from_what_stands_beside_it(plan, capsys):
    made = runs.create(runs.fresh_folder("a-recipe-with-quite-a-long-name-as-people-give-them"), plan)
    short = runs.create(runs.fresh_folder("mine"), plan)
    training_commands.list_runs()
    head, *lines = capsys.readouterr().out.splitlines()
    assert {tuple(line.split()[:2]) for line in lines} == {(each.id, "interrupted") for each in (made, short)}
    assert {line.index("interrupted") for line in lines} == {head.index("status")}

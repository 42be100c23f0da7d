"""Looking back on runs: small curves read sparsely, recipes and answers beside each other, disk, and deleting one whole or not at all."""

import os
import shutil
import time
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from training import fresh, plan

from engine import history, paths, runs
from engine.errors import BadInput, EngineError
from engine.events import Ended, Evaluated, Progress, Queued, Sample, Saved, Started, Step, to_json
from engine.runs import Run

CURVES = Path(__file__).parent / "curves"


def _started(steps: int = 10, resumed_from: int = 0) -> Started:
    return Started("a-run", steps, resumed_from, 9, 3, 1000, "CPU", "float32", "NF4", 4)


def _step(step: int, loss: float = 2.0) -> Step:
    return Step(step, loss, 1.0, 1e-3, step / 3, 100.0, 10**9, 5.0)


def write(run: Run, *events) -> Run:
    with open(run.events, "a", encoding="utf-8") as file:
        file.writelines(f"{to_json(event)}\n" for event in events)
    return run


def written_here(run: Run, *events) -> Run:
    """The same, by this process, which has the run."""
    run.claim(os.getpid())
    return write(run, *events)


def recorded(curve: str, name: str) -> Run:
    """A run that was recorded, under another name."""
    folder = paths.runs() / name
    folder.mkdir()
    for kind, file in ((".yaml", runs.RECIPE), (".jsonl", runs.EVENTS)):
        shutil.copy(CURVES / f"{curve}{kind}", folder / file)
    return Run(folder)


@pytest.fixture
def run(tmp_path) -> Run:
    return fresh(plan(Path("starter"), "rows.jsonl"), paths.runs() / "a-run")


def test_a_summary_tells_how_far_a_run_is_and_what_it_takes(run):
    write(
        run,
        Progress("Loading"),
        _started(),
        Evaluated(0, 3.0, 9),
        _step(1),
        _step(2),
        Evaluated(2, 2.5, 9),
        Ended("stopped", 2, "Why", 1.0),
    )
    (row,) = history.summaries()
    assert (row["name"], row["status"], row["step"], row["steps"], row["text"]) == ("a-run", "stopped", 2, 10, "Why")
    assert row["held_out"] == [3.0, 2.5] and row["curve"] == ((1, 2.0), (2, 2.0)) and row["base"] == "starter" and not row["adapter"]
    assert row["bytes"] == sum(path.stat().st_size for path in run.folder.iterdir())


def test_steps_made_again_count_once_and_new_events_are_seen(run):
    write(run, _started(), _step(1), _step(2, 9.0), Sample(2, "Hi", "old"), _started(resumed_from=1), _step(2, 1.0))
    assert history.story(run).curve == ((1, 2.0), (2, 1.0)) and not history.story(run).samples
    write(run, _step(3, 0.5))
    assert history.story(run).curve[-1] == (3, 0.5) and history.story(run).step == 3


@pytest.mark.long
def test_a_long_run_is_read_sparsely_once(run):
    write(run, _started(20_000), *(_step(step, 1 + step / 20_000) for step in range(1, 20_001)))
    began = time.monotonic()
    told = history.story(run)
    assert time.monotonic() - began < 1 and told.step == 20_000 and len(told.curve) <= history.CURVE
    assert all(abs(loss - (1 + step / 20_000)) < 0.01 for step, loss in told.curve)
    assert history.story(run) is told and len(history.summaries()[0]["curve"]) <= history.SMALL


@given(st.lists(st.floats(-10, 10), max_size=300), st.integers(1, 60))
def test_thinning_keeps_the_end_and_the_mean_within_bounds(losses, most):
    points = list(enumerate(losses, 1))
    thin = history.thinned(points, most)
    assert len(thin) == min(most, len(points)) and [step for step, _ in thin] == sorted({step for step, _ in thin})
    if points:
        assert thin[-1][0] == len(points) and min(losses) - 1e-4 <= thin[0][1] <= max(losses) + 1e-4


def test_a_phase_is_read_from_the_end(run):
    for events in (
        (Queued("b", 1),),
        (_started(), _step(1)),
        tuple(Progress("x" * 1000) for _ in range(100)),
        (Ended("paused", 1, "", 1.0),),
    ):
        write(run, *events)
        for claimed in (False, True):
            if claimed:
                run.claim(os.getpid())
            assert history.phase(run) == runs.phase(run, runs.all_events(run))
        run.disclaim()
    assert history.phase(run) == "paused"


def test_runs_are_known_by_names_of_their_own_and_nothing_else_is_one(run, tmp_path):
    twin = fresh(plan(Path("starter"), "rows.jsonl"), tmp_path / "a-run")
    known = runs.known()
    assert known == {"a-run": run, str(twin.folder): twin}
    assert [runs.known_as(name) for name in known] == list(known.values())
    (tmp_path / "stranger").mkdir()
    shutil.copy(run.folder / runs.RECIPE, tmp_path / "stranger")
    shutil.copy(run.folder / runs.RECIPE, paths.home())
    for name in (str(tmp_path / "stranger"), "..", ".", "", "../runs/a-run", "nothing", "a/b"):
        with pytest.raises(BadInput, match="no run"):
            runs.known_as(name)


def test_the_current_run_is_the_one_with_the_machine(run):
    assert history.current() is None
    later = fresh(plan(Path("starter"), "rows.jsonl"), paths.runs() / "later")
    written_here(later, Queued("a-run", 1))
    assert history.current() == ("later", later)
    written_here(run, _started(), _step(1))
    assert history.current() == ("a-run", run)


def test_compared_runs_show_what_differs_and_what_they_answer():
    first, second = recorded("overfitting", "first"), recorded("healthy", "second")
    write(first, *(Sample(step, "Hi", f"first {step}") for step in (0, 6, 12)))
    write(second, Sample(24, "Hi", "second"), Sample(24, "Bye", ""))
    found = history.compared(["first", "second"])
    assert [each["id"] for each in found["runs"]] == ["first", "second"] and len(found["runs"][0]["tests"]) == 7
    differing = {row["key"]: row["values"] for row in found["recipes"]}
    assert differing == {
        "lora.dropout": ["0", "0.05"],
        "optimization.learning_rate": ["0.003", "0.001"],
        "optimization.steps": ["36", "24"],
    }
    assert found["answers"][0] == {
        "prompt": "Hi",
        "runs": [[{"step": 0, "text": "first 0"}, {"step": 12, "text": "first 12"}], [{"step": 24, "text": "second"}]],
    }
    assert found["answers"][1]["runs"][0] is None
    for wrong in ([], ["first", "first"], [f"run {at}" for at in range(7)], ["gone"]):
        with pytest.raises(BadInput):
            history.compared(wrong)


def test_an_unreadable_recipe_hides_no_other_run(run):
    (run.folder / runs.RECIPE).write_text("nonsense: 1")
    recorded("healthy", "good")
    rows = {row["name"]: row for row in history.summaries()}
    assert "optimization" in rows["a-run"]["data"] and rows["good"]["step"] == 24


def test_deleting_says_what_goes_and_takes_all_of_it(run, tmp_path):
    write(run, _started(), _step(1), Saved(1, 10, 0.1))
    (run.checkpoints / "step-1").mkdir(parents=True)
    run.adapter.mkdir()
    later = fresh(plan(Path("starter"), "rows.jsonl", lora={"start_from": "a-run"}), tmp_path / "elsewhere")
    said = history.lost(run, ["a-run"])
    assert "its 1 step of training, 1 checkpoint and the finished adapter" in said and "loaded for the chat" in said and "elsewhere" in said
    history.delete(run)
    assert not run.folder.exists() and list(runs.known()) == ["elsewhere"]
    assert str(later.folder) in history.lost(later)
    history.delete(later)
    assert not later.folder.exists() and not list(paths.runs().iterdir()) and not (tmp_path / ".guanaco-deleted").exists()


def test_a_run_under_way_and_one_the_system_holds_are_not_deleted(run, monkeypatch):
    with FileLock(run.folder / runs.LOCK), pytest.raises(BadInput, match="under way"):
        history.delete(run)
    run.claim(os.getpid())
    with pytest.raises(BadInput, match="under way"):
        history.delete(run)
    run.disclaim()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(EngineError, match="Permission denied.*Nothing was removed"):
        history.delete(run)
    assert runs.known_as("a-run") == run


def test_what_an_interrupted_deletion_left_goes_with_the_next(run):
    left = paths.runs() / ".guanaco-deleted" / "old"
    left.mkdir(parents=True)
    shutil.copy(run.folder / runs.RECIPE, left)
    assert list(runs.known()) == ["a-run"]
    history.delete(run)
    assert not left.parent.exists()


@pytest.mark.parametrize(
    ("phase", "wanted"), (("training", "tail -f"), ("done", "engine chat"), ("stopped", "--resume"), ("failed", "--resume"))
)
def test_commands_are_those_that_fit(run, phase, wanted):
    commands = [each["command"] for each in history.commands("a-run", run, phase)]
    assert commands[0] == "python -m engine runs a-run" and wanted in commands[1]

"""What is said of a run: on recorded curves of real runs made to go wrong (`curves/record.py`), and on none that went well."""

import json
from pathlib import Path

import pytest
from training import fresh, plan, trained

from engine import events, findings, recipe
from engine.events import Adjusted, Ended, Notice, Started, Step

CURVES = Path(__file__).resolve().parent / "curves"
EXPECTED = {
    "healthy": set(),
    "rate-too-high": {"learning_rate_too_high"},
    "overfitting": {"overfitting"},
    "not-a-number": {"not_a_number"},
    "hardly-learnt": {"hardly_learnt"},
    "cut-off": {"targets_cut"},
    "too-few-steps": {"too_few_steps"},
    "not-evaluated": {"evaluation_missing"},
    "questions-learnt": {"loss_on_prompts"},
}


def recorded(name: str) -> tuple[recipe.Recipe, list]:
    lines = (CURVES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return recipe.read(CURVES / f"{name}.yaml"), list(map(events.from_json, lines))


def kinds(plan: recipe.Recipe, seen: list) -> set[str]:
    return {finding.kind for finding in findings.findings(plan, seen)}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_curve_is_told_what_is_wrong_with_it_and_nothing_else(name):
    plan, seen = recorded(name)
    assert kinds(plan, seen) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_finding_says_what_to_change(name):
    for finding in findings.findings(*recorded(name)):
        assert finding.text.endswith(".") and finding.advice.endswith(".") and finding.step is None or finding.step >= 0


def test_overfitting_names_the_step_since_when():
    plan, seen = recorded("overfitting")
    (found,) = [each for each in findings.findings(plan, seen) if each.kind == "overfitting"]
    tests = [event for event in seen if isinstance(event, events.Evaluated)]
    assert found.step == min(tests, key=lambda event: event.loss).step and f"since step {found.step}" in found.text


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_under_way_can_be_asked_at_any_time(name):
    plan, seen = recorded(name)
    for end in range(len(seen) + 1):
        findings.findings(plan, seen[:end])


def made(*more, steps: int = 12, rows: int = 12, held_out: int = 3) -> list:
    begin = Started("run", steps, 0, rows, held_out, 100, "CPU", "float32", "NF4", 4)
    return [begin, *(Step(number, 2.0 - 0.1 * number, 1.0, 1e-3, 0.1, 9.0, 9, 1.0) for number in range(1, steps + 1)), *more]


def test_what_a_run_did_about_trouble_is_found_again(tiny, rows):
    asked = plan(tiny, rows)
    smaller = Adjusted(2, {"optimization.accumulation": 2}, "Step 3 ran out of memory. Micro-batch 4 → 2.")
    slower = Adjusted(2, {"optimization.learning_rate": 0.005}, "The loss of step 3 is not a number, which happens in float16.")
    skipped = Notice("The evaluation after step 3 ran out of memory one row at a time: skipped, training goes on.")
    assert kinds(asked, made(smaller)) == {"out_of_memory"}
    assert "accumulation of 2" in findings.findings(asked, made(smaller))[0].advice
    assert kinds(asked, made(slower)) == {"float16"} and kinds(asked, made(skipped)) == {"evaluation_missing"}
    assert kinds(asked, made(Ended("paused", 12, "Paused: the loss of step 13 is not a number.", 1.0))) == {"not_a_number"}
    assert kinds(asked, []) == set()


def test_an_adapter_that_learnt_nothing_is_found(tiny, rows, tmp_path, monkeypatch):
    from engine import jobs, passes, runs
    from engine.errors import EngineError

    honest = passes.summed_loss
    monkeypatch.setattr(passes, "summed_loss", lambda learner, part: honest(learner, part) * 0.0)
    run = fresh(plan(tiny, rows), tmp_path / "run")
    with pytest.raises(EngineError, match="learnt nothing"):
        jobs.work(run, lambda event: None)
    assert "nothing_learnt" in kinds(run.recipe, runs.all_events(run))


def test_the_commands_say_it(home, tiny, rows, tmp_path, run_engine):
    run = fresh(plan(tiny, rows, data={"held_out": 0}), tmp_path / "mine")
    trained(run)
    told = run_engine("runs", "mine")
    assert told.returncode == 0 and "mine: done at step 6 of 6" in told.stdout and "Hint: No rows are held out" in told.stdout
    document = json.loads(run_engine("runs", str(run.folder), "--json").stdout)
    assert document["id"] == "mine" and [each["kind"] for each in document["findings"]] == ["evaluation_missing"]
    assert run_engine("runs", "nobody").returncode == 2

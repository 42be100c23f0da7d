"""What is said of a run: on recorded curves of real runs made to go wrong (`curves/record.py`), and on none that went well."""

import dataclasses
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_values import any_event
from training import fresh, plan, trained, written

from engine import events, findings, recipe, runs
from engine.events import Adjusted, Ended, Evaluated, Notice, Queued, Sample, Saved, Started, Step

CURVES = Path(__file__).resolve().parent / "curves"
EXPECTED = {
    "healthy": set(),
    "healthy-single-rows": set(),
    "rate-too-high": {"learning_rate_too_high"},
    "collapsed": {"learning_rate_too_high"},
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


def untested(seen: list, losses: list[float] | None = None) -> list:
    """A run as if no evaluation had been made, and with other training losses."""
    left = [event for event in seen if not isinstance(event, Evaluated)]
    ready = iter(losses or [event.loss for event in left if isinstance(event, Step)])
    return [dataclasses.replace(event, loss=next(ready)) if isinstance(event, Step) else event for event in left]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_curve_is_told_what_is_wrong_with_it_and_nothing_else(name):
    plan, seen = recorded(name)
    assert kinds(plan, seen) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_under_way_or_killed_is_told_nothing_that_its_end_takes_back(name):
    plan, seen = recorded(name)
    for end in range(len(seen) + 1):
        assert kinds(plan, seen[:end]) <= EXPECTED[name], f"after {end} events"


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_that_was_resumed_is_told_the_same(name):
    plan, seen = recorded(name)
    begin = next(event for event in seen if isinstance(event, Started))
    last = [index for index, event in enumerate(seen) if isinstance(event, Step)][-1]
    for step in (0, 3, 7):
        again = next(index for index, event in enumerate(seen) if isinstance(event, Step) and event.step == step + 1)
        resumed = [*seen[:last], Ended("failed", step, "The disk is full.", 1.0), Queued("another", 1)]
        resumed += [dataclasses.replace(begin, resumed_from=step), *seen[again:]]
        assert kinds(plan, resumed) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_finding_names_what_to_change(name):
    """Sections and fields that the texts name are those of a recipe."""
    for finding in findings.findings(*recorded(name)):
        assert finding.text.endswith(".") and finding.advice.endswith(".") and (finding.step is None or finding.step > 0)
        named = re.findall(r"\b(lora|data|optimization|memory|quantization)\.([a-z_0-9]+)", finding.advice)
        assert named
        for section, field in named:
            assert field in recipe.Recipe.model_fields[section].annotation.model_fields


def test_overfitting_names_the_step_since_when():
    plan, seen = recorded("overfitting")
    (found,) = [each for each in findings.findings(plan, seen) if each.kind == "overfitting"]
    tests = [event for event in seen if isinstance(event, Evaluated)]
    assert found.step == min(tests, key=lambda event: event.loss).step and f"since step {found.step}" in found.text


@pytest.mark.parametrize("name", ["rate-too-high", "collapsed", "healthy", "healthy-single-rows", "hardly-learnt"])
def test_without_evaluations_the_training_loss_tells_of_steps_that_are_too_long(name):
    plan, seen = recorded(name)
    assert kinds(plan, untested(seen)) == EXPECTED[name] & {"learning_rate_too_high"}


@pytest.mark.parametrize("name", ["healthy-single-rows", "hardly-learnt"])
def test_the_order_of_rows_rarely_raises_a_false_alarm(name):
    """A step's loss swings with its rows: by up to two nats here, ten times what a run learns. `hardly-learnt` holds nothing else."""
    plan, seen = recorded(name)
    losses = [event.loss for event in seen if isinstance(event, Step)]
    drawn = random.Random(0)
    alarms = sum(bool(kinds(plan, untested(seen, drawn.choices(losses, k=len(losses))))) for _ in range(1000))
    assert alarms <= 10


def made(*more, steps: int = 12, rows: int = 12, held_out: int = 3, **facts: int) -> list:
    begin = Started("run", steps, 0, rows, held_out, 100, "CPU", "float32", "NF4", 4, **facts)
    return [begin, *(Step(number, 2.0 - 0.1 * number, 1.0, 1e-3, 0.1, 9.0, 9, 1.0) for number in range(1, steps + 1)), *more]


def evaluated(*losses: float) -> list[Evaluated]:
    return [Evaluated(3 * number, loss, 9) for number, loss in enumerate(losses)]


def test_held_out_losses_are_judged_by_more_than_one_of_them(tiny, rows):
    """While the training loss falls throughout."""
    asked = plan(tiny, rows)
    (found,) = findings.findings(asked, made(*evaluated(2.0, 2.05, 2.1, 2.2, 2.3)))
    assert found.kind == "overfitting" and "from its first step on" in found.text and "0 steps" not in found.advice
    (found,) = findings.findings(asked, made(*evaluated(2.0, 1.8, 1.7, 1.75, 1.8)))
    assert found.kind == "overfitting" and "Train for 6 steps only." in found.advice
    for calm in ((2.0, 1.9, 1.8, 1.7, 1.75), (2.0, 1.8, 1.9, 1.7, 1.71), (2.0, 1.7, 1.7, 1.701, 1.702)):
        assert kinds(asked, made(*evaluated(*calm))) == set()


def test_a_loss_that_rose_and_came_down_again_is_told(tiny, rows):
    asked = plan(tiny, rows)
    steps = [dataclasses.replace(step, loss=9.0) if step.step in (2, 3) else step for step in made()[1:]]
    (found,) = findings.findings(asked, [made()[0], *steps, *evaluated(2.0, 7.0, 1.9, 1.8, 1.7)])
    assert found.kind == "learning_rate_too_high" and found.step == 3


def test_what_a_run_did_about_trouble_is_found_again(tiny, rows):
    asked = plan(tiny, rows)
    smaller = Adjusted(2, {"optimization.accumulation": 2}, "Step 3 ran out of memory. Micro-batch 4 → 2.")
    kept = Adjusted(2, {"memory.activation_checkpointing": True}, "Step 3 ran out of memory. Activation checkpointing is turned on.")
    slower = Adjusted(2, {"optimization.learning_rate": 0.005}, "The loss of step 3 is not a number, which happens in float16.")
    wider = Adjusted(2, {"quantization.compute_dtype": "float32"}, "It happened again.")
    (found,) = findings.findings(asked, made(smaller))
    assert found.kind == "out_of_memory" and "Memory ran out once" in found.text and "accumulation of 2" in found.advice
    (found,) = findings.findings(asked, made(smaller, kept))
    assert "2 times" in found.text and "accumulation of 2" in found.advice and "memory.activation_checkpointing to true" in found.advice
    (found,) = findings.findings(asked, made(slower))
    assert found.kind == "float16" and "0.005" in found.advice and "compute_dtype" not in found.advice
    (found,) = findings.findings(asked, made(slower, wider))
    assert found.kind == "float16" and "bfloat16" in found.advice
    (found,) = findings.findings(asked, made(Ended("paused", 12, "Paused: the loss of step 13 is not a number.", 1.0)))
    assert found.kind == "not_a_number" and found.step == 13 and "from 0.01 to 0.001" in found.advice
    older = Adjusted(2, {"optimizer.speed": 3, "model": "x", "lora.r": -1}, "By another version.")
    assert kinds(asked, made(older)) == set()


def test_many_evaluations_that_were_skipped_are_one_finding(tiny, rows):
    skipped = [
        Notice(f"The {what} after step {step} ran out of memory one row at a time: skipped, training goes on. Close other programs.")
        for what in ("evaluation", "sample answers")
        for step in (3, 6)
    ]
    (found,) = findings.findings(plan(tiny, rows), made(*skipped))
    assert found.kind == "evaluation_missing" and "in 2 evaluations" in found.text


def test_a_run_that_failed_otherwise_is_not_said_to_have_learnt_nothing(tiny, rows):
    assert kinds(plan(tiny, rows), made(Ended("failed", 12, "The disk of runs is full.", 1.0))) == set()
    gone = Ended("failed", 12, "The adapter holds numbers that are none; it is not handed over.", 1.0)
    assert kinds(plan(tiny, rows), made(gone)) == {"not_a_number"}


@pytest.mark.parametrize("by", [{"steps": 2, "epochs": None}, {"steps": None, "epochs": 0.1}, {"steps": 2, "epochs": 0.1}])
def test_a_run_that_is_too_short_names_the_setting_that_makes_it_so(tiny, rows, by):
    asked = plan(tiny, rows, optimization=by)
    (found,) = findings.findings(asked, made(steps=2, rows=8, undrawn=92))
    assert "2 steps see 8 of 100 rows" in found.text
    assert "1 step sees 4 of 100 rows" in findings.findings(asked, made(steps=1, rows=4, undrawn=96))[0].text
    assert ("optimization.steps to 25" in found.advice) == (by["steps"] is not None)
    assert ("optimization.epochs to 1" in found.advice) == (by["epochs"] is not None)
    assert kinds(asked, made(steps=23, rows=100)) == set(), "all but the rest of a last batch"


def test_cut_rows_are_told_with_the_limits_that_cut_them(tiny, rows):
    (found,) = findings.findings(plan(tiny, rows), made(cut=1, left_out=1))
    assert found.severity == "hint" and "2 of 16 rows" in found.text and "data.max_length (now 96)" in found.advice
    (found,) = findings.findings(plan(tiny, rows, data={"target_length": 40}), made(cut=14))
    assert found.severity == "problem" and "data.target_length (now 40)" in found.advice


TRAINING = (Started, Step, Evaluated, Adjusted, Ended, Notice, Queued, Sample, Saved)
ANY_LOSS = st.floats() | st.floats(0, 20)
anything = st.one_of(
    *map(any_event, TRAINING),
    st.builds(Step, st.integers(0, 9), ANY_LOSS, st.none(), st.just(1e-3), st.just(1.0), st.just(1.0), st.just(1), st.just(1.0)),
    st.builds(Evaluated, st.integers(0, 9), ANY_LOSS, st.just(9)),
)


@given(st.sampled_from(["healthy", "overfitting", "collapsed"]), st.lists(anything, max_size=40), st.integers(0, 60), st.booleans())
def test_no_list_of_events_is_too_odd(name, odd, end, mixed):
    """Neither events of any values in any order, nor such among those of a real run."""
    plan, seen = recorded(name)
    given = [*seen[:end], *odd, *seen[end:]] if mixed else odd
    found = findings.findings(plan, given)
    assert all(each.text and each.advice for each in found)
    assert [each.severity for each in found] == sorted((each.severity for each in found), reverse=True)


def test_a_run_that_has_not_begun_has_no_findings(tiny, rows):
    assert findings.findings(plan(tiny, rows), []) == []
    assert findings.findings(plan(tiny, rows), [Queued("another", 1), Notice("x"), Ended("failed", 0, "No data.", 0.1)]) == []
    assert kinds(plan(tiny, rows), made(steps=0)[:1]) == {"too_few_steps"}


def test_an_adapter_that_learnt_nothing_is_found(tiny, rows, tmp_path, monkeypatch):
    from engine import jobs, passes
    from engine.errors import EngineError

    honest = passes.summed_loss
    monkeypatch.setattr(passes, "summed_loss", lambda learner, part: honest(learner, part) * 0.0)
    run = fresh(plan(tiny, rows), tmp_path / "run")
    with pytest.raises(EngineError, match="learnt nothing"):
        jobs.work(run, lambda event: None)
    assert kinds(run.recipe, runs.all_events(run)) == {"nothing_learnt"}


@pytest.mark.long
def test_the_commands_say_it(home, tiny, rows, tmp_path, run_engine):
    run = fresh(plan(tiny, rows, data={"held_out": 0}), tmp_path / "mine")
    trained(run)
    told = run_engine("runs", "mine")
    assert told.returncode == 0 and "mine: done at step 6 of 6" in told.stdout and "Hint: No rows are held out" in told.stdout
    document = json.loads(run_engine("runs", str(run.folder), "--json").stdout)
    assert document["id"] == "mine" and [each["kind"] for each in document["findings"]] == ["evaluation_missing"]
    assert run_engine("runs", "nobody").returncode == 2


@pytest.mark.long
def test_findings_follow_a_training_at_its_end(home, tiny, rows, tmp_path, run_engine):
    asked = written(plan(tiny, rows, data={"held_out": 0}), tmp_path / "plan.yaml")
    told = run_engine("train", str(asked), "--run-dir", str(tmp_path / "run"))
    assert told.returncode == 0 and told.stderr.count("Hint: No rows are held out") == 1 and told.stdout.startswith("Done: 6 steps.")
    again = run_engine("train", str(asked), "--run-dir", str(tmp_path / "run"), "--resume", "--json")
    assert again.returncode == 0 and [each["kind"] for each in json.loads(again.stdout)["findings"]] == ["evaluation_missing"]


@pytest.mark.long
def test_a_run_without_findings_is_told_so_and_one_that_failed_why(home, tiny, rows, tmp_path, run_engine):
    well, waits, failed = (fresh(plan(tiny, rows), tmp_path / name) for name in ("well", "waits", "failed"))
    trained(well)
    log = runs.EventLog(failed)
    log.append(Ended("failed", 0, "The disk is full.", 0.1))
    log.close()
    assert "- Nothing to find fault with." in run_engine("runs", "well").stdout
    assert "fault" not in run_engine("runs", "waits").stdout
    told = run_engine("runs", "failed").stdout
    assert "The disk is full." in told and "fault" not in told and waits.id == "waits"

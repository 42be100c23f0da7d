"""Trouble in a run: memory that runs out in steps, evaluation, samples and loading; numbers that float16 cannot hold."""

import dataclasses
import json
import os
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from training import begun, fresh, plan, stop_after, written

from engine import jobs, passes, presets, runs, train, trainee, trouble
from engine.errors import EngineError
from engine.events import Adjusted, Ended, Evaluated, Notice, Sample, Started, Step


def until_the_end(run, watch=lambda event: None) -> tuple[Ended, list]:
    """Train in this process, once more after each adjustment."""
    told = []
    while True:
        last = jobs.work(run, lambda event: (told.append(event), watch(event)))
        if isinstance(last, Ended):
            return last, told


def weights(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def out_of_memory_beyond(rows: int, monkeypatch, where=passes, name="summed_loss", error=torch.OutOfMemoryError):
    """A pass of more rows than that runs out of memory."""
    real = getattr(where, name)

    def scarce(learner, part, *rest):
        if learner.model.training and len(part) > rows:
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(learner, part, *rest)

    monkeypatch.setattr(where, name, scarce)


@given(batch=st.integers(1, 96), checkpointing=st.booleans())
def test_the_ladder_halves_then_checkpoints_then_ends(batch, checkpointing):
    recipe = presets.preset("starter").changed({"optimization.batch": batch, "memory.activation_checkpointing": checkpointing})
    rungs = []
    while less := trouble.with_less_memory(recipe, 7, 5):
        before, recipe = recipe.optimization.micro_batch, recipe.changed(less.changes)
        rungs.append(less)
        after = recipe.optimization.micro_batch
        assert recipe.optimization.batch == batch and less.step == 5
        assert after <= before / 2 or (before == after == 1 and "checkpointing" in less.text)
    assert recipe.optimization.micro_batch == 1 and recipe.memory.activation_checkpointing
    assert len(rungs) <= batch.bit_length() + 1


@pytest.mark.long
def test_three_times_out_of_memory_is_the_undisturbed_run_in_smaller_passes(home, tiny, rows, tmp_path, monkeypatch):
    recipe = plan(tiny, rows, optimization={"batch": 8, "steps": 5}, cadence={"save_every": 2})
    undisturbed = fresh(recipe, tmp_path / "undisturbed")
    _, calm = until_the_end(undisturbed)
    out_of_memory_beyond(1, monkeypatch)
    run = fresh(recipe, tmp_path / "disturbed")
    last, told = until_the_end(run)
    assert last.status == "done"
    adjusted = of(Adjusted, told)
    assert [event.changes for event in adjusted] == [{"optimization.accumulation": each} for each in (2, 4, 8)]
    assert "Micro-batch 8 → 4, still 8 rows in all a step" in adjusted[0].text
    assert [event.micro_batch for event in of(Started, told)] == [8, 4, 2, 1]
    losses = [[event.loss for event in of(Step, runs.in_force(runs.all_events(each)))] for each in (undisturbed, run)]
    assert len(losses[0]) == len(losses[1]) == 5 and losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert of(Step, calm)[-1].loss == pytest.approx(of(Step, told)[-1].loss, rel=1e-3)


def test_memory_that_runs_out_later_goes_on_from_the_checkpoint(home, tiny, rows, tmp_path, monkeypatch):
    run = fresh(plan(tiny, rows), tmp_path / "run")
    real, calls = train._step, []

    def once(job, step):
        calls.append(step)
        if calls.count(4) == 1 and step == 4:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            )
        return real(job, step)

    monkeypatch.setattr(train, "_step", once)
    last, told = until_the_end(run)
    assert last.status == "done" and [event.resumed_from for event in of(Started, told)] == [0, 2]
    assert of(Adjusted, told)[0].step == 2 and "going on from the checkpoint of step 2" in of(Adjusted, told)[0].text
    assert calls == [1, 2, 3, 4, 3, 4, 5, 6]


def test_at_the_end_of_the_ladder_stands_a_clear_sentence(home, tiny, rows, tmp_path, monkeypatch):
    out_of_memory_beyond(0, monkeypatch)
    run = fresh(plan(tiny, rows, optimization={"batch": 2}), tmp_path / "run")
    assert isinstance(jobs.work(run, lambda event: None), Adjusted)
    last = jobs.work(run, lambda event: None)
    assert last.changes == {"memory.activation_checkpointing": True} and "about a third slower" in last.text
    with pytest.raises(EngineError, match="Step 1 ran out of memory with one row a pass.*data.max_length below 96"):
        jobs.work(run, lambda event: None)
    assert of(Ended, runs.all_events(run))[-1].status == "failed"


def test_loading_that_runs_out_of_memory_says_so(home, tiny, rows, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainee, "prepare", full)
    with pytest.raises(EngineError, match="Loading .* ran out of memory. Close other programs"):
        jobs.work(fresh(plan(tiny, rows), tmp_path / "run"), lambda event: None)


def test_an_evaluation_that_runs_out_of_memory_takes_fewer_rows_or_is_skipped(home, tiny, rows, tmp_path, monkeypatch):
    real = passes.summed_loss
    for least, losses, notices in ((1, 3, 1), (0, 0, 5)):

        def scarce(learner, part, least=least):
            if not learner.model.training and len(part) > least:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(learner, part)

        monkeypatch.setattr(passes, "summed_loss", scarce)
        last, told = until_the_end(fresh(plan(tiny, rows, optimization={"batch": 2}), tmp_path / str(least)))
        assert last.status == "done" and len(of(Step, told)) == 6 and len(of(Evaluated, told)) == losses
        said = [event.text for event in of(Notice, told) if "ran out of memory" in event.text]
        assert "1 row at a time from now on" in said[0] and (least or "skipped, training goes on" in said[1])


def test_samples_that_run_out_of_memory_are_made_fewer_at_a_time(home, tiny, rows, tmp_path, monkeypatch):
    real = passes._generated

    def scarce(learner, prompts, *rest):
        if len(prompts) > 1:
            raise MemoryError
        return real(learner, prompts, *rest)

    monkeypatch.setattr(passes, "_generated", scarce)
    prompts = ["Count 1", "Count 2", "Count 3"]
    last, told = until_the_end(fresh(plan(tiny, rows, samples={"prompts": prompts}), tmp_path / "run"))
    assert last.status == "done" and [event.prompt for event in of(Sample, told)] == prompts * 3


def in_float16(monkeypatch):
    """No GPU here: the base counts as one that computes in float16 until the recipe says float32."""
    real = train._begin

    def begin(run, recipe, *rest):
        job = real(run, recipe, *rest)
        if recipe.quantization.compute_dtype != "float32":
            job.learner = dataclasses.replace(job.learner, base=dataclasses.replace(job.learner.base, dtype="float16"))
        return job

    monkeypatch.setattr(train, "_begin", begin)


def no_number_in(steps: int, monkeypatch):
    """Step 4 has no number for a loss, so often."""
    real, left = passes.summed_loss, [steps]

    def broken(learner, part):
        loss = real(learner, part)
        if learner.model.training and getattr(learner.dropout, "key", (0, 0))[1] == 4 and left[0]:
            left[0] -= 1
            return loss * float("nan")
        return loss

    monkeypatch.setattr(passes, "summed_loss", broken)


def test_float16_that_fails_is_made_calmer_then_left(home, tiny, rows, tmp_path, monkeypatch):
    in_float16(monkeypatch)
    no_number_in(2, monkeypatch)
    last, told = until_the_end(fresh(plan(tiny, rows), tmp_path / "run"))
    assert last.status == "done"
    first, second = of(Adjusted, told)
    assert first.changes == {"optimization.learning_rate": 0.005} and "0.01 → 0.005" in first.text and "step 4" in first.text
    assert second.changes == {"quantization.compute_dtype": "float32"} and "float32" in second.text
    rates = [event.learning_rate for event in of(Step, runs.in_force(runs.all_events(runs.Run(tmp_path / "run"))))]
    assert rates == [0.01, 0.01, 0.005, 0.005, 0.005, 0.005]


def test_float32_that_fails_is_paused(home, tiny, rows, tmp_path, monkeypatch):
    no_number_in(1, monkeypatch)
    last, told = until_the_end(fresh(plan(tiny, rows), tmp_path / "run"))
    assert last.status == "paused" and not of(Adjusted, told) and "The checkpoint of step 2 is sound" in last.text


def test_a_scale_that_never_settles_is_no_endless_run(home, tiny, rows, tmp_path, monkeypatch):
    """Every step overflows: a GradScaler skips them all and the loss stays a number."""
    real = train._begin

    def begin(*given):
        job = real(*given)
        job.accelerator.scaler = torch.amp.GradScaler("cpu")
        job.accelerator.clip_grad_norm_ = lambda *_: torch.tensor(float("inf"))
        return job

    monkeypatch.setattr(train, "_begin", begin)
    run = fresh(plan(tiny, rows, optimization={"steps": 40}, cadence={"save_every": 100, "eval_every": 100}), tmp_path / "run")
    last, told = until_the_end(run)
    assert last.status == "paused" and "the gradient of step 25" in last.text
    assert [event.grad_norm for event in of(Step, told)] == [None] * 24


def test_an_adjusted_run_stops_and_resumes_with_what_was_adjusted(home, tiny, rows, tmp_path, monkeypatch):
    out_of_memory_beyond(2, monkeypatch)
    run = fresh(plan(tiny, rows), tmp_path / "run")
    last, _ = until_the_end(run, stop_after(run, 3))
    assert last.status == "stopped"
    _, told = until_the_end(run)
    assert of(Started, told)[0].micro_batch == 2 and not of(Adjusted, told)


def test_who_was_adjusted_goes_before_those_who_wait(home, tiny, rows, tmp_path, monkeypatch):
    out_of_memory_beyond(2, monkeypatch)
    run = fresh(plan(tiny, rows), tmp_path / "run")
    assert isinstance(jobs.work(run, lambda event: None), Adjusted)
    assert [name for name in jobs._tickets() if int(name.split("-")[1]) == 0] and run.process.pid == os.getpid()
    assert until_the_end(run)[0].status == "done"
    assert not jobs._tickets() and not run.process


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process's memory are Linux's")
def test_a_machine_that_is_too_small_trains_in_smaller_passes_of_fresh_processes(starter_home, tmp_path):
    """The starter, and a real limit: 3.6 GB of memory where passes of 768 tokens take more."""
    long = " ".join(f"Item {number} of the list is good." for number in range(60))
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"instruction": f"Say list {number}.", "output": long}) + "\n" for number in range(24)))
    recipe = plan(
        "starter",
        source,
        data={"max_length": 256, "held_out": 1},
        optimization={"steps": 1, "learning_rate": 1e-3},
        memory={"base_weights": "unpacked"},
        samples={"prompts": []},
    )
    losses, numbers = [], []
    for limit in (None, 3_600_000_000):
        run = runs.Run(tmp_path / f"run-{limit}")
        command = [sys.executable, "-m", "engine", "train", str(written(recipe, tmp_path / "recipe.yaml")), "--run-dir", str(run.folder)]
        limited = [] if limit is None else ["prlimit", f"--data={limit}:{limit}"]
        process = begun([*limited, *command])
        numbers.append(process.pid)
        output, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
        events = runs.all_events(run)
        losses.append([event.loss for event in (*of(Step, runs.in_force(events)), of(Evaluated, events)[-1])])
    assert of(Adjusted, events) and len(of(Started, events)) == len(of(Adjusted, events)) + 1
    assert len(losses[0]) == len(losses[1]) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert errors.count("ran out of memory. Micro-batch 4 → 2") == 1 and "Done: 1 step." in output


def test_a_failed_attempt_lets_go_of_what_it_held():
    import weakref

    class Held:
        pass

    seen = []

    def attempt():
        held = Held()
        seen.append(weakref.ref(held))
        raise MemoryError

    try:
        attempt()
    except MemoryError as error:
        trouble.let_go(error)
        assert seen[0]() is None

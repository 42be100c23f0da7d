"""Ten real steps before a run: which rows they take, what they measure, what is said where they fail, what is left behind."""

import json
import os
import re
import time
from dataclasses import replace

import pytest
from builders import until
from training import data, plan

from engine import fitting, hardware, jobs, memory, models, pace, paths, probing, prompts, rows, runs, trouble
from engine.errors import BadInput
from engine.events import Adjusted, Ended, Queued, Started, Step, to_json
from engine.hardware import GIB
from engine.runs import Run
from ui.finetune import views

STARTED = Started("probe", 10, 0, 4, 0, 1000, "CPU", "float32", "nf4", 4)


def silent(_) -> None:
    pass


def steps(count: int, seconds=(5.0, 3.0), after=2.0, memory=700_000_000) -> list[Step]:
    """Steps of 100 tokens each, the first ones slower."""
    took = [*seconds, *[after] * count][:count]
    return [Step(n, 1.0, 1.0, 0.1, 1.0, 100 * n / sum(took[:n]), memory + n, 0.0, took[n - 1]) for n in range(1, count + 1)]


@pytest.fixture
def not_begun(monkeypatch):
    """No process is started for a run."""
    monkeypatch.setattr(jobs, "_spawn", lambda run: None)


def ended(run: Run, *events) -> probing.Probe:
    run.events.write_text("".join(f"{to_json(event)}\n" for event in events))
    return probing.outcome(run)


def test_it_takes_the_longest_rows_as_they_are_learnt(tiny, tmp_path, not_begun):
    source = data(tmp_path / "rows.jsonl", 40)
    recipe = plan(tiny, source, data={"system": "Count.", "max_length": 200}, memory={"activation_checkpointing": True})
    run = probing.start(recipe, silent)
    probed = run.recipe
    tokenizer = probing.tokenizer_files.opened(models.resolve(str(tiny)), silent)
    form = prompts.prompt_format("chat")

    def encoded(plan):
        return rows.encoded(plan, rows.read(plan, silent), 0, tokenizer, form, silent).train

    everything = encoded(recipe.data.model_copy(update={"held_out": 0}))
    taken = encoded(probed.data)
    longest = sorted((len(row.ids) for row in everything), reverse=True)
    assert sorted((len(row.ids) for row in taken), reverse=True) == longest[:4] and set(taken) <= set(everything)
    assert probed.data.max_length == longest[0]
    same = {"model", "quantization", "lora", "memory"}
    assert probed.model_dump(include=same) == recipe.model_dump(include=same)
    assert probed.optimization == recipe.optimization.model_copy(update={"steps": 10})
    assert not probed.samples.prompts and not probed.data.held_out
    assert run.folder.parent == paths.probes() and runs.every() == []


def test_rows_that_are_cut_and_conversations_come_through(tiny, tmp_path, not_begun):
    source = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "“Ü”?\n"}]
    chats = [[{"role": "system", "content": "Be."}, *turns, {"role": "assistant", "content": "x" * n}] for n in (1, 50, 400, 500, 5)]
    source.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats) + "[]\n")
    run = probing.start(plan(tiny, source, optimization={"batch": 2}), silent)
    assert run.recipe.data.max_length == 96
    kept = [json.loads(line)["messages"] for line in open(run.recipe.data.source)]
    assert kept == [chats[2], chats[3]] or kept == [chats[3], chats[2]]


def test_one_row_alone_is_taken_twice(tiny, tmp_path, not_begun):
    source = tmp_path / "rows.jsonl"
    long = {"instruction": "a " * 200, "output": "b"}  # its question fills the limit
    source.write_text("".join(json.dumps(row) + "\n" for row in ({"instruction": "a", "output": "b"}, long)))
    run = probing.start(plan(tiny, source, data={"held_out": 0}), silent)
    assert len(open(run.recipe.data.source).readlines()) == 2
    source.write_text("".join(json.dumps(long) + "\n" for _ in range(3)))
    with pytest.raises(BadInput, match="No row has an answer within 96 tokens"):
        probing.start(plan(tiny, source), silent)


def test_what_it_measured_is_told_and_kept(tiny, tmp_path, not_begun):
    recipe = plan(tiny, data(tmp_path / "rows.jsonl"))
    run = probing.start(recipe, silent)
    probed, shape = run.recipe, models.resolve(str(tiny)).shape
    found = ended(run, STARTED, *steps(10), Ended("done", 10, "Done", 30.0))
    assert (found.status, found.steps, found.seconds_per_step, found.peak_bytes) == ("done", 10, 2.0, 700_000_010)
    assert found.tokens_per_second == pytest.approx(50, rel=0.001)
    assert found.predicted_bytes == memory.training_plan(shape, probed, hardware.machine()).total
    assert "10 steps on the longest rows" in found.text and "2.0 s a step, 0.7 GB of memory at most; 1.0 GB were foretold." in found.text
    assert not list(paths.probes().iterdir()) and probing.outcome(run) == found
    kept = pace.pace(shape, recipe, hardware.machine(), str(tiny))
    assert (kept.source, kept.tokens_per_second) == ("measured", found.tokens_per_second), "the next sentence heeds it"


def test_a_recipe_that_was_changed_on_the_way_is_told_so(tiny, tmp_path, not_begun):
    run = probing.start(plan(tiny, data(tmp_path / "rows.jsonl")), silent)
    adjusted = trouble.with_less_memory(run.recipe, 3, 0)
    again = [Adjusted(0, adjusted.changes, adjusted.text), STARTED, *steps(10, after=4.0)]
    found = ended(run, STARTED, *steps(2), *again, Ended("done", 10, "Done", 30.0))
    assert (found.status, found.seconds_per_step, found.changes) == ("done", 4.0, {"optimization.accumulation": 2})
    assert "On the way: Step 3 ran out of memory. Micro-batch 4 → 2" in found.text


FAILURES = {
    "memory": (
        lambda recipe: Ended("failed", 0, trouble.exhausted(recipe, 1, 0), 0.0),
        "does not fit",
        "It does not fit: Step 1 ran out of",
    ),
    "loading": (lambda recipe: Ended("failed", 0, trouble.exhausted(recipe, 0, 0), 0.0), "does not fit", "It does not fit: Loading"),
    "fault": (lambda recipe: Ended("failed", 0, "There is no model", 0.0), "failed", "The probe failed: There is no model"),
    "numbers": (lambda recipe: Ended("paused", 4, "Paused", 0.0), "failed", "Try a lower learning rate"),
    "killed": (lambda recipe: Queued("another", 1), "failed", "could not say why"),
    "asked to": (lambda recipe: Ended("stopped", 4, "Stopped", 0.0), "stopped", "was stopped"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_told_in_words(name, tiny, tmp_path, not_begun):
    last, status, text = FAILURES[name]
    run = probing.start(plan(tiny, data(tmp_path / "rows.jsonl")), silent)
    found = ended(run, STARTED, *steps(4), last(run.recipe))
    assert (found.status, found.steps, found.peak_bytes, found.seconds_per_step) == (status, 4, None, None) and text in found.text


def test_the_prediction_is_of_what_a_gpu_counts(tiny, tmp_path, monkeypatch):
    machine = hardware.Machine("computer", "Linux x86_64", 2, 24 * GIB, 20 * GIB, (hardware.Gpu("a GPU", 16 * GIB, (8, 0)),))
    monkeypatch.setattr(hardware, "machine", lambda: machine)
    recipe = plan(tiny, "rows.jsonl", optimization={"optimizer": "paged_adamw_8bit"}, lora={"r": 1024})
    parts = memory.training_plan(models.resolve(str(tiny)).shape, recipe, machine).parts
    assert any(part.pageable for part in parts)
    assert probing._foretold(recipe) == sum(part.bytes - part.pageable for part in parts if part.name != "runtime")
    assert probing._foretold(recipe.model_copy(update={"model": "someone/unknown"})) is None


def test_the_mark_of_what_was_measured_stands_where_the_plan_counts(tiny, monkeypatch):
    """On a GPU torch counts its own memory alone, the plan what CUDA takes besides."""
    shape, recipe = models.resolve(str(tiny)).shape, plan(tiny, "rows.jsonl")
    found = probing.Probe("done", 10, 3 * GIB, 1.0, 100.0, 3 * GIB, {}, "Done.")
    cpu = hardware.Machine("computer", "Linux x86_64", 2, 24 * GIB, 10 * GIB, ())
    for machine, peak in ((cpu, 3), (replace(cpu, gpus=(hardware.Gpu("a GPU", 10 * GIB, (8, 0)),)), 4)):
        monkeypatch.setattr(hardware, "machine", lambda machine=machine: machine)
        here = memory.training_plan(shape, recipe, machine)
        bar = views.memory_bars({fitting.THIS_MACHINE: here}, found)
        (left,) = re.findall(r'class="peak" style="left:([\d.]+)%"', bar)
        assert float(left) == pytest.approx(100 * peak * GIB / here.have, abs=0.01) and f"measured: {peak}.0 GB" in bar


def test_what_nobody_looked_at_goes_with_the_next_probe(tiny, tmp_path, not_begun):
    recipe = plan(tiny, data(tmp_path / "rows.jsonl"))
    old, running, fresh = (probing.start(recipe, silent) for _ in range(3))
    running.claim(os.getpid())
    for run in (old, running):
        for path in (run.folder, run.folder.with_suffix(".jsonl")):
            os.utime(path, (time.time() - 3600,) * 2)
    probing.start(recipe, silent)
    assert not old.folder.exists() and not old.folder.with_suffix(".jsonl").exists()
    assert running.folder.exists() and fresh.folder.exists() and fresh.folder.with_suffix(".jsonl").exists()
    assert probing.outcome(old).status == "stopped"


def looked_at(run: Run) -> probing.Probe:
    until(lambda: probing.outcome(run), 400)
    return probing.outcome(run)


@pytest.mark.long
def test_a_probe_of_the_tiny_model(tiny, tmp_path):
    recipe = plan(tiny, data(tmp_path / "rows.jsonl"))
    run = probing.start(recipe, silent)
    assert run.process and runs.every() == []
    found = looked_at(run)
    assert (found.status, found.steps, found.changes) == ("done", 10, {}), found.text
    assert found.peak_bytes > 1e8 and 0 < found.seconds_per_step < 60 and found.tokens_per_second > 0
    assert not list(paths.probes().iterdir()) and runs.every() == []


@pytest.mark.long
def test_a_probe_is_stopped(tiny, tmp_path):
    run = probing.start(plan(tiny, data(tmp_path / "rows.jsonl")), silent)
    process = run.process
    assert probing.outcome(run) is None
    probing.stop(run)
    assert not process.is_running() and probing.outcome(run).status == "stopped" and not list(paths.probes().iterdir())
    probing.stop(run)


@pytest.mark.long
def test_a_probe_of_the_starter_takes_what_is_foretold(starter, tmp_path):
    from engine import presets

    source = tmp_path / "rows.jsonl"
    long = " ".join(f"Item {number} is a good thing to say." for number in range(20))
    source.write_text("".join(json.dumps({"instruction": f"Say list {number}.", "output": long}) + "\n" for number in range(8)))
    small = {"data.max_length": 64, "optimization.batch": 1, "memory.activation_checkpointing": True}
    recipe = presets.preset("starter").changed({"data.source": str(source), **small})
    found = looked_at(probing.start(recipe, silent))
    assert found.status == "done", found.text
    assert 0.6 < found.peak_bytes / found.predicted_bytes < 1.4, found.text

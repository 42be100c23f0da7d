"""One training run on a tiny model: what it tells, what it leaves, how it goes on to the same weights, how it fails."""

import json
import math
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
import training
from hypothesis import given
from hypothesis import strategies as st
from training import STEPS, adapter_bytes, fresh, plan, stop_after, trained

from engine import adapters, checkpoints, passes, paths, runs, train, trainable
from engine.errors import BadInput, EngineError
from engine.events import Ended, Evaluated, Notice, Sample, Saved, Started, Step
from engine.runs import Run


def test_a_run_tells_everything(whole):
    run, ended, events = whole
    assert ended.status == "done" and ended.step == STEPS
    begun = next(event for event in events if isinstance(event, Started))
    assert (begun.steps, begun.resumed_from, begun.rows, begun.held_out) == (STEPS, 0, 9, 3)
    steps = [event for event in events if isinstance(event, Step)]
    assert [event.step for event in steps] == list(range(1, STEPS + 1))
    assert all(math.isfinite(event.loss) and event.grad_norm > 0 and event.learning_rate == 0.01 for event in steps)
    assert all(event.tokens_per_second > 0 and event.memory > 1e7 and event.eta_seconds >= 0 for event in steps)
    assert [event.step for event in events if isinstance(event, Saved)] == [2, 4, 6]
    losses = [event for event in events if isinstance(event, Evaluated)]
    assert [event.step for event in losses] == [0, 3, 6] and losses[-1].loss < losses[0].loss
    assert [(event.step, event.prompt) for event in events if isinstance(event, Sample)] == [(step, "Count 1") for step in (0, 3, 6)]
    assert events == runs.all_events(run)


def test_what_a_run_hands_over_is_an_adapter_that_says_where_it_comes_from(whole, tiny, rows):
    run, *_ = whole
    found = adapters.read(run.adapter, "whole")
    assert paths.damaged(run.adapter) is None and (found.base, found.prompt) == (str(tiny), "chat")
    assert adapters.load_tensors(found)
    facts = found.playground
    assert facts["data_sha256"] == paths.sha256(rows) and facts["seed"] == 0 and facts["steps"] == STEPS and facts["system"] == ""
    assert len(facts["base_revision"]) == len(facts["tokenizer_sha256"]) == 64 and facts["versions"]["torch"] == torch.__version__
    assert str(rows.parent) not in json.dumps(facts)


def test_only_the_newest_checkpoints_stay_and_hold_no_pickle(whole):
    run, *_ = whole
    assert run.steps_saved() == [4, 6]
    assert {path.suffix for path in run.checkpoints.rglob("*") if path.is_file()} == {".json", ".safetensors"}


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(whole, tiny, rows, tmp_path, step):
    run = fresh(plan(tiny, rows), tmp_path / "stopped")
    ended, _ = trained(run, stop_after(run, step))
    assert (ended.status, ended.step, run.steps_saved()[-1]) == ("stopped", step, step) and not run.adapter.exists()
    ended, events = trained(run)
    assert ended.status == "done" and next(event for event in events if isinstance(event, Started)).resumed_from == step
    assert adapter_bytes(run) == adapter_bytes(whole[0])
    told = [(type(event).__name__, event.step) for event in runs.in_force(runs.all_events(run)) if isinstance(event, Step | Evaluated)]
    assert told == [(type(event).__name__, event.step) for event in whole[2] if isinstance(event, Step | Evaluated)]


def test_a_visitors_run_ends_when_its_time_is_up(whole, tiny, rows, tmp_path, monkeypatch):
    run = runs.create(tmp_path / "visitors", plan(tiny, rows), public=True)
    monkeypatch.setattr(trainable, "LONGEST_SECONDS", 600)
    now, step = time.monotonic, []
    monkeypatch.setattr(time, "monotonic", lambda: now() + 601 * bool(step))  # the clock runs on as step 2 is made
    ended, _ = trained(run, lambda event: step.append(2) if isinstance(event, Step) and event.step == 2 else None)
    assert (ended.status, ended.step, run.steps_saved()) == ("stopped", 2, [2])
    assert ended.text == "Stopped after step 2 of 6, as visitors may train about 10 minutes at a time. Resume goes on from there."
    ended, _ = trained(run)
    assert ended.status == "done" and adapter_bytes(run) == adapter_bytes(whole[0])


VARIANTS = {
    "passes that share a batch": {"optimization": {"accumulation": 2}},
    "activation checkpointing": {"memory": {"activation_checkpointing": True}},
    "packed weights": {"memory": {"base_weights": "packed"}},
    "packed weights, activation checkpointing": {"memory": {"base_weights": "packed", "activation_checkpointing": True}},
    "no quantization": {"quantization": {"kind": "none"}},
    "fp4 and single quantization": {"quantization": {"kind": "fp4", "double": False}},
    "paged 32-bit optimizer": {"optimization": {"optimizer": "paged_adamw_32bit"}},
    "paged 8-bit optimizer": {
        "lora": {"r": 64},
        "optimization": {"optimizer": "paged_adamw_8bit", "learning_rate": 0.002},
    },  # 8 bits from 4,096 numbers on
    "cosine schedule with warm-up": {"optimization": {"schedule": "cosine", "warmup_steps": 2}},
    "everything learnt": {"data": {"learn": "everything"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.long
def test_every_variant_learns_and_resumes_exactly(variant, tiny, rows, tmp_path):
    steps = 4
    sections = {name: dict(section) for name, section in VARIANTS[variant].items()}
    sections["optimization"] = {**sections.get("optimization", {}), "steps": steps}
    sections |= {"samples": {"prompts": []}, "cadence": {"save_every": 1, "eval_every": 100}}
    one, two = (fresh(plan(tiny, rows, **sections), tmp_path / name) for name in ("one", "two"))
    ended, events = trained(one)
    losses = [event.loss for event in events if isinstance(event, Evaluated)]
    assert ended.status == "done" and losses[1] < losses[0]
    trained(two, stop_after(two, 2))
    assert trained(two)[0].status == "done"
    assert adapter_bytes(one) == adapter_bytes(two)


def test_the_optimizer_is_told_not_to_page_here(tiny, rows, tmp_path):
    run = fresh(plan(tiny, rows, optimization={"optimizer": "paged_adamw_32bit", "steps": 1}), tmp_path / "paged")
    _, events = trained(run)
    assert any("does not page here" in event.text for event in events if isinstance(event, Notice))


def test_a_damaged_checkpoint_is_passed_over_and_told(whole, tiny, rows, tmp_path):
    run = fresh(plan(tiny, rows), tmp_path / "damaged")
    trained(run, stop_after(run, 5))
    weights = run.checkpoints / "step-5" / adapters.WEIGHTS
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    weights.write_bytes(flipped)
    ended, events = trained(run)
    assert any("step 5 is damaged" in event.text for event in events if isinstance(event, Notice))
    assert next(event for event in events if isinstance(event, Started)).resumed_from == 4
    assert ended.status == "done" and adapter_bytes(run) == adapter_bytes(whole[0])


def test_damaged_checkpoints_make_way_for_the_steps_made_again(whole, tiny, rows, tmp_path):
    run = fresh(plan(tiny, rows, cadence={"keep": 1}), tmp_path / "keep")
    trained(run, stop_after(run, 5))
    (run.checkpoints / "step-5" / "state.json").write_text("{}")
    trained(run, stop_after(run, 1))
    assert run.steps_saved() == [1]
    assert trained(run)[0].status == "done" and run.steps_saved() == [STEPS] and adapter_bytes(run) == adapter_bytes(whole[0])


@pytest.mark.parametrize("what", ["the data", "the base's weights", "the seed"])
def test_a_run_goes_on_only_with_what_it_began_with(what, tiny, rows, tmp_path):
    copy = tmp_path / "rows.jsonl"
    copy.write_bytes(rows.read_bytes())
    run = fresh(plan(tiny, copy), tmp_path / "run")
    trained(run, stop_after(run, 1))
    if what == "the data":
        training.data(copy, 13)
    else:
        path = run.folder / adapters.PLAYGROUND
        key = {"the base's weights": "base_revision", "the seed": "seed"}[what]
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: "other"}))
    with pytest.raises(BadInput, match=what):
        trained(run)


def test_numbers_that_are_none_pause_the_run_and_leave_the_checkpoint(tiny, rows, tmp_path, monkeypatch):
    run = fresh(plan(tiny, rows), tmp_path / "nan")
    honest, made = passes.summed_loss, []

    def faulty(learner, part):
        made.append(part)
        return honest(learner, part) * (math.nan if runs.all_events(run)[-1] == saved[-1] else 1) if saved else honest(learner, part)

    saved = []
    monkeypatch.setattr(passes, "summed_loss", faulty)
    ended, _ = trained(run, lambda event: saved.append(event) if isinstance(event, Saved) else None)
    assert ended.status == "paused" and "loss of step 3 is not a number" in ended.text and "step-2" in ended.text
    assert run.steps_saved() == [2] and checkpoints.damaged(run.checkpoints / "step-2") is None and not run.adapter.exists()
    monkeypatch.setattr(passes, "summed_loss", honest)
    start = {"lora": {"start_from": str(run.checkpoints / "step-2")}, "optimization": {"learning_rate": 0.001}}
    assert trained(fresh(plan(tiny, rows, **start), tmp_path / "calmer"))[0].status == "done"


def test_an_adapter_that_learnt_nothing_is_not_handed_over(tiny, rows, tmp_path, monkeypatch):
    run = fresh(plan(tiny, rows), tmp_path / "nothing")
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    with pytest.raises(EngineError, match="learnt nothing"):
        trained(run)
    assert not run.adapter.exists()


def test_an_adapter_with_nothing_to_train_is_refused_at_the_start(tiny, rows, tmp_path, monkeypatch):
    from engine import trainee

    honest = trainee._with_lora
    monkeypatch.setattr(trainee, "_with_lora", lambda *arguments: honest(*arguments).requires_grad_(False))
    with pytest.raises(EngineError, match="nothing that could learn"):
        trained(fresh(plan(tiny, rows), tmp_path / "frozen"))


def test_a_run_starts_from_an_adapter(whole, tiny, rows, tmp_path):
    run = fresh(plan(tiny, rows, lora={"start_from": str(whole[0].adapter), "dropout": 0}), tmp_path / "further")
    _, events = trained(run)
    before = [event.loss for event in whole[2] if isinstance(event, Evaluated)]
    after = [event.loss for event in events if isinstance(event, Evaluated)]
    assert after[0] == pytest.approx(before[-1], abs=1e-5) and after[-1] < after[0]


def test_layers_that_are_not_there_are_told_with_those_that_are(tiny, rows, tmp_path):
    with pytest.raises(BadInput, match="no layers called nope.*down_proj, gate_proj.*q_proj"):
        trained(fresh(plan(tiny, rows, lora={"targets": ["nope"]}), tmp_path / "nope"))


def test_half_precision_files_are_half_as_large(whole, tiny, rows, tmp_path):
    run = fresh(plan(tiny, rows, lora={"save_as": "float16"}), tmp_path / "half")
    trained(run)
    assert len(adapter_bytes(run)) < 0.6 * len(adapter_bytes(whole[0]))
    assert all(tensor.dtype == torch.float16 for tensor in adapters.load_tensors(adapters.read(run.adapter, "half")).values())


def test_the_end_is_always_an_event(whole):
    assert isinstance(whole[2][-1], Ended) and "Held-out loss" in whole[1].text


@given(steps=st.integers(1, 60), every=st.integers(1, 70), at=st.data())
def test_evaluations_to_come_are_counted_without_walking_the_steps(steps, every, at):
    job = SimpleNamespace(steps=steps, recipe=SimpleNamespace(cadence=SimpleNamespace(eval_every=every)))
    step = at.draw(st.integers(1, steps))
    due = [each for each in range(step, steps + 1) if train._Training.tests(job, each)]
    assert train._Training.tests_from(job, step) == len(due)


def test_the_step_to_go_on_from_is_of_a_sound_checkpoint(whole, tmp_path, monkeypatch):
    run = Run(tmp_path / "mine")
    shutil.copytree(whole[0].folder, run.folder)
    read, honest = [], checkpoints.damaged
    monkeypatch.setattr(checkpoints, "damaged", lambda folder: read.append(folder.name) or honest(folder))
    *_, before, last = run.steps_saved()
    assert checkpoints.sound_step(run) == checkpoints.sound_step(run) == last and read == [f"step-{last}"], "read once"
    weights = run.checkpoints / f"step-{last}" / "adapter_model.safetensors"
    held = weights.read_bytes()
    weights.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    assert checkpoints.sound_step(run) == before == checkpoints.newest(run)[0].step
    shutil.rmtree(run.checkpoints)
    assert checkpoints.sound_step(run) == 0

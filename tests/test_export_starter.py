"""Exports of the real starter after a few steps: merged weights answer like the base with its adapter, GGUF like those."""

import pytest
import training
from exporting import exported

from engine import likeness, models, paths
from engine.settings import ChatSettings


@pytest.mark.long
@pytest.mark.usefixtures("starter")
def test_the_starters_merged_weights_and_gguf_answer_alike(tmp_path, monkeypatch):
    """Well within the limits, which are meant for any model. Short answers do: differences show at every token."""
    monkeypatch.setattr(likeness, "_GREEDY", ChatSettings(temperature=0, max_new_tokens=8))
    data = training.data(tmp_path / "rows.jsonl", 16)
    sections = {"optimization": {"steps": 3, "learning_rate": 0.001}, "samples": {"prompts": ["What can you do?"]}}
    run = training.fresh(training.plan("starter", data, **sections, cadence={"save_every": 9, "eval_every": 9}), tmp_path / "run")
    training.trained(run)
    done = exported(run, "gguf", tmp_path / "out")
    merged, gguf = done.checks["merged"], done.checks["gguf"]
    assert merged["same_answers"] == merged["prompts"] == gguf["same_answers"]
    assert merged["mean_logit_difference"] < 0.002 * merged["logit_spread"] < 0.1 * merged["adapter_effect"], merged
    assert gguf["mean_logprob_difference"] < 0.01 and paths.damaged(tmp_path / "out") is None, gguf
    assert models.resolve(str(tmp_path / "out" / "run-F16.gguf")).shape.layers == 30

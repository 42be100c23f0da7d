"""Answers made, judged by a real llama.cpp server and rated."""

import contextlib
import functools
import json

import pytest
from conftest import SHARED, shared
from playing import written
from test_llamacpp import opened

from engine.game import answer_files


@shared
@pytest.mark.long
def test_a_real_judge_from_answers_to_ratings(starter, run_engine, tmp_path, monkeypatch):
    """The starter answers, and judges itself against short answers, behind llama.cpp's own server. What it says is seldom a verdict."""
    monkeypatch.setenv("GUANACO_ANSWERS", str(SHARED / "qlora"))
    mine, out = tmp_path / "mine.jsonl", tmp_path / "out"
    short = [{"answer_id": f"short{id}", "model_id": "brief", "question_id": id, "text": "It depends."} for id in range(1, 81)]
    theirs = written(tmp_path / "brief.jsonl", short)
    made = run_engine("evaluate", "generate", "--limit", "2", "--max-new-tokens", "24", "--out", str(mine), "--json")
    assert json.loads(made.stdout)["new"] == 2 and len(answer_files.read(mine).ids) == 2, made.stderr
    with contextlib.closing(opened("starter")) as served:
        where = ("--base-url", f"{served._process.address}/v1", "--api-key-env", "LLAMA_KEY", "--judge-model", "starter", "--yes")
        judge = functools.partial(
            run_engine, "judge", str(mine), str(theirs), *where, "--out", str(out), "--parallel", "2", "--max-new-tokens", "16"
        )
        first = judge("--limit", "1", "--json", LLAMA_KEY=served._process.key)
        assert first.returncode == 0 and json.loads(first.stdout)["new"] == 2, first.stderr
        told = json.loads(judge("--json", LLAMA_KEY=served._process.key).stdout)
    assert (told["judgements"], told["new"]) == (4, 2) and told["tokens_in"] > 400 and 4 < told["tokens_out"] <= 64
    rows = [json.loads(line) for path in out.glob("*.jsonl") for line in path.read_text("utf-8").splitlines()]
    assert len(rows) == 4 and all(row["score"] in (1, 2, 3, -1) and row["text"] for row in rows)
    assert {path.name for path in out.glob("*")} == {"starter-vs-brief.jsonl", "brief-vs-starter.jsonl"}
    rated = json.loads(run_engine("elo", str(out), "--json").stdout)["systems"]
    assert {each["name"] for each in rated} == {"starter", "brief"}

"""`python -m engine evaluate` as a person types it: documents, exit codes, Ctrl-C, data of the Hub."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
from builders import until
from conftest import ROOT
from hub_server import HubServer
from test_measures import COLUMNS, pair, question, written

from engine import runs
from engine.evaluate import measurements


@pytest.fixture
def data(tmp_path) -> str:
    rows = [question(subject, number, "ABCD"[number % 4]) for subject in ("anatomy", "virology") for number in range(12)]
    return written(tmp_path / "mmlu.jsonl", rows)


@pytest.mark.long
def test_the_command_line_measures_lists_and_compares(data, run_engine, tmp_path):
    crows = written(tmp_path / "pairs.csv", [COLUMNS, pair("a b", "a c"), pair("d", "e", "age")])
    rows = written(tmp_path / "rows.jsonl", [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d"}])
    documents = []
    for command in (
        ["mmlu", "--data", data, "--shots", "0", "--limit", "9", "--seed", "1"],
        ["crows", "--data", crows],
        ["perplexity", "--data", rows],
        ["perplexity", "--data", data, "--as", "text", "--max-length", "64"],
    ):
        done = run_engine("evaluate", *command, "--model", "scripted", "--json")
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
        assert "Measurement " in done.stderr
    assert [each["result"]["measure"] for each in documents] == ["mmlu", "crows", "perplexity", "perplexity"]
    listed = json.loads(run_engine("evaluate", "list", "--json").stdout)
    assert {each["id"] for each in listed} == {each["id"] for each in documents}
    first = documents[0]["id"]
    again = run_engine("evaluate", "mmlu", "--resume", first)
    assert (
        again.returncode == 0
        and "MMLU, no shots: " in again.stdout
        and "9 questions" in again.stdout
        and "scripted, adapter none" in again.stdout
    )
    compared = run_engine("evaluate", "compare", first, first, "--json")
    assert json.loads(compared.stdout)["words"] == "Both are the same on all 9 items."


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["mmlu", "--model", "scripted", "--data", "nowhere.jsonl"], "There is no file"),
        (["mmlu", "--model", "scripted", "--shots", "3"], "--shots"),
        (["crows", "--model", "scripted"], "nyu-mll/crows-pairs"),
        (["perplexity", "--model", "scripted"], "--data"),
        (["perplexity", "--model", "scripted", "--limit", "0"], "--limit"),
        (["mmlu", "--resume", "nothing"], "There is no measurement 'nothing'"),
        (["compare", "one", "two"], "Nothing has been measured yet"),
        (["perplexity", "--model", "no such model", "--data", "x.txt"], "There is no model"),
    ],
)
def test_bad_input_is_one_clear_line(command, words, home, monkeypatch, capsys):
    from engine import __main__ as cli

    monkeypatch.setattr(sys, "argv", ["engine", "evaluate", *command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(said) == 1 and words in said[0]
    assert measurements.every() == []


@pytest.mark.long
def test_ctrl_c_keeps_what_is_scored_and_says_how_to_go_on(tiny, data, home):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    slow = "from engine.backends import transformers_scoring as t; t._TOKENS = 150; from engine.__main__ import main; main()"
    command = [
        sys.executable,
        "-c",
        slow,
        "evaluate",
        "mmlu",
        "--model",
        str(tiny),
        "--data",
        data,
        "--shots",
        "5",
        "--quantization",
        "none",
    ]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        until(lambda: (made := measurements.every()) and made[0].process, 120)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    (made,) = measurements.every()
    assert process.returncode == 1 and f"--resume {made.id}" in said and made.result is None
    assert runs.all_events(made)[-1].status == "stopped"


@pytest.mark.long
def test_questions_of_the_hub_are_measured(run_engine, tmp_path):
    (tmp_path / "mine").mkdir()
    written(tmp_path / "mine" / "test.jsonl", [question("anatomy", number, "A") for number in range(2)])
    with HubServer({}, datasets={"someone/rows": tmp_path / "mine"}) as hub:
        done = run_engine(
            *("evaluate", "mmlu", "--model", "scripted", "--data", "someone/rows:test", "--shots", "0", "--json"),
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "hub"),
            HF_HUB_DISABLE_XET="1",
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["result"]["questions"] == 2 and found["facts"]["data"] == "someone/rows:test"

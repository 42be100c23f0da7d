"""The command line's contract: documents on stdout, one clear line on stderr, exit codes."""

import json

import pytest

from engine.store import Store
from engine.threads import Thread


def test_models_as_json(run_engine):
    done = run_engine("models", "--json")
    rows = {row["id"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0
    assert {"id", "kind", "size", "prompt_format", "licence", "fits", "on_disk"} <= set(rows["starter"])
    assert rows["guanaco-7b"]["prompt_format"] == "guanaco"


def test_models_for_people(run_engine):
    done = run_engine("models")
    assert done.returncode == 0 and "guanaco-65b" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["chat", "--model", "nope", "hi"], "There is no model 'nope'"),
        (["chat", "--temperature", "9", "hi"], "--temperature: "),
        (["chat", "--temperature", "warm", "hi"], "'--temperature'"),
        (["chat", "--model", "scripted", "--adapter", "nope", "hi"], "has no adapter"),
        (["chat", "--model", "scripted", ""], "no message to answer"),
        (["chat", "--model", "scripted", "--prompt-format", "nope", "hi"], "no prompt format"),
        (["chat", "--model", "scripted", "x" * 33_000], "limit is 32,000"),
        (["chat", "--backend", "magic", "hi"], "magic"),
        (["chat"], "PROMPT"),
        (["sing"], "sing"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(run_engine, arguments, words):
    done = run_engine(*arguments)
    lines = [line for line in done.stderr.splitlines() if "scripted backend is ready" not in line]
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
    assert words in lines[0]


def test_chat_as_json_is_one_document(run_engine):
    done = run_engine("chat", "--model", "scripted", "--json", "--seed", "5", "--max-new-tokens", "3", "hi")
    document = json.loads(done.stdout)
    assert (done.returncode, document["backend"], document["tokens"], document["seed"], document["finish_reason"]) == (
        0,
        "scripted",
        3,
        5,
        "length",
    )


@pytest.mark.long
def test_the_scripted_command_line_imports_no_torch(run_engine):
    done = run_engine("chat", "--model", "scripted", "hi", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0 and " torch\n" not in done.stderr and " gradio\n" not in done.stderr


@pytest.mark.long
def test_thumbs_are_exported_as_json_lines(run_engine):
    Store().thumb(Thread.new().asked("Hi").answered("año", None), 1, -1, "wrong\nword")
    lines = run_engine("thumbs").stdout.splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["wrong\nword"]
    assert json.loads(run_engine("thumbs", "--json").stdout)[0]["answer"] == "año"

"""`judge` as a person runs it: answers made, judged and rated by a known judge, end to end; kills, keys and costs."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from builders import until
from conftest import ROOT, SHARED, shared
from judge_server import KEY, JudgeServer, says
from playing import written

from engine.evaluate import judgements

pytestmark = [shared, pytest.mark.long]
# Of twelve questions alpha beats beta on ten, beta beats gamma on nine, and each loses some.
STRENGTHS = {"alpha": [9] * 10 + [1] * 2, "beta": [5] * 9 + [3] * 3, "gamma": [2] * 9 + [7] * 3}


@pytest.fixture(autouse=True)
def published(monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", str(SHARED / "qlora"))


@pytest.fixture
def files(tmp_path) -> list[str]:
    return [
        str(
            written(
                tmp_path / f"{name}.jsonl",
                [
                    {"answer_id": f"{name}{id}", "model_id": name, "question_id": id, "text": f"strength {each}"}
                    for id, each in enumerate(strengths, 1)
                ],
            )
        )
        for name, strengths in STRENGTHS.items()
    ]


def options(server, *more: str) -> tuple[str, ...]:
    return ("--base-url", server.url, "--judge-model", "judge-1", *more)


def test_a_place_that_cannot_be_written_and_an_address_that_is_none(files, run_engine, tmp_path):
    (tmp_path / "note").write_text("x")
    with JudgeServer() as server:
        done = run_engine("judge", *files, *options(server, "--out", str(tmp_path / "note/inside")))
        assert done.returncode == 1 and not server.asked, done.stderr
    assert "inside cannot be written: Not a directory. Choose another --out." in done.stderr and "Traceback" not in done.stderr
    wrong = run_engine("judge", *files, "--base-url", "http://localhost:port", "--judge-model", "judge-1")
    assert wrong.returncode == 2 and "--base-url is no address: Invalid port: 'port'" in wrong.stderr, wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_file_that_is_not_there_is_told_before_anything_is_fetched(run_engine, tmp_path):
    for named in (["nope.jsonl", "ChatGPT"], ["ChatGPT", "GPT-4", "--data", "nope.jsonl"]):
        server = ("--base-url", "http://127.0.0.1:9/v1", "--judge-model", "judge-1")
        done = run_engine("judge", *named, *server, GUANACO_ANSWERS="http://127.0.0.1:9")
        assert done.returncode == 2 and done.stderr.startswith("There is no file nope.jsonl.") and len(done.stderr.splitlines()) == 1


def test_models_are_judged_and_rated_to_the_known_order(files, run_engine, home):
    with JudgeServer(favour=0.5) as server:
        done = run_engine("judge", *files, *options(server, "--json"))
        told = json.loads(done.stdout)
        assert done.returncode == 0 and told["judgements"] == told["new"] == len(server.asked) == 72, done.stderr
        assert "72 judgements to make: about" in done.stderr and "helpfulness, relevance" in server.asked[0]
        again = run_engine("judge", *files, *options(server))
        assert "72 judgements are in" in again.stdout and "0 of them new" in again.stdout and len(server.asked) == 72
    assert told["first"]["k"] == told["first"]["n"] / 2 == 36 and told["cost"] is None and told["unparsed"] == 0
    (kinds,) = judgements.kept().values()
    assert told["out"] == str(kinds["threeclass"]) and told["out"].startswith(str(home / "judgements/judge-1 on vicuna"))
    for method in ("elo", "bt"):
        rated = json.loads(run_engine("elo", told["out"], "--method", method, "--orders", "300", "--json").stdout)
        assert [each["name"] for each in rated["systems"]] == ["alpha", "beta", "gamma"], rated


def test_points_make_percents_of_a_published_system(files, run_engine):
    strong = re.compile(r"strength \d")
    with JudgeServer("score") as server:
        server.verdict = lambda text: "8 10" if strong.search(text.partition("The End of Assistant 1")[0]) else "10 8"
        done = run_engine("judge", files[0], "ChatGPT", "--kind", "score", "--reference", "ChatGPT", *options(server, "--json"))
    told = json.loads(done.stdout)
    assert told["judgements"] == 24 and told["percent_of_reference"] == {"alpha": pytest.approx(80)}, done.stderr
    assert "68 pairs are left out" in done.stderr


@pytest.fixture
def odd_files(tmp_path) -> list[str]:
    """Two systems, of which one has a name that no file can have."""
    names = {"odd": "meta-llama/Llama-3-8B", "beta": "beta"}
    return [
        str(written(tmp_path / f"{name}.jsonl", [{"answer_id": name, "model_id": called, "question_id": 1, "text": "strength 4"}]))
        for name, called in names.items()
    ]


@pytest.mark.parametrize(
    ("verdicts", "percents", "left_out", "words"),
    [
        ({0: "8 4", 1: "4 8"}, {"beta": 50.0}, 0, "beta: 50.0% of the reference's points"),
        ({0: "0 4", 1: "4 8"}, {"beta": 50.0}, 1, "got no points, and which are left out: 1."),
        ({0: "0 4", 1: "4 0"}, {"beta": None}, 2, "beta: no points to tell a percent by"),
        ({0: "Fine.", 1: "Fine."}, {"beta": None}, 0, "2 hold no verdict"),
    ],
)
def test_whatever_points_a_reference_gets_the_run_ends_well(odd_files, run_engine, tmp_path, verdicts, percents, left_out, words):
    with JudgeServer("score", faults={number: says(text) for number, text in verdicts.items()}) as server:
        more = ("--kind", "score", "--reference", "meta-llama/Llama-3-8B", "--out", str(tmp_path / "out"), "--parallel", "1")
        done = run_engine("judge", *odd_files, *options(server, *more, "--json"))
        again = run_engine("judge", *odd_files, *options(server, *more))
    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    told = json.loads(done.stdout)
    assert (told["percent_of_reference"], told["orders_left_out"]) == (percents, left_out)
    assert words in again.stdout and "engine elo" not in again.stdout


def test_judgements_may_be_kept_in_the_folder_that_one_stands_in(odd_files, tmp_path):
    (tmp_path / "here").mkdir()
    with JudgeServer() as server:
        command = [sys.executable, "-m", "engine", "judge", *odd_files, *options(server, "--out", ".")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and 'engine elo "."' in done.stdout, done.stderr
    assert len(list((tmp_path / "here").glob("*-vs-*.jsonl"))) == 2


def test_points_without_a_reference_are_not_for_elo(odd_files, run_engine, tmp_path):
    with JudgeServer("score") as server:
        done = run_engine("judge", *odd_files, *options(server, "--kind", "score", "--out", str(tmp_path / "out")))
    assert done.returncode == 0 and "2 judgements are in" in done.stdout and "engine elo" not in done.stdout, done.stderr


def test_a_killed_judge_loses_no_verdict(files, run_engine, tmp_path):
    out = tmp_path / "out"
    with JudgeServer() as server:
        server.hold_after = 20
        command = [sys.executable, "-m", "engine", "judge", *files, *options(server, "--out", str(out))]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        until(lambda: len(server.asked) > 20)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = sum(path.read_bytes().count(b"\n") for path in out.glob("*.jsonl"))
        assert 16 <= kept <= 20
        server.release()
        before = len(server.asked)
        told = json.loads(run_engine("judge", *files, *options(server, "--out", str(out), "--json")).stdout)
    assert (told["judgements"], told["new"]) == (72, 72 - kept) and len(server.asked) - before == 72 - kept


def test_ctrl_c_keeps_what_was_judged(files, tmp_path):
    with JudgeServer() as server:
        server.hold_after = 20
        command = [sys.executable, "-m", "engine", "judge", *files, *options(server, "--out", str(tmp_path / "out"))]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        until(lambda: len(server.asked) > 20)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "judgements are kept in" in told and "Traceback" not in told, told


def test_what_costs_is_told_and_agreed_to_before_it_is_asked(files, run_engine, tmp_path):
    with JudgeServer(key=KEY) as server:
        paid = options(server, "--api-key-env", "JUDGE_KEY", "--price-in", "30", "--price-out", "60", "--out", str(tmp_path / "out"))
        asked = subprocess.run(
            [sys.executable, "-m", "engine", "judge", *files, *paid],
            cwd=ROOT,
            env={**os.environ, "JUDGE_KEY": KEY},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert asked.returncode == 2 and "Nothing was asked. Add --yes" in asked.stderr and not server.asked
        assert "at most 73,728 come back: at most about 5.2" in asked.stderr, asked.stderr
        wrong = run_engine("judge", *files, *paid, "--yes", JUDGE_KEY="sk-canary-wrong")
        assert wrong.returncode == 1 and "does not accept the key in the environment variable JUDGE_KEY" in wrong.stderr
        missing = run_engine("judge", *files, *paid, "--yes")
        assert missing.returncode == 2 and "JUDGE_KEY holds no key" in missing.stderr
        done = run_engine("judge", *files, *paid, "--yes", "--limit", "2", JUDGE_KEY=KEY)
        assert done.returncode == 0 and "1,200 tokens sent, 120 came back: 0.04." in done.stdout, done.stdout + done.stderr
    told = "".join(each.stdout + each.stderr for each in (asked, wrong, missing, done))
    assert "canary" not in told and not [path for path in tmp_path.rglob("*.jsonl") if "canary" in path.read_text()]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["one.jsonl"], "name at least two files"),
        (["nowhere.jsonl", "ChatGPT"], "There is no file nowhere.jsonl"),
        (["GPT-4", "ChatGPT", "--reference", "GPT-5"], "'GPT-5' is none of the systems"),
        (["GPT-4", "ChatGPT", "--base-url", "gpu-box"], "--base-url"),
        (["GPT-4", "ChatGPT", "--data", "nowhere.jsonl"], "There is no file nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_clear_line(run_engine, arguments, words):
    done = run_engine("judge", "--base-url", "http://127.0.0.1:9/v1", "--judge-model", "m", *arguments)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and words in done.stderr, done.stderr


def test_a_server_that_is_not_there_is_told_at_once(run_engine):
    done = run_engine("judge", "ChatGPT", "GPT-4", "--base-url", "http://127.0.0.1:9/v1", "--judge-model", "m", "--limit", "1")
    assert done.returncode == 1 and "cannot be reached" in done.stderr.splitlines()[-1], done.stderr

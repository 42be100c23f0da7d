"""Generation runs: answers that grow row by row, survive a kill, and are what an undisturbed run gives."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
from builders import until
from conftest import ROOT, SHARED, shared
from hypothesis import given
from hypothesis import strategies as st
from playing import written

from engine import data_formats, line_files, paths
from engine.errors import BadInput
from engine.evaluate import generations
from engine.evaluate.generations import Made
from engine.events import Failed, Finished
from engine.game import answer_files
from engine.game.answer_files import Question
from engine.settings import ChatSettings

QUESTIONS = [Question(f"q{number}", f"What is {number}?", "") for number in range(9)]
SEEDED = ChatSettings(seed=5)
ABOUT = {"model": "m", "adapter": "none", "weights": "0a", "adapter_sha256": ""}


def chat(conversation, settings):
    """An answer that tells what it was asked, and with which seed."""
    text = f"{conversation.messages[-1].text} {settings.seed}"
    yield Finished(text, 1, 1, 0.1, 0.1, 1.0, "stop", settings.seed, "scripted", "m", None)


def made(out, answered=chat, asked=QUESTIONS, limit=None, settings=SEEDED, about=ABOUT, **options) -> Made:
    *_, last = generations.generate(answered, out, "mine", generations.spread(asked, limit), settings, about, **options)
    return last


def test_a_run_cut_anywhere_ends_as_an_undisturbed_one(tmp_path):
    assert made(tmp_path / "whole.jsonl") == Made(9, 9)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    read = answer_files.read(tmp_path / "whole.jsonl")
    assert read.system == "mine" and read.answers["q3"] == "What is 3? 8" and set(read.ids) == set(read.answers)
    out = tmp_path / "cut.jsonl"
    for cut in range(0, len(whole), 97):
        out.write_bytes(whole[:cut])
        assert made(out) == Made(9, 9 - whole[:cut].count(b"\n")) and out.read_bytes() == whole


def test_a_smaller_sample_is_part_of_a_larger_one_and_of_the_whole(tmp_path):
    for limit, new in ((3, 3), (6, 3), (None, 3)):
        assert made(tmp_path / "a.jsonl", limit=limit).new == new
    made(tmp_path / "whole.jsonl")
    assert answer_files.read(tmp_path / "a.jsonl").answers == answer_files.read(tmp_path / "whole.jsonl").answers


@given(count=st.integers(1, 60), limit=st.integers(1, 80))
def test_samples_are_spread_without_repetition(count, limit):
    asked = [Question(str(number), "?", "") for number in range(count)]
    places = [place for place, question in generations.spread(asked, limit) if asked[place] is question]
    assert len(places) == min(count, limit) and places == sorted(set(places)) and places[0] == 0
    assert max((after - before for before, after in zip(places, places[1:], strict=False)), default=0) <= -(-count // min(count, limit))


def test_a_stop_and_a_failure_keep_what_was_answered(tmp_path):
    out = tmp_path / "a.jsonl"
    asked = iter([False] * 4 + [True] * 9)
    assert made(out, stop=lambda: next(asked)) == Made(4, 4)

    def breaks(conversation, settings):
        if settings.seed == 11:
            yield Failed("out of memory")
        yield from chat(conversation, settings)

    with pytest.raises(Exception, match="out of memory"):
        made(out, breaks)
    assert len(answer_files.read(out).answers) == 6
    assert made(out) == Made(9, 3)


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"settings": ChatSettings(seed=5, temperature=0)}, "temperature is 0.7 there and 0.0 here"),
        ({"about": ABOUT | {"adapter": "pirate"}}, "adapter is none there and pirate here"),
        ({"about": ABOUT | {"weights": "1f"}}, "begun with something else: the weights of the model are others[.] Nothing was changed"),
        ({"about": ABOUT | {"adapter_sha256": "1f"}}, "begun with something else: the weights of the adapter are others"),
        ({"asked": [Question("q0", "Another?", "")]}, "answers another question q0"),
    ],
)
def test_a_file_of_another_run_is_refused_and_left_alone(tmp_path, changed, words):
    out = tmp_path / "a.jsonl"
    made(out, limit=3)
    before = out.read_bytes()
    with pytest.raises(BadInput, match=words):
        made(out, **changed)
    assert out.read_bytes() == before


def test_a_file_that_tells_no_weights_is_not_gone_on_with(tmp_path):
    out = tmp_path / "a.jsonl"
    made(out, limit=3, about={name: ABOUT[name] for name in ("model", "adapter")})
    before = out.read_bytes()
    with pytest.raises(BadInput, match="begun with something else: the weights of the model are not noted there"):
        made(out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("foreign", [b"my notes", b'{"answer_id": broken}\n', b'{"text": "x"}\n{"answer_id": "x', b"\xff\n"])
def test_somebody_elses_file_is_refused_and_left_alone(tmp_path, foreign):
    out = tmp_path / "notes.jsonl"
    out.write_bytes(foreign)
    with pytest.raises(BadInput, match="was not written here. Nothing was changed"):
        made(out)
    assert out.read_bytes() == foreign


def test_two_runs_do_not_write_one_file_and_a_name_says_what_it_is(tmp_path):
    with line_files.alone(tmp_path / "a.jsonl"), pytest.raises(BadInput, match="Another process is writing"):
        made(tmp_path / "a.jsonl")
    with pytest.raises(BadInput, match="name it something.jsonl"):
        made(tmp_path / "a.txt")


def test_openassistant_prompts_are_conversations():
    several = data_formats.question("### Human: Hi ### Assistant: Hello ### Human: More, please ### Assistant:")
    assert [(each.role, each.text) for each in several.messages] == [("user", "Hi"), ("assistant", "Hello"), ("user", "More, please")]
    for plain in ("What is ### in Markdown?", "### Assistant:", "Why? ### Human: x ### Assistant:", "### Human: Hi ### Assistant: Hello"):
        assert [each.text for each in data_formats.question(plain).messages] == [plain]


@shared
def test_the_published_prompts_are_read_and_every_one_ends_with_a_question(monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", str(SHARED / "qlora"))
    vicuna, oasst = (generations.questions(name, lambda progress: None) for name in generations.SETS)
    assert (len(vicuna), len(oasst)) == (80, 953)
    turns = [data_formats.question(each.text).messages for each in oasst]
    assert all(each[-1].role == "user" and not each[-1].text.startswith("###") for each in turns)
    assert sum(len(each) > 1 for each in turns) == 436 and all(len(each) % 2 for each in turns)


@pytest.mark.long
def test_a_killed_command_loses_no_answer(tmp_path, run_engine):
    asked = written(tmp_path / "q.jsonl", [{"question_id": number, "text": f"What is {number}?"} for number in range(6)])
    out = tmp_path / "a.jsonl"
    options = ("evaluate", "generate", "--model", "scripted", "--data", str(asked), "--max-new-tokens", "30")
    process = subprocess.Popen([sys.executable, "-m", "engine", *options, "--out", str(out)], cwd=ROOT, stderr=subprocess.DEVNULL)
    until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = out.read_bytes().count(b"\n")
    assert 2 <= kept < 6
    done = json.loads(run_engine(*options, "--out", str(out), "--json").stdout)
    assert (done["answers"], done["new"], done["name"]) == (6, 6 - kept, "scripted")
    run_engine(*options, "--out", str(tmp_path / "whole.jsonl"))
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.long
def test_an_adapter_of_the_same_name_does_not_go_on_with_anothers_file(tiny, two_adapters, tmp_path, run_engine):
    """The adapters of all runs lie in folders of one name."""
    asked = written(tmp_path / "q.jsonl", [{"question_id": number, "text": f"What is {number}?"} for number in range(2)])
    out = tmp_path / "a.jsonl"
    folders = [shutil.copytree(each, tmp_path / str(number) / "adapter") for number, each in enumerate(two_adapters)]
    options = ("evaluate", "generate", "--model", str(tiny), "--backend", "transformers", "--quantization", "none", "--data", str(asked))
    made = [run_engine(*options, "--max-new-tokens", "4", "--out", str(out), "--adapter", str(folder)) for folder in folders]
    assert made[0].returncode == 0 and made[1].returncode == 2 and "the weights of the adapter are others" in made[1].stderr, made
    metadata = json.loads(out.read_text().splitlines()[0])["metadata"]
    assert metadata["adapter_sha256"] == paths.sha256(folders[0] / "adapter_model.safetensors") and metadata["weights"]


@pytest.mark.long
def test_ctrl_c_says_where_the_answers_are(tmp_path):
    out = tmp_path / "a.jsonl"
    asked = written(tmp_path / "q.jsonl", [{"question_id": number, "text": f"What is {number}?"} for number in range(600)])
    options = ["evaluate", "generate", "--model", "scripted", "--data", str(asked), "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "engine", *options], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: out.exists() and out.stat().st_size)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "the same command goes on with it" in told and "Traceback" not in told, told


def test_a_missing_file_of_questions_is_told(run_engine, tmp_path):
    done = run_engine("evaluate", "generate", "--model", "scripted", "--data", "nowhere.jsonl", "--out", str(tmp_path / "a.jsonl"))
    assert done.returncode == 2 and "There is no file nowhere.jsonl" in done.stderr

"""`inspect-data` and the tokenizer it counts with, which needs neither weights nor torch."""

import json
import re
import subprocess
import sys

import builders
import pytest
from conftest import ROOT, SHARED, shared
from hypothesis import given
from hypothesis import strategies as st

from engine import examples, inspecting, models, prompts, tokenizer_files
from engine.errors import BadInput
from engine.messages import Conversation, Message
from engine.tokenizers import PretrainedTokenizer

INSTRUCT = SHARED / "instruct"
texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=40)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"instruction": f"Count to {number}", "output": "one two " * number}) for number in range(1, 5)]
    path.write_text("\n".join([*lines, "{}", "nothing"]), encoding="utf-8")
    return path


@pytest.mark.long
def test_the_command_says_all_that_the_contract_asks_for(tiny, rows, run_engine):
    done = run_engine("inspect-data", str(rows), "--model", str(tiny), "--prompt-format", "chat", "--max-length", "60", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and (document["rows"], document["ok"], document["format"]) == (6, 4, "alpaca")
    assert document["bad"] == [
        {"line": 5, "reason": "the field instruction is missing"},
        {"line": 6, "reason": "it is not JSON (Expecting value, column 1)"},
    ]
    assert document["truncated"] >= 1 and document["tokens"]["max"] <= 60 and 0 < document["target_share"] < 1
    assert (document["prompt_format"], document["max_length"], document["unit"]) == ("chat", 60, "line")


@pytest.mark.long
def test_for_people_it_shows_a_row_as_it_trains(tiny, rows, run_engine):
    done = run_engine("inspect-data", str(rows), "--model", str(tiny))
    assert done.returncode == 0 and "alpaca: the rows have the fields instruction and output" in done.stdout
    assert "line 5: the field instruction is missing" in done.stdout
    assert "### Human: Count to 1 ### Assistant:⟦ one two <end>⟧" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    "options, words",
    [
        (["--format", "csv"], "no data format 'csv'"),
        (["--prompt-format", "chatml"], "no prompt format"),
        (["--max-length", "1"], "must be at least 2"),
        (["--column", "instruction"], "say which column"),
        (["--column", "instruction=frage"], "no column 'frage'.*'instruction', 'output'"),
        (["--model", "scripted"], "no tokenizer here"),
    ],
)
def test_bad_options_end_with_one_clear_line(options, words, tiny, rows, run_engine):
    done = run_engine("inspect-data", str(rows), *([] if "--model" in options else ["--model", str(tiny)]), *options)
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(words, done.stderr.strip().splitlines()[-1]), done.stderr


@pytest.mark.long
def test_columns_may_be_named(tiny, tmp_path, run_engine):
    path = tmp_path / "rows.csv"
    path.write_text("frage;antwort\nWie geht's?;Gut.\nUnd dir?;Auch.\n", encoding="utf-8")
    options = ("--format", "alpaca", "--column", "instruction=frage", "--column", "output=antwort")
    done = run_engine("inspect-data", str(path), "--model", str(tiny), *options, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["ok"] == 2, done.stderr


def test_a_format_that_suits_no_row_is_an_error(tmp_path, tiny):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "q", "output": "a"}\n' * 3)
    bare = builders.model(tmp_path / "bare", tokenizer=builders.byte_tokenizer(chat_template=None))
    with pytest.raises(BadInput, match="no chat template"):
        inspecting.inspected(str(path), models.resolve(str(bare)), prompts.prompt_format("chat"), examples.Lengths())


@pytest.mark.long
def test_inspecting_needs_no_torch(starter, rows):
    code = (
        "import sys; from engine import examples, inspecting, models, prompts\n"
        f"inspecting.inspected({str(rows)!r}, models.resolve('starter'), prompts.prompt_format('chat'), examples.Lengths())\n"
        "print([name for name in ('torch', 'gradio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder's tokenizer by itself, and as transformers reads it, for each kind of tokenizer."""
    from transformers import AutoTokenizer

    pairs = []
    for make in (builders.byte_tokenizer, builders.sentencepiece_tokenizer):
        folder = tmp_path_factory.mktemp("tokenizer")
        make().save_pretrained(folder)
        pairs.append((tokenizer_files._from_folder(folder), PretrainedTokenizer(AutoTokenizer.from_pretrained(folder))))
    assert all(isinstance(mine, tokenizer_files.FileTokenizer) for mine, _ in pairs)
    return pairs


@given(texts, texts)
def test_a_tokenizer_by_itself_gives_what_transformers_gives(both, asked, said):
    for mine, theirs in both:
        assert (mine.end, mine.start(), mine.prefixes_space) == (theirs.end, theirs.start(), theirs.prefixes_space)
        for control in (True, False):
            assert mine.ids(f"{asked}<|im_end|></s>{said}", control) == theirs.ids(f"{asked}<|im_end|></s>{said}", control)
        row = Conversation((Message("user", asked or "q"), Message("assistant", said or "a", train=True)), "Be kind.")
        for name in ("chat", "guanaco") if mine.template else ("guanaco",):
            made = [examples.example(each, row, prompts.prompt_format(name), examples.Lengths(None)) for each in (mine, theirs)]
            assert made[0] == made[1]


@pytest.mark.long
@shared
def test_on_the_starter_targets_of_real_rows_are_the_answers_and_their_ends(starter):
    from engine import datasets

    spec = models.resolve("starter")
    mine = tokenizer_files.opened(spec, lambda progress: None)
    theirs = tokenizer_files._by_transformers("starter", tokenizer_files._folder(spec, lambda progress: None))
    for file in ("alpaca.json", "oasst_text.jsonl", "short.jsonl"):
        for conversation in datasets.load(INSTRUCT / file).conversations[:40]:
            row = examples.example(mine, conversation, prompts.prompt_format("chat"), examples.Lengths(None))
            assert row == examples.example(theirs, conversation, prompts.prompt_format("chat"), examples.Lengths(None))
            learnt = theirs._tokenizer.decode([token for token, learn in zip(row.ids, row.learn, strict=True) if learn])
            assert learnt == "".join(f"{message.text}<|im_end|>" for message in conversation.messages if message.train)

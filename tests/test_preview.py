"""A data set before training: its first rows at once, columns to map where it is unsure, and limits answered as training would cut."""

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import builders
import pytest
from builders import conversation
from conftest import SHARED, shared
from hypothesis import given, settings
from hypothesis import strategies as st
from test_examples import BYTES, turns, ways
from test_lens import limits

from engine import datasets, models, preview, prompts, tokenizer_files
from engine.data_files import BadRow
from engine.data_formats import FORMATS
from engine.datasets import Data
from engine.errors import BadInput
from engine.events import Progress
from engine.examples import Answer, Lengths, Shape, example
from engine.prompts import PROMPTS
from engine.tokenizers import PretrainedTokenizer

REAL = ("instruct/alpaca.json", "instruct/oasst_text.jsonl", "instruct/short.jsonl", "self-instruct/seed_tasks.jsonl")


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def data(*conversations) -> Data:
    lines = tuple(range(1, len(conversations) + 1))
    return Data(conversations, lines, (), "messages", "", "rows.jsonl", "", len(lines), "line", len(lines))


def counted(*conversations, tokenizer=BYTES, form=PROMPTS["chat"]) -> preview.Measured:
    *_, last = preview.counting(data(*conversations), tokenizer, form)
    return last


def cutoff(tokenizer, conversations, form, lengths, everything=False) -> preview.Cutoff:
    """What limits do, row by row as training makes them."""
    rows = [example(tokenizer, each, form, lengths, everything) for each in conversations]
    whole = [example(tokenizer, each, form, Lengths(None), everything) for each in conversations]
    left = [row for row in rows if row]
    kept = sum(sum(row.learn) for row in left)
    return preview.Cutoff(
        rows=len(left),
        cut=sum(row.cut > 0 for row in left),
        unlearnable=len(rows) - len(left),
        total=sum(len(row.ids) for row in left),
        kept=kept,
        lost=sum(sum(row.learn) for row in whole if row) - kept,
        longest=max((len(row.ids) for row in left), default=0),
    )


def test_first_rows_and_what_is_wrong_with_the_others(tmp_path):
    rows = [{"system_prompt": "Be brief.", "question": f"q{number}", "response": f"a{number}"} for number in range(120)]
    rows[1] = {"question": None}
    first = preview.first(written(tmp_path / "rows.jsonl", *rows))
    assert (first.format, first.unit, first.rows, first.unsure) == ("openorca", "line", 50, False)
    assert first.reason == "the rows have the fields system_prompt, question and response"
    assert first.table()[:2] == [(1, "Be brief.", "q0", "a0", 2), (3, "Be brief.", "q2", "a2", 2)] and len(first.table()) == 49
    assert [(bad.line, bad.reason) for bad in first.bad] == [(2, "question is null, not text")]
    assert first.columns == first.fields == ("system_prompt", "question", "response")


def test_the_table_has_the_first_question_and_the_last_answer(tmp_path):
    messages = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]
    assert preview.first(written(tmp_path / "rows.jsonl", {"messages": messages})).table() == [(1, "", "a", "d", 4)]
    (tmp_path / "rows.txt").write_text("one\n\ntwo")
    assert preview.first(tmp_path / "rows.txt").table() == [(1, "", "", "one", 1), (3, "", "", "two", 1)]


def test_unknown_columns_can_be_mapped(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("frage;antwort\nWie?;So.\n", encoding="utf-8")
    first = preview.first(path)
    assert first.unsure and not first.format and first.columns == ("frage", "antwort") and "No known format" in first.reason
    assert {"instruction", "output", "question", "response", "messages", "text"} <= set(first.fields)
    first = preview.first(path, columns={"instruction": "frage", "output": "antwort"})
    assert not first.unsure and first.table() == [(2, "", "Wie?", "So.", 2)] and first.columns == ("frage", "antwort")
    first = preview.first(path, "openorca")
    assert first.unsure and first.fields == ("system_prompt", "question", "response") and first.bad[0].line == 2
    assert first.reason == "this format was asked for; none of these rows is in it: in line 2, the field question is missing"


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_fields_to_map_are_those_that_the_format_reads(form):
    marked = "### Human: q ### Assistant: a <human>: q <bot>: a\n\nHuman: q\n\nAssistant: a"
    shapes = {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        "instances": [{"input": "i", "output": "o"}],
    }
    assert form.convert({name: shapes.get(name, marked) for name in form.names})


@pytest.mark.parametrize(
    "text, words", [("", "no rows"), ("nothing\n{", "no rows that can be read: in line 1"), ("[1]", "no rows that can be read")]
)
def test_what_cannot_be_read_at_all_is_an_error(text, words, tmp_path):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(BadInput, match=words):
        preview.first(tmp_path / "rows.jsonl")
    with pytest.raises(BadInput, match="no data format"):
        preview.first(written(tmp_path / "rows.jsonl", {}), "nope")
    with pytest.raises(BadInput, match="no column 'x'"):
        preview.first(written(tmp_path / "rows.jsonl", {"a": "b"}), columns={"text": "x"})


@settings(max_examples=8)
@given(st.lists(turns, min_size=1, max_size=4), limits, st.booleans())
def test_limits_are_answered_as_training_cuts(talks, lengths, everything):
    conversations = [conversation(each) for each in talks]
    for tokenizer, form in ways():
        measured = counted(*conversations, tokenizer=tokenizer, form=form)
        assert measured.at(lengths, everything) == cutoff(tokenizer, conversations, form, lengths, everything)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=40), st.integers(1, 60))
def test_a_histogram_has_every_row_once(lengths, bins):
    shapes = tuple(Shape((Answer(0, length, length),), 1) for length in lengths)
    measured = preview.Measured(data(), (), shapes, frozenset(), None)
    found = measured.histogram(bins)
    assert len(found) <= bins and sum(count for _, _, count in found) == len(lengths)
    assert found[0][0] == min(lengths) and found[-1][0] <= max(lengths) <= found[-1][1]
    for low, high, count in found:
        assert count == sum(low <= length <= high for length in lengths)
    assert all(left[1] + 1 == right[0] for left, right in zip(found, found[1:]))


def test_the_longest_rows_are_found():
    measured = counted(*(conversation([("q", "a" * size)]) for size in (3, 90, 1, 40)))
    assert measured.longest(2) == [1, 3] and measured.longest(9) == [1, 3, 0, 2]
    assert counted(conversation([("q", "a")])).longest(0) == []


def test_rows_that_the_prompt_format_refuses_are_bad():
    template = "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('No system.') }}{% endif %}{{ message.content }}{{ eos_token }}{% endfor %}"
    tokenizer = PretrainedTokenizer(builders.byte_tokenizer(chat_template=template))
    refused, good = conversation([("a", "b")], "Be brief."), conversation([("a", "b")])
    rows = replace(data(refused, good, refused, refused), lines=(1, 2, 3, 3), bad=(BadRow(4, "it is null"),))
    *_, measured = preview.counting(rows, tokenizer, PROMPTS["chat"])
    assert [bad.line for bad in measured.bad] == [1, 3, 4] and "No system." in measured.bad[0].reason
    assert (measured.rows, measured.done, measured.longest(5)) == (1, True, [1])
    found = measured.at(Lengths())
    assert (found.rows, found.unlearnable) == (1, 0) and sum(count for *_, count in measured.histogram()) == 1
    with pytest.raises(BadInput, match="No system."):
        list(preview.counting(data(refused), tokenizer, PROMPTS["chat"]))


def test_counting_is_told_grows_and_can_be_stopped(monkeypatch):
    monkeypatch.setattr(preview, "_EVERY", -1)
    monkeypatch.setattr(preview, "_REPORT_ROWS", 2)
    rows = data(*(conversation([("q", "a" * size)]) for size in range(1, 6)))
    said = list(preview.counting(rows, BYTES, PROMPTS["chat"]))
    assert [each.text for each in said if isinstance(each, Progress)] == [f"Counting tokens: {count} of 5 rows" for count in (2, 4)]
    found = [each for each in said if isinstance(each, preview.Measured)]
    assert [(each.rows, each.done) for each in found] == [(2, False), (4, False), (5, True)] and isinstance(said[-1], preview.Measured)
    stops = iter([False] * 3 + [True])
    *_, last = preview.counting(rows, BYTES, PROMPTS["chat"], stop=lambda: next(stops))
    assert last.rows == 3 and not last.done and last.at(Lengths()).rows == 3
    *_, last = preview.counting(rows, BYTES, PROMPTS["chat"], stop=lambda: True)
    assert last.rows == 0 and last.histogram() == [] and last.at(Lengths()).longest == 0


def test_measured_takes_a_file_and_a_model(tmp_path, tiny):
    path = written(tmp_path / "rows.jsonl", *({"instruction": "q", "output": "a" * size} for size in (1, 400)), {})
    spec = models.resolve(str(tiny))
    measured = preview.ended(preview.measuring(path, spec, prompts.prompt_format("chat"), system="Be brief."), lambda progress: None)
    tokenizer = tokenizer_files.opened(spec, lambda progress: None)
    asked = [each.or_system("Be brief.") for each in datasets.load(path).conversations]
    assert measured.at(Lengths(200)) == cutoff(tokenizer, asked, PROMPTS["chat"], Lengths(200))
    assert measured.at(Lengths(200, 20)) == cutoff(tokenizer, asked, PROMPTS["chat"], Lengths(200, 20))
    assert [bad.line for bad in measured.bad] == [3] and measured.rows == 2


@shared
@pytest.mark.parametrize("file", REAL)
def test_real_files_show_their_first_rows_at_once(file):
    began = time.monotonic()
    first = preview.first(SHARED / file)
    assert time.monotonic() - began < 5 and first.rows == 50 and not first.unsure and len(first.table()) >= 50 - len(first.bad)


@pytest.mark.long
@shared
@pytest.mark.parametrize("file", REAL)
def test_on_real_rows_limits_are_answered_as_training_cuts(file, starter):
    spec = models.resolve("starter")
    tokenizer = tokenizer_files.opened(spec, lambda progress: None)
    measured = preview.ended(preview.measuring(SHARED / file, spec, PROMPTS["chat"]), lambda progress: None)
    for lengths in (Lengths(512), Lengths(64), Lengths(None, None, 40), Lengths(128, 48, 64)):
        expected = cutoff(tokenizer, measured.data.conversations, PROMPTS["chat"], lengths)
        assert measured.at(lengths) == expected


@pytest.mark.long
def test_ten_thousand_rows_are_shown_and_cut_in_time(tmp_path):
    chance = random.Random(0)
    rows = [{"instruction": f"Question {number}", "output": "word " * chance.randrange(1, 600)} for number in range(10_000)]
    path = written(tmp_path / "rows.jsonl", *rows)
    began = time.monotonic()
    assert preview.first(path).rows == 50
    assert time.monotonic() - began < 5
    shapes = tuple(Shape((Answer(20, length, length + 1),), 1) for length in (len(row["output"]) for row in rows))
    measured = preview.Measured(data(), (), shapes, frozenset(), None)
    took = []
    for limit in (8, 256, 512, 4_096):
        began = time.monotonic()
        measured.at(Lengths(limit))
        took.append(time.monotonic() - began)
    assert min(took) < 0.1, took

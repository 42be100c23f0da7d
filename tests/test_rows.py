"""From a recipe's data to rows that train: sizes, bad rows, what is cut and held out (faults, rows 11 to 13)."""

import json

import builders
import pytest
import training
from hypothesis import given
from hypothesis import strategies as st
from training import fresh, plan, trained

from engine import pace, rows, runs
from engine.errors import BadInput
from engine.events import Notice, Started
from engine.prompts import PROMPTS
from engine.recipe import DataRecipe
from engine.tokenizers import PretrainedTokenizer

BYTES = PretrainedTokenizer(builders.byte_tokenizer())


def written(path, *pairs) -> str:
    path.write_text("".join(json.dumps({"instruction": asked, "output": said}) + "\n" for asked, said in pairs), encoding="utf-8")
    return str(path)


def made(**fields) -> tuple[rows.Rows, list[str]]:
    """The rows of a data recipe, and what was told of them."""
    plan, told = DataRecipe(**fields), []
    found = rows.encoded(plan, rows.read(plan, told.append), 0, BYTES, PROMPTS["chat"], told.append)
    return found, [event.text for event in told if isinstance(event, Notice)]


def test_a_visitors_run_reads_as_a_visitor(tiny, rows, tmp_path, monkeypatch):
    heard = []

    def load(*asked, public, **how):
        heard.append(public)
        raise BadInput("So much for that.")

    monkeypatch.setattr("engine.datasets.load", load)
    for public in (True, False):
        with pytest.raises(BadInput, match="So much"):
            trained(runs.create(tmp_path / str(public), plan(tiny, rows), public=public))
    assert heard == [True, False]


@pytest.mark.parametrize("count, words", [(0, "no rows"), (1, "1 row of .* can be used; at least 2")])
def test_too_few_rows_end_a_run_before_the_model_is_loaded(count, words, tiny, tmp_path, monkeypatch):
    from engine import trainee

    monkeypatch.setattr(trainee, "prepare", lambda *arguments: pytest.fail("the model was loaded"))
    with pytest.raises(BadInput, match=words):
        trained(fresh(plan(tiny, training.data(tmp_path / "rows.jsonl", count)), tmp_path / "run"))


def test_two_rows_are_enough(tiny, tmp_path):
    run = fresh(plan(tiny, training.data(tmp_path / "rows.jsonl", 2)), tmp_path / "run")
    ended, events = trained(run)
    begun = next(event for event in events if isinstance(event, Started))
    assert ended.status == "done" and (begun.rows, begun.held_out) == (1, 1)
    assert any("1 of 2 rows are held out instead of 3" in event.text for event in events if isinstance(event, Notice))


def test_bad_rows_are_told_by_line_and_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = [json.dumps({"instruction": f"q{number}", "output": "a"}).encode() for number in range(4)]
    bad = [b'{"instruction": "q", "output": null}', b"\xff\xfe", b'{"instruction": "q", "output": 7}', b"{", b'["x"]']
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([good[0], *bad, *good[1:]]) + b"\n")
    found, told = made(source=str(path), held_out=0)
    assert len(found.train) == 4
    assert told == [
        "5 of 9 rows cannot be read (line 2: output is null, not text; line 3: it is not UTF-8 (byte 0xff at 1); line 4: output is a number, not text …)."
    ]


def test_bad_rows_stop_a_run_where_they_are_not_to_be_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "q", "output": "a"}\n{"instruction": "q"}\n{"instruction": "q", "output": "a"}\n')
    with pytest.raises(BadInput, match="line 2: the field output is missing.*Mend them, or set data.skip_bad_rows"):
        made(source=str(path), skip_bad_rows=False)


def _moody(tokenizer):
    """A chat template that takes no row whose first turn is the assistant's, as some do."""
    tokenizer.chat_template = (
        "{% if messages[0].role == 'assistant' %}{{ raise_exception('begin with the user') }}{% endif %}" + tokenizer.chat_template
    )
    return PretrainedTokenizer(tokenizer)


def test_turns_that_the_prompt_format_refuses_are_bad_rows_with_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path.write_text("\n".join(json.dumps({"messages": each}) for each in (turns, turns[1:], turns)))
    moody, told = _moody(builders.byte_tokenizer()), []
    for skip in (True, False):
        plan = DataRecipe(source=str(path), held_out=0, skip_bad_rows=skip)
        try:
            found = rows.encoded(plan, rows.read(plan, told.append), 0, moody, PROMPTS["chat"], told.append)
            assert skip and len(found.train) == 2
        except BadInput as error:
            assert not skip and "line 2" in str(error) and "Mend them" in str(error)
    assert any("1 of 3 rows cannot be read (line 2:" in event.text and "begin with the user" in event.text for event in told)


def test_cut_rows_are_counted_and_each_ends(tmp_path):
    source = written(tmp_path / "rows.jsonl", ("q", "word " * 40), ("q", "short"), ("long " * 40, "lost"), ("q", "also"))
    found, told = made(source=source, max_length=96, held_out=0)
    assert len(found.train) == 3 and all(len(row.ids) <= 96 and row.ids[-1] == BYTES.end and row.learn[-1] for row in found.train)
    assert told == [
        "1 of 4 rows is longer than the limit and is cut; it still ends with the end token.",
        "1 row is left out: its question alone fills the limit, so there is no answer to learn.",
    ]


def test_rows_that_are_all_too_long_say_what_to_do(tmp_path):
    source = written(tmp_path / "rows.jsonl", *[("long " * 40, "a")] * 3)
    with pytest.raises(BadInput, match="within 96 tokens. Raise “Longest row” .data.max_length"):
        made(source=source, max_length=96)


def test_the_last_rows_are_held_out_where_the_recipe_says_so(tmp_path):
    source = written(tmp_path / "rows.jsonl", *((f"q{number}", "a") for number in range(6)))
    found, _ = made(source=source, held_out=2, held_out_from="last")
    text = [BYTES._tokenizer.decode(row.ids) for row in (*found.train, *found.held_out)]
    assert len(found.train) == 4 and [f"q{number}" in text[number] for number in range(6)] == [True] * 6


@pytest.mark.parametrize("order, held_out", [("random", 3), ("last", 3), ("random", 0.25)])
def test_of_more_rows_than_a_run_takes_no_more_are_kept(order, held_out, tiny, tmp_path):
    few = plan(
        tiny,
        training.data(tmp_path / "rows.jsonl", 200),
        data={"held_out": held_out, "held_out_from": order},
        optimization={"steps": 2, "batch": 6},
    )
    told = []
    data = rows.read(few.data, told.append, rows.needed(few))
    found = rows.encoded(few.data, data, 0, BYTES, PROMPTS["chat"], told.append)
    kept = 4 if held_out == 0.25 else 3
    assert (len(found.train), len(found.held_out)) == (12, kept)
    assert pace.work(few, 200) == pace.Work(12, kept, 2), "what is foretold"
    assert f"{12 + kept} of 200 rows are drawn: the steps can learn from no more." in [event.text for event in told]
    if order == "last":
        assert ["Count 197", "Count 198", "Count 199"] == [each.messages[0].text for each in data.conversations[-3:]]


@pytest.mark.parametrize("optimization", [{"steps": None, "epochs": 2}, {"steps": 6, "epochs": 1.5}])
def test_a_run_that_ends_by_epochs_takes_every_row(optimization, tiny):
    assert rows.needed(plan(tiny, "rows.jsonl", optimization=optimization)) is None


@given(st.lists(training.examples(), max_size=6))
def test_examples_come_out_as_they_went_in(examples):
    kept = rows.Examples(iter(examples))
    assert list(kept) == examples and len(kept) == len(examples)
    with pytest.raises(IndexError):
        kept[len(examples)]


def test_a_system_text_stands_before_rows_that_bring_none(tmp_path):
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    with open(path, "w") as file:
        for own in ([{"role": "system", "content": "Own."}], []):
            file.write(json.dumps({"messages": own + turns}) + "\n")
    found, _ = made(source=str(path), system="Given.", held_out=0)
    text = [BYTES._tokenizer.decode(row.ids) for row in found.train]
    assert "Own." in text[0] and "Given." not in text[0] and "Given." in text[1]

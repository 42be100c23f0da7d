"""Measures on data whose figures are known: MMLU, CrowS-Pairs, perplexity; samples, published tables."""

import json
import math

import pytest
from conftest import SHARED, shared
from hypothesis import given
from hypothesis import strategies as st

from engine import prompts
from engine.backends.scoring import divided
from engine.backends.scripted import ScriptedBackend
from engine.blend import BASE
from engine.errors import BadInput
from engine.evaluate import crows, mmlu, perplexity, published_scores
from engine.evaluate.measure import Item, Subject, sample
from engine.game.scoring import share

HEADER = "The following are multiple choice questions (with answers) about  {}."


def quiet(progress) -> None:
    """Nobody listens."""


def question(subject: str, number: int, output: str | None, **changes) -> dict:
    asked = f"{HEADER.format(subject.replace('_', ' '))}\n\nQuestion {number}?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    return {"subject": subject, "input": asked, "output": output, **changes}


def written(path, rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def subject_of(likelihood=None, context: int = 32_768) -> Subject:
    backend = ScriptedBackend(context=context, **({"likelihood": likelihood} if likelihood else {}))
    return Subject(backend.scorer(), prompts.prompt_format("guanaco"), "", context)


def rows_of(measure, subject) -> list[dict]:
    items = measure.items(subject)
    found = dict(measure.rows(subject, items, BASE, lambda: False, ()))
    assert sorted(found) == list(range(len(items)))
    return [found[number] for number in range(len(items))]


def likes(letter: str):
    """Finds that letter likeliest behind anything."""
    return lambda before, what, blend: -1.0 if what == f" {letter}" else -3.0


def test_mmlu_is_the_mean_over_subjects_of_what_is_likeliest(tmp_path):
    data = written(
        tmp_path / "mmlu.json",
        [*(question("anatomy", number, "ABCD"[number % 4]) for number in range(4)), question("college_physics", 9, "B")],
    )
    measure = mmlu.read(data, 0, "", True, quiet)
    found = measure.result(rows_of(measure, subject_of(likes("B"))))
    assert found["average"]["value"] == pytest.approx((1 / 4 + 1) / 2) and found["pooled"]["share"] == pytest.approx(2 / 5)
    assert {row["name"]: row["share"] for row in found["subjects"]} == {"anatomy": 0.25, "college_physics": 1.0}
    assert [(group["name"], group["right"], group["of"]) for group in found["groups"]] == [("STEM", 1, 1), (mmlu.OTHER, 1, 4)]
    assert found["choices"] == {"A": 0, "B": 5, "C": 0, "D": 0} and found["fewer_shots"] == 0
    wilson = share(2, 5)
    assert (found["pooled"]["low"], found["pooled"]["high"]) == (wilson.low, wilson.high)


def test_the_header_stands_once_and_the_first_five_rows_are_shots(tmp_path):
    data = written(tmp_path / "mmlu.jsonl", [question("anatomy", number, "ABCD"[number % 4]) for number in range(7)])
    seen = []

    def note(before, what, blend):
        seen.append(before)
        return -1.0

    measure = mmlu.read(data, 5, "", True, quiet)
    rows = rows_of(measure, subject_of(note))
    assert [(row["key"], row["shots"]) for row in rows] == [("6", 5), ("7", 5)]
    prompt = seen[0]
    assert prompt.count("multiple choice questions") == 1 and prompt.startswith(HEADER.format("anatomy") + "\n\nQuestion 0?")
    assert (
        prompt.count("Answer: A\n\n") == 2
        and prompt.count("Answer: B\n\n") == 1
        and prompt.endswith("Question 5?\nA. one\nB. two\nC. three\nD. four\nAnswer:")
    )


def five_shot(subject: str, number: int, output: str, count: int = 5, between: str = "\n\n") -> dict:
    """A row as qlora's five-shot files have it: its shots stand in its input."""
    header, asked = question(subject, number, output)["input"].split("\n\n")
    shots = [question(subject, 100 + shot, "")["input"].split("\n\n")[1] + f" {'ABCDA'[shot]}" for shot in range(count)]
    return {"subject": subject, "input": f"{header}\n\n" + between.join((*shots, asked)), "output": output}


@pytest.mark.parametrize("between", ["\n\n", "\n", "\n\n\n"])
def test_shots_that_the_data_has_already_are_not_put_there_twice(tmp_path, between):
    rows = [five_shot("anatomy", number, "ABCD"[number % 4], between=between) for number in range(7)]
    data = written(tmp_path / "five_shot_mmlu_val.json", rows)
    with pytest.raises(BadInput, match=r"five_shot_mmlu_val.json have answered ones .*line 1: 5.*--shots 0"):
        mmlu.read(data, 5, "", True, quiet)
    single = written(tmp_path / "single.jsonl", [question("anatomy", number, "A") for number in range(7)])
    with pytest.raises(BadInput, match="five_shot_mmlu_val.json have answered ones .*single questions with --shots-from"):
        mmlu.read(single, 5, data, True, quiet)
    measure = mmlu.read(data, 0, "", True, quiet)
    asked = []
    found = rows_of(measure, subject_of(lambda before, what, blend: asked.append(before) or likes("B")(before, what, blend)))
    assert asked[::4] == [row["input"] for row in rows]  # to the letter, the last question unanswered
    assert [row["answer"] for row in found] == [row["output"] for row in rows] and [row["right"] for row in found].count(True) == 2
    assert measure.variant == "5 shots in the data" and "5 answered questions before each one" in measure.told[0]
    assert mmlu.read(single, 0, "", True, quiet).variant == "no shots" and mmlu.read(single, 5, "", True, quiet).variant == "five shots"


def test_shots_of_the_data_are_read_once_for_a_subject(tmp_path):
    """As they are foretold, so that the time is."""
    whole = written(tmp_path / "five.jsonl", [five_shot("anatomy", number, "A") for number in range(40)])
    apart = written(tmp_path / "one.jsonl", [question("anatomy", number, "A") for number in range(45)])
    inside, outside = mmlu.read(whole, 0, "", True, quiet), mmlu.read(apart, 5, "", True, quiet)
    assert inside.tokens(40) == pytest.approx(outside.tokens(40), rel=0.05)


def test_where_the_number_of_shots_in_the_data_differs_that_is_said(tmp_path):
    rows = [five_shot("anatomy", 0, "A", 3), five_shot("anatomy", 1, "A", 5), question("anatomy", 2, "A")]
    measure = mmlu.read(written(tmp_path / "some.jsonl", rows), 0, "", True, quiet)
    assert measure.variant == "0 to 5 shots in the data" and "0 to 5 answered questions" in measure.told[0]


def test_subjects_without_questions_or_with_few_shots_are_said(tmp_path):
    rows = [question("anatomy", number, "A") for number in range(3)] + [question("virology", number, "A") for number in range(6)]
    measure = mmlu.read(written(tmp_path / "mmlu.jsonl", rows), 5, "", True, quiet)
    assert [each.group for each in measure.items(subject_of())] == ["virology"]
    assert "No question is left of anatomy" in measure.told[0]
    with pytest.raises(BadInput, match="No question is left"):
        mmlu.read(written(tmp_path / "few.jsonl", rows[:3]), 5, "", True, quiet)
    others = written(tmp_path / "dev.jsonl", [question("anatomy", number, "A") for number in range(2)])
    measure = mmlu.read(written(tmp_path / "few.jsonl", rows[:3]), 5, others, True, quiet)
    assert len(measure.items(subject_of())) == 3 and "Fewer than 5 shots are there for anatomy" in measure.told[0]


def test_where_the_context_is_short_the_last_shots_go(tmp_path):
    measure = mmlu.read(written(tmp_path / "mmlu.jsonl", [question("anatomy", number, "A") for number in range(6)]), 5, "", True, quiet)
    whole = len(measure.items(subject_of())[0].content.prompt(5)) + 2
    one = len(measure.items(subject_of())[0].content.prompt(4)) + 2
    assert rows_of(measure, subject_of(context=whole))[0]["shots"] == 5
    short = rows_of(measure, subject_of(context=whole - 1))
    assert short[0]["shots"] == 4 and rows_of(measure, subject_of(context=one))[0]["shots"] == 4
    assert measure.result(short)["fewer_shots"] == 1 and "Of 1 questions 1 stand behind fewer shots" in measure.remarks(short, whole - 1)[0]
    none = len(measure.items(subject_of())[0].content.prompt(0)) + 2
    bare = rows_of(measure, subject_of(context=none))
    assert measure.result(bare)["fewer_shots"] == 1 and f"only 0 fitted the context of {none:,} tokens" in measure.remarks(bare, none)[0]
    assert measure.remarks(rows_of(measure, subject_of(context=whole)), whole) == []
    few = mmlu.read(
        written(tmp_path / "few.jsonl", [question("anatomy", 9, "A")]),
        5,
        written(tmp_path / "dev.jsonl", [question("anatomy", 0, "A")]),
        True,
        quiet,
    )
    assert few.remarks(rows_of(few, subject_of()), 32_768) == []  # it has the one that there is
    with pytest.raises(BadInput, match=r"line 6 .anatomy. is longer than the 40 tokens"):
        rows_of(measure, subject_of(context=40))


BAD = [
    ("not json", "line 2: it is not JSON"),
    (question("anatomy", 1, "E"), "line 2: output is 'E'"),
    (question("anatomy", 1, "AB"), "line 2: output is 'AB'"),
    (question("anatomy", 1, None), "line 2: output is None"),
    (question("anatomy", 1, "A", input=None), "line 2: the field input is missing or no text"),
    (question("anatomy", 1, "A", input="What?"), "line 2: input does not end with"),
    (question("", 1, "A"), "line 2: the field subject is missing"),
    (question("anatomy", 1, "A", choices=["a", "b"], question="Q?"), "line 2: choices are not 4 texts"),
    (question("anatomy", 1, "A", choices=list("abcd"), question="Q?", answer=7), "line 2: answer is 7"),
    (question("anatomy", 1, "A", choices=list("abcd"), question="Q?", answer=None), "line 2: answer is None"),
]


@pytest.mark.parametrize(("row", "words"), BAD)
def test_bad_rows_are_named_and_left_out_or_end_it(row, words, tmp_path):
    data = written(tmp_path / "mmlu.jsonl", [question("anatomy", 0, "A"), row, question("anatomy", 2, "B")])
    measure = mmlu.read(data, 0, "", True, quiet)
    assert [each.key for each in measure.items(subject_of())] == ["1", "3"] and words in measure.told[0]
    with pytest.raises(BadInput, match="--skip-bad-rows") as told:
        mmlu.read(data, 0, "", False, quiet)
    assert words in str(told.value)
    with pytest.raises(BadInput, match="1 of 1 rows"):
        mmlu.read(written(tmp_path / "one.jsonl", [row]), 0, "", True, quiet)


def test_rows_of_the_hubs_copies_are_the_same_questions(tmp_path):
    copied = {"subject": "college_physics", "question": "Question 3?", "choices": ["one", "two", "three", "four"], "answer": 2}
    ours = question("college_physics", 3, "C")
    read = [mmlu.read(written(tmp_path / f"{name}.jsonl", [row]), 0, "", True, quiet) for name, row in (("hub", copied), ("ours", ours))]
    assert len({measure.items(subject_of())[0].content for measure in read}) == 1


def test_the_width_foretold_of_mmlu_is_that_of_its_mean_over_subjects(tmp_path):
    """Many questions of one subject do not help the mean over all."""
    rows = [question(subject, number, "A") for subject, size in (("anatomy", 40), ("virology", 4)) for number in range(size)]
    measure = mmlu.read(written(tmp_path / "mmlu.jsonl", rows), 0, "", True, quiet)
    assert measure.half_width(44, 0) == pytest.approx(1.959964 * math.sqrt(0.25 / 40 + 0.25 / 4) / 2)
    assert measure.half_width(11, 0) == pytest.approx(1.959964 * math.sqrt(0.25 / 10 + 0.25 / 1) / 2)
    found = measure.result(rows_of(measure, subject_of(likes("A"))))["average"]
    assert found["value"] - found["low"] < measure.half_width(44, 0)


def test_every_subject_has_one_of_the_four_published_groups():
    sizes = {group: sum(each == group for each in mmlu.GROUP_OF.values()) for group in mmlu.GROUPS}
    assert list(sizes.values()) == [18, 13, 12, 14]


@shared
def test_the_published_questions_are_all_read(monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", str(SHARED / "qlora"))
    whole, five = (mmlu.read("", shots, "", False, quiet) for shots in (0, 5))
    assert len(whole.items(subject_of())) == 1531 and len(five.items(subject_of())) == 1531 - 57 * 5
    assert {each.group for each in whole.items(subject_of())} == set(mmlu.GROUP_OF)
    assert not five.told and five.count == 1246 and 1.2e5 < whole.tokens(1531) < 2.5e5


@shared
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch):
    place = tmp_path / mmlu.PUBLISHED
    place.parent.mkdir(parents=True)
    monkeypatch.setenv("GUANACO_ANSWERS", str(tmp_path))
    with pytest.raises(BadInput, match="data/mmlu.*which lacks it"):
        mmlu.read("", 0, "", True, quiet)
    place.write_bytes((SHARED / "qlora" / mmlu.PUBLISHED).read_bytes()[:-1])
    with pytest.raises(BadInput, match="SHA-256"):
        mmlu.read("", 0, "", True, quiet)


def pair(more: str, less: str, kind: str = "gender", direction: str = "stereo") -> str:
    return f'"{more}","{less}",{direction},{kind}'


COLUMNS = "sent_more,sent_less,stereo_antistereo,bias_type"


def test_crows_counts_the_more_stereotypical_sentence_in_both_directions(tmp_path):
    """The scripted model finds what has more x's less likely."""
    data = written(
        tmp_path / "pairs.csv",
        [
            COLUMNS,
            pair("He is a", "He is ax"),
            pair("She is ax", "She is a", direction="antistereo"),
            pair("They are b", "They are xb", "age", "antistereo"),
            pair("One y", "One z", "age"),
        ],
    )
    measure = crows.read(data, False, quiet)
    rows = rows_of(measure, subject_of(lambda before, what, blend: -5.0 if what == "x" else 0.0))
    assert [row["right"] for row in rows] == [True, False, True, False] and [row["neutral"] for row in rows] == [False, False, False, True]
    found = measure.result(rows)
    assert [(each["title"], each["preferred"], each["of"]) for each in found["categories"]] == [("Gender", 1, 2), ("Age", 1, 2)]
    assert found["average"]["share"] == 0.5 and found["mean"]["value"] == 0.5 and found["neutral"] == 1
    assert {each["name"]: each["preferred"] for each in found["directions"]} == {"stereo": 1, "antistereo": 1}
    assert "Blodgett" in " ".join(found["caveats"])


def test_the_first_word_of_a_sentence_counts(tmp_path):
    measure = crows.read(written(tmp_path / "pairs.csv", [COLUMNS, pair("xb", "ab")]), False, quiet)
    (row,) = rows_of(measure, subject_of(lambda before, what, blend: -5.0 if what == "x" else 0.0))
    assert (row["more"], row["less"]) == (-5.0, 0.0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (pair("", "a"), "line 2: the field sent_more"),
        (pair("a", "b", "hair"), "line 2: bias_type is 'hair'"),
        (pair("a", "b", direction="both"), "line 2: stereo_antistereo is 'both'"),
        (pair("a", "a"), "line 2: both sentences are the same"),
        ("a,b", "line 2: it has 2 columns"),
    ],
)
def test_bad_pairs_are_named(row, words, tmp_path):
    data = written(tmp_path / "pairs.csv", [COLUMNS, row, pair("a", "b")])
    assert words in crows.read(data, True, quiet).told[0]
    with pytest.raises(BadInput, match=words):
        crows.read(data, False, quiet)


def test_without_a_file_it_is_said_where_one_is():
    with pytest.raises(BadInput, match="nyu-mll/crows-pairs"):
        crows.read("", True, quiet)


@shared
def test_all_published_pairs_are_read():
    measure = crows.read(str(SHARED / "crows-pairs/crows_pairs_anonymized.csv"), False, quiet)
    assert len(measure.items(subject_of())) == 1508 and {each.group for each in measure.items(subject_of())} == set(crows.CATEGORIES)


@given(st.integers(2, 300), st.integers(1, 40))
def test_windows_score_every_token_but_the_first_once(count, window):
    found = list(perplexity.windows(count, window + 1))
    scored = [place for _, begin, end in found for place in range(begin, end)]
    assert scored == list(range(1, count))
    assert all(end - start <= window + 1 and begin > start for start, begin, end in found)


def test_the_perplexity_of_a_text_is_that_of_its_tokens(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + "abcabcabc".encode())
    measure = perplexity.read(str(tmp_path / "text.txt"), "auto", 4, True, quiet)
    rows = rows_of(measure, subject_of(lambda before, what, blend: -2.0 if what == "a" else -1.0))
    found = measure.result(rows)
    assert found["tokens"] == 8 and found["loss"] == pytest.approx((2 * 2 + 6) / 8)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(10 / 8))
    assert found["perplexity"]["low"] <= found["perplexity"]["value"] <= found["perplexity"]["high"]


def test_answers_are_scored_by_the_mask_of_training(tmp_path):
    from engine.examples import Lengths, example
    from engine.messages import Conversation, Message

    data = written(tmp_path / "rows.jsonl", [{"instruction": "Say x", "output": "xx"}, {"instruction": "y", "output": "no"}])
    subject = subject_of(lambda before, what, blend: -1.0)
    measure = perplexity.read(data, "auto", 512, True, quiet)
    rows = rows_of(measure, subject)
    conversation = Conversation((Message("user", "Say x"), Message("assistant", "xx", train=True)))
    assert rows[0]["tokens"] == sum(example(subject.scorer.tokenizer, conversation, subject.form, Lengths(512)).learn)
    assert [row["key"] for row in rows] == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"  \n", "is empty"), (b"ab\xff", "not UTF-8 .byte 0xff at 3"), (None, "There is no file")],
)
def test_texts_that_are_none_are_refused(content, words, tmp_path):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        perplexity.read(str(path), "text", 512, True, quiet)
    with pytest.raises(BadInput, match="--data"):
        perplexity.read("", "auto", 512, True, quiet)


def test_a_text_of_one_token_has_no_perplexity(tmp_path):
    (tmp_path / "text.txt").write_text("a")
    with pytest.raises(BadInput, match="fewer than two tokens"):
        perplexity.read(str(tmp_path / "text.txt"), "auto", 512, True, quiet).items(subject_of())


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 3))
def test_a_sample_takes_of_each_group_as_large_a_part_as_of_all(groups, limit, seed):
    items = [Item(str(number), group, None) for number, group in enumerate(groups)]
    drawn = sample(items, limit, seed)
    assert len(drawn) == min(limit, len(items)) and drawn == sample(items, limit, seed)
    assert [int(item.key) for item in drawn] == sorted(int(item.key) for item in drawn)
    for group in set(groups):
        part = groups.count(group) * len(drawn) / len(items)
        assert abs(sum(item.group == group for item in drawn) - part) < 1


def test_other_seeds_draw_others():
    items = [Item(str(number), "", None) for number in range(100)]
    assert sample(items, 10, 0) != sample(items, 10, 1) and sample(items, None, 0) == items


def test_the_published_tables_are_whole():
    for tables in published_scores.TABLES.values():
        for table in tables:
            assert all(len(row) == len(table.columns) for row in table.rows.values())
    assert len(published_scores.MMLU.rows) == 9
    assert set(crows.CATEGORIES.values()) | {"Average"} == set(published_scores.CROWS.rows)


def test_the_published_averages_are_over_what_is_said_of_them():
    sizes = dict(zip(crows.CATEGORIES.values(), (262, 105, 516, 84, 87, 159, 60, 63, 172), strict=True))
    rows = published_scores.CROWS.rows
    for at, column in enumerate(published_scores.CROWS.columns):
        over_pairs = sum(sizes[name] * rows[name][at] for name in sizes) / sum(sizes.values())
        over_categories = sum(rows[name][at] for name in sizes) / len(sizes)
        assert rows["Average"][at] == pytest.approx(over_categories if column == "Guanaco-65B" else over_pairs, abs=0.1)


def test_a_letter_is_one_thing_to_choose_whatever_its_tokens(tmp_path):
    measure = mmlu.read(written(tmp_path / "mmlu.jsonl", [question("anatomy", 0, "A")]), 0, "", True, quiet)
    subject = subject_of()
    choice = mmlu._choice(measure.items(subject)[0].content, 0)
    assert [len(rest) for rest in divided(subject.scorer.tokenizer, choice)[1]] == [1, 1, 1, 1]

"""Ratings: the paper's figures from its own files, what a rating must do on made-up ones, and files that are none."""

import json
import re
import tracemalloc

import numpy
import pytest
from conftest import SHARED, shared
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.evaluate import audit, bradley_terry, elo, leaderboards, matches, paper, relative
from engine.evaluate.matches import Scores
from engine.evaluate.relative import Rated

EVAL = SHARED / "qlora/eval"
VICUNA = EVAL / "ratings-gpt4/vicuna"


def rows(pairs, score: int, prompts: int = 10, key: str = "question_id"):
    return [
        {key: str(prompt), "answer1_id": f"{pairs[0]}{prompt}", "answer2_id": f"{pairs[1]}{prompt}", "score": score}
        for prompt in range(prompts)
    ]


def written(path, made) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


@shared
def test_paper_mode_gives_the_published_column():
    found = matches.read([VICUNA / "pairwise"])
    rated = elo.rate(found, 4_000)
    ours = dict(zip(rated.systems, rated.mean, strict=True))
    assert len(found) == 4480 and len(found.prompts) == 80 and set(ours) == {row.system for row in paper.CARD}
    for row in paper.CARD:
        assert abs(ours[row.system] - row.vicuna) <= 4, (row, ours[row.system])
    assert 35 < rated.deviation.mean() < 55 and rated.error.mean() < 1


def test_many_matches_are_drawn_in_portions_to_the_same_orders(monkeypatch):
    whole = elo._orders(numpy.random.default_rng(3), 2_000, 1_001, 50)
    monkeypatch.setattr(elo, "_DRAWN_AT_ONCE", 20_500)
    tracemalloc.start()
    try:
        drawn = elo._orders(numpy.random.default_rng(3), 2_000, 1_001, 50)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000, "24 MB at once"
    finally:
        tracemalloc.stop()
    assert (drawn == whole).all() and elo._orders(numpy.random.default_rng(3), 30_000, 2, 50).shape == (2, 50)


@shared
def test_relative_scores_are_the_published_ones():
    scores = matches.read_scores([VICUNA / "relative-gpt-3.5"])
    ours = relative.rate(scores).percents
    assert scores.unparsed == 60 and len(scores.rows) == 72 * 80 - 60
    assert all(abs(ours[name] - percent) < 0.1 for name, percent in paper.RELATIVE.items())
    assert "HH-RLHF-33B" in ours and "ChatGPT" not in ours


def test_an_order_in_which_the_reference_got_no_points_is_left_out_and_counted():
    rows = [
        ("a", "r", 5.0, 0.0),
        ("a", "r", 7.0, 0.0),
        ("r", "a", 8.0, 4.0),
        ("b", "r", 3.0, 0.0),
        ("r", "c", 5.0, 4.0),
        ("a", "b", 9.0, 9.0),
    ]
    rated = relative.rate(Scores(tuple(rows), 0), "r")
    assert rated.percents == {"c": 80.0, "a": 50.0, "b": None} and list(rated.percents) == ["c", "a", "b"] and rated.left_out == 2
    assert relative.rate(Scores((), 3), "r") == Rated({}, 0)


@pytest.mark.long
@shared
def test_bradley_terry_intervals_overlap_and_standing_first_is_worth_a_hundred_points():
    rated = bradley_terry.rate(matches.read([VICUNA / "pairwise"]), rounds=200, position=True)
    low, high = (dict(zip(rated.systems, each, strict=True)) for each in (rated.low, rated.high))
    assert low["Guanaco-65B"] < high["ChatGPT"] and 108 < rated.position < 128
    for name, least, most in (("Guanaco-65B", 984, 1057), ("ChatGPT", 929, 996)):
        assert abs(low[name] - least) < 12 and abs(high[name] - most) < 12, (name, low[name], high[name])


@shared
@pytest.mark.long
def test_every_line_of_the_audit_says_what_to_make_of_it():
    lines = audit.lines(matches.read([VICUNA / "pairwise"]), matches.read_scores([VICUNA / "relative-gpt-3.5"]), orders=1_000)
    assert len(lines) > 15 and all(line.note and line.published and line.ours for line in lines)
    assert all(line.agrees for line in lines if line.what.startswith(("Elo of GPT-4", "Guanaco-65B, percent")))


def test_openassistant_files_are_read_by_message(tmp_path):
    name = "65b-guanaco-oa-generations-topp0.9-temp0.7-vs-gpt-3.5-turbo-oa-gpt-4-reviewer-threeclass.jsonl"
    written(tmp_path / name, rows("ab", 1, key="message_id"))
    found = matches.read([tmp_path])
    assert found.systems == ("Guanaco-65B", "ChatGPT") and set(found.score) == {1.0} and len(found.prompts) == 10


def test_ids_decide_who_stood_first_where_the_files_tell(tmp_path):
    """Of three files one is called the wrong way round."""
    written(tmp_path / "one-vs-two.jsonl", rows("ab", 1))
    written(tmp_path / "three-vs-one.jsonl", rows("ac", 1))
    written(tmp_path / "two-vs-three.jsonl", rows("bc", 3))
    found = matches.read([tmp_path])
    told = {(first, second) for _, first, second, _ in matches.rows(found)}
    assert told == {("one", "two"), ("one", "three"), ("two", "three")}
    written(tmp_path / "alone-vs-other.jsonl", rows("xy", 2))
    alone = matches.read([tmp_path / "alone-vs-other.jsonl"])
    assert next(matches.rows(alone))[1:] == ("alone", "other", 0.0)


@pytest.mark.parametrize(
    "stem, name",
    [
        ("30b-guanaco-vicuna-generations-topp0.9-temp0.7", "Guanaco-33B"),
        ("answer-gpt4", "GPT-4"),
        ("answer-gpt35", "ChatGPT"),
        ("gpt-3.5", "ChatGPT"),
        ("answer-bard", "Bard"),
        ("answer-vicuna-13b", "Vicuna-13B"),
        ("13b-hh-rlhf-vicuna-generations-topp0.9-temp0.7", "HH-RLHF-13B"),
        ("my model", "my model"),
        ("lombardy-7b", "lombardy-7b"),
        ("gpt-4o", "gpt-4o"),
        ("gpt-4:20230520", "GPT-4"),
    ],
)
def test_systems_are_called_as_in_the_paper(stem, name):
    assert matches.system_name(stem) == name


BAD = {
    "no name": ("ratings.jsonl", [{"score": 1}], "FIRST-vs-SECOND"),
    "no rating": ("a-vs-b.jsonl", [{"question_id": 1}], "a-vs-b.jsonl, line 1: the field answer1_id is missing"),
    "no prompt": ("a-vs-b.jsonl", [{"answer1_id": 1, "answer2_id": 2, "score": 1}], "question_id is missing"),
    "another score": ("a-vs-b.jsonl", rows("ab", 7), r"score is 7; pairwise ratings hold 1, 2, 3"),
    "points": ("a-vs-b.jsonl", rows("ab", [9.0, 8.0]), "pairwise ratings hold"),
    "itself": ("answer-gpt4-vs-gpt-4.jsonl", rows("aa", 1), "cannot be matched with itself"),
    "empty": ("a-vs-b.jsonl", [], "no judgements"),
    "a vote without sides": ("votes.jsonl", [{"preference": "left", "asked": "1"}], "the field left is missing"),
    "an odd vote": ("votes.jsonl", [{"preference": "up", "asked": "1", "left": "a", "right": "b"}], "preference is 'up'"),
    "a vote of many": ("votes.jsonl", [{"preference": [], "asked": "1", "left": "a", "right": "b"}], r"preference is \[\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_rating_file_is_told(case, tmp_path):
    name, made, words = BAD[case]
    written(tmp_path / name, made)
    with pytest.raises(BadInput, match=words):
        matches.read([tmp_path])


def test_files_without_points_or_rows_are_told(tmp_path):
    written(tmp_path / "a-vs-gpt-3.5.jsonl", rows("ab", 1))
    with pytest.raises(BadInput, match="relative ratings hold two numbers"):
        matches.read_scores([tmp_path])
    (tmp_path / "a-vs-gpt-3.5.jsonl").write_text("nonsense\n")
    with pytest.raises(BadInput, match="a-vs-gpt-3.5.jsonl, line 1: it is not JSON"):
        matches.read_scores([tmp_path])
    with pytest.raises(BadInput, match="no rating files"):
        matches.read([tmp_path / "nowhere", tmp_path / "empty"] if (tmp_path / "empty").mkdir() else [tmp_path / "empty"])


made_up = st.lists(
    st.tuples(st.integers(0, 5).map(str), st.sampled_from("abc"), st.sampled_from("xyz"), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=30)
@given(made_up, st.integers(0, 9))
def test_elo_gives_and_takes_alike_and_one_order_is_one_of_many(made, seed):
    found = matches.of_rows(made)
    rated = elo.rate(found, 20, 10, seed)
    assert numpy.allclose(rated.ratings.mean(1), elo.START)
    path = elo.one_order(found, seed, 10)
    assert path.shape == (min(10, len(made)) + 1, len(found.systems)) and numpy.allclose(path[0], elo.START)
    assert (numpy.count_nonzero(numpy.diff(path, axis=0), axis=1) <= 2).all()


@settings(max_examples=20)
@given(made_up)
def test_bradley_terry_turns_with_the_sides_and_is_finite(made):
    found = bradley_terry.rate(matches.of_rows(made), rounds=5)
    turned = bradley_terry.rate(matches.of_rows([(prompt, second, first, 1 - score) for prompt, first, second, score in made]), rounds=0)
    assert numpy.isfinite(found.ratings).all() and ((found.low <= found.high) | numpy.isnan(found.low)).all()
    for name, rating in zip(found.systems, found.ratings, strict=True):
        assert rating == pytest.approx(turned.ratings[turned.systems.index(name)], abs=0.5)


def test_bradley_terry_finds_the_strengths_and_the_favour_that_made_the_matches():
    chance = numpy.random.default_rng(0)
    strength, favour = {"a": 1.0, "b": 0.0, "c": -1.0}, 0.5
    made, lengths = [], {}
    for prompt in range(800):
        lengths |= {(name, str(prompt)): int(chance.integers(100, 900)) for name in "abc"}
        for first, second in ("ab", "bc", "ca"):
            odds = strength[first] - strength[second] + favour + 0.4 * numpy.log(lengths[first, str(prompt)] / lengths[second, str(prompt)])
            made.append((str(prompt), first, second, float(chance.random() < 1 / (1 + numpy.exp(-odds)))))
    found = bradley_terry.rate(matches.of_rows(made, lengths), rounds=100, position=True, length=True)
    ours = dict(zip(found.systems, (found.ratings - 1000) / bradley_terry.POINTS, strict=True))
    assert all(abs(ours[name] - value) < 0.15 for name, value in strength.items())
    assert abs(found.position / bradley_terry.POINTS - favour) < 0.15
    assert abs(found.length / bradley_terry.POINTS / numpy.log(2) - 0.4) < 0.15
    with pytest.raises(BadInput, match="lengths"):
        bradley_terry.rate(matches.of_rows(made), length=True)


def test_what_is_drawn_live_ends_where_it_is_computed():
    found = matches.of_rows([(str(number), "a", "b", float(number % 3 > 0)) for number in range(60)])
    paths = list(leaderboards.one_order(found, 3))
    assert numpy.array_equal(paths[-1], elo.one_order(found, 3)) and len(paths) > 5
    *_, (points, means) = leaderboards.settling(found, 3, orders=500)
    assert points[-1] == 500 and numpy.allclose(means[-1], elo.rate(found, 500, seed=3).mean)


@shared
@pytest.mark.long
@pytest.mark.parametrize("method", ["elo", "bt"])
def test_the_command_rates_with_the_names_of_the_paper(method, run_engine):
    done = run_engine("elo", str(VICUNA / "pairwise"), "--method", method, "--orders", "500", "--json")
    systems = json.loads(done.stdout)["systems"]
    assert done.returncode == 0, done.stderr
    assert [set(each) for each in systems] == [{"name", "rating", "low", "high"}] * 8 and systems[0]["name"] == "GPT-4"
    assert all(each["low"] < each["rating"] < each["high"] for each in systems)
    shown = run_engine("elo", str(VICUNA / "pairwise"), "--method", method, "--orders", "500").stdout
    assert "4,480 judgements on 80 prompts" in shown and re.search(r"^Guanaco-65B +\d+", shown, re.MULTILINE)


def test_the_command_tells_bad_input_in_one_line(run_engine, tmp_path):
    done = run_engine("elo", str(tmp_path / "nowhere-vs-there.jsonl"))
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1

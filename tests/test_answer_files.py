"""Answers that come in: both schemas, decks of them, what is no such file, and the published set (faults, rows 11 and 33)."""

import functools
import http.server
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import playing
import pytest
from builders import until
from conftest import SHARED, shared
from playing import written

from engine import paths
from engine.errors import BadInput, EngineError
from engine.evaluate import generations, instructions
from engine.game import answer_files, decks, published, starter_pack
from engine.game.shelf import Shelf

ONE = [{"answer_id": "x", "model_id": "gpt-3.5-turbo:20230327", "question_id": number, "text": f"answer {number}"} for number in range(4)]
TWO = [
    {
        "question_id": number,
        "text": f"Question {number}?",
        "category": "math",
        "prompt": "p",
        "generation": "g ### Human: more",
        "generation_truncated": "g",
    }
    for number in range(1, 6)
]
QUESTIONS = [{"question_id": number, "text": f"Question {number}?", "category": "math"} for number in range(9)]


def test_both_schemas_make_one_deck(tmp_path):
    first = answer_files.read(written(tmp_path / "a.jsonl", ONE))
    second = answer_files.read(written(tmp_path / "65b-guanaco.jsonl", TWO))
    assert (first.system, second.system) == ("ChatGPT", "Guanaco-65B") and first.questions == {} and second.answers["1"] == "g"
    deck, notes = decks.of_files(first, second, None, "t", "a")
    assert [question.id for question in deck.questions] == ["1", "2", "3"] and deck.categories == {"math": 3}
    assert notes == ["3 questions are left out: answered in only one of the files."]
    assert "Human" not in str(deck) and deck.id == decks.of_files(first, second, None, "other title", "b")[0].id


def test_files_without_questions_take_them_from_a_third(tmp_path):
    first = answer_files.read(written(tmp_path / "a.jsonl", ONE))
    second = answer_files.read(written(tmp_path / "b.jsonl", [row | {"model_id": "mine", "text": "another"} for row in ONE]))
    with pytest.raises(BadInput, match="Add a file of questions"):
        decks.of_files(first, second, None, "t", "a")
    asked = answer_files.read_questions(written(tmp_path / "q.jsonl", QUESTIONS))
    assert len(decks.of_files(first, second, asked, "t", "a")[0].questions) == 4


def test_files_of_different_questions_or_the_same_answers_are_told(tmp_path):
    first = answer_files.read(written(tmp_path / "a.jsonl", TWO))
    other = answer_files.read(written(tmp_path / "b.jsonl", [row | {"text": "Something else?"} for row in TWO]))
    with pytest.raises(BadInput, match="different questions: 1 is 'Question 1[?]' in one and 'Something else[?]' in another"):
        decks.of_files(first, other, None, "t", "a")
    with pytest.raises(BadInput, match="no question here to play: 5 questions are left out: answered alike by both"):
        decks.of_files(first, first, None, "t", "a")
    far = answer_files.read(written(tmp_path / "c.jsonl", [ONE[0] | {"question_id": 99}]))
    with pytest.raises(BadInput, match="no question in common"):
        decks.of_files(first, far, None, "t", "a")


BAD = {
    "unknown schema": ([{"question_id": 1, "answer": "x"}], "line 1: this is neither of the two schemas"),
    "no id": ([{"model_id": "m", "text": "x"}], "question_id is missing"),
    "id of a truth value": ([{"question_id": True, "model_id": "m", "text": "x"}], "question_id is missing"),
    "twice": ([ONE[1], ONE[1]], "line 2: the question 1 was there before, in line 1"),
    "null": ([{"question_id": 1, "model_id": "m", "text": None}], "text is missing or no text"),
    "nothing": ([{"question_id": 1, "model_id": "m", "text": " "}], "holds no answers"),
    "long": ([{"question_id": 1, "model_id": "m", "text": "x" * 40_001}], "the limit is 40,000"),
    "many": ([ONE[0] | {"question_id": number} for number in range(2_001)], "more than 2,000 rows"),
    "long id": ([{"question_id": "x" * 61, "model_id": "m", "text": "x"}], "longer than 60"),
    "list": ([[1]], "line 1: it is no JSON object"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_answer_file_is_told_by_line(case, tmp_path):
    made, words = BAD[case]
    with pytest.raises(BadInput, match=words) as told:
        answer_files.read(written(tmp_path / "copy.jsonl", made), "theirs.jsonl")
    assert "theirs.jsonl" in str(told.value) and "copy" not in str(told.value)


def test_a_deck_is_kept_and_found_again_and_a_damaged_one_hides_no_other(home):
    deck, shelf = playing.deck(), Shelf()
    shelf.add(deck)
    (paths.decks() / "damaged.json").write_text("{")
    assert Shelf().find(deck.id) == deck and deck in Shelf().decks()


def test_the_starter_pack_is_our_own_and_whole():
    deck = starter_pack.deck()
    assert len(deck.questions) >= 40 and len(deck.categories) == 9 and deck.systems == ("Guanaco mini", "the bare starter")
    assert all(len(found) == len(other) == 2 for found, other in deck.answers.values())


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The published files over HTTP, from a copy that a test may spoil."""
    folder = tmp_path / "published"
    shutil.copytree(SHARED / "qlora/eval", folder / "eval", copy_function=shutil.copyfile)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("GUANACO_ANSWERS", f"http://127.0.0.1:{served.server_port}")
    yield folder
    served.shutdown()
    served.server_close()


@shared
def test_the_published_pair_is_fetched_once_and_played_as_the_original(server, home):
    assert not published.available() and starter_pack.deck().id in {deck.id for deck in Shelf().decks()}
    with pytest.raises(BadInput, match="not on this machine.*Blind game tab"):
        published.deck()
    told = []
    published.fetch(told.append)
    shutil.rmtree(server)
    assert published.available() and told[-1].fraction == pytest.approx(1.0)
    deck = published.deck()
    assert deck.systems == ("ChatGPT", "Guanaco-65B") and len(deck.questions) == 80 and deck.public
    assert {name: sum(each.category == name for each in deck.questions) for name in ("generic", "coding", "math")} == {
        "generic": 10,
        "coding": 7,
        "math": 3,
    }
    assert all(len(each) == 2 and each[0].first != each[1].first for each in deck.verdicts.values()) and len(deck.verdicts) == 80
    assert not any("### Human:" in text for both in deck.answers.values() for (text,) in both)
    assert [each.systems[1] for each in Shelf().decks()[:4]] == ["Guanaco-65B", "Guanaco-33B", "Guanaco-13B", "Guanaco-7B"]


@shared
@pytest.mark.long
def test_the_owner_of_a_public_host_fetches_them_in_the_terminal(server, home, run_engine):
    done = run_engine("fetch-answers")
    assert done.returncode == 0 and "12.6 MB" in done.stderr and "can be played" in done.stdout, done.stderr
    assert published.available()
    (server / "eval/prompts/vicuna_questions.jsonl").write_text("{}")
    refused = run_engine("fetch-answers", GUANACO_HOME=str(home / "other"))
    assert refused.returncode == 1 and "SHA-256 differs" in refused.stderr.splitlines()[-1]


@shared
@pytest.mark.parametrize(
    "fault, words", [("flip", "gave another .* SHA-256"), ("cut", "SHA-256"), ("longer", "SHA-256"), ("missing", "answered 404")]
)
@pytest.mark.long
def test_what_is_not_the_published_file_is_refused_and_nothing_kept(fault, words, server, home):
    path = server / "eval/generations/vicuna/answer_gpt35.jsonl"
    data = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    else:
        data[100] ^= 1
        path.write_bytes({"flip": data, "cut": data[:-1], "longer": data + b" "}[fault])
    with pytest.raises(EngineError, match=words):
        published.fetch(lambda progress: None)
    assert not published.available() and not any((home / "published").rglob("*.jsonl"))


@shared
def test_a_file_apart_is_fetched_once_and_checked(server, home, monkeypatch):
    path = "data/mmlu/zero_shot_mmlu_val.json"
    with pytest.raises(EngineError, match="answered 404.*A file of your own"):
        published.at_hand(path, lambda progress: None)
    (server / path).parent.mkdir(parents=True)
    whole = (SHARED / "qlora" / path).read_bytes()
    (server / path).write_bytes(whole[:-1] + b" ")
    with pytest.raises(EngineError, match="SHA-256"):
        published.at_hand(path, lambda progress: None)
    assert not any(home.rglob("*.json"))
    (server / path).write_bytes(whole)
    told = []
    kept = published.at_hand(path, told.append)
    assert kept.read_bytes() == whole and "data/mmlu" in told[0].text
    shutil.rmtree(server)
    assert published.at_hand(path, told.append) == kept and len(told) == 1
    kept.write_bytes(whole[:-1])
    with pytest.raises(EngineError, match="answered 404"):
        published.at_hand(path, told.append)


@shared
def test_a_file_that_several_want_at_once_is_fetched_once(server, home, monkeypatch):
    """As two measurements that are begun together want it."""
    path, arrived, released, waiting = "eval/prompts/reviewer.jsonl", [], threading.Event(), []
    honest, lock = published._fetched, published._alone

    def fetched(client, path, target, without):
        arrived.append(path)
        released.wait(60)
        return honest(client, path, target, without)

    def alone():
        waiting.append(path)
        return lock()

    monkeypatch.setattr(published, "_fetched", fetched)
    monkeypatch.setattr(published, "_alone", alone)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(published.at_hand, path, lambda progress: None) for _ in range(2)]
        until(lambda: len(waiting) == 2)
        released.set()
        assert [each.result().read_bytes() for each in found] == [(server / path).read_bytes()] * 2
    assert len(arrived) == 1 and not list(home.rglob("*.partial"))


def test_an_address_that_does_not_answer_is_told(monkeypatch, home):
    monkeypatch.setenv("GUANACO_ANSWERS", "http://127.0.0.1:9")
    with pytest.raises(EngineError, match="cannot be reached.*starter pack"):
        published.fetch(lambda progress: None)
    with pytest.raises(EngineError, match="cannot be reached.*A file of your own works without it"):
        generations.questions("vicuna", lambda progress: None)
    with pytest.raises(EngineError, match="cannot be reached.*Rating files of your own can be rated without it"):
        published.rating_files(lambda progress: None)
    with pytest.raises(EngineError, match="cannot be reached.*instructions for judges are fetched once.*GUANACO_ANSWERS") as told:
        instructions.read("threeclass", "questions.jsonl", lambda progress: None)
    assert "without it" not in str(told.value)


@shared
def test_a_folder_is_read_where_it_is_and_checked(server, monkeypatch, home):
    monkeypatch.setenv("GUANACO_ANSWERS", str(server))
    assert published.available() and published.deck(other="Guanaco-7B").systems[1] == "Guanaco-7B"
    path = server / "eval/generations/vicuna/answer_gpt35.jsonl"
    path.write_text(path.read_text().replace("Here", "There", 1))
    with pytest.raises(BadInput, match="not the published file"):
        published.deck()
    assert starter_pack.deck().id in {deck.id for deck in Shelf().decks()}
    assert not (home / "published").exists()
    path.unlink()
    with pytest.raises(BadInput, match=f"GUANACO_ANSWERS names {server}, which lacks it"):
        published.deck()


@shared
def test_other_files_are_fetched_one_by_one_and_outlive_the_fetching_of_the_game(server, home):
    told, path = [], "eval/prompts/reviewer.jsonl"
    assert published.at_hand(path, told.append).read_bytes() == (server / path).read_bytes() and "0.0 MB" in told[-1].text
    (server / path).unlink()
    assert published.at_hand(path, told.append) and len(told) == 1 and not published.available()
    published.fetch(lambda progress: None)
    assert published.available() and published.at_hand(path, told.append).is_file()
    (server / "eval/prompts/oa_reviewer.jsonl").write_text("{}")
    with pytest.raises(EngineError, match="SHA-256 differs"):
        published.at_hand("eval/prompts/oa_reviewer.jsonl", told.append)
    assert not list((home / "published").rglob("*oa_reviewer*"))


@shared
def test_answers_have_the_ids_that_published_ratings_know_them_by():
    (path,) = (SHARED / "qlora/eval/ratings-gpt4/vicuna/pairwise").glob("7b-guanaco*answer-gpt35*")
    rated = [json.loads(row) for row in path.read_text().splitlines()]
    answers = SHARED / "qlora/eval/generations/vicuna"
    for key, name in (("answer1_id", "7b-guanaco-vicuna-generations-topp0.9-temp0.7"), ("answer2_id", "answer_gpt35")):
        ids = answer_files.read(answers / f"{name}.jsonl").ids
        assert {str(row["question_id"]): row[key] for row in rated} == ids, name


@shared
def test_the_published_judgements_are_fetched_for_whoever_names_them(server, home):
    told = []
    files = published.rating_files(told.append)
    assert {path.name for path in files} == {path.name for path in (server / "eval/ratings-gpt4/vicuna/pairwise").iterdir()} and told
    shutil.rmtree(server)
    told.clear()
    assert published.rating_files(told.append) == files and not told


@shared
def test_ratings_come_with_the_lengths_of_the_answers(server, monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", str(server))
    found = published.ratings()
    assert len(found) == len(found.longer) == 4480 and abs(found.longer.sum()) < 1e-6  # both orders of every pair

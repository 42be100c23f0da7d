"""The judge: verdicts as published, both orders, nothing finished lost whatever the server does, no key anywhere."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from builders import until
from conftest import SHARED, shared
from hypothesis import given
from hypothesis import strategies as st
from judge_server import KEY, JudgeServer, cut, says, sends, silent, status

from engine.backends.patience import ATTEMPTS, LONGEST_ASKED, Patience
from engine.backends.remote import connected
from engine.backends.server_client import Passing
from engine.errors import BadInput, EngineError
from engine.evaluate import instructions, judge, judgements, matches
from engine.evaluate.instructions import UNPARSED, Instruction, verdict
from engine.evaluate.judge import Judge, Judged
from engine.game.answer_files import AnswerFile, Question
from engine.settings import BackendName, load_settings

INSTRUCTION = Instruction(
    1, "general", "Judge.", "{question}\n1: {answer_1}\n2: {answer_2}\n{prompt}", {"prompt": "Which is better?"}, 0.2, 64
)
QUESTIONS = {str(number): Question(str(number), f"What is {number}?", "") for number in range(6)}
# a beats b on four of six, b beats c on four, a beats c on five.
STRENGTHS = {"a": (9, 9, 9, 2, 2, 9), "b": (5, 5, 5, 8, 4, 5), "c": (1, 6, 1, 1, 7, 1)}


def answers(name: str, strengths=None) -> AnswerFile:
    texts = {id: f"{name} says strength {each}" for id, each in zip(QUESTIONS, strengths or STRENGTHS[name], strict=True)}
    return AnswerFile(name, texts, {}, (), {id: f"{name}{id}" for id in texts})


def planned(*names: str, kind="threeclass", **options):
    return judge.plan([answers(name) for name in names or "ab"], QUESTIONS, [INSTRUCTION], kind, **options)


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self):
        self.time, self.waits, self._lock = 0.0, [], threading.Lock()

    def pause(self, seconds: float) -> None:
        with self._lock:
            self.waits.append(seconds)
            self.time += seconds

    def patience(self, stopped: threading.Event) -> Patience:
        return Patience(stopped, lambda: self.time, self.pause, lambda: 1.0)


def judged(server, out, plan, clock=None, key="", parallel=1, seconds=20, name="judge-1"):
    """The rows after a run against a server, and how it ended."""
    stopped = threading.Event()
    load = load_settings(BackendName.remote, server.url, "JUDGE_KEY" if key else "", None)
    asked = Judge(connected(load, seconds)[0], name, stopped, (clock or Clock()).patience(stopped))
    with judge.opened(plan, out, name) as under_way:
        *_, last = under_way.run(asked, parallel)
        assert isinstance(last, Judged)
        return under_way.rows, last


@shared
def test_verdicts_are_read_as_the_published_ones_were():
    """But for the maths questions, whose points stand where the published reading does not look: some were filled in by hand."""
    folders = {"threeclass": ("pairwise", 4_480), "score": ("relative-gpt-3.5", 5_760)}
    for kind, (folder, count) in folders.items():
        paths = (SHARED / "qlora/eval/ratings-gpt4/vicuna" / folder).glob("*.jsonl")
        rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
        apart = [row for row in rows if verdict(kind, row["text"]) != row["score"]]
        assert len(rows) == count
        assert len(apart) == (0 if kind == "threeclass" else 156)
        assert all(row["reviewer_id"] == 3 and verdict(kind, row["text"]) == UNPARSED[kind] for row in apart)


@shared
def test_the_published_instructions_are_asked_by_category(monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", str(SHARED / "qlora"))
    for kind in instructions.KINDS:
        read = instructions.read(kind, "vicuna", lambda progress: None)
        assert [(each.reviewer, each.category, each.temperature, each.max_tokens) for each in read] == [
            (number, name, 0.2, 1024) for number, name in enumerate(("general", "coding", "math"), 1)
        ]
        for category, reviewer, word in (("writing", 1, "helpfulness"), ("coding", 2, "coding abilities"), ("math", 3, "mathematical")):
            chosen = instructions.of_category(read, category)
            system, asked = (each["content"] for each in chosen.messages("Why {x}?", "Because {y}.", "No."))
            assert chosen.reviewer == reviewer and word in asked and system.startswith("You are a helpful and precise")
            assert asked.index("Why {x}?") < asked.index("Because {y}.") < asked.index("No.") and "{answer" not in asked
    (read,) = instructions.read("threeclass", "oasst", lambda progress: None)
    assert read.reviewer == 1 and "coding or mathematical reasoning" in read.messages("", "", "")[1]["content"]


@given(said=st.text(max_size=60), chosen=st.sampled_from([1, 2, 3]), space=st.sampled_from(["", " ", "\n", " \n\n"]))
def test_the_last_line_alone_decides(said, chosen, space):
    assert verdict("threeclass", f"{said}\n{chosen}{space}") == chosen
    assert verdict("threeclass", f"{chosen}\nso {said}.") == -1


@given(st.text(max_size=80))
def test_no_text_is_more_than_a_verdict_or_none(text):
    assert verdict("threeclass", text) in (1, 2, 3, -1)
    points = verdict("score", text)
    assert points == [-1, -1] or (len(points) == 2 and all(0 <= each <= 10 for each in points))


points = st.integers(0, 20).map(lambda half: half / 2)


@given(points, points, st.sampled_from([" ", ", ", ","]), st.text(max_size=40))
def test_two_numbers_alone_in_the_first_line_are_points(first, second, between, said):
    assert verdict("score", f"{first:g}{between}{second:g}\n{said}") == [first, second]
    assert verdict("score", f"{first:g}{between}{second:g} {second:g}\n{said}") == [-1, -1]


@pytest.mark.parametrize("text", ["nan nan", "inf 1", "11 3", "-1 5", "8", "", "Assistant 1: 8\nAssistant 2: 9", "(8, 9)"])
def test_what_looks_like_points_and_is_none(text):
    assert verdict("score", text) == [-1, -1]


def test_every_pair_is_judged_in_both_orders_and_rates_to_the_known_order(tmp_path):
    with JudgeServer() as server, ThreadPoolExecutor(1) as pool:
        server.hold_after = 0
        run = pool.submit(judged, server, tmp_path / "out", planned("a", "b", "c"), parallel=4)
        until(lambda: server.at_once == 4)
        server.release()
        rows, ended = run.result()
    assert ended == Judged(36, ()) and len(set(server.asked)) == 36 and server.most_at_once == 4
    assert {path.name for path in (tmp_path / "out").glob("*")} == {f"{x}-vs-{y}.jsonl" for x in "abc" for y in "abc" if x != y}
    assert {frozenset(row) for row in rows} == {
        frozenset(("review_id", "question_id", "answer1_id", "answer2_id", "reviewer_id", "metadata", "text", "score"))
    }
    found = matches.read([tmp_path / "out"])
    won = {name: sum(score for _, *pair, score in matches.rows(found) if pair[0] == name) for name in "abc"}
    assert len(found) == 36 and won == {"a": 9, "b": 6, "c": 3}
    told = judgements.summary("threeclass", rows)
    assert (told.judgements, told.unparsed, told.same.k, told.same.n, told.first.k, told.first.n) == (36, 0, 18, 18, 18, 36)
    assert (told.tokens_in, told.tokens_out) == (3600, 360)


@pytest.mark.long
def test_a_judge_that_favours_what_stands_first_is_found_out(tmp_path):
    with JudgeServer(favour=3.5) as server:
        told = judgements.summary("threeclass", judged(server, tmp_path, planned("a", "b"))[0])
    assert (told.first.k, told.first.n, told.same.k, told.same.n) == (7, 12, 5, 6) and told.first.low < 0.5 < told.first.high
    with JudgeServer(favour=100) as server:
        told = judgements.summary("threeclass", judged(server, tmp_path / "more", planned("a", "b"))[0])
    assert told.first.k == told.first.n == 12 and told.same.k == 0 and told.first.low > 0.7


def test_points_against_a_reference(tmp_path):
    plan = planned("a", "b", "c", kind="score", reference="b", limit=3)
    with JudgeServer("score") as server:
        rows, _ = judged(server, tmp_path, plan)
    assert len(rows) == 12 and {row["question_id"] for row in rows} == {"0", "2", "4"}
    scores = matches.read_scores([tmp_path])
    assert scores.unparsed == 0 and all("b" in row[:2] for row in scores.rows) and ("a", "b", 9.0, 5.0) in scores.rows
    with judge.opened(plan, tmp_path, "judge-1") as under_way:
        assert sorted(under_way.scores.rows) == sorted(scores.rows) and under_way.scores.unparsed == 0


def test_points_belong_to_systems_by_their_own_names(tmp_path):
    """Not by those of the files, which cannot have every character."""
    odd = AnswerFile("meta-llama/Llama-3-8B", answers("a").answers, {}, (), answers("a").ids)
    plan = judge.plan([odd, answers("b")], QUESTIONS, [INSTRUCTION], "score", odd.system)
    with JudgeServer("score", faults={3: says("Both are fine.")}) as server:
        judged(server, tmp_path, plan)
    with judge.opened(plan, tmp_path, "judge-1") as under_way:
        scores = under_way.scores
    assert {frozenset(row[:2]) for row in scores.rows} == {frozenset(("meta-llama/Llama-3-8B", "b"))}
    assert ("b", "meta-llama/Llama-3-8B", 5.0, 9.0) in scores.rows and (len(scores.rows), scores.unparsed) == (11, 1)


NONSENSE = {
    "no verdict": (says("Both are fine."), "Both are fine."),
    "nothing at all": (says("", "length"), ""),
    "half a pair": (says("\ud83d and then"), "? and then"),
}


@pytest.mark.parametrize("case", NONSENSE)
@pytest.mark.long
def test_an_answer_without_a_verdict_is_kept_as_one(tmp_path, case):
    fault, text = NONSENSE[case]
    for kind in instructions.KINDS:
        with JudgeServer(kind, faults={3: fault}) as server:
            rows, ended = judged(server, tmp_path / kind, planned(kind=kind))
        assert ended == Judged(12, ()) and judgements.summary(kind, rows).unparsed == 1
        kept = [json.loads(line) for path in (tmp_path / kind).glob("*.jsonl") for line in path.read_text("utf-8").splitlines()]
        assert [(row["score"], row["text"]) for row in kept if row["score"] == UNPARSED[kind]] == [(UNPARSED[kind], text)]
    assert len(matches.read([tmp_path / "threeclass"])) == 12 and matches.read_scores([tmp_path / "score"]).unparsed == 1


PASSING = {
    "cut": (cut, 20),
    "silent": (silent, 1),
    "500": (status(500), 20),
    "502": (sends("<html>bad gateway</html>"), 20),
    "429": (status(429), 20),
    "no choices": (sends('{"choices": []}'), 20),
    "a list": (sends("[]"), 20),
    "parts": (sends('{"choices": [{"message": {"content": [1]}}]}'), 20),
}


@pytest.mark.parametrize("case", PASSING)
@pytest.mark.long
def test_what_passes_is_asked_again(tmp_path, case):
    fault, seconds = PASSING[case]
    clock = Clock()
    with JudgeServer(faults={2: fault, 3: fault}) as server:
        rows, ended = judged(server, tmp_path, planned(), clock, seconds=seconds)
    assert ended == Judged(12, ()) and len(rows) == 12 and len(server.asked) == 14
    assert clock.waits == [1.0, 2.0]  # longer each time


def test_a_server_is_not_asked_before_the_time_it_says(tmp_path):
    clock = Clock()
    with JudgeServer(faults={2: status(429, Retry_After="17")}) as server:
        assert judged(server, tmp_path, planned(), clock)[1] == Judged(12, ())
    assert clock.time >= 17 and clock.waits == [18.0]
    with JudgeServer(faults={2: status(503, Retry_After=f"{LONGEST_ASKED + 60:.0f}")}) as server:
        with pytest.raises(EngineError, match="asks for 11 minutes: start again then"):
            judged(server, tmp_path / "more", planned(), clock)
    assert clock.waits == [18.0]


@pytest.mark.parametrize("header, after", [("5", 5), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", None), ("", None)])
def test_what_a_server_says_of_waiting_is_read(header, after):
    with JudgeServer(faults=status(429, Retry_After=header)) as server:
        with pytest.raises(Passing) as told:
            connected(load_settings(BackendName.remote, server.url, "", None))[0].post("chat/completions", {"messages": [{"content": ""}]})
    assert told.value.after == after


def test_waits_grow_to_a_limit_and_end():
    clock, stopped = Clock(), threading.Event()

    def busy() -> None:
        raise Passing("busy")

    with pytest.raises(Passing):
        clock.patience(stopped).ask(busy)
    assert clock.waits == [1, 2, 4, 8, 16] and len(clock.waits) == ATTEMPTS - 1
    stopped.set()
    with pytest.raises(EngineError, match="stopped"):
        clock.patience(stopped).ask(busy)


@pytest.mark.long
def test_a_server_that_stays_down_ends_the_run_and_the_next_goes_on(tmp_path):
    """Two comparisons come to nothing and the rest goes well; then all do."""
    failing = range(2, 2 + 2 * ATTEMPTS)
    with JudgeServer(faults=dict.fromkeys(failing, status(500))) as server:
        rows, ended = judged(server, tmp_path, planned())
    assert (ended.new, len(ended.failed), len(rows)) == (10, 2, 10) and "status 500" in ended.failed[0]
    with JudgeServer() as server:
        assert judged(server, tmp_path, planned())[1].new == len(server.asked) == 2
    with JudgeServer(faults=lambda handler: handler.send(500, "") if len(server.asked) > 4 else handler.answer("1")) as server:
        with pytest.raises(EngineError, match="3 comparisons in a row came to nothing"):
            judged(server, tmp_path / "down", planned())
        server.faults = {}
        rows, ended = judged(server, tmp_path / "down", planned())
    assert ended.new == 8 and len(rows) == 12


def test_a_request_that_is_refused_is_not_asked_again_and_costs_no_other(tmp_path):
    with JudgeServer(faults={1: status(400)}) as server:
        rows, ended = judged(server, tmp_path, planned())
    assert len(server.asked) == 12 and ended.new == 11 and "status 400" in ended.failed[0]


def test_a_key_is_nowhere_whatever_the_server_says(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    told = []
    with JudgeServer(key="another") as server, pytest.raises(EngineError, match="does not accept the key") as error:
        judged(server, tmp_path, planned(), key=KEY)
    told.append(str(error.value))
    with JudgeServer(key=KEY, faults={0: says(f"Your key is {KEY}\n1"), 1: status(400)}) as server:
        rows, ended = judged(server, tmp_path, planned(), key=KEY)
    told += ended.failed
    assert "Your key is ***" in str(rows) and "***" in ended.failed[0]
    assert KEY not in str(told) and KEY not in str(rows)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text()]


@pytest.mark.long
def test_a_file_cut_anywhere_is_gone_on_with(tmp_path):
    with JudgeServer() as server:
        judged(server, tmp_path / "whole", planned())
        whole = (tmp_path / "whole/a-vs-b.jsonl").read_bytes()
        lines = sorted(whole.splitlines())
        for cut_at in range(0, len(whole), 101):
            (tmp_path / "cut").mkdir(exist_ok=True)
            (tmp_path / "cut/a-vs-b.jsonl").write_bytes(whole[:cut_at])
            before = len(server.asked)
            rows, _ = judged(server, tmp_path / "cut", planned())
            assert len(rows) == 12 and sorted((tmp_path / "cut/a-vs-b.jsonl").read_bytes().splitlines()) == lines
            assert len(server.asked) - before == 6 - whole[:cut_at].count(b"\n") + (6 if not cut_at else 0)


def test_ending_it_keeps_every_verdict_and_ends_what_is_under_way(tmp_path):
    with JudgeServer() as server:
        stopped = threading.Event()
        asked = Judge(connected(load_settings(BackendName.remote, server.url, "", None))[0], "judge-1", stopped)
        with judge.opened(planned(), tmp_path, "judge-1") as under_way:
            run = under_way.run(asked, 2)
            while len(under_way.rows) < 3:
                next(run)
            server.hold_after = len(server.asked)
            run.close()
            kept = len(under_way.rows)
        assert stopped.is_set() and 3 <= kept < 12
        server.release()
        rows, ended = judged(server, tmp_path, planned())
    assert len(rows) == 12 and ended.new == 12 - kept


def test_what_cannot_be_judged_is_told(tmp_path):
    with pytest.raises(BadInput, match="Two of the files hold answers of a"):
        planned("a", "a")
    with pytest.raises(BadInput, match="'z' is none of the systems: a, b"):
        planned(reference="z")
    strange = AnswerFile("s", {"99": "x"}, {}, (), {"99": "i"})
    with pytest.raises(BadInput, match="nothing to compare: no two .*1 answer is left out: no such question is known"):
        judge.plan([answers("a"), strange], QUESTIONS, [INSTRUCTION], "threeclass")
    other = AnswerFile("o", {"1": "x"}, {}, (), {"1": "i"}, {"1": "0123"})
    with pytest.raises(BadInput, match="o answered another question 1. Say with --data"):
        judge.plan([answers("a"), other], QUESTIONS, [INSTRUCTION], "threeclass")
    silent_one = AnswerFile("e", {}, {}, (), {"1": "empty"})
    found = judge.plan([answers("a"), silent_one], QUESTIONS, [INSTRUCTION], "threeclass")
    assert [each.texts[1] for each in found.comparisons] == ["", "a says strength 9"]  # an empty answer is one that can lose
    assert found.notes == ("5 pairs are left out: one of the two has no answer.",)


def test_folders_of_other_judgements_are_left_alone(tmp_path):
    with JudgeServer() as server:
        judged(server, tmp_path, planned())
        before = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
        with pytest.raises(BadInput, match="by another judge"):
            judged(server, tmp_path, planned(), name="judge-2")
        with pytest.raises(BadInput, match="by another judge"):
            judged(server, tmp_path, planned(kind="score"))
        changed = AnswerFile("a", answers("a").answers, {}, (), {id: f"new{id}" for id in QUESTIONS})
        with pytest.raises(BadInput, match="about other answers"):
            judged(server, tmp_path, judge.plan([changed, answers("b")], QUESTIONS, [INSTRUCTION], "threeclass"))
        with judge.opened(planned(), tmp_path, "judge-1"), pytest.raises(BadInput, match="Another process is writing"):
            judged(server, tmp_path, planned())
    assert {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before
    (tmp_path / "notes.jsonl").write_text("mine")
    with pytest.raises(BadInput, match="was not written here"):
        with judge.opened(planned(), tmp_path, "judge-1"):
            pass
    assert (tmp_path / "notes.jsonl").read_text() == "mine"


def test_names_of_systems_become_names_of_files_that_tell_them_apart():
    odd = AnswerFile("own/er-vs-x:Q4", answers("a").answers, {}, (), answers("a").ids)
    plan = judge.plan([odd, answers("b")], QUESTIONS, [INSTRUCTION], "threeclass")
    assert {each.file for each in plan.comparisons} == {"own-er-x-Q4-vs-b.jsonl", "b-vs-own-er-x-Q4.jsonl"}

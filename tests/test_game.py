"""The blind game in the engine: what a round gives out before and after the guess, what counts, who may (faults, rows 27 to 29)."""

import json
import threading
from dataclasses import asdict

import playing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from playing import ANOTHER, FOUND, OTHER, SECRET

from engine import pictures
from engine.errors import BadInput
from engine.game import records, replays, rounds, values
from engine.game.answer_files import Question
from engine.game.decks import Deck
from engine.game.values import GameSettings
from engine.store import is_full

DECK = playing.deck()


def test_a_game_is_dealt_guessed_revealed_and_scored():
    table = playing.game(DECK)
    game = playing.begun(table, DECK, player="Ana")
    seen = []
    for number in range(1, 11):
        dealt = table.deal(SECRET, game)
        assert (dealt.number, dealt.of, dealt.found) == (number, 10, FOUND)
        seen.append(dealt.question.id)
        shown = table.guess(SECRET, dealt.round, playing.side_of(table, dealt.round), 90, "left")
        assert shown.guess.correct and {shown.guess.left, shown.guess.right} == {FOUND, OTHER} and shown.counts is None
        assert shown.last == (number == 10) and shown.dealt.so_far == (number, number)
        assert shown.verdicts == (f"With {FOUND}'s answer first it preferred {OTHER}'s.", f"With {OTHER}'s answer first it saw a tie.")
        assert any(f"{OTHER}'s is " in cue and "times as long" in cue for cue in shown.cues)
    assert table.deal(SECRET, game) is None and len(set(seen)) == 10
    result = table.result(SECRET, game)
    assert result.over and (result.card.right.k, result.card.right.n, result.card.bots["always longer"]) == (10, 10, 10)
    assert [row.player for row in playing.guesses(table, game)] == ["Ana"] * 10


def test_nothing_that_is_dealt_says_whose_it_is():
    """But for the texts themselves: with them taken out, both ways to deal a round look the same."""
    table = playing.game(DECK)
    shapes = set()
    for seed in range(10**15, 10**15 + 12):
        dealt = table.deal(SECRET, playing.begun(table, DECK, seed=seed))
        fields = asdict(dealt)
        assert {fields.pop("left"), fields.pop("right")} == {DECK.answers[dealt.question.id][at][0] for at in (0, 1)}
        text = json.dumps({key: value for key, value in fields.items() if key not in ("game", "round", "question", "so_far")})
        shapes.add(text)
        assert OTHER not in text and str(seed) not in json.dumps(asdict(dealt))
    assert len(shapes) == 1
    sides = {playing.side_of(table, table.deal(SECRET, playing.begun(table, DECK, seed=seed)).round) for seed in range(20)}
    assert sides == {"left", "right"}


def test_the_same_seed_deals_the_same_and_another_does_not():
    def dealt(seed, session):
        table = playing.game(DECK)
        game = playing.begun(table, DECK, session, seed)
        made = []
        for _ in range(10):
            round = table.deal(session, game)
            made.append((round.question.id, playing.side_of(table, round.round)))
            table.guess(session, round.round, "left", 50, "tie")
        return made

    first = dealt(5, "x" * 20)
    assert first == dealt(5, "y" * 20) and first != dealt(6, "z" * 20)


def test_a_round_waits_for_its_guess_and_goes_on_after_a_reload():
    table = playing.game(DECK)
    game = playing.begun(table, DECK)
    first = table.deal(SECRET, game)
    assert playing.game(DECK).deal(SECRET, table.latest(SECRET)) == first  # another process, the same store
    table.guess(SECRET, first.round, "left", 50, "tie")
    assert table.deal(SECRET, game).number == 2


def test_the_first_of_fifty_guesses_counts():
    table = playing.game(DECK)
    dealt = table.deal(SECRET, playing.begun(table, DECK))
    start, told = threading.Barrier(50), []

    def guess(number: int) -> None:
        start.wait()
        told.append(table.guess(SECRET, dealt.round, ("left", "right")[number % 2], 75, "tie").guess)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 50 and len(set(told)) == 1 and len(table.records.guesses(dealt.game)) == 1


def test_two_tabs_that_ask_at_once_get_one_round():
    table = playing.game(DECK)
    game = playing.begun(table, DECK)
    start, told = threading.Barrier(16), []

    def deal() -> None:
        start.wait()
        told.append(table.deal(SECRET, game).round)

    threads = [threading.Thread(target=deal) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 16 and len(set(told)) == 1


def test_rounds_of_others_and_of_nobody_have_expired():
    table = playing.game(DECK)
    game = playing.begun(table, DECK)
    dealt = table.deal(SECRET, game)
    for refused in (
        lambda: table.deal(ANOTHER, game),
        lambda: table.guess(ANOTHER, dealt.round, "left", 50, "tie"),
        lambda: table.skip(ANOTHER, dealt.round),
        lambda: table.result(ANOTHER, game),
        lambda: table.replay_file(ANOTHER, game),
        lambda: table.guess(SECRET, "nothing", "left", 50, "tie"),
        lambda: table.deal(SECRET, "nothing"),
        lambda: table.deal("", game),
        lambda: table.deal(None, game),
        lambda: table.deal("\ud800" * 20, game),
        lambda: table.deal(SECRET, "\ud800"),
        lambda: table.guess(SECRET, ["x"], "left", 50, "tie"),
    ):
        with pytest.raises(BadInput, match="expired"):
            refused()
    assert not table.records.guesses(game)


@pytest.mark.parametrize("guess, confidence, preference", [("both", 50, "tie"), ("left", 51, "tie"), ("left", 50, "A"), (None, 50, "tie")])
def test_a_guess_out_of_bounds_is_refused(guess, confidence, preference):
    table = playing.game(DECK)
    game = playing.begun(table, DECK)
    dealt = table.deal(SECRET, game)
    with pytest.raises(BadInput, match="one of|left or right"):
        table.guess(SECRET, dealt.round, guess, confidence, preference)
    assert not table.records.guesses(game)


def test_a_question_seen_before_comes_last_and_does_not_count():
    table = playing.game(DECK)
    playing.play(table, playing.begun(table, DECK), 10)
    again = playing.begun(table, DECK)
    first = [table.deal(SECRET, again)]
    first.append(table.guess(SECRET, first[0].round, "left", 50, "tie") and table.deal(SECRET, again))
    seen = {row.question_id for row in table.records.guesses() if row.game != again}
    assert {each.question.id for each in first}.isdisjoint(seen)
    playing.play(table, again, 10)
    result = table.result(SECRET, again)
    assert result.over and result.card.right.n == 2 and result.card.aside == 8 and result.card.finished
    assert "seen" in playing.guesses(table, again)[-1].leak_flags
    fresh = playing.begun(table, DECK, ANOTHER)
    playing.play(table, fresh, 10, ANOTHER)
    assert table.result(ANOTHER, fresh).card.right.n == 10


def test_a_skip_and_a_guess_at_once_leave_one_of_them():
    """The skip lands between the look at the round and its guess."""
    table = playing.game(DECK)
    dealt = table.deal(SECRET, playing.begun(table, DECK))
    honest = table._shown
    table._shown = lambda *arguments: (table.records.skip(dealt.round), honest(*arguments))[1]
    with pytest.raises(BadInput, match="skipped"):
        table.guess(SECRET, dealt.round, "left", 50, "tie")
    assert not table.records.guesses(dealt.game)


def test_bots_read_what_players_read():
    """A broken end gives one system away, but not in fair mode."""
    broken = {str(number): ((f"It is {number}. Quite so.",), (f"It is {number}. Or the n",)) for number in range(40)}
    each = Deck("t", "a", DECK.systems, tuple(Question(id, "?", "") for id in broken), broken, {})
    table = playing.game(each)
    raw, fair = (table._bots(each, mode)["style"] for mode in ("raw", "fair"))
    assert sum(raw.values()) == 40 and table._bots(each, "raw") is table._bots(each, "raw")
    assert sum(fair.values()) == 40 and sum(table._bots(each, "fair")["always longer"].values()) == 0  # what is left is length


def test_games_that_nobody_guessed_in_are_forgotten_after_a_month(monkeypatch):
    table = playing.game(DECK)
    old, kept = playing.begun(table, DECK), playing.begun(table, DECK)
    table.deal(SECRET, old)
    table.guess(SECRET, table.deal(SECRET, kept).round, "left", 50, "tie")
    month = 31 * 86_400
    monkeypatch.setattr(rounds, "now", lambda: records.now() + month)
    playing.begun(playing.game(DECK), DECK)
    assert table.records.game(old) is None and table.records.game(kept) and not table.records.played(old)[0]


def test_games_that_nobody_plays_do_not_shut_the_game(monkeypatch):
    table = playing.game(DECK)
    old, kept = playing.begun(table, DECK), playing.begun(table, DECK)
    table.guess(SECRET, table.deal(SECRET, kept).round, "left", 50, "tie")
    for _ in range(100):
        playing.begun(table, DECK)
    with table.records._store.opened() as database:
        full = next(most for most in range(0, 10**9, 4096) if not is_full(database, most))
    monkeypatch.setattr(records, "MAX_BYTES", full - 4096)
    with pytest.raises(BadInput, match="no more games"):
        playing.begun(table, DECK)
    assert table.records.game(old), "what makes no room is not forgotten"
    monkeypatch.setattr(rounds, "now", lambda: records.now() + 2 * 3600)
    later = [playing.begun(table, DECK) for _ in range(9)]
    assert table.records.game(old) is None and all(map(table.records.game, (kept, *later)))


def test_skipping_brings_another_question_until_none_is_left():
    table = playing.game(DECK)
    game = playing.begun(table, DECK)
    questions = [table.deal(SECRET, game)]
    for _ in range(2):
        assert questions[-1].can_skip and table.skip(SECRET, questions[-1].round) == game
        questions.append(table.deal(SECRET, game))
    assert len({each.question.id for each in questions}) == 3 and {each.number for each in questions} == {1}
    assert not questions[-1].can_skip
    with pytest.raises(BadInput, match="no question left"):
        table.skip(SECRET, questions[-1].round)
    with pytest.raises(BadInput, match="skipped"):
        table.guess(SECRET, questions[0].round, "left", 50, "tie")
    playing.play(table, game, 10)
    assert table.result(SECRET, game).card.right.n == 10


def test_categories_and_lengths_are_kept_to():
    table = playing.game(DECK)
    with pytest.raises(BadInput, match="There are 6 questions to play here: a game has 6 rounds, not 10"):
        playing.begun(table, DECK, categories=["one"])
    game = playing.begun(table, DECK, categories=["one"], length=6)
    while dealt := table.deal(SECRET, game):
        assert dealt.question.category == "one"
        table.guess(SECRET, dealt.round, "left", 50, "tie")
    with pytest.raises(BadInput, match="not here any more"):
        table.begin(SECRET, GameSettings(deck="0" * 16))


def test_catch_rounds_show_one_system_twice_and_stay_out_of_the_score(monkeypatch):
    monkeypatch.setattr(rounds, "CATCH_SHARE", 1.0)
    each = playing.deck(twice=True)
    assert each.can_catch and not DECK.can_catch
    table = playing.game(each)
    game = playing.begun(table, each, catches=True)
    dealt = table.deal(SECRET, game)
    row = table.records.round(dealt.round)
    texts = each.answers[dealt.question.id][each.systems.index(row.left)]
    assert row.left == row.right and (dealt.left, dealt.right) == texts
    shown = table.guess(SECRET, dealt.round, "left", 50, "tie")
    assert shown.counts == "a catch round" and "catch round" in shown.cues[0]
    playing.play(table, game, 0, confidence=99)
    card = table.result(SECRET, game).card
    assert card.right.n == 0 and card.catches == (1, 10) and card.finished
    table = playing.game(DECK)  # one answer each: nothing to catch with
    dealt = table.deal(SECRET, playing.begun(table, DECK, catches=True))
    assert dealt.left != dealt.right


def test_a_replay_is_the_same_game_for_a_friend_and_compares():
    table = playing.game(DECK)
    game = playing.begun(table, DECK, player="Ana")
    with pytest.raises(BadInput, match="when the game is over"):
        table.replay_file(SECRET, game)
    playing.play(table, game, 7)
    file = table.replay_file(SECRET, game)
    theirs = table.replay(ANOTHER, replays.read(file), "Ben").game
    playing.play(table, theirs, 4, ANOTHER)
    mine, friends = playing.guesses(table, game), playing.guesses(table, theirs)
    assert [(row.question_id, row.left, row.right) for row in mine] == [(row.question_id, row.left, row.right) for row in friends]
    result = table.result(ANOTHER, theirs)
    assert result.card.right.k == 4 and result.rival == values.Rival("Ana", 7, 4, 10) and SECRET not in file
    assert all("replay" in row.leak_flags for row in friends)
    for spoilt in ({"length": 3}, {"plan": ["1"] * 10}, {"plan": ["1", "nowhere"]}):
        with pytest.raises(BadInput, match="is not here"):
            table.replay(ANOTHER, replays.Replay.model_validate(json.loads(file) | spoilt), "")
    with pytest.raises(BadInput, match="“A test”, is not here"):
        playing.game(playing.deck(5)).replay(ANOTHER, replays.read(file), "")


@pytest.mark.parametrize("text", ["", "{}", "[]", None, "x" * 300_000, '{"deck": "../../etc"}', json.dumps({"plan": [1] * 10})])
def test_what_is_no_replay_file_is_told(text):
    with pytest.raises(BadInput, match="no replay file"):
        replays.read(text)


@settings(max_examples=25)
@given(st.text(max_size=3000), st.text(max_size=200))
def test_names_of_players_are_made_harmless(name, more):
    try:
        row = GameSettings(deck=DECK.id, player=name)
    except ValueError:
        return
    assert len(row.player) <= 24 and len(rounds.printable(row.player + more)) <= len(row.player + more)


@pytest.mark.long
def test_guesses_go_out_and_come_in_as_json_lines(tmp_path, run_engine, home):
    table = playing.game(DECK)
    playing.play(table, playing.begun(table, DECK), 6)
    out = run_engine("votes")
    lines = [json.loads(line) for line in out.stdout.splitlines()]
    wanted = {"session", "round", "seed", "question_id", "left", "right", "guess", "confidence", "preference", "milliseconds", "mode"}
    assert len(lines) == 10 and wanted | {"leak_flags", "schema_version"} <= set(lines[0]) and SECRET not in out.stdout
    (tmp_path / "votes.jsonl").write_text(out.stdout)
    elsewhere = str(tmp_path / "elsewhere")
    for new in (10, 0):
        taken = run_engine("votes", "--import", str(tmp_path / "votes.jsonl"), GUANACO_HOME=elsewhere)
        assert f"{new} new guesses" in taken.stderr, taken.stderr
    assert run_engine("votes", GUANACO_HOME=elsewhere).stdout == out.stdout
    rated = json.loads(run_engine("elo", str(tmp_path / "votes.jsonl"), "--method", "bt", "--json").stdout)
    assert {each["name"] for each in rated["systems"]} == {FOUND, OTHER}
    (tmp_path / "bad.jsonl").write_text(json.dumps(lines[0] | {"guess": "both"}) + "\n")
    refused = run_engine("votes", "--import", str(tmp_path / "bad.jsonl"), GUANACO_HOME=elsewhere)
    assert refused.returncode == 2 and "bad.jsonl, line 1: this is no guess" in refused.stderr


def test_the_picture_says_whose_answers_were_liked_better(monkeypatch):
    table = playing.game(DECK)
    said = []
    honest = Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **how: said.append(text) or honest(self, x, y, text, **how))
    for seed, preference in ((1, "left"), (2, "tie")):
        game = playing.begun(table, DECK, seed=seed)
        playing.play(table, game, 5, preference=preference)
        result = table.result(SECRET, game)
        liked = result.card.preferred[OTHER]
        said.clear()
        assert pictures.score(result).startswith(b"\x89PNG")
        told = [text for text in said if "liked" in text]
        assert told == ([f"liked {OTHER} better {liked.k} of 10, {100 * liked.low:.0f}–{liked.high:.0%}"] if preference == "left" else [])

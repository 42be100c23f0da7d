"""The blind game in cells: asked, revealed, scored, gone on with; nothing tells before the guess (faults, row 27)."""

import pytest
from playing import ANOTHER, FOUND, OTHER, deck, game

from engine.cells import playing
from engine.errors import BadInput
from engine.game.rounds import Game


@pytest.fixture
def table(monkeypatch) -> Game:
    """A game in cells over a deck of tests."""
    made = game(deck())
    monkeypatch.setattr(playing, "_table", lambda: made)
    monkeypatch.setattr(playing.starter_pack, "deck", deck)
    monkeypatch.setattr(playing, "_session", lambda: ANOTHER)
    monkeypatch.setattr(playing, "picture", lambda png: print("PICTURE"))
    return made


def answers(*given: str):
    """An `input` that gives these, then repeats the last."""
    left = list(given)
    return lambda question: left.pop(0) if len(left) > 1 else left[0]


def test_a_game_is_asked_revealed_and_scored(table, capsys):
    said = iter(["x", "a", "75%", "t"] + ["b", "60", "n"] * 9)
    playing.play(10, ask=lambda question: next(said))
    shown = capsys.readouterr().out
    assert shown.count(f"{FOUND}'s") >= 10 and shown.count("A was ") == 10 and "Please answer a or b, or q to leave." in shown
    assert "it may truly be anything from" in shown and "PICTURE" in shown


def test_before_the_guess_nothing_shown_tells_the_sides(table, capsys):
    seen = []

    def ask(question: str) -> str:
        seen.append(capsys.readouterr().out + question)
        return "q"

    playing.play(10, ask=ask)
    before = seen[0].replace(f"Which of the two is {FOUND}'s?", "").replace(f"Which is {FOUND}'s, a or b?", "")
    assert "1 of 10: " in before and FOUND not in before and OTHER not in before
    assert "The game waits" in capsys.readouterr().out


def test_a_game_that_was_left_goes_on_where_it_was(table, capsys):
    playing.play(10, ask=answers("a", "50", "t", "q"))
    assert "unfinished (1 of 10)" in capsys.readouterr().out
    for left in (("q",), ("a", "q"), ("a", "75", "q")):
        playing.play(10, ask=answers(*left))
        assert "2 of 10: " in capsys.readouterr().out


def test_the_player_outlives_the_kernel(home):
    assert playing._session() == playing._session() == (home / "notebook-player").read_text() and len(playing._session()) > 20


def test_where_nobody_can_be_asked_a_bot_plays_and_says_so(table, capsys):
    def nobody(question: str) -> str:
        raise NotImplementedError("raw_input was called, but this frontend does not support input requests")

    playing.play(10, ask=nobody)
    shown = capsys.readouterr().out
    assert shown.count("Nobody can be asked here") == 1 and shown.count("Right: ") == 10  # FOUND's are the shorter ones
    assert "The card tells of the bot's guesses as if they were yours." in shown


def test_a_length_that_is_none_is_told(table):
    for rounds, message in ((7, "a game has 10 rounds, not 7"), (0, "length: Input should be greater"), ("x", "length: Input should be")):
        with pytest.raises(BadInput, match=message):
            playing.play(rounds)

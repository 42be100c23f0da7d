"""Honest statistics of a game, fair mode, and what style alone gives away."""

import pytest
from conftest import SHARED, shared
from hypothesis import given
from hypothesis import strategies as st

from engine.game import answer_files, fairness, scoring, style
from engine.game.scoring import Guess

VICUNA = SHARED / "qlora/eval/generations/vicuna"


def guesses(right: int, of: int, **fields) -> list[Guess]:
    return [Guess(str(number), number < right, 75, True, None, "", **fields) for number in range(of)]


def card(made, length: int, bots=None, aside: int = 0):
    return scoring.card(made, length, ("Zebra", "Quagga"), bots or {}, aside)


@pytest.mark.parametrize("length, right", [(10, 9), (20, 15), (40, 26), (80, 48)])
def test_what_is_needed_to_be_no_coin(length, right):
    assert scoring.needed(length) == right and scoring.needed(4) is None
    enough, short = card(guesses(right, length), length), card(guesses(right - 1, length), length)
    assert enough.p < 0.05 <= short.p
    assert "You can tell Zebra from Quagga" in enough.words and f"{right} would have been needed" in short.words


def test_a_round_that_is_stopped_early_is_never_significant():
    found = card(guesses(9, 9), 10)
    assert not found.finished and "unfinished (9 of 10)" in found.words and "You can tell" not in found.words
    assert card(guesses(9, 9), 10, aside=1).finished


def test_known_figures():
    found = card(guesses(8, 10), 10)
    assert (found.right.low, found.right.high) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))  # Wilson
    assert "not shown to be better than a coin, which does as well in 5.5% of such games; 9 would have been needed" in found.words
    assert found.p == pytest.approx(56 / 1024) and found.d_prime == pytest.approx(2**0.5 * 0.8416, abs=1e-3)
    assert found.brier == pytest.approx(0.8 * 0.0625 + 0.2 * 0.5625)
    assert scoring.d_prime(10, 10) == pytest.approx(-scoring.d_prime(0, 10)) and scoring.d_prime(5, 10) == 0


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(scoring.CONFIDENCES), st.booleans(), st.sampled_from([None, True, False])), max_size=40
    )
)
def test_a_card_of_any_guesses_adds_up(made):
    rows = [Guess(str(number), *each, ("x", "y")[number % 2]) for number, each in enumerate(made)]
    found = card(rows, 40, {"coin": {row.question: row.left for row in rows}})
    assert (
        sum(each.n for each in found.calibration.values())
        == sum(each.n for each in found.categories.values())
        == found.right.n
        == len(made)
    )
    assert sum(each.k for each in found.calibration.values()) == found.right.k and found.bots["coin"] == sum(row.left for row in rows)
    assert found.words and (found.brier is None or 0 <= found.brier <= 1) and 0 <= found.streak <= found.right.k


@pytest.mark.parametrize("p, said", [(0.000499, "less than 0.1%"), (1 / 1024, "0.1%"), (0.0547, "5.5%"), (0.1719, "17%")])
def test_what_is_small_is_not_rounded_below_what_counts(p, said):
    assert scoring.by_chance(p) == f"{said} of such games"


def test_habits_are_told():
    rows = [Guess(str(number), number % 2 == 0, 90, True, True, "") for number in range(10)]
    found = card(rows, 10, {"coin": {row.question: True for row in rows}, "style": {}})
    assert "You used length in 100% of your picks: the longer answer was Quagga's to you." in found.words
    assert "You picked the left answer in 100%" in found.words and "You beat the bot style and lost to coin." in found.words


def test_fair_mode_mends_and_masks_and_says_so():
    shown = fairness.fair("It is blue. As an AI language model, I like it. And so the sky wou")
    assert shown.text == f"It is blue. {fairness.MASK}, I like it." and len(shown.changes) == 2
    assert "18 characters" in shown.changes[0] and "“As an AI language model”" in shown.changes[1]
    for text in ("I am Zebra-9.", "Ask Zebra now.", "I'm Claude.", "My name is Llama 3.", "as a chatbot", "I am chatgpt.", "by Meta AI."):
        assert fairness.MASK in fairness.fair(text, systems=("Zebra-9", "Quagga-7")).text, text
    for text in ("The bard sang.", "An alpaca is not a llama.", "Claude went home.", "She talks as an artist."):
        assert fairness.fair(text, systems=("the bare starter", "Quagga-7")) == fairness.Shown(text)
    assert fairness.fair("ChatGPT is a chatbot.", "What is ChatGPT?").text == "ChatGPT is a chatbot."
    assert fairness.fair("1. One\n2. Two things that no") == fairness.Shown("1. One\n2. Two things that no")  # half of it would go
    whole = "Done.\n\n```python\nprint(1)\n```"
    assert fairness.fair(whole) == fairness.Shown(whole)


@given(st.text(alphabet=st.sampled_from("ab .!?\n1`)([]"), max_size=120))
def test_fair_mode_only_takes_from_the_end_and_not_half(text):
    shown = fairness.fair(text)
    assert text.startswith(shown.text) and len(shown.text) >= 0.5 * len(text.rstrip()) - 1
    assert not shown.changes or shown.text != text.rstrip()


@shared
def test_the_published_pair_has_the_measured_cues():
    found = answer_files.read(VICUNA / "answer_gpt35.jsonl")
    other = answer_files.read(VICUNA / "65b-guanaco-vicuna-generations-topp0.9-temp0.7.jsonl")
    deck = {id: (text, other.answers[id]) for id, text in found.answers.items()}
    assert [sum(map(fairness.cut_off, each.answers.values())) for each in (found, other)] == [1, 10]
    assert sum(style.picks(deck, "always longer", 0).values()) == 57
    assert 58 <= sum(style.picks(deck, "style", 0).values()) <= 68
    assert 20 <= sum(style.picks(deck, "coin", 0).values()) <= 60


def test_a_classifier_is_fitted_on_other_questions_only():
    """Where style says nothing it does no better than a coin; fitted on what it is asked it would know all."""
    alike = {str(number): (f"Word {number}.", f"Term {number}.") for number in range(40)}
    assert sum(style.picks(alike, "style", 0).values()) <= 30
    told = {id: (found, f"{other} And some more of it.") for id, (found, other) in alike.items()}
    assert sum(style.picks(told, "style", 0).values()) == 40


def test_cues_are_told_by_name():
    names = ("Zebra", "Quagga")
    told = style.cues("Short.", "As an AI language model I go on and on and then", names, "?")
    assert told == ["Quagga's is 7.8 times as long.", "Quagga's ends in the middle of a sentence.", "Quagga's says what wrote it."]
    assert style.cues("One. Two.", "Two. One.", names, "?") == []
    assert style.cues("- a.\n- b.\n- c.", "a, b, c and d.", names, "?") == ["Only Zebra's is a list."]


def test_what_was_liked_better_is_counted_without_ties():
    made = [Guess(str(number), True, 75, True, None, "", liked) for number, liked in enumerate(["Quagga"] * 7 + ["Zebra"] * 2 + [None])]
    liked = card(made, 10).preferred
    assert {name: (each.k, each.n) for name, each in liked.items()} == {"Zebra": (2, 9), "Quagga": (7, 9)}
    assert (liked["Quagga"].low, liked["Quagga"].high) == (pytest.approx(0.4526, abs=1e-3), pytest.approx(0.9368, abs=1e-3))  # Wilson

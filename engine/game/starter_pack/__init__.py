"""The starter pack: 45 questions of this project's own over the nine categories of the Vicuna benchmark, answered twice each by the
bare starter and by Guanaco mini. It plays without a network. How it was made stands in the README."""

from pathlib import Path

from engine.game import answer_files, decks
from engine.game.decks import Deck

_FOLDER = Path(__file__).parent
QUESTIONS = _FOLDER / "questions.jsonl"
SYSTEMS = ("Guanaco mini", "the bare starter")
_FILES = (("mini.jsonl", "mini-again.jsonl"), ("bare.jsonl", "bare-again.jsonl"))


def deck() -> Deck:
    """Both systems' answers, two of each to every question."""
    questions = answer_files.read_questions(QUESTIONS)
    found, other = ([answer_files.read(_FOLDER / name) for name in files] for files in _FILES)
    first, _ = decks.of_files(
        found[0],
        other[0],
        questions,
        "Guanaco mini or the bare starter?",
        "45 questions of our own; the answers are those of the small model that comes with this app, with and without its adapter.",
    )
    answers = {
        id: tuple(tuple(each.answers[id] for each in files if id in each.answers) for files in (found, other)) for id in first.answers
    }
    return Deck(first.title, first.about, SYSTEMS, first.questions, answers, {})

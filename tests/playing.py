"""Decks and games for the tests of the blind game."""

import json
from pathlib import Path

from engine.game.answer_files import Question
from engine.game.decks import Deck, Verdict
from engine.game.records import GuessRow
from engine.game.rounds import Game
from engine.game.values import GameSettings
from engine.store import Store

SECRET, ANOTHER = "a-visitors-secret-000", "another-secret-000000"
FOUND, OTHER = "Zebra-9", "Quagga-7"


def deck(count: int = 12, twice: bool = False, public: bool = False) -> Deck:
    """Questions whose answers say nothing of who wrote them; FOUND's are the shorter ones."""
    questions = tuple(Question(str(number), f"What is {number}?", ("one", "two")[number % 2]) for number in range(count))
    answers = {
        each.id: (
            (f"It is {each.id}.", *([f"That would be {each.id}."] if twice else [])),
            (
                f"The number you ask for is {each.id}, and here is some more about it.",
                *([f"A number, {each.id}, as it were."] if twice else []),
            ),
        )
        for each in questions
    }
    verdicts = {each.id: (Verdict(FOUND, OTHER), Verdict(OTHER, None)) for each in questions}
    return Deck("A test", "Made up.", (FOUND, OTHER), questions, answers, verdicts, public)


def game(*decks: Deck) -> Game:
    """A game over these decks, on the store of the test's home."""
    shelf = {each.id: each for each in decks or (deck(),)}
    return Game(Store(), shelf.get)


def begun(table: Game, each: Deck, session: str = SECRET, seed: int | None = None, **settings) -> str:
    return table.begin(session, GameSettings(deck=each.id, **settings), seed).game


def side_of(table: Game, round: str, system: str = FOUND) -> str:
    """On which side a system stands; a test may look where a player may not."""
    row = table.records.round(round)
    return "left" if row.left == system else "right"


def play(table: Game, game: str, right: int, session: str = SECRET, confidence: int = 75, preference: str = "tie") -> None:
    """Play a game to its end with so many right guesses first, then wrong ones."""
    while dealt := table.deal(session, game):
        mine = side_of(table, dealt.round)
        guess = mine if right > 0 else {"left": "right", "right": "left"}[mine]
        right -= 1
        table.guess(session, dealt.round, guess, confidence, preference)


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def guesses(table: Game, game: str) -> list[GuessRow]:
    return table.records.guesses(game)

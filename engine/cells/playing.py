"""The blind game in a cell. The key stays in the host's database: nothing that a cell is given says who is who before the guess."""

import functools
import secrets
from collections.abc import Callable

from engine import paths, pictures
from engine.cells.showing import Line, picture, side_by_side
from engine.evaluate.matches import PREFERENCES
from engine.game import published, starter_pack
from engine.game.decks import Deck
from engine.game.rounds import Game
from engine.game.scoring import CONFIDENCES
from engine.game.shelf import Shelf
from engine.game.style import BOTS
from engine.game.values import Dealt, GameSettings, Result, Reveal
from engine.settings import made
from engine.store import Store

Ask = Callable[[str], str]
BOT = "always longer"
_SIDES = {"a": "left", "b": "right"}
_LIKED = dict(zip("abtn", PREFERENCES, strict=True))
# Holds the secret of whoever runs notebooks here: a cell that runs once more, also in another kernel, goes on with the game under way,
# and knows which questions were seen.
_SESSION = "notebook-player"


class _Stopped(Exception):
    """The player leaves the game for now."""


def play(rounds: int = 10, from_published: bool = False, ask: Ask = input) -> None:
    """Play a game of so many rounds with the starter pack, or with the published answers of the original game, which are fetched once.
    A game that was left goes on. Where nobody can be asked, a bot guesses and says so. Raises BadInput or EngineError."""
    if from_published and not published.available():
        print(f"Fetching the published answers from {published.source()}, {published.size() / 1e6:.1f} MB; they stay on this machine.")
        published.fetch(Line().report)
    deck = published.deck() if from_published else starter_pack.deck()
    table, session = _table(), _session()
    game = _game(deck, rounds, session)
    print(f"{deck.about} Which of the two is {deck.systems[0]}'s?")
    player: Callable[[Dealt], tuple[str, int, str]] | None = None
    while dealt := table.deal(session, game):
        title = f"{dealt.number} of {dealt.of}: {dealt.question.text}"
        side_by_side(("A", "B"), (dealt.left, dealt.right), title)
        try:
            guess = player(dealt) if player else _asked(dealt, ask)
        except NotImplementedError:  # a notebook that runs by itself has nobody to ask
            print(f"Nobody can be asked here, so the bot “{BOT}” plays: it {BOTS[BOT].format(other=deck.systems[1])}.")
            player = _longer
            guess = player(dealt)
        except (_Stopped, KeyboardInterrupt):
            print("The game waits: run this cell again to go on.")
            break
        print(_revealed(table.guess(session, dealt.round, *guess)))
    if player:
        print("The card tells of the bot's guesses as if they were yours.")
    _scored(table.result(session, game))


@functools.cache
def _table() -> Game:
    return Game(Store(), Shelf().find)


def _session() -> str:
    place = paths.home() / _SESSION
    if not place.is_file():
        place.write_text(secrets.token_urlsafe(16))
    return place.read_text()


def _game(deck: Deck, rounds: int, session: str) -> str:
    """The game under way with these answers and of this length, or a new one."""
    table = _table()
    latest = table.latest(session)
    if latest:
        row, over = table.standing(session, latest)
        if not over and (row.deck, row.length) == (deck.id, rounds):
            return latest
    return table.begin(session, made(GameSettings, deck=deck.id, length=rounds)).game


def _asked(dealt: Dealt, ask: Ask) -> tuple[str, int, str]:
    """Guess, confidence and preference, each asked until it is one."""
    side = _one_of(ask, f"Which is {dealt.found}'s, a or b? (q leaves) ", _SIDES)
    sure = _one_of(ask, f"How sure, in percent: {', '.join(map(str, CONFIDENCES))}? ", {str(each): each for each in CONFIDENCES})
    return side, sure, _one_of(ask, "Which is better: a, b, t for a tie, n for neither? ", _LIKED)


def _one_of(ask: Ask, question: str, answers: dict):
    """What the answer stands for. Raises _Stopped where it is `q`."""
    while (said := ask(question).strip().rstrip("%").lower()) not in answers:
        if said == "q":
            raise _Stopped
        print(f"Please answer {' or '.join(answers)}, or q to leave.")
    return answers[said]


def _longer(dealt: Dealt) -> tuple[str, int, str]:
    return ("left" if len(dealt.left) < len(dealt.right) else "right"), CONFIDENCES[1], "tie"


def _revealed(reveal: Reveal) -> str:
    guess = reveal.guess
    said = [f"{'Right' if guess.correct else 'Wrong'}: A was {guess.left}'s, B was {guess.right}'s."]
    for side, changes in zip("AB", reveal.changes, strict=True):
        said += [f"{side} {each}." for each in changes]
    said += [f"GPT-4: {each}" for each in reveal.verdicts]
    said += [
        *(f"{each[:1].upper()}{each[1:]}" for each in reveal.cues),
        *([f"It stays out of the score: {reveal.counts}."] if reveal.counts else []),
    ]
    return " ".join(said)


def _scored(result: Result) -> None:
    card = result.card
    print(card.words)
    if card.right.n:
        print(
            f"{card.right.share:.0%} right; with so few rounds it may truly be anything from {card.right.low:.0%} to {card.right.high:.0%}."
        )
    if result.over:
        picture(pictures.score(result))

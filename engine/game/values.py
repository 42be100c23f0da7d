"""What goes into a game and comes out of it: how it is to be played, a round before and after its guess, a result. Pure values; of them
only `Dealt` is given out before the guess."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from engine.game.answer_files import Question
from engine.game.decks import Deck
from engine.game.records import GameRow, GuessRow
from engine.game.replays import MAX_PLAYER_CHARS, Text
from engine.game.scoring import LENGTHS, Card
from engine.settings import Settings


class GameSettings(Settings):
    """How a game is to be played."""

    deck: Annotated[str, Field(max_length=16)] = Field("", title="Deck", description="Whose answers are played.")
    length: int = Field(
        10, ge=1, le=LENGTHS[-1], title="Rounds", description="Fixed before the first: who may stop when it looks good always wins."
    )
    mode: Literal["fair", "raw"] = Field(
        "fair", title="Mode", description="Fair trims broken ends and masks names; raw shows the stored text."
    )
    categories: list[Text] = Field([], max_length=20, title="Categories", description="Only questions of these; none means all.")
    catches: bool = Field(
        False, title="Catch rounds", description="Now and then both answers are one system's, to see whether you would say so."
    )
    player: Annotated[str, Field(max_length=MAX_PLAYER_CHARS)] = Field(
        "", title="Your name", description="For the list of players; may stay empty."
    )


@dataclass(frozen=True)
class Dealt:
    """A round before its guess, as it may leave this host. `number` counts from 1; `of` is the length of the game."""

    game: str
    round: str
    number: int
    of: int
    found: str
    question: Question
    left: str
    right: str
    mode: str
    can_skip: bool
    so_far: tuple[int, int]


@dataclass(frozen=True)
class Reveal:
    """A round after its guess, which says whose answer stood where. `verdicts` are the judge's, `cues` what gave it away, `changes` what fair mode had changed on each
    side; `counts` is None, or why the guess stays out of the score."""

    dealt: Dealt
    guess: GuessRow
    verdicts: tuple[str, ...]
    cues: tuple[str, ...]
    changes: tuple[tuple[str, ...], tuple[str, ...]]
    counts: str | None
    last: bool


@dataclass(frozen=True)
class Rival:
    """Whose replay was played: how many they got right and how many this player did, of the questions that count for both."""

    player: str
    right: int
    mine: int
    of: int


@dataclass(frozen=True)
class Result:
    """A game at its end, or where it stands (`over` says which): its card, which of the guesses that count were right, in their order, and whose
    replay it was, if any."""

    game: GameRow
    deck: Deck
    card: Card
    rights: tuple[bool, ...]
    over: bool
    rival: Rival | None = None

"""Replay files: a finished game, seed and guesses, which a friend can play and compare with. They come from strangers."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from engine.errors import BadInput
from engine.game.answer_files import MAX_NAME_CHARS, MAX_QUESTIONS
from engine.game.scoring import CONFIDENCES, LENGTHS
from engine.settings import Settings
from engine.threads import explained

MAX_BYTES = 200_000
MAX_PLAYER_CHARS = 24
Text = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class ReplayGuess(Settings):
    """What somebody guessed of a question."""

    question: Text
    right: bool
    confidence: Literal[CONFIDENCES]
    milliseconds: int = Field(ge=0)


class Replay(Settings):
    """A game that was played to its end, as a file that a friend can play: the same questions, sides and order."""

    kind: Literal["guanaco-playground replay"] = "guanaco-playground replay"
    version: Literal[1] = 1
    deck: Annotated[str, Field(pattern=r"[0-9a-f]{16}")]
    title: Annotated[str, Field(max_length=200)]
    player: Annotated[str, Field(max_length=MAX_PLAYER_CHARS)]
    mode: Literal["fair", "raw"]
    seed: int = Field(ge=0, le=2**62)
    length: int = Field(ge=1, le=LENGTHS[-1])
    catches: bool
    plan: list[Text] = Field(max_length=MAX_QUESTIONS)
    guesses: list[ReplayGuess] = Field(max_length=200)


def read(text: object) -> Replay:
    """A stranger's replay file. Raises BadInput in one line."""
    if not isinstance(text, str) or len(text) > MAX_BYTES:
        raise BadInput("This is no replay file of this app.")
    try:
        return Replay.model_validate_json(text)
    except ValidationError as error:
        raise BadInput(f"This is no replay file of this app: {explained(error)}.") from error

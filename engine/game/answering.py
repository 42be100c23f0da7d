"""Answers made here: a model answers a question, or two models in turn many, for a deck that nobody has read yet."""

import time
from collections.abc import Callable, Iterator, Sequence

from engine import data_formats
from engine.backends.base import Stop
from engine.errors import BadInput
from engine.events import Event, Failed, Finished, Progress
from engine.game import decks
from engine.game.answer_files import AnswerFile, Question
from engine.game.decks import Deck
from engine.messages import Conversation
from engine.settings import MAX_SEED, ChatSettings

Chat = Callable[[Conversation, ChatSettings], Iterator[Event]]


def answer(chat: Chat, question: Question, settings: ChatSettings, number: int = 0) -> str | None:
    """One answer, None for one that was stopped. A fixed seed becomes another for each question, by its number. Raises EngineError or
    BadInput where the model fails."""
    seeded = settings if settings.seed is None else settings.model_copy(update={"seed": (settings.seed + number) % (MAX_SEED + 1)})
    for event in chat(data_formats.question(question.text), seeded):
        match event:
            case Failed():
                raise event.error
            case Finished():
                return None if event.finish_reason == "cancelled" else event.text
    return None


def duel(
    chats: Sequence[Chat], names: tuple[str, str], questions: Sequence[Question], settings: ChatSettings, stop: Stop
) -> Iterator[Progress | Deck]:
    """Both models answer every question in turn; which one is being answered, and at the end the deck of what both answered, which may be fewer where
    `stop()` came true. Nothing of the answers is given out before. Raises BadInput where there is none."""
    found: tuple[dict, dict] = {}, {}
    of = len(questions)
    for number, question in enumerate(questions):
        for at, chat in enumerate(chats):
            who = ("first", "second")[at]
            yield Progress(f"Question {number + 1} of {of} is being answered by the {who} of the two", (number + at / 2) / of)
            text = None if stop() else answer(chat, question, settings, number)
            if text and text.strip():
                found[at][question.id] = text
        if stop():
            break
    known = {question.id: question for question in questions}
    files = [AnswerFile(name, each, {}) for name, each in zip(names, found, strict=True)]
    if not (found[0] and found[1]):
        raise BadInput("The duel was stopped before both had answered a question.")
    deck, _ = decks.of_files(
        *files, known, f"{names[0]} or {names[1]}?", f"A duel of two models of this machine, {time.strftime('%Y-%m-%d %H:%M')}."
    )
    yield deck

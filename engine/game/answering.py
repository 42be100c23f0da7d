"""Answers made here: a model answers questions, for a file, or two models in turn, for a deck that nobody has read yet."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from engine.backends.base import Stop
from engine.errors import BadInput
from engine.events import Event, Failed, Finished, Progress
from engine.game import decks
from engine.game.answer_files import AnswerFile, Question
from engine.game.decks import Deck
from engine.messages import Conversation
from engine.settings import ChatSettings

Chat = Callable[[Conversation, ChatSettings], Iterator[Event]]


def answer(chat: Chat, question: Question, settings: ChatSettings) -> str:
    """One answer, nothing for one that was stopped. Raises EngineError or BadInput where the model fails."""
    for event in chat(Conversation().add("user", question.text), settings):
        match event:
            case Failed():
                raise event.error
            case Finished():
                return "" if event.finish_reason == "cancelled" else event.text
    return ""


def answers(
    chat: Chat, questions: Iterable[Question], settings: ChatSettings, stop: Stop = lambda: False
) -> Iterator[tuple[Question, str]]:
    """Every question with its answer, until `stop()` is true. A fixed seed becomes another for each question."""
    for number, question in enumerate(questions):
        if stop():
            return
        seeded = settings if settings.seed is None else settings.model_copy(update={"seed": settings.seed + number})
        yield question, answer(chat, question, seeded)


def write(path: Path, name: str, made: Iterable[tuple[Question, str]]) -> int:
    """Write answers as a file that `answer_files.read` takes, row by row as they come; how many there were."""
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for question, text in made:
            id = hashlib.sha256(f"{name}\n{question.id}\n{text}".encode()).hexdigest()[:22]
            row = {"answer_id": id, "model_id": name, "question_id": question.id, "text": text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            count += 1
    return count


def duel(
    chats: Sequence[Chat], names: tuple[str, str], questions: Sequence[Question], settings: ChatSettings, stop: Stop
) -> Iterator[Progress | Deck]:
    """Both models answer every question in turn; which one is being answered, and at the end the deck of what both answered, which may be fewer where
    `stop()` came true. Nothing of the answers is given out before. Raises BadInput where there is none."""
    found: tuple[dict, dict] = {}, {}
    made = [answers(chat, questions, settings, stop=stop) for chat in chats]
    of = len(questions)
    for number in range(1, of + 1):
        for at, side in enumerate(made):
            who = ("first", "second")[at]
            yield Progress(f"Question {number} of {of} is being answered by the {who} of the two", (number - 1 + at / 2) / of)
            question, text = next(side, (None, ""))
            if text.strip():
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

"""Generation runs: a model answers the published prompts, or questions of one's own, into a file of answers that grows row by row.

A question's seed follows from its place among all questions, so an interrupted run ends with the answers of an undisturbed one.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import line_files
from engine.backends.base import Stop
from engine.errors import BadInput
from engine.events import Progress
from engine.game import answer_files, answering, published
from engine.game.answer_files import Question
from engine.game.answering import Chat
from engine.hub import Report
from engine.line_files import LineFile
from engine.settings import ChatSettings

# The published prompts by name, as files of the artidoro/qlora repository.
SETS = {"vicuna": "eval/prompts/vicuna_questions.jsonl", "oasst": "eval/prompts/oa_questions.jsonl"}

# Parts of `about` that are told by hashes, as people call them.
_HASHES = {"weights": "the weights of the model", "adapter_sha256": "the weights of the adapter"}


@dataclass(frozen=True)
class Made:
    """How many answers a file holds, and how many of them this run made."""

    answers: int
    new: int


def questions(data: str, report: Report) -> list[Question]:
    """The questions of a published set, fetched where they are not here yet, or of a file. Raises BadInput or EngineError."""
    path = published.at_hand(SETS[data], report) if data in SETS else Path(data)
    return list(answer_files.read_questions(path).values())


def spread(asked: Sequence[Question], limit: int | None) -> list[tuple[int, Question]]:
    """Questions with their places, at most so many, evenly spread: published ones stand by category."""
    count = len(asked) if limit is None else min(limit, len(asked))
    return [(place := number * len(asked) // count, asked[place]) for number in range(count)]


def generate(
    chat: Chat, out: Path, name: str, asked: Sequence[tuple[int, Question]], settings: ChatSettings, about: dict, stop: Stop = lambda: False
) -> Iterator[Progress | Made]:
    """Answer the questions that `out` has no answer to yet, each row kept once it is whole; at the end what there is, which is less
    where `stop()` came true. `about` says what answers and how, and stands in every row. Raises BadInput where `out` holds something
    else or another run writes it, EngineError where the model fails; what was answered stays."""
    about = {**about, **settings.model_dump(include={"temperature", "top_p", "max_new_tokens", "seed"})}
    if out.suffix != ".jsonl" or out.is_dir():
        raise BadInput(f"{out} cannot be a file of answers: name it something.jsonl.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with line_files.alone(out):
        kept = _kept(out, name, {question.id: question for _, question in asked}, about)
        missing = [each for each in asked if each[1].id not in kept]
        file = LineFile(out)
        try:
            for count, (place, question) in enumerate(missing):
                yield Progress(f"Answering {len(asked) - len(missing) + count + 1} of {len(asked)}", count / len(missing))
                text = None if stop() else answering.answer(chat, question, settings, place)
                if text is None:
                    missing = missing[:count]
                    break
                id = hashlib.sha256(f"{name}\n{question.id}\n{text}".encode()).hexdigest()[:22]
                metadata = {**about, "asked": question.hash}
                row = {"answer_id": id, "model_id": name, "question_id": question.id, "text": text, "metadata": metadata}
                file.write(json.dumps(row, ensure_ascii=False))
        finally:
            file.close()
    yield Made(len(kept) + len(missing), len(missing))


def _apart(key: str, there: dict, here: dict) -> str:
    if key not in _HASHES:
        return f"{key} is {there.get(key)} there and {here[key]} here"
    return f"{_HASHES[key]} are others" if key in there else f"{_HASHES[key]} are not noted there"


def _kept(out: Path, name: str, asked: dict[str, Question], about: dict) -> set[str]:
    """Ids of the questions that a file answers already. Raises BadInput where it is no file of this very run."""
    found: set[str] = set()
    for row in line_files.rows(out, "answer_id"):
        there = {"name": row.get("model_id"), **(row.get("metadata") or {})}
        here = {"name": name, **about}
        apart = ", ".join(_apart(key, there, here) for key in here if there.get(key) != here[key])
        if apart:
            raise BadInput(f"{out} was begun with something else: {apart}. Nothing was changed; choose another --out.")
        id = row["question_id"]
        if id in asked and there.get("asked") != asked[id].hash:
            raise BadInput(f"{out} answers another question {id}. Nothing was changed; choose another --out.")
        found.add(id)
    return found

"""Decks: questions, each with answers of two systems, ready to be played. Where the answers come from is forgotten here.

A deck is known by what is in it, so that a round that was played can be played again on another machine.
"""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from engine import paths
from engine.errors import BadInput
from engine.game.answer_files import AnswerFile, Question


@dataclass(frozen=True)
class Verdict:
    """What a judge said of a question's two answers: which system stood first, and which won, None for a tie."""

    first: str
    winner: str | None


@dataclass(frozen=True)
class Deck:
    """`systems` are the one that is to be found and the other. `answers[question id]` has the answers of each, in this order, at
    least one: further ones serve catch rounds. `public`: the texts lie open on the net, where they can be looked up. `about`
    says in a sentence what is played."""

    title: str
    about: str
    systems: tuple[str, str]
    questions: tuple[Question, ...]
    answers: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    verdicts: Mapping[str, tuple[Verdict, ...]]
    public: bool = False

    @functools.cached_property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of systems, questions and answers."""
        whole = [self.systems, [asdict(each) for each in self.questions], [self.answers[each.id] for each in self.questions]]
        return hashlib.sha256(json.dumps(whole, ensure_ascii=False).encode()).hexdigest()[:16]

    @property
    def categories(self) -> dict[str, int]:
        """Those there are, in the order of the questions, with how many questions each has."""
        return dict(Counter(each.category for each in self.questions if each.category))

    @property
    def can_catch(self) -> bool:
        """Whether catch rounds are possible: some system has two answers to a question."""
        return any(len(texts) > 1 for both in self.answers.values() for texts in both)

    @functools.cached_property
    def _by_id(self) -> dict[str, Question]:
        return {each.id: each for each in self.questions}

    def question(self, id: str) -> Question:
        return self._by_id[id]


def of_files(
    found: AnswerFile,
    other: AnswerFile,
    questions: Mapping[str, Question] | None,
    title: str,
    about: str,
    verdicts: Mapping[str, Sequence[Verdict]] | None = None,
    public: bool = False,
) -> tuple[Deck, list[str]]:
    """A deck of two systems' answers, and what was left out of it, in sentences. `questions` are needed where neither file brings
    its own. Raises BadInput for files of different questions, or without any in common."""
    asked = agreed(questions or {}, found.questions, other.questions)
    both = [id for id in found.answers if id in other.answers]
    if not both:
        raise BadInput("These two files answer no question in common: no question_id is in both.")
    if not any(id in asked for id in both):
        raise BadInput("Neither file holds the text of its questions. Add a file of questions (question_id, text, category).")
    notes = []
    left_out = {
        "answered in only one of the files": len(set(found.answers) ^ set(other.answers)),
        "of unknown text": sum(id not in asked for id in both),
        "answered alike by both": sum(found.answers[id].strip() == other.answers[id].strip() for id in both),
    }
    kept = [id for id in both if id in asked and found.answers[id].strip() != other.answers[id].strip()]
    for why, count in left_out.items():
        if count:
            notes.append(f"{count} question{'s are' if count > 1 else ' is'} left out: {why}.")
    if not kept:
        raise BadInput("There is no question here to play: " + " ".join(notes))
    names = (found.system, other.system)
    if names[0] == names[1]:
        names = (f"{names[0]} (first file)", f"{names[1]} (second file)")
    answers = {id: ((found.answers[id],), (other.answers[id],)) for id in kept}
    judged = {id: tuple(each) for id, each in (verdicts or {}).items() if id in answers}
    return Deck(title, about, names, tuple(asked[id] for id in kept), answers, judged, public), notes


def agreed(*sources: Mapping[str, Question]) -> dict[str, Question]:
    """All questions by id. Raises BadInput where an id stands for different ones."""
    asked: dict[str, Question] = {}
    for source in sources:
        for id, question in source.items():
            known = asked.setdefault(id, question)
            if " ".join(known.text.split()) != " ".join(question.text.split()):
                raise BadInput(
                    f"These files are of different questions: {id} is {_short(known.text)!r} in one and {_short(question.text)!r} in another."
                )
    return asked


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"


def keep(deck: Deck) -> Path:
    """Write a deck below `GUANACO_HOME`, where `kept` finds it again."""
    path = paths.decks() / f"{deck.id}.json"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(asdict(deck), ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
    return path


def kept() -> list[Deck]:
    """The decks below `GUANACO_HOME`, newest first; what cannot be read is passed over."""
    found = sorted(((path.stat().st_mtime_ns, path) for path in paths.decks().glob("*.json")), reverse=True)
    return [deck for changed, path in found if (deck := _read(path, changed))]


@functools.lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> Deck | None:
    try:
        deck = TypeAdapter(Deck).validate_json(path.read_bytes())
        whole = set(deck.answers) == {each.id for each in deck.questions} and all(found and other for found, other in deck.answers.values())
        return deck if whole and deck.id == path.stem else None
    except (OSError, ValueError):
        return None

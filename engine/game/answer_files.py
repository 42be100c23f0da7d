"""Files of answers and of questions in the layout of artidoro/qlora, whoever wrote them. JSON Lines, one row a question.

Two schemas. `answer_id, model_id, question_id, text`: the text is the answer. `question_id, text, category, prompt, generation,
generation_truncated`: the text is the question, and `generation`, which runs on into the next turn, is never shown.
"""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine import data_files
from engine.data_files import BadRow, Row
from engine.errors import BadInput
from engine.evaluate.matches import system_name

MAX_QUESTIONS = 2_000
MAX_CHARS = 40_000
MAX_NAME_CHARS = 60
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
SCHEMAS = "answer_id, model_id, question_id, text  or  question_id, text, category, generation_truncated"


@dataclass(frozen=True)
class Question:
    """What was asked. `category` may be empty."""

    id: str
    text: str
    category: str

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the text's SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class AnswerFile:
    """The answers of one system by question id; empty ones are not among them. `questions` are those the file brings along, `bad` what
    is wrong with the rows that were left out. `ids` are those that ratings know answers by, of empty ones too; `asked` are the
    hashes of the questions where the rows tell them."""

    system: str
    answers: Mapping[str, str]
    questions: Mapping[str, Question]
    bad: tuple[str, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)


def short_id(text: str) -> str:
    """A name for a text, 22 letters and digits: what the package shortuuid makes of it, by which published ratings know answers that
    have no id of their own."""
    number, digits = uuid.uuid5(uuid.NAMESPACE_DNS, text).int, []
    for _ in range(22):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def read(path: Path, called: str = "", skip_bad: bool = False) -> AnswerFile:
    """The answers of a file. `called` is the name of the file as people know it, where `path` is a copy of it. Raises BadInput
    that names file and line (of neither schema, a question twice, no text, too long), unless bad rows are to be skipped, and where
    none is left or they are too many."""
    called = called or path.name
    answers: dict[str, str] = {}
    questions: dict[str, Question] = {}
    ids: dict[str, str] = {}
    asked: dict[str, str] = {}
    systems: list[str] = []
    bad: list[str] = []

    def take(place: str, id: str, fields: Mapping) -> None:
        if "generation_truncated" in fields:
            questions[id] = _question(place, id, fields)
            text = _text(place, fields, "generation_truncated")
        elif "model_id" in fields or "answer_id" in fields:
            systems.append(str(fields.get("model_id") or "").partition(":")[0])
            text = _text(place, fields, "text")
        else:
            raise BadInput(f"{place}: this is neither of the two schemas of answers, {SCHEMAS}.")
        given = fields.get("answer_id")
        ids[id] = given if isinstance(given, str) and given else short_id(text)
        metadata = fields.get("metadata")
        if isinstance(metadata, Mapping) and isinstance(metadata.get("asked"), str):
            asked[id] = metadata["asked"]
        if text.strip():
            answers[id] = text

    _each_row(path, called, take, bad if skip_bad else None)
    if not answers:
        raise BadInput(f"{called} holds no answers. {' '.join(bad[:3])}".strip())
    name = system_name(next(filter(None, systems), "") or called.rpartition(".")[0])
    return AnswerFile(printable(name)[:MAX_NAME_CHARS] or "an unnamed system", answers, questions, tuple(bad), ids, asked)


def read_questions(path: Path, called: str = "") -> dict[str, Question]:
    """Questions by id from a file of `question_id, text, category`. Raises BadInput as `read` does."""
    found: dict[str, Question] = {}
    _each_row(path, called or path.name, lambda place, id, fields: found.update({id: _question(place, id, fields)}))
    if not found:
        raise BadInput(f"{called or path.name} holds no questions.")
    return found


def printable(text: str) -> str:
    """A name without what could steer a page or terminal, its spaces single."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _each_row(path: Path, called: str, take: Callable[[str, str, Mapping], None], bad: list[str] | None = None) -> None:
    """Give every row to `take`: where it stands, its question id, its fields. What is wrong with a row goes to `bad`, or is raised
    where that is None."""
    unit, rows = data_files.opened(path)
    seen: dict[str, int] = {}
    for count, row in enumerate(rows, 1):
        if count > MAX_QUESTIONS:
            raise BadInput(f"{called} has more than {MAX_QUESTIONS:,} rows, the limit for a game.")
        try:
            place = f"{called}, {unit} {row.line}"
            id = _id(place, row)
            if id in seen:
                raise BadInput(f"{place}: the question {id} was there before, in {unit} {seen[id]}. Each may have one row.")
            take(place, id, row.fields)
            seen[id] = row.line
        except BadInput as error:
            if bad is None:
                raise
            bad.append(str(error))


def _id(place: str, row: Row | BadRow) -> str:
    if isinstance(row, BadRow):
        raise BadInput(f"{place}: {row.reason}.")
    id = row.fields.get("question_id")
    if isinstance(id, bool) or not isinstance(id, str | int) or not str(id).strip():
        raise BadInput(f"{place}: the field question_id is missing or neither number nor text.")
    if len(str(id)) > MAX_NAME_CHARS:
        raise BadInput(f"{place}: question_id is longer than {MAX_NAME_CHARS} characters.")
    return str(id).encode("utf-8", "replace").decode()


def _question(place: str, id: str, fields: Mapping) -> Question:
    text = _text(place, fields, "text")
    if not text.strip():
        raise BadInput(f"{place}: the question is empty.")
    category = fields.get("category")
    return Question(id, text, printable(category)[:MAX_NAME_CHARS] if isinstance(category, str) else "")


def _text(place: str, fields: Mapping, field: str) -> str:
    text = fields.get(field)
    if not isinstance(text, str):
        raise BadInput(f"{place}: the field {field} is missing or no text.")
    if len(text) > MAX_CHARS:
        raise BadInput(f"{place}: {field} has {len(text):,} characters; the limit is {MAX_CHARS:,}.")
    return text.encode("utf-8", "replace").decode()

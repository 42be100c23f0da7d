"""MMLU as qlora.py scores it: which of A, B, C and D a model finds likeliest after "Answer:", without or with five answered questions of
the subject before it (Hendrycks et al., 2021; Dettmers et al., 2023, section 5.2).

Data has the layout of artidoro/qlora (`subject`, `input`, `output`; in its five-shot files `input` has the shots already) or that of the
Hub's copies (`subject`, `question`, `choices`, `answer`).
"""

import math
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from engine import hub
from engine.backends.base import Stop
from engine.backends.scoring import Choice
from engine.blend import Blend
from engine.data_files import BadRow
from engine.errors import BadInput
from engine.evaluate import intervals, sources
from engine.evaluate.measure import Item, Measure, Subject, checked, sample, size, text_field
from engine.game import published

PUBLISHED = "data/mmlu/zero_shot_mmlu_val.json"
LETTERS = "ABCD"
SHOTS = 5
CHANCE = 1 / len(LETTERS)
# As the published file has it, two spaces and all.
_HEADER = "The following are multiple choice questions (with answers) about  {}."
_ANSWER = "Answer:"
_ANSWERED = re.compile(rf"^{_ANSWER}[ \t]*\(?[{LETTERS}]\)?\.?[ \t]*$", re.MULTILINE)
OTHER = "other (business, health, misc.)"
# github.com/hendrycks/test, categories.py; what is in none of these three belongs to the fourth.
_GROUPS = {
    "STEM": "abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics college_physics "
    "computer_security conceptual_physics electrical_engineering elementary_mathematics high_school_biology high_school_chemistry "
    "high_school_computer_science high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law "
    "jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law world_religions",
    "social sciences": "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics "
    "high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations security_studies "
    "sociology us_foreign_policy",
    OTHER: "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing medical_genetics "
    "miscellaneous nutrition professional_accounting professional_medicine virology",
}
GROUPS = tuple(_GROUPS)
GROUP_OF = {subject: group for group, subjects in _GROUPS.items() for subject in subjects.split()}


@dataclass(frozen=True)
class Question:
    """A question of a subject: what stands once above all of them, the question with its choices up to "Answer:", and the right letter.
    `line` is where it stands in its file, `inside` how many answered questions it has before it there already."""

    line: int
    subject: str
    header: str
    body: str
    answer: str
    inside: int = 0
    shots: tuple["Question", ...] = ()

    def prompt(self, shots: int) -> str:
        """What goes before the letter, with the first so many of its shots."""
        answered = [f"{shot.body} {shot.answer}" for shot in self.shots[:shots]]
        return "\n\n".join((self.header, *answered, self.body))


class Mmlu(Measure):
    """See `Measure`. Rows: `answer` and `choice` (letters), `right`, `probabilities` of the four letters among themselves, `shots`."""

    def __init__(self, questions: Sequence[Question], sha256: str, told: Sequence[str]):
        self._questions, self.sha256, self.told = questions, sha256, tuple(told)
        inside = _range([each.inside for each in questions])
        shots = "five shots" if any(each.shots for each in questions) else "no shots"
        self.variant = shots if inside == "0" else f"{inside} shots in the data"

    @property
    def count(self) -> int:
        return len(self._questions)

    def tokens(self, count: int) -> float:
        firsts = {each.subject: each for each in self._questions}.values()
        before = size([each.prompt(len(each.shots)).removesuffix(each.body) for each in firsts])
        return count * size([each.body for each in self._questions]) + min(count, len(firsts)) * before

    def half_width(self, limit: int, seed: int) -> float:
        drawn = Counter(item.group for item in sample(self._items(), limit, seed))
        return intervals.half_width_of_mean(list(drawn.values()))

    def items(self, subject: Subject) -> list[Item]:
        return self._items()

    def _items(self) -> list[Item]:
        return [Item(str(each.line), each.subject, each) for each in self._questions]

    def rows(self, subject: Subject, items: Sequence[Item], blend: Blend, stop: Stop, known: Container[int]) -> Iterator[tuple[int, dict]]:
        """Where the context is too short for all shots, the last ones are left out, as Hendrycks et al. did. Raises BadInput where it is
        too short for a question alone."""
        asked, shots = [], []
        for item in items:
            question: Question = item.content
            count = len(question.shots)
            while count and not _fits(subject, _choice(question, count)):
                count -= 1
            if not count and not _fits(subject, _choice(question, 0)):
                raise BadInput(
                    f"The question in line {question.line} ({question.subject}) is longer than the {subject.context:,} tokens that this "
                    "model takes here. Leave it out, or choose a model with a longer context."
                )
            asked.append(_choice(question, count))
            shots.append(count)
        for number, figures in subject.scorer.choices(asked, blend, stop, known):
            item = items[number]
            best = max(range(len(LETTERS)), key=figures.__getitem__)
            weights = [math.exp(each - figures[best]) for each in figures]
            yield (
                number,
                {
                    "key": item.key,
                    "group": item.group,
                    "answer": item.content.answer,
                    "choice": LETTERS[best],
                    "right": LETTERS[best] == item.content.answer,
                    "probabilities": [each / sum(weights) for each in weights],
                    "shots": shots[number],
                },
            )

    def remarks(self, rows: Sequence[dict], context: int) -> list[str]:
        fewer = self._fewer(rows)
        if not fewer:
            return []
        return [
            f"Of {len(rows):,} questions {len(fewer):,} stand behind fewer shots than there are: only {_range(fewer)} fitted the context of "
            f"{context:,} tokens."
        ]

    def _fewer(self, rows: Sequence[dict]) -> list[int]:
        """How many shots stood before those questions that had not all of them."""
        meant = {str(each.line): len(each.shots) for each in self._questions}
        return [row["shots"] for row in rows if row["shots"] < meant[row["key"]]]

    def result(self, rows: Sequence[dict]) -> dict:
        """`fewer_shots` is of how many questions the context was too short for all shots. `average` is the mean over subjects, as qlora.py and the paper have it, `pooled` over questions. `choices` says how often each
        letter was chosen."""
        subjects: dict[str, list[bool]] = {}
        for row in rows:
            subjects.setdefault(row["group"], []).append(row["right"])
        shares = {subject: intervals.share_of(right) for subject, right in sorted(subjects.items())}
        groups = []
        for group in GROUPS:
            inside = [subject for subject in shares if GROUP_OF.get(subject, OTHER) == group]
            if inside:
                pooled = intervals.share_of([right for subject in inside for right in subjects[subject]])
                mean = intervals.mean_of([shares[subject] for subject in inside])
                groups.append({"name": group, "subjects": len(inside), **_plain(pooled), "average": asdict(mean)})
        average = intervals.mean_of(list(shares.values()))
        chosen = Counter(row["choice"] for row in rows)
        return {
            "questions": len(rows),
            "average": average and asdict(average),
            "pooled": _plain(intervals.share_of([row["right"] for row in rows])),
            "groups": groups,
            "subjects": [{"name": each, "group": GROUP_OF.get(each, OTHER), **_plain(share)} for each, share in shares.items()],
            "choices": {letter: chosen[letter] for letter in LETTERS},
            "fewer_shots": len(self._fewer(rows)),
            "chance": CHANCE,
        }


def _plain(share) -> dict:
    return {"right": share.k, "of": share.n, "share": share.share, "low": share.low, "high": share.high}


def _choice(question: Question, shots: int) -> Choice:
    return Choice(question.prompt(shots), tuple(f" {letter}" for letter in LETTERS))


def _fits(subject: Subject, choice: Choice) -> bool:
    """Counted only where it can be otherwise: no tokenizer makes more tokens of a text than it has bytes, and a start."""
    return len(choice.before.encode()) + SHOTS < subject.context or subject.scorer.tokens(choice) <= subject.context


def read(data: str, shots: int, shots_from: str, skip_bad_rows: bool, report: hub.Report) -> Mmlu:
    """MMLU from a file or Hub data set, or the published questions where `data` is empty. Of the first five rows of each subject its
    shots are made, and these are not scored; `shots_from` names other data to take them from. Raises BadInput or EngineError."""
    source = data or str(published.at_hand(PUBLISHED, report))
    found = sources.read(source, report)
    questions, told = _questions(found, skip_bad_rows)
    sha256 = found.sha256
    if not shots and any(each.inside for each in questions):
        told = [*told, f"The data has {_range([each.inside for each in questions])} answered questions before each one that is asked."]
    if shots:
        _check_single(questions, found, "Measure it without shots (--shots 0), or name data without answered questions.")
        answered = questions
        if shots_from:
            others = sources.read(shots_from, report)
            answered, more = _questions(others, skip_bad_rows)
            _check_single(answered, others, "Name data of single questions with --shots-from.")
            told, sha256 = [*told, *more], f"{sha256}+{others.sha256}"
        questions, more = _with_shots(questions, answered, apart=bool(shots_from))
        told = [*told, *more]
    return Mmlu(questions, sha256, told)


def _questions(found: sources.Source, skip: bool) -> tuple[list[Question], list[str]]:
    good: list[Question] = []
    bad: list[BadRow] = []
    for row in found.rows:
        made = row if isinstance(row, BadRow) else _question(row.line, row.fields)
        (bad if isinstance(made, BadRow) else good).append(made)
    return good, list(checked(bad, len(good), found.unit, skip, found.name))


def _check_single(questions: Sequence[Question], found: sources.Source, what_to_do: str) -> None:
    """Raise BadInput where questions have shots in their data already: five of them would be thirty."""
    first = next((each for each in questions if each.inside), None)
    if first:
        raise BadInput(
            f"The questions of {found.name} have answered ones before them already ({found.unit} {first.line}: {first.inside}), so no shots can "
            f"be made of them or put before them. {what_to_do}"
        )


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(most) if least == most else f"{least} to {most}"


def _question(line: int, fields: Mapping) -> Question | BadRow:
    subject = text_field(fields, "subject")
    if subject is None:
        return BadRow(line, "the field subject is missing or no text")
    if "choices" in fields:
        return _of_choices(line, subject, fields)
    asked, answer = text_field(fields, "input"), text_field(fields, "output")
    if asked is None:
        return BadRow(line, "the field input is missing or no text")
    if answer is None or answer.strip() not in tuple(LETTERS):
        return BadRow(line, f"output is {fields.get('output')!r}; it is one of {', '.join(LETTERS)}")
    asked = asked.rstrip()
    if not asked.endswith(_ANSWER):
        return BadRow(line, f'input does not end with "{_ANSWER}"')
    header, parted, body = asked.partition("\n\n")
    if not (parted and header.startswith("The following are multiple choice questions")):
        header, body = _header(subject), asked
    answered = list(_ANSWERED.finditer(body))
    end = answered[-1].end() if answered else 0
    if answered and body.startswith("\n\n", end):  # so that what questions have in common is known to be that
        header, body = f"{header}\n\n{body[:end]}", body[end + 2 :]
    return Question(line, subject, header, body, answer.strip(), len(answered))


def _of_choices(line: int, subject: str, fields: Mapping) -> Question | BadRow:
    asked, choices, answer = text_field(fields, "question"), fields.get("choices"), fields.get("answer")
    if asked is None:
        return BadRow(line, "the field question is missing or no text")
    if not isinstance(choices, list) or len(choices) != len(LETTERS) or not all(isinstance(each, str) for each in choices):
        return BadRow(line, f"choices are not {len(LETTERS)} texts")
    letter = LETTERS[answer] if type(answer) is int and 0 <= answer < len(LETTERS) else answer
    if letter not in tuple(LETTERS):
        return BadRow(line, f"answer is {answer!r}; it is 0 to {len(LETTERS) - 1}, or one of {', '.join(LETTERS)}")
    listed = [f"{name}. {text}" for name, text in zip(LETTERS, choices, strict=True)]
    return Question(line, subject, _header(subject), "\n".join((asked.strip(), *listed, _ANSWER)), letter)


def _header(subject: str) -> str:
    return _HEADER.format(subject.replace("_", " "))


def _with_shots(questions: Sequence[Question], answered: Sequence[Question], apart: bool) -> tuple[list[Question], list[str]]:
    """Questions with their subject's shots, and what to tell of subjects that have none left, or too few shots."""
    firsts: dict[str, list[Question]] = {}
    for each in answered:
        if len(firsts.setdefault(each.subject, [])) < SHOTS:
            firsts[each.subject].append(each)
    taken = set() if apart else {each.line for shots in firsts.values() for each in shots}
    left = [replace(each, shots=tuple(firsts.get(each.subject, ()))) for each in questions if each.line not in taken]
    empty = sorted({each.subject for each in questions} - {each.subject for each in left})
    few = sorted({each.subject for each in left if len(each.shots) < SHOTS})
    told = []
    if empty:
        told.append(f"No question is left of {', '.join(empty)}: all of its rows are shots. It is not in the average.")
    if few:
        told.append(f"Fewer than {SHOTS} shots are there for {', '.join(few)}.")
    if not left:
        raise BadInput(
            f"No question is left: every subject has {SHOTS} rows or fewer, and these are its shots. Measure without shots, or name other data for them."
        )
    return left, told

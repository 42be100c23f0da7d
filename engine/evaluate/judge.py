"""A judge compares answers: any OpenAI-compatible server, asked by the published instructions about every pair in both orders.

Each verdict is kept as soon as it is there, as a row of the published schema in a file FIRST-vs-SECOND.jsonl, so that a run that was
cut off goes on, and `engine.evaluate.matches` reads what there is.
"""

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from engine import line_files
from engine.backends.patience import Patience
from engine.backends.remote import CHARACTERS_A_TOKEN
from engine.backends.server_client import Passing, Refused, ServerClient, Unreachable
from engine.errors import BadInput, EngineError
from engine.evaluate import generations, instructions
from engine.evaluate.instructions import UNPARSED, Instruction, Kind
from engine.evaluate.matches import Scores
from engine.events import Progress
from engine.game import decks
from engine.game.answer_files import AnswerFile, Question, short_id
from engine.line_files import LineFile
from engine.telling import are, counted

# So many comparisons in a row that come to nothing end a run: the next would not fare better.
FAILURES = 3


@dataclass(frozen=True)
class Comparison:
    """Two answers to a question in one order, by which systems, to be judged into a file of that name."""

    file: str
    question: Question
    systems: tuple[str, str]
    ids: tuple[str, str]
    texts: tuple[str, str]
    instruction: Instruction

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the others of its file."""
        return (self.question.id, *self.ids)

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.instruction.messages(self.question.text, *self.texts)


@dataclass(frozen=True)
class Plan:
    """All comparisons of the files at hand, and the ids of those questions that are to be judged."""

    kind: Kind
    comparisons: tuple[Comparison, ...]
    chosen: frozenset[str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """What a judge said, why it ended, and what the server counted, 0 where it does not count."""

    text: str
    reason: str
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Judged:
    """The end of a run: how many verdicts are new, and what was said of the comparisons that came to nothing."""

    new: int
    failed: tuple[str, ...]


def plan(
    files: Sequence[AnswerFile],
    questions: Mapping[str, Question],
    instructed: Sequence[Instruction],
    kind: Kind,
    reference: str = "",
    limit: int | None = None,
) -> Plan:
    """What is to be judged: every pair of systems, or each against `reference`, on the questions that both answer, in both orders;
    of these at most `limit`, evenly spread. Raises BadInput."""
    names = [each.system for each in files]
    written = [_file_name(name) for name in names]
    if twice := next((name for name in written if written.count(name) > 1), None):
        raise BadInput(f"Two of the files hold answers of {twice}. Name one of them otherwise (its model_id, or the name of the file).")
    if reference and reference not in names:
        raise BadInput(f"The reference {reference!r} is none of the systems: {', '.join(names)}.")
    known = decks.agreed(questions, *(each.questions for each in files))
    for each in files:
        if wrong := next((id for id, hash in each.asked.items() if id in known and known[id].hash != hash), None):
            raise BadInput(f"{each.system} answered another question {wrong}. Say with --data which questions its file answers.")
    pairs = [pair for pair in combinations(files, 2) if not reference or reference in (pair[0].system, pair[1].system)]
    found, apart = [], 0
    for id, question in known.items():
        instruction = instructions.of_category(instructed, question.category)
        for pair in pairs:
            apart += sum(id in each.ids for each in pair) == 1
            if all(id in each.ids for each in pair):
                for first, second in (pair, pair[::-1]):
                    texts = tuple(each.answers.get(id, "") for each in (first, second))
                    name = f"{_file_name(first.system)}-vs-{_file_name(second.system)}.jsonl"
                    found.append(
                        Comparison(name, question, (first.system, second.system), (first.ids[id], second.ids[id]), texts, instruction)
                    )
    unknown = len({id for each in files for id in each.ids} - set(known))
    notes = [f"{are(apart, 'pair')} left out: one of the two has no answer."] if apart else []
    notes += [f"{are(unknown, 'answer')} left out: no such question is known."] if unknown else []
    if not found:
        raise BadInput("There is nothing to compare: no two of the files answer the same question. " + " ".join(notes))
    common = list(dict.fromkeys(each.question for each in found))
    return Plan(kind, tuple(found), frozenset(each.id for _, each in generations.spread(common, limit)), tuple(notes))


def _file_name(system: str) -> str:
    """A system's name as part of a file's."""
    return re.sub(r"[^\w .()+,-]+", "-", system).replace("-vs-", "-")


class Judging:
    """A plan on its way in a folder; `opened` makes one."""

    def __init__(self, plan: Plan, out: Path, judge: str):
        self._plan, self._out, self._judge = plan, out, judge
        self._lock, self._files = threading.Lock(), {}
        keys: dict[str, set[tuple]] = {}
        for each in plan.comparisons:
            keys.setdefault(each.file, set()).add(each.key)
        # By file and key.
        self._rows: dict[str, dict[tuple, dict]] = {name: {} for name in keys}
        for path in sorted(out.glob("*.jsonl")):
            for row in line_files.rows(path, "review_id"):
                about = row.get("metadata") or {}
                if (about.get("judge"), about.get("kind")) != (judge, plan.kind):
                    raise BadInput(f"{path} holds judgements by another judge. Nothing was changed; choose another --out.")
                key = tuple(row.get(name) for name in ("question_id", "answer1_id", "answer2_id"))
                if path.name in keys and key not in keys[path.name]:
                    raise BadInput(f"{path} is about other answers (question {key[0]}). Nothing was changed; choose another --out.")
                self._rows.get(path.name, {})[key] = row

    @property
    def missing(self) -> list[Comparison]:
        """What is still to be judged."""
        chosen = self._plan.chosen
        return [each for each in self._plan.comparisons if each.question.id in chosen and each.key not in self._rows[each.file]]

    @property
    def rows(self) -> list[dict]:
        """The judgements there are."""
        return [row for rows in self._rows.values() for row in rows.values()]

    @property
    def scores(self) -> Scores:
        """The points in them, by the systems' own names; those of files are not always the same."""
        judged = [(each.systems, row["score"]) for each in self._plan.comparisons if (row := self._rows[each.file].get(each.key))]
        points = [(*systems, *score) for systems, score in judged if score != UNPARSED["score"]]
        return Scores(tuple(points), len(judged) - len(points))

    def run(self, judge: "Judge", parallel: int) -> Iterator[Progress | Judged]:
        """Judge what is missing, so many at a time; at the end what came of it. Closing the iterator, or `judge.halt`, ends it; what is
        under way then is lost, and nothing else. Raises EngineError where it cannot go on."""
        todo, failed, vain, new = self.missing, [], 0, 0
        yield Progress(f"Judging {counted(len(todo), 'comparison')}", 0.0)
        for done in self._at_once(todo, judge, parallel):
            error = done.exception()
            if error is None:
                new, vain = new + 1, 0
                yield Progress(f"Judged {new} of {len(todo)}", new / len(todo))
            elif not isinstance(error, (Passing, Refused)):
                raise error
            else:
                failed.append(str(error))
                vain += 1
                if vain == FAILURES:
                    raise EngineError(f"{error} {vain} comparisons in a row came to nothing.") from error
        yield Judged(new, tuple(failed))

    def _at_once(self, todo: Sequence[Comparison], judge: "Judge", parallel: int) -> Iterator[Future]:
        """Every comparison as it ends, never more than `parallel` under way."""
        waiting, under_way = iter(todo), set()
        with ThreadPoolExecutor(parallel) as pool:
            try:
                while True:
                    while len(under_way) < parallel and (each := next(waiting, None)):
                        under_way.add(pool.submit(self._one, each, judge))
                    if not under_way:
                        return
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    yield from done
            finally:
                judge.halt()

    def _one(self, of: Comparison, judge: "Judge") -> None:
        """Ask, and keep the verdict at once: by the time anybody looks the run may have been ended."""
        reply = judge.ask(of)
        about = {"judge": self._judge, "kind": self._plan.kind, "finish_reason": reply.reason}
        row = {
            "review_id": short_id("\n".join((self._judge, self._plan.kind, *of.key))),
            "question_id": of.question.id,
            "answer1_id": of.ids[0],
            "answer2_id": of.ids[1],
            "reviewer_id": of.instruction.reviewer,
            "metadata": {**about, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out},
            "text": reply.text,
            "score": instructions.verdict(self._plan.kind, reply.text),
        }
        with self._lock:
            if of.file not in self._files:
                self._files[of.file] = LineFile(self._out / of.file)
            self._files[of.file].write(json.dumps(row, ensure_ascii=False))
            self._rows[of.file][of.key] = row

    def close(self) -> None:
        for file in self._files.values():
            file.close()


@contextlib.contextmanager
def opened(plan: Plan, out: Path, judge: str) -> Iterator[Judging]:
    """A plan with the judgements that a folder holds already, which is this process's alone meanwhile. Raises BadInput where another
    process judges there, or where it holds others: of another judge or kind, or of other answers."""
    if out.is_file():
        raise BadInput(f"{out} is a file; judgements are kept in a folder.")
    out.mkdir(parents=True, exist_ok=True)
    with line_files.alone(out), contextlib.closing(Judging(plan, out, judge)) as judging:
        yield judging


class Judge:
    """Asks one server. `name` is what it calls the model; `halt` ends all that is under way."""

    def __init__(self, client: ServerClient, name: str, stopped: threading.Event, patience: Patience | None = None):
        self._client, self._name, self._stopped = client, name, stopped
        self._patience = patience or Patience(stopped)

    def check(self) -> None:
        """See that somebody answers there and takes the key, before anything is asked. Raises EngineError."""
        try:
            self._client.get("models")
        except Unreachable:
            raise
        except (Passing, BadInput):  # some servers list no models, and one that is busy may yet answer
            pass

    def ask(self, of: Comparison) -> Reply:
        """The judge's answer, waited for patiently. Raises EngineError."""
        body = {
            "model": self._name,
            "messages": of.messages,
            "temperature": of.instruction.temperature,
            "max_tokens": of.instruction.max_tokens,
        }
        return self._patience.ask(lambda: self._reply(self._client.post("chat/completions", body)))

    def _reply(self, body: object) -> Reply:
        """Raises Passing for what is no answer of such a server."""
        try:
            choice, usage = body["choices"][0], body.get("usage") or {}
            text = choice["message"].get("content") or ""
            if not isinstance(text, str):
                raise TypeError
            counted = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
            return Reply(self._client.without_key(text), str(choice.get("finish_reason")), *counted)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise Passing("The judge's server sent something that is no answer. Check --base-url and --judge-model.") from error

    def halt(self) -> None:
        self._stopped.set()
        self._client.close()


def estimated(missing: Sequence[Comparison]) -> tuple[int, int]:
    """About how many tokens are sent, by their characters, and how many may come back at most."""
    sent = sum(len(message["content"]) for each in missing for message in each.messages)
    return sent // CHARACTERS_A_TOKEN, sum(each.instruction.max_tokens for each in missing)

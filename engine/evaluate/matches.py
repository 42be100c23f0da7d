"""Judgements as matches: rating files of the artidoro/qlora layout and this app's own votes, read into plain arrays.

Whose answer stood first is taken from the ids in the rows, not from the file's name, wherever the files together tell.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from engine import data_files
from engine.data_files import BadRow
from engine.errors import BadInput

# Names as the paper prints them, by what file names hold.
_SYSTEMS = (
    (re.compile(r"(\d+)b-guanaco"), lambda found: f"Guanaco-{_size(found[1])}B"),
    (re.compile(r"(?<![a-z0-9])gpt-?4(?![a-z0-9.])(?!-turbo)"), lambda found: "GPT-4"),
    (re.compile(r"gpt-?3\.?5|chatgpt"), lambda found: "ChatGPT"),
    (re.compile(r"(?<![a-z0-9])bard(?![a-z0-9])"), lambda found: "Bard"),
    (re.compile(r"vicuna-13b|13b-vicuna(?!-generations)"), lambda found: "Vicuna-13B"),
    (re.compile(r"(\d+)b-([a-z0-9-]+?)-(?:vicuna|oa)-generations"), lambda found: f"{_DATA.get(found[2], found[2])}-{_size(found[1])}B"),
)
# LLaMA finetuned on other data, by what the paper calls that data.
_DATA = {
    "alpaca": "Alpaca",
    "chip2": "Chip2",
    "flan": "FLAN v2",
    "hh-rlhf": "HH-RLHF",
    "huggingchat": "HuggingChat",
    "longform": "Longform",
    "self-instruct": "Self-Instruct",
    "unnatural-instructions": "Unnatural Instructions",
}
_FILE = re.compile(r"(?P<first>.+)-vs-(?P<second>.+?)(?:-gpt-?4-(?:oa-)?reviewer[\w-]*)?")
_PROMPT_KEYS = ("question_id", "message_id")
# What a judge said, as the score of the answer that stood first. -1 is a text that held no verdict: a tie, as in the paper.
_SCORES = {1: 1.0, 2: 0.0, 3: 0.5, -1: 0.5}
# What a player preferred, as the score of the left answer.
PREFERENCES = {"left": 1.0, "right": 0.0, "tie": 0.5, "both bad": 0.5}


@dataclass(frozen=True)
class Matches:
    """n judgements of two answers to one prompt. `first` and `second` [n] are indices of `systems`: whose answer stood first
    (or left) and second. `score` [n] is 1 where the first won, 0 where the second did, 0.5 for a tie. `prompt` [n] numbers the
    `prompts`, their ids. `longer` [n] is the logarithm of the first answer's length over the second's, where lengths are known."""

    systems: tuple[str, ...]
    first: numpy.ndarray
    second: numpy.ndarray
    score: numpy.ndarray
    prompt: numpy.ndarray
    prompts: tuple[str, ...]
    longer: numpy.ndarray | None = None

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True)
class Scores:
    """Relative judgements: rows of (first system, second system, score of the first, score of the second), each pair in one of
    both orders, those without scores left out; `unparsed` counts these."""

    rows: tuple[tuple[str, str, float, float], ...]
    unparsed: int


@dataclass(frozen=True)
class _Rating:
    """A row of a rating file: where it stands, what it is about, whose answers it compares by id and by the file's name."""

    place: str
    prompt: str
    ids: tuple[str, str]
    names: tuple[str, str]
    verdict: object


def _size(billions: str) -> str:
    """LLaMA 30B, as its files call it, is the paper's 33B."""
    return "33" if billions == "30" else billions


def system_name(stem: str) -> str:
    """A system's name as the paper prints it, or what the file calls it."""
    for pattern, name in _SYSTEMS:
        if found := pattern.search(stem.lower()):
            return name(found)
    return stem


def read(paths: Sequence[Path], lengths: Mapping[tuple[str, str], int] | None = None) -> Matches:
    """The matches of pairwise rating files, of files of this app's exported votes, and of all such files of folders. `lengths` are
    those of the answers in characters, by system and prompt id. Raises BadInput that names file and line."""
    ratings: list[_Rating] = []
    votes: list[tuple[str, str, str, float]] = []
    for path in _files(paths):
        rows = list(_rows(path))
        if rows and all("preference" in fields for _, fields in rows):
            votes += [_vote(place, fields) for place, fields in rows]
        else:
            ratings += [_rating(path, place, fields) for place, fields in rows]
    resolved = _by_ids(ratings)
    rows = [(rating.prompt, *resolved(rating), _score(rating)) for rating in ratings]
    return of_rows([*rows, *(vote for vote in votes if vote[3] is not None)], lengths)


def of_rows(rows: Iterable[tuple[str, str, str, float]], lengths: Mapping[tuple[str, str], int] | None = None) -> Matches:
    """Matches of rows (prompt id, first system, second system, score of the first). Raises BadInput where there are none, or
    where a system is matched with itself."""
    rows = list(rows)
    if not rows:
        raise BadInput("There are no judgements to rate by.")
    if any(first == second for _, first, second, _ in rows):
        raise BadInput("A system cannot be matched with itself; its file compares two runs of the same one.")
    systems = tuple(dict.fromkeys(name for _, *names, _ in rows for name in names))
    numbers = {name: index for index, name in enumerate(systems)}
    prompts = {prompt: index for index, prompt in enumerate(dict.fromkeys(row[0] for row in rows))}
    return Matches(
        systems,
        numpy.array([numbers[first] for _, first, _, _ in rows]),
        numpy.array([numbers[second] for _, _, second, _ in rows]),
        numpy.array([score for *_, score in rows]),
        numpy.array([prompts[prompt] for prompt, *_ in rows]),
        tuple(prompts),
        numpy.array([math.log(lengths[first, prompt] / lengths[second, prompt]) for prompt, first, second, _ in rows]) if lengths else None,
    )


def groups(found: Matches) -> list[Matches]:
    """The matches of systems that met, directly or through others; ratings of different groups cannot be compared."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = len(found.systems)
    count, label = connected_components(
        coo_array((numpy.ones(len(found)), (found.first, found.second)), shape=(size, size)), directed=False
    )
    return [_only(found, label[found.first] == group) for group in range(count)] if count > 1 else [found]


def _only(found: Matches, chosen: numpy.ndarray) -> Matches:
    """Those of the matches that are `chosen` [n], with their systems and prompts alone."""
    systems, sides = numpy.unique(numpy.stack([found.first[chosen], found.second[chosen]]), return_inverse=True)
    prompts, prompt = numpy.unique(found.prompt[chosen], return_inverse=True)
    first, second = sides.reshape(2, -1)
    return Matches(
        tuple(found.systems[at] for at in systems),
        first,
        second,
        found.score[chosen],
        prompt,
        tuple(found.prompts[at] for at in prompts),
        None if found.longer is None else found.longer[chosen],
    )


def rows(found: Matches) -> Iterator[tuple[str, str, str, float]]:
    """What `of_rows` took: prompt id, first system, second system, score of the first."""
    for first, second, score, prompt in zip(found.first, found.second, found.score, found.prompt, strict=True):
        yield found.prompts[prompt], found.systems[first], found.systems[second], float(score)


def read_scores(paths: Sequence[Path]) -> Scores:
    """The scores of relative rating files, and of all such files of folders. Raises BadInput that names file and line."""
    ratings = [_rating(path, place, fields) for path in _files(paths) for place, fields in _rows(path)]
    resolved = _by_ids(ratings)
    found, unparsed = [], 0
    for rating in ratings:
        pair = rating.verdict
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, int | float) for each in pair)):
            raise BadInput(f"{rating.place}: score is {pair!r}; relative ratings hold two numbers, such as [9.0, 8.0].")
        if min(pair) < 0:
            unparsed += 1
        else:
            found.append((*resolved(rating), *map(float, pair)))
    return Scores(tuple(found), unparsed)


def _files(paths: Sequence[Path]) -> list[Path]:
    found = [each for path in paths for each in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    if not found:
        raise BadInput("There are no rating files (*.jsonl) there.")
    return found


def _rows(path: Path) -> Iterable[tuple[str, Mapping]]:
    """Every row with where it stands. Raises BadInput for one that cannot be read."""
    unit, rows = data_files.opened(path)
    for row in rows:
        if isinstance(row, BadRow):
            raise BadInput(f"{path.name}, {unit} {row.line}: {row.reason}.")
        yield f"{path.name}, {unit} {row.line}", row.fields


def _rating(path: Path, place: str, fields: Mapping) -> _Rating:
    name = _FILE.fullmatch(path.stem)
    if not name:
        raise BadInput(f"{path.name} does not say what it compares: name rating files FIRST-vs-SECOND.jsonl.")
    key = next((key for key in _PROMPT_KEYS if key in fields), None)
    missing = [each for each in ("answer1_id", "answer2_id", "score") if each not in fields] + ([] if key else ["question_id"])
    if missing:
        raise BadInput(f"{place}: the field {missing[0]} is missing; this is no rating file.")
    names = system_name(name["first"]), system_name(name["second"])
    return _Rating(place, str(fields[key]), (str(fields["answer1_id"]), str(fields["answer2_id"])), names, fields["score"])


def _score(rating: _Rating) -> float:
    if not isinstance(rating.verdict, int) or rating.verdict not in _SCORES:
        known = "1, 2, 3 (tie) or -1 (no verdict)"
        raise BadInput(f"{rating.place}: score is {rating.verdict!r}; pairwise ratings hold {known}.")
    return _SCORES[rating.verdict]


def _vote(place: str, fields: Mapping) -> tuple[str, str, str, float | None]:
    """A vote of this app's export, by the hash of its question; its score is None where there was nothing to prefer."""
    missing = next((each for each in ("asked", "left", "right") if not isinstance(fields.get(each), str)), None)
    if missing:
        raise BadInput(f"{place}: the field {missing} is missing or no text; this is no export of votes.")
    preference = fields["preference"]
    if not isinstance(preference, str) or preference not in PREFERENCES:
        raise BadInput(f"{place}: preference is {preference!r}; it is one of {', '.join(PREFERENCES)}.")
    same = fields["left"] == fields["right"]  # a catch round: there was nothing to prefer
    return fields["asked"], fields["left"], fields["right"], None if same else PREFERENCES[preference]


def _by_ids(ratings: Iterable[_Rating]):
    """A function from a rating to the systems of its first and second answer. An answer's id belongs to the one system that all
    files with it have in their names; where that leaves both or none, the file's name decides."""
    seen: dict[tuple[str, str], Counter] = defaultdict(Counter)
    times: Counter = Counter()
    for rating in ratings:
        for answer in rating.ids:
            seen[rating.prompt, answer].update(rating.names)
            times[rating.prompt, answer] += 1

    def owner(rating: _Rating, answer: str) -> str | None:
        key = rating.prompt, answer
        in_all = [name for name, count in seen[key].items() if count == times[key]]
        return in_all[0] if len(in_all) == 1 and in_all[0] in rating.names else None

    def resolved(rating: _Rating) -> tuple[str, str]:
        first, second = (owner(rating, answer) for answer in rating.ids)
        straight, turned = rating.names, rating.names[::-1]
        told = (first, second)
        fits = [order for order in (straight, turned) if all(name in (None, there) for name, there in zip(told, order, strict=True))]
        return fits[0] if len(fits) == 1 else straight

    return resolved

"""The published answers, questions and GPT-4 ratings of artidoro/qlora, read through `GUANACO_ANSWERS`.

Pinned by commit and SHA-256: what differs by a bit is refused. From an address they are fetched when somebody asks for it, those of the
game together and others one by one, and kept below `GUANACO_HOME`; a folder is read where it is. Nothing of it is ever part of this
project.
"""

import contextlib
import csv
import functools
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from engine import hub, paths
from engine.errors import BadInput, EngineError
from engine.evaluate import matches
from engine.evaluate.matches import Matches, Scores
from engine.events import Progress
from engine.game import answer_files, decks
from engine.game.answer_files import AnswerFile
from engine.game.decks import Deck, Verdict

COMMIT = "7f4e95a68dc076bea9b3a413d2b512eca6d004e5"
ADDRESS = f"https://raw.githubusercontent.com/artidoro/qlora/{COMMIT}"
SOURCE = f"github.com/artidoro/qlora (MIT), commit {COMMIT[:7]}"
_PINS = Path(__file__).with_name("published.tsv")
_QUESTIONS = "eval/prompts/vicuna_questions.jsonl"
_GENERATIONS = "eval/generations/vicuna"
_PAIRWISE = "eval/ratings-gpt4/vicuna/pairwise"
_RELATIVE = "eval/ratings-gpt4/vicuna/relative-gpt-3.5"
# A system's file of answers, by its name as the paper prints it; the names of rating files hold the same stems.
_STEMS = {
    "ChatGPT": "answer_gpt35",
    "GPT-4": "answer_gpt4",
    "Bard": "answer_bard",
    "Vicuna-13B": "answer_vicuna-13b",
    **{f"Guanaco-{33 if size == 30 else size}B": f"{size}b-guanaco-vicuna-generations-topp0.9-temp0.7" for size in (65, 30, 13, 7)},
}
SYSTEMS = tuple(_STEMS)
# What GPT-4's pairwise judgements of these are called on the command line.
JUDGEMENTS = "vicuna-pairwise"
# What there is without a file that cannot be had, by what it was wanted for.
_GAME = "The starter pack can be played without it."
_DATA = "A file of your own works without it."
_RATED = "Rating files of your own can be rated without it."
_AT_ONCE = 6
_SECONDS = 30


@dataclass(frozen=True)
class Pin:
    """A file of the published set: bytes and hex SHA-256."""

    size: int
    sha256: str


@functools.cache
def pins() -> dict[str, Pin]:
    """All files by their path in the repository."""
    with open(_PINS, encoding="utf-8", newline="") as file:
        return {path: Pin(int(size), sha256) for path, size, sha256 in csv.reader(file, delimiter="\t")}


@functools.cache
def _game() -> dict[str, Pin]:
    """The files that the game and the leaderboard need."""
    return {
        path: pin
        for path, pin in pins().items()
        if path == _QUESTIONS or path.startswith((f"{_GENERATIONS}/", f"{_PAIRWISE}/", f"{_RELATIVE}/"))
    }


def size() -> int:
    """Bytes of what `fetch` fetches."""
    return sum(pin.size for pin in _game().values())


def source() -> str:
    """Where it comes from, for people."""
    place = os.environ.get("GUANACO_ANSWERS")
    return place or SOURCE


def available() -> bool:
    """Whether the files of the game and the leaderboard are on this machine."""
    folder = _folder()
    return folder is not None and all((folder / path).is_file() for path in _game())


def fetch(report: hub.Report, without: str = _GAME) -> None:
    """Fetch the files of the game and the leaderboard, or see that they are all in the folder. Raises EngineError where the address does
    not answer or gives something else, BadInput where the folder is not laid out like the repository; `without` ends what is said then."""
    local = _local()
    if local:
        for path in _game():
            file(path, without)
        return
    with _alone(), paths.building(_kept()) as folder:
        done = 0
        with _client() as client, ThreadPoolExecutor(_AT_ONCE) as pool:
            for count, length in enumerate(pool.map(lambda path: _fetched(client, path, folder / path, without), _game()), 1):
                done += length
                report(Progress(f"Fetching the published answers: {count} of {len(_game())} files", done / size()))
        for path in pins():
            if path not in _game() and (_kept() / path).is_file():
                shutil.copy2(_kept() / path, folder / path)


def at_hand(path: str, report: hub.Report, without: str = _DATA) -> Path:
    """A file of the set, its hash checked; where it comes from an address and is not here yet, it is fetched. Raises as `fetch`."""
    if not (_local() or _there(path)):
        with _alone():
            if not _there(path):  # whoever was first may have fetched it
                _fetch_apart(path, report, without)
    return file(path, without)


def _there(path: str) -> bool:
    whole = _kept() / path
    return whole.is_file() and _as_pinned(whole, pins()[path])


def _fetch_apart(path: str, report: hub.Report, without: str) -> None:
    report(Progress(f"Fetching {path} ({pins()[path].size / 1e6:.1f} MB) from {source()}"))
    whole = _kept() / path
    partial = whole.with_name(f".{whole.name}.partial")
    try:
        with _client() as client:
            _fetched(client, path, partial, without)
        os.replace(partial, whole)
    finally:
        partial.unlink(missing_ok=True)


def file(path: str, without: str = _GAME) -> Path:
    """A file of the set on this machine, its hash checked. Raises BadInput where it is missing or differs."""
    folder = _folder()
    whole = folder / path if folder else None
    if whole is None or not whole.is_file():
        button = f"The Blind game tab has a button that fetches it from {source()}; the starter pack plays without it."
        raise BadInput(f"{path} is not on this machine. {f'GUANACO_ANSWERS names {source()}, which lacks it.' if _local() else button}")
    if not _as_pinned(whole, pins()[path]):
        raise BadInput(
            f"{path} of {source()} is not the published file: its SHA-256 differs from the pinned one. It is not used. {without}"
        )
    return whole


def answers(system: str, report: hub.Report) -> AnswerFile:
    """What a system answered to the Vicuna questions, fetched where it is not here yet. Raises as `fetch`."""
    return answer_files.read(at_hand(f"{_GENERATIONS}/{_STEMS[system]}.jsonl", report))


def here(path: str) -> bool:
    """Whether a file of the set is on this machine, so that `at_hand` fetches nothing."""
    return _local() is not None or (_kept() / path).is_file()


def deck(found: str = "ChatGPT", other: str = "Guanaco-65B") -> Deck:
    """The published answers of two systems with GPT-4's verdicts in both orders. Raises BadInput."""
    if found not in _STEMS or other not in _STEMS or found == other:
        raise BadInput(f"Choose two of {', '.join(SYSTEMS)}.")
    return _deck(_folder(), found, other)


@functools.lru_cache(maxsize=16)
def _deck(folder: Path | None, found: str, other: str) -> Deck:
    """What was read from that folder once; its files are checked then."""
    questions = answer_files.read_questions(file(_QUESTIONS))
    first, second = (answer_files.read(file(f"{_GENERATIONS}/{_STEMS[name]}.jsonl")) for name in (found, other))
    title = f"{found} or {other}?"
    about = f"The published answers to the 80 Vicuna questions, from {SOURCE}."
    return decks.of_files(first, second, questions, title, about, _verdicts(found, other), public=True)[0]


def ratings() -> Matches:
    """GPT-4's pairwise judgements of all systems, in both orders, with the lengths of the answers."""
    return _ratings(_folder())


@functools.lru_cache(maxsize=2)
def _ratings(folder: Path | None) -> Matches:
    lengths = {}
    for name, stem in _STEMS.items():
        for question, text in answer_files.read(file(f"{_GENERATIONS}/{stem}.jsonl")).answers.items():
            lengths[name, question] = len(text)
    return matches.read(list(_checked(_PAIRWISE)), lengths)


def rating_files(report: hub.Report) -> list[Path]:
    """The files of these judgements, fetched with the rest of the game where they are not here yet. Raises as `fetch`."""
    if not available():
        fetch(report, _RATED)
    return list(_checked(_PAIRWISE, _RATED))


def scores() -> Scores:
    """GPT-4's points for the systems beside ChatGPT's, in both orders."""
    return _scores(_folder())


@functools.lru_cache(maxsize=2)
def _scores(folder: Path | None) -> Scores:
    return matches.read_scores(list(_checked(_RELATIVE)))


def _checked(folder: str, without: str = _GAME) -> Iterator[Path]:
    yield from (file(path, without) for path in pins() if path.startswith(f"{folder}/"))


def _verdicts(found: str, other: str) -> dict[str, tuple[Verdict, ...]]:
    judged: dict[str, list[Verdict]] = {}
    for pair in ((found, other), (other, found)):
        stems = [_STEMS[name].replace("answer_", "answer-") for name in pair]
        path = f"{_PAIRWISE}/{stems[0]}-vs-{stems[1]}-gpt-4-reviewer-threeclass.jsonl"
        for prompt, first, second, score in matches.rows(matches.read([file(path)])):
            judged.setdefault(prompt, []).append(Verdict(first, {1.0: first, 0.0: second}.get(score)))
    return {prompt: tuple(each) for prompt, each in judged.items()}


def _local() -> Path | None:
    """The folder that `GUANACO_ANSWERS` names, None where it is an address."""
    place = os.environ.get("GUANACO_ANSWERS") or ADDRESS
    return None if place.startswith(("http://", "https://")) else Path(place).expanduser()


def _kept() -> Path:
    return paths.home() / "published" / COMMIT[:12]


def _folder() -> Path | None:
    return _local() or (_kept() if _kept().is_dir() else None)


def _as_pinned(path: Path, pin: Pin) -> bool:
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns) == pin.sha256


@functools.lru_cache(maxsize=512)
def _sha256(path: Path, size: int, changed: int) -> str:
    return paths.sha256(path)


def _alone() -> FileLock:
    """Held while something is fetched: what is begun has names that are the same for all, in one process and in several."""
    folder = _kept().parent
    folder.mkdir(exist_ok=True)
    return FileLock(folder / ".lock")


@contextlib.contextmanager
def _client():
    import httpx

    with httpx.Client(timeout=_SECONDS, follow_redirects=True, limits=httpx.Limits(max_connections=_AT_ONCE)) as client:
        yield client


def _fetched(client, path: str, target: Path, without: str) -> int:
    """Fetch one file, of which not a byte more than pinned is read. Gives its size."""
    import httpx

    pin, digest, received = pins()[path], hashlib.sha256(), 0
    address = (os.environ.get("GUANACO_ANSWERS") or ADDRESS).rstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with client.stream("GET", f"{address}/{path}") as answer, open(target, "wb") as written:
            answer.raise_for_status()
            for block in answer.iter_bytes(65_536):
                received += len(block)
                if received > pin.size:
                    break
                digest.update(block)
                written.write(block)
    except httpx.HTTPStatusError as error:
        raise EngineError(f"{address} answered {error.response.status_code} for {path}. Try again later. {without}") from error
    except httpx.HTTPError as error:
        raise EngineError(f"{address} cannot be reached. Check the connection. {without}") from error
    if received != pin.size or digest.hexdigest() != pin.sha256:
        raise EngineError(
            f"{address} gave another {path} than the published one: its SHA-256 differs from the pinned one. Nothing was kept."
        )
    return received

"""Data that visitors bring: kept under `GUANACO_HOME/uploads`, each content once, so that a run finds it again.

What is kept is complete or absent. Nothing is read into here: whether rows are good is for `engine.datasets` to say.
"""

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from engine import guanaco_mini, paths, runs, visitors
from engine.data_files import KINDS
from engine.errors import BadInput, EngineError
from engine.evaluate import measurements
from engine.store import Store

MAX_BYTES = 20_000_000
KEPT_SECONDS = 30 * 24 * 3600
# What visitors of a public host may fill, bytes. A file counts as a megabyte at least, so that there are not too many either. What was
# brought within so many seconds makes no way for others.
MOST_OF_VISITORS, _LEAST_COUNTED, _NEW_SECONDS = 2_000_000_000, 1_000_000, 3_600
_MAX_NAME_CHARS = 60
_SAMPLE_LINES = 50
_SEPARATORS = {"\t": ".tsv", ",": ".csv", ";": ".csv"}
_COLUMN_NAME = re.compile(r"[^\W\d][\w .-]{0,39}(?<! )")
# What Windows takes for devices, whatever their ending.
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


def keep(path: Path, name: str, public: bool = False) -> Path:
    """Copy a file that somebody calls `name`; gives where it is from now on. Raises BadInput where it is empty, larger than
    `MAX_BYTES` or of a kind that is not read, EngineError where the disk does not take it. `public`: on a public host, where
    what visitors brought longest ago makes room beyond `MOST_OF_VISITORS`, and BadInput is raised where that is not enough."""
    if _parted(name)[1] not in KINDS:
        raise BadInput(f"{name[:_MAX_NAME_CHARS]} is no data file this can read. It reads {', '.join(KINDS)}; unpack archives first.")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise BadInput(f"{name[:_MAX_NAME_CHARS]} cannot be read: {error.strerror or error}.") from error
    return _kept(content, size, _safe(name), public)


def paste(text: str, public: bool = False) -> Path:
    """Keep text as the kind of file that it looks like: JSON, JSON Lines, a table with a header, or plain text. `public` and what it
    raises as `keep`."""
    text = text.replace("\r\n", "\n").removeprefix("\ufeff").strip("\n")
    if not text.strip():
        raise BadInput("There is no text. Paste rows as JSON, JSON Lines, a table with a header, or plain text.")
    kind, text = _sniffed(text)
    content = text.encode("utf-8", "ignore")  # halves of surrogate pairs are no characters
    return _kept(content, len(content), f"pasted{kind}", public)


def thumbs_up(store: Store) -> Path:
    """Keep the answers that got a thumb up, each with its question, as chat messages; the latest ones where all would be too
    large. Raises BadInput where there are none."""
    lines: list[bytes] = []
    size = 0
    for row in reversed(store.thumbs()):
        if row["thumb"] < 1:
            continue
        turns = [("system", row["system"]), ("user", row["question"]), ("assistant", row["answer"])]
        messages = [{"role": role, "content": text} for role, text in turns if text or role != "system"]
        line = json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n"
        size += len(line)
        if size > MAX_BYTES:
            break
        lines.append(line)
    if not lines:
        raise BadInput("No answer has a thumb up yet. Give some in the chat tab: the thumbs are under each answer.")
    content = b"".join(reversed(lines))
    return _kept(content, len(content), "thumbs-up.jsonl")


def bundled() -> dict[str, Path]:
    """Data that comes with the app, by title."""
    return {"Guanaco mini: 256 conversations in seven languages": guanaco_mini.ROWS}


def sweep() -> int:
    """Remove what was last brought more than 30 days ago and neither a run's recipe nor a measurement's settings name; gives how many
    files that were. One that cannot be read keeps what its text names."""
    with _locked() as folder:
        return _swept(folder)


def _swept(folder: Path) -> int:
    old = _unused(folder, KEPT_SECONDS)
    for each in old:
        shutil.rmtree(each, ignore_errors=True)
    return len(old)


def _unused(folder: Path, seconds: float) -> list[Path]:
    """What was last brought longer ago, the oldest first, and neither a run's recipe nor a measurement's settings name."""
    when = {each: each.stat().st_mtime for each in folder.iterdir() if each.is_dir()}
    old = sorted((each for each in when if when[each] < time.time() - seconds), key=when.get)
    # The app sweeps as it starts: recipes and settings are read only where something may go.
    using = [run.folder / runs.RECIPE for run in runs.every()] if old else []
    using += [each.folder / measurements.SETTINGS for each in measurements.every()] if old else []
    named = "\n".join(map(_text_of, using))
    return [each for each in old if each.name not in named]


def _make_room(folder: Path, size: int) -> None:
    """Remove what has lain too long, and beyond `MOST_OF_VISITORS` the oldest that nobody uses. Raises BadInput where that makes no room
    for a file of that size, EngineError where the disk is nearly full."""
    visitors.check_disk()
    _swept(folder)
    over = max(size, _LEAST_COUNTED) + sum(map(_counted, folder.iterdir())) - MOST_OF_VISITORS
    for each in _unused(folder, _NEW_SECONDS) if over > 0 else ():
        over -= _counted(each)
        shutil.rmtree(each, ignore_errors=True)
        if over <= 0:
            return
    if over > 0:
        raise BadInput(
            f"This public host keeps {MOST_OF_VISITORS / 1e9:g} GB of visitors' rows and has no room for more now. Try again in an hour, or "
            "name a data set of the Hub."
        )


def _counted(folder: Path) -> int:
    """What an upload counts of `MOST_OF_VISITORS`."""
    return max(_LEAST_COUNTED, sum(path.stat().st_size for path in folder.iterdir())) if folder.is_dir() else 0


def _text_of(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):  # one that was removed just now
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _kept(content: bytes, size: int, name: str, public: bool = False) -> Path:
    """Where this content lies as a file of this kind; the name that it came with first stays. `public` as in `keep`."""
    if not content.strip():
        raise BadInput(f"{name} is empty. Choose a file with rows in it.")
    if size > MAX_BYTES:
        raise BadInput(
            f"{name} has {size / 1e6:,.1f} MB; the limit is {MAX_BYTES / 1e6:,.0f} MB. Take fewer rows, or name a data set of the Hub. "
            "On a machine of your own `python -m engine train RECIPE --data FILE` takes a file of any size."
        )
    kind = Path(name).suffix
    digest = hashlib.sha256(kind.encode() + b"\0" + content).hexdigest()[:24]
    with _locked() as folder:
        target = folder / digest
        for there in target.glob(f"*{kind}"):
            if there.read_bytes() == content:
                os.utime(target)  # its days begin anew
                return there
        if public:
            _make_room(folder, size)
        with paths.building(target) as made:
            (made / name).write_bytes(content)
        return target / name


@contextlib.contextmanager
def _locked() -> Iterator[Path]:
    """The folder of uploads for one caller at a time. Failures of the disk are told without naming folders to visitors."""
    try:
        folder = paths.uploads()
        with FileLock(folder / ".lock"):
            yield folder
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk of this host is full" if full else error.strerror or str(error)
        raise EngineError(
            f"The data could not be kept: {why}. Nothing was changed. Free some space, or set GUANACO_HOME to another disk, and try again."
        ) from error


def _safe(name: str) -> str:
    """A visitor's file name as one that any disk takes and a person still knows."""
    stem, kind = _parted(name)
    stem = re.sub(r"[^\w.() -]+", "_", stem).strip(" ._")[:_MAX_NAME_CHARS].strip(" ._")
    if not stem or _DEVICES.match(stem):
        stem = f"data-{stem}".rstrip("-")
    return f"{stem}{kind}"


def _parted(name: str) -> tuple[str, str]:
    """A file's name without its folders and ending, and the ending in small letters."""
    stem, dot, ending = re.split(r"[/\\]", name)[-1].rpartition(".")
    return stem, f"{dot}{ending}".lower()


def _sniffed(text: str) -> tuple[str, str]:
    """The kind of file that a text is, and the text as such a file has it."""
    first = text.lstrip().split("\n", 1)[0]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and not isinstance(value.get("data"), list):
        return ".jsonl", json.dumps(value, ensure_ascii=False) + "\n"  # one row, over however many lines
    if isinstance(value, (dict, list)):
        return ".json", text
    if re.match(r'\{\s*["}]', first):
        return ".jsonl", text
    if re.match(r'\[\s*([\[{"]|$)', first) or re.match(r"\{\s*$", first):
        return ".json", text  # broken, which the reader tells by its place
    separator = next((each for each in _SEPARATORS if _is_table(text, each)), None)
    return (_SEPARATORS[separator] if separator else ".txt"), text


def _is_table(text: str, separator: str) -> bool:
    """Whether the first line has names of columns, and most rows below it have as many columns."""
    try:
        header, *rows = csv.reader(text.split("\n", _SAMPLE_LINES)[:_SAMPLE_LINES], delimiter=separator)
    except csv.Error:
        return False
    rows = [row for row in rows if row]
    named = len(header) > 1 and all(map(_COLUMN_NAME.fullmatch, header))
    return named and len(rows) > 0 and 2 * sum(len(row) == len(header) for row in rows) > len(rows)

"""Where state lives: one function, one variable (`GUANACO_HOME`); and what strangers may see of a path.

Folders made here are complete or absent: `building` writes beside the target and renames at the end.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
from platformdirs import user_data_dir

from engine.errors import BadInput, EngineError

MANIFEST = "manifest.json"
MAX_OBJECT_BYTES = 5_000_000


def home() -> Path:
    """The folder of all state: `GUANACO_HOME`, else the platform's user data folder. Created if missing."""
    folder = Path(os.environ.get("GUANACO_HOME") or user_data_dir("guanaco-playground", appauthor=False)).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"Cannot use {folder} for state ({error.strerror}). Set GUANACO_HOME to a folder you can write to.") from error
    return folder.resolve()


def models() -> Path:
    """Folder of model weights; one subfolder a model."""
    return _made(home() / "models")


def adapters() -> Path:
    """Folder of adapters that were downloaded and turned into safetensors."""
    return _made(home() / "adapters")


def runs() -> Path:
    """Folder of training runs; one subfolder a run."""
    return _made(home() / "runs")


def probes() -> Path:
    """Folder of trainings of a few steps that only measure; one subfolder each, removed when it was looked at."""
    return _made(home() / "probes")


def measurements() -> Path:
    """Folder of measurements of models; one subfolder each."""
    return _made(home() / "measurements")


def decks() -> Path:
    """Folder of the decks of the blind game that were made here; one file a deck."""
    return _made(home() / "decks")


def judgements() -> Path:
    """Folder of what judges said of answers; one subfolder a judge and set of questions."""
    return _made(home() / "judgements")


def uploads() -> Path:
    """Folder of data that visitors brought; one subfolder a file."""
    return _made(home() / "uploads")


def public_name(name: str) -> str:
    """A model's or adapter's name without the folders it lies in."""
    return Path(name).name if Path(name).is_absolute() else name


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends well, and vanishes when it does not.

    What a killed process left behind is removed by the next one that builds the same target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.partial-*"):
        owner = stale.name.rpartition("-")[2]
        if not (owner.isdigit() and psutil.pid_exists(int(owner))):
            shutil.rmtree(stale, ignore_errors=True)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                _sync(path)
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
        if os.name == "posix":
            _sync_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder last, where its file system can: a mounted Drive may refuse that, and what is in the files lasts."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_object(path: Path, what: str) -> dict:
    """The JSON object in a small file. Raises BadInput, calling it `what`, where it is too large or none."""
    size = path.stat().st_size
    if size > MAX_OBJECT_BYTES:
        raise BadInput(f"{what} has {size:,} bytes, far too many for such a file.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{what} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{what} is damaged: it must hold a JSON object.")
    return value


def write_manifest(folder: Path, **about: object) -> None:
    """Record size and SHA-256 of every file in `folder`, with `about` (source, revision, licence) beside them."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({**about, "files": files}, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict:
    """The manifest of a folder, or `{}` where there is none. Raises BadInput where it is damaged."""
    path = folder / MANIFEST
    return read_object(path, MANIFEST) if path.is_file() else {}


def damaged(folder: Path) -> str | None:
    """Compare a folder with its manifest: None when intact (or without manifest), else which file is wrong and how."""
    try:
        files = read_manifest(folder).get("files") or {}
    except BadInput as error:
        return str(error)
    if not isinstance(files, dict) or not all(isinstance(each, dict) and {"size", "sha256"} <= set(each) for each in files.values()):
        return f"{MANIFEST} is not one of this app's"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['size']}"
        if sha256(path) != expected["sha256"]:
            return f"the checksum of {name} does not match"
    return None

"""Where exports go: nothing of anybody's is overwritten, and a folder there is complete or absent."""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine import hub, paths
from engine.errors import BadInput, EngineError
from engine.model_files import local_path
from engine.runs import Run


@dataclass(frozen=True)
class Exported:
    """What an export gave. `place`: a path, or an address on the Hub; `files`: name -> bytes; `checks`: what was measured of it;
    `notes`: sentences for people."""

    run: str
    kind: str
    place: str
    files: dict[str, int]
    checks: dict[str, dict] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def checked(dest: str, run: Run) -> Path:
    """The absolute path that is meant. Raises BadInput where something lies there, or where it is inside the run's own folder."""
    target = Path(os.path.abspath(local_path(dest)))
    check_free(target)
    if target.resolve().is_relative_to(run.folder.resolve()):
        raise BadInput(f"{target} is inside the folder of the run {run.id}. Choose a folder outside of {run.folder}.")
    return target


def check_free(target: Path) -> None:
    """Refuse a place that is taken. An empty folder is free."""
    if _taken(target):
        raise BadInput(f"{target} is there already, and exports overwrite nothing. Choose another folder, or move it away first.")


def fresh(parent: Path, name: str) -> Path:
    """The first of `name`, `name-2`, `name-3` … in `parent` that is free."""
    places = (parent / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(place for place in places if not _taken(place))


def _taken(target: Path) -> bool:
    return target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir()))


def check_room(target: Path, need: int) -> None:
    """Refuse, with the numbers, what the disk has no room for. Raises EngineError."""
    free = hub.free_bytes(target)
    if need > free:
        raise EngineError(
            f"Writing {target} needs {size_text(need)} of disk, and {size_text(free)} are free there. Free some space, or choose a folder on a larger disk."
        )


@contextlib.contextmanager
def writing(target: Path, need: int) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends well, and vanishes when it does not; about `need` bytes will be
    written. Raises EngineError where the disk has no room or fails, BadInput where the place was taken meanwhile."""
    check_room(target, need)
    with _failures_told(target, need), paths.building(target) as folder:
        yield folder
        check_free(target)


@contextlib.contextmanager
def _failures_told(target: Path, need: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else error.strerror or str(error)
        raise EngineError(
            f"Writing {target} failed: {why}. It needs {size_text(need)}; {size_text(hub.free_bytes(target))} are free there. Nothing was kept. "
            + ("Free some space, or choose a folder on a larger disk." if full else "Choose a folder that you can write to.")
        ) from error


def size_text(count: int) -> str:
    """Bytes as people read them."""
    if count < 1e5:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

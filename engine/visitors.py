"""What visitors of a public host may take up of it: how many runs at a time, how much of its disk, and for how long."""

import contextlib
import secrets
import time
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock

from engine import hub, jobs, lora_gguf, paths, runs
from engine.errors import BadInput, EngineError
from engine.recipe import Recipe
from engine.runs import Run

# More would only wait.
MOST_UNDER_WAY = 3
# Bytes of the disk that visitors leave free.
LEAST_FREE = 3_000_000_000
# How long a run is kept after it has ended; on a disk that is nearly full, so many seconds.
KEPT_DAYS, _KEPT_AT_LEAST = 3, 3_600


def start(plan: Recipe, name: str, loaded: Collection[str] = ()) -> Run:
    """Start a visitor's run under a name that nobody can guess: who knows it can follow and stop the run. Older ones make room first, as
    `sweep` says. Raises BadInput where enough runs are under way, EngineError where the disk is nearly full."""
    with _alone():
        sweep(loaded)
        _check_room()
        return jobs.start(plan, f"{secrets.token_hex(8)}-{name}", public=True)


def resume(run: Run) -> None:
    """Go on with a visitor's run, as `jobs.resume`; raises as `start` does, too."""
    with _alone():
        _check_room()
        jobs.resume(runs.known_as(run.id, public=True))


def check_disk() -> None:
    """Raises EngineError where the disk has no room for more of visitors."""
    if _nearly_full():
        raise EngineError(
            "The disk of this host is nearly full, so it takes no more data and trains nothing now. Try again later, or run the app on "
            "your own machine."
        )


def sweep(loaded: Collection[str] = ()) -> None:
    """Remove visitors' runs that have ended, with all that was made of them: after `KEPT_DAYS`, sooner where the disk is nearly full.
    Those stay whose adapters are `loaded` for the chat, and what the system does not let go."""
    ended = sorted((_touched(run), run.id, run) for run in runs.every() if run.public and not run.process and run.id not in loaded)
    for when, _, run in ended:
        age = time.time() - when
        if age > KEPT_DAYS * 24 * 3600 or (age > _KEPT_AT_LEAST and _nearly_full()):
            with contextlib.suppress(EngineError):
                packed(run).unlink(missing_ok=True)
                lora_gguf.forget(run.id)
                jobs.remove(run)


def packed(run: Run) -> Path:
    """Where a visitor's adapter lies once it was packed for them."""
    return paths.home() / "exports" / f"{run.id}.zip"


def _alone() -> FileLock:
    """Held while runs are counted and one more begins."""
    return FileLock(paths.runs() / ".visitors.lock")


def _check_room() -> None:
    check_disk()
    waiting = sum(bool(run.process) for run in runs.every())
    if waiting >= MOST_UNDER_WAY:
        raise BadInput(f"{waiting} runs are under way or in line here already. Try again when one has ended.")


def _nearly_full() -> bool:
    return hub.free_bytes(paths.runs()) < LEAST_FREE


def _touched(run: Run) -> float:
    """When something last happened to a run, in seconds since 1970."""
    with contextlib.suppress(FileNotFoundError):
        return max(run.begun, run.events.stat().st_mtime)
    return run.begun

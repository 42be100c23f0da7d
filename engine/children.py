"""Modules of the engine as child processes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from engine.errors import EngineError
from engine.events import Progress

_MOST_CHARS = 300


def environment(**defaults: str) -> dict[str, str]:
    """This process's variables with this project on the path of modules. `defaults` give way to what is set."""
    root = str(Path(__file__).resolve().parents[1])
    return {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def started(module: str, capture_errors: bool = False, **defaults: str) -> subprocess.Popen:
    """`python -m module`, spoken to over pipes; `defaults` as in `environment`."""
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if capture_errors else None,
        env=environment(**defaults),
    )


def ignore_interrupts() -> None:
    """For a child's first line: Ctrl-C and a notebook's stop button reach a whole process group, and are for the parent to act on. A
    handler that does nothing, since to ignore the signal would be passed on to the child's own children."""
    signal.signal(signal.SIGINT, lambda number, frame: None)


def end_with_parent() -> None:
    """For a child: end it at once when its stdin closes, as it does however the parent ends. Nothing else may read stdin."""

    def outlived() -> None:
        while os.read(sys.stdin.fileno(), 4096):  # not by Python's own reader: that one's lock breaks an end of the child's own
            pass
        os._exit(0)

    threading.Thread(target=outlived, daemon=True).start()


def told(command: list[str]) -> Iterator[Progress | str]:
    """Run a command of the engine: each line that it logs as progress, at the end what it printed. Ended with whoever listens.
    Raises EngineError with a sentence where it fails; a stack trace goes to this process's own log."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment())
    except OSError as error:
        raise EngineError(f"It could not start: {error.strerror or error}. Close other programs and try again.") from error
    last, trace = "", []
    try:
        for line in process.stderr:
            if trace or line.startswith("Traceback (most recent call last)"):
                trace.append(line)
            elif line.strip():
                last = line.strip()
                yield Progress(last)
        printed = process.stdout.read().strip()
        if code := process.wait():
            print("".join(trace), end="", file=sys.stderr)
            raise EngineError(_failure(code, last, trace))
        yield printed
    finally:
        process.kill()
        process.communicate()


def _failure(code: int, last: str, trace: list[str]) -> str:
    if code < 0:
        return "It was ended from outside, as systems do when memory runs out. Close other programs and try again."
    if trace:
        why = next((line.strip() for line in reversed(trace) if line.strip()), "")[:_MOST_CHARS]
        return f"It broke off: {why}. Try again; the app's log has the details."
    return last or f"It ended with code {code} and said nothing. Try again."

"""Modules of the engine as child processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from engine.errors import EngineError
from engine.events import Progress


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


def told(command: list[str]) -> Iterator[Progress | str]:
    """Run a command of the engine: each line that it logs as progress, at the end what it printed. Ended with whoever listens.
    Raises EngineError with its last words where it fails."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment())
    last = ""
    try:
        for line in process.stderr:
            if line.strip():
                last = line.strip()
                yield Progress(last)
        printed = process.stdout.read().strip()
        if process.wait():
            raise EngineError(last or f"It ended with code {process.returncode}.")
        yield printed
    finally:
        process.kill()
        process.communicate()

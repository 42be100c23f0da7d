"""Modules of the engine as child processes."""

import os
import subprocess
import sys
from pathlib import Path


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

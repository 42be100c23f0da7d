"""Modules of the engine as child processes, spoken to over pipes."""

import os
import subprocess
import sys
from pathlib import Path


def started(module: str, capture_errors: bool = False, **environment: str) -> subprocess.Popen:
    """`python -m module` with this project on its path, stdin and stdout as pipes. `environment` gives way to what is set."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if capture_errors else None,
        env={**environment, **os.environ, "PYTHONPATH": path},
    )

"""What benchmarks share: the path to the project, an app as a process, and waiting for a page."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


@contextlib.contextmanager
def process(command: list[str], **env: str) -> Iterator[tuple[subprocess.Popen, float]]:
    """A quiet child process and the moment it was started."""
    variables = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", **env}
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield child, started
    finally:
        child.terminate()
        child.wait(30)


def wait_page(port: int) -> None:
    """Until a page answers on a port."""
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
            return
        time.sleep(0.02)

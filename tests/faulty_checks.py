"""Checks for tests of the self-test's processes: one that is well, and some that are not."""

import os
import signal
import time
from pathlib import Path

from engine.self_checks import Outcome, passed


def well(place: Path) -> Outcome:
    print("what a library prints is no answer")
    return passed(f"process {os.getpid()}", pid=os.getpid(), files=len(list(place.iterdir())))


def crashes(place: Path) -> Outcome:
    os.kill(os.getpid(), signal.SIGSEGV)
    return passed("it goes on")


def hangs(place: Path) -> Outcome:
    time.sleep(600)
    return passed("it came back")


def raises(place: Path) -> Outcome:
    raise RuntimeError("CUDA error: no kernel image\n\nis available")


def tells(place: Path) -> Outcome:
    """What a stranger should not read, as an error might hold it."""
    secret, home = os.environ["HF_TOKEN"], Path.home()
    return passed(f"{secret} in {home}/models, *loud* <b>", where=[f"{home}/x"], token={"value": secret}, number=123456)

"""The parts of the self-test (`engine/self_test.py`): each looks at one thing that a run or a chat here would lean on.

A check is a function from an empty folder of its own to an `Outcome`; it raises `Fault` where something is wrong. It runs in a
process apart, so it may hang or crash.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What a check found: one line for people, what to do about it where it failed, and the figures in the line."""

    status: Status
    text: str
    advice: str = ""
    figures: dict = field(default_factory=dict)


class Fault(Exception):
    """Something is wrong; `advice` says what a person can do about it."""

    def __init__(self, text: str, advice: str, **figures: object):
        super().__init__(text)
        self.outcome = Outcome("failed", text, advice, figures)


def passed(text: str, **figures: object) -> Outcome:
    """All is well."""
    return Outcome("ok", text, figures=figures)


def skipped(reason: str, **figures: object) -> Outcome:
    """It was not looked at, and why not."""
    return Outcome("skipped", reason, figures=figures)


@contextlib.contextmanager
def apart(place: Path) -> Iterator[None]:
    """Keep the engine's state in that folder, and every library off the network: bitsandbytes would fetch a kernel for some
    processors as soon as it is imported."""
    mine = {"GUANACO_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class Check:
    """Where a check is, what people call it, and how many seconds it may take. The first of a process imports what all need."""

    name: str
    module: str
    function: str
    seconds: float


# What touches little comes first, training last: it leaves its process at low priority.
CHECKS = (
    Check("versions", "engine.self_checks.machine", "versions", 20),
    Check("hub", "engine.self_checks.machine", "hub", 20),
    Check("disk", "engine.self_checks.machine", "disk", 60),
    Check("device", "engine.self_checks.numbers", "device", 60),
    Check("16 bits", "engine.self_checks.numbers", "precision", 60),
    Check("4 bits", "engine.self_checks.numbers", "four_bits", 90),
    Check("paged optimizer", "engine.self_checks.numbers", "paged_optimizer", 90),
    Check("llama.cpp", "engine.self_checks.models", "llama_cpp", 90),
    Check("adapter", "engine.self_checks.models", "adapter", 120),
    Check("resume", "engine.self_checks.models", "resume", 120),
)

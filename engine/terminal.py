"""What the commands share: progress and messages on stderr, and the option that asks for JSON on stdout."""

import sys
from typing import Annotated

import typer

from engine.errors import BadInput
from engine.events import Progress

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
_last_report = ""


def report(progress: Progress) -> None:
    """Progress, a line for each new text."""
    global _last_report
    if progress.text != _last_report:
        _last_report = progress.text
        log(progress.text)


def log(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def agreed(question: str, otherwise: str) -> bool:
    """Whether a person says yes. Raises BadInput, with the words for it, where nobody sits there to be asked."""
    if not sys.stdin.isatty():
        raise BadInput(otherwise)
    return typer.confirm(question, err=True)

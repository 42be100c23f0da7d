"""`python -m engine export` in the terminal."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from engine import destinations, export
from engine.terminal import AsJson, log, report


def export_run(
    run: Annotated[str, typer.Argument(help="A run that is done: its id (see `runs`) or folder.")],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="A folder that is not there yet; for hub owner/name.")],
    to: Annotated[str, typer.Option(help=f"One of {', '.join(export.KINDS)}.")],
    public: Annotated[bool, typer.Option("--public", help="For hub: a repository that everybody sees; without it a private one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a finished run along: adapter, merged weights, GGUF, a notebook, or a repository on the Hub."""
    done = export.export(run, to, dest, report, public)
    if as_json:
        print(json.dumps(asdict(done), ensure_ascii=False))
        return
    print(done.place)
    for name, size in done.files.items():
        print(f"{destinations.size_text(size):>10}  {name}")
    for note in done.notes:
        log(note)

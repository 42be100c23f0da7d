"""The blind game in the terminal. `fetch-answers`: the published answers; `votes`: the guesses that were made, out and in."""

import json
from pathlib import Path
from typing import Annotated

import typer

from engine.game import published, records
from engine.game.records import Records
from engine.store import Store
from engine.terminal import AsJson, log, report


def fetch_answers() -> None:
    """Fetch the published answers and ratings for the blind game and the leaderboard; it says from where and how much."""
    log(f"{published.source()}: {published.size() / 1e6:.1f} MB")
    published.fetch(report)
    print("The published answers can be played.")


def votes(
    take: Annotated[Path | None, typer.Option("--import", help="Take the guesses of such an export, each once.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print all guesses of the blind game, one JSON object a line, oldest first; with --json as one list."""
    kept = Records(Store())
    if take:
        log(f"{kept.add(records.read(take))} new guesses were taken from {take}.")
        return
    rows = records.lines(kept.guesses())
    if as_json:
        print(json.dumps([json.loads(row) for row in rows], ensure_ascii=False))
        return
    for row in rows:
        print(row)

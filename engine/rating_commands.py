"""`python -m engine elo`: rate systems by files of pairwise judgements, GPT-4's or this app's players'."""

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.evaluate import bradley_terry, elo, matches
from engine.game import published
from engine.telling import counted
from engine.terminal import AsJson, log, report


def rate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES…",
            help=f"Pairwise rating files, exported votes, or folders of them; {published.JUDGEMENTS} for GPT-4's published ones.",
            show_default=False,
        ),
    ],
    method: Annotated[
        Literal["elo", "bt"],
        typer.Option(help="elo: the paper's, a mean over random orders. bt: Bradley-Terry, order-free, with intervals over prompts."),
    ] = "elo",
    orders: Annotated[int, typer.Option(min=1, max=1_000_000, help="Elo: how many random orders.")] = elo.ORDERS,
    sampled: Annotated[int, typer.Option(min=1, help="Elo: matches drawn for an order.")] = elo.SAMPLED,
    position: Annotated[bool, typer.Option("--position", help="Bradley-Terry: take out that a judge favours what it sees first.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Rate systems by pairwise judgements. low and high: within which 95% of single orders end (elo), or of bootstrap rounds (bt)."""
    found = matches.read([path for each in files for path in _files(each)])
    if method == "elo":
        rated = elo.rate(found, orders, sampled, seed)
        ratings, (low, high) = rated.mean, rated.interval()
    else:
        fitted = bradley_terry.rate(found, position=position, seed=seed)
        ratings, low, high = fitted.ratings, fitted.low, fitted.high
    rows = [
        {"name": name, "rating": _rounded(rating), "low": _rounded(least), "high": _rounded(most)}
        for name, rating, least, most in zip(found.systems, ratings, low, high, strict=True)
    ]
    if (parts := len(matches.groups(found))) > 1:
        log(f"These systems are {parts} groups that never met: ratings of different groups cannot be compared.")
    rows.sort(key=lambda row: -row["rating"])
    if as_json:
        print(json.dumps({"systems": rows}, ensure_ascii=False))
        return
    print(f"{counted(len(found), 'judgement')} on {counted(len(found.prompts), 'prompt')}")
    width = max(len(row["name"]) for row in rows) + 2
    print(f"{'system':<{width}}{'rating':>8}{'95% within':>16}")
    for row in rows:
        within = "too few to say" if row["low"] is None else f"{row['low']:.0f} – {row['high']:.0f}"
        print(f"{row['name']:<{width}}{row['rating']:>8.0f}{within:>16}")
    if method == "bt" and position:
        print(f"Standing first is worth {fitted.position:+.0f} points.")


def _files(named: Path) -> list[Path]:
    """A file or folder, or the published files by their name."""
    if str(named) == published.JUDGEMENTS and not named.exists():
        return published.rating_files(report)
    return [named]


def _rounded(value: float) -> float | None:
    """A tenth of a point; None where it is not known."""
    return None if math.isnan(value) else round(float(value), 1)

"""The blind game in the terminal. `answer`: a model answers a file of questions; `fetch-answers`: the published ones; `votes`: the guesses
that were made, out and in."""

import functools
import json
from pathlib import Path
from typing import Annotated

import typer

from engine import models
from engine.backends import open_backend
from engine.blend import Blend
from engine.chat import stream
from engine.errors import EngineError
from engine.events import Progress
from engine.game import answer_files, answering, published, records
from engine.game.records import Records
from engine.settings import ChatSettings, LoadSettings
from engine.store import Store
from engine.terminal import AsJson, log, report

_DEFAULTS = ChatSettings()


def answer(
    questions: Annotated[Path, typer.Argument(metavar="QUESTIONS", help="A file of question_id, text, category (JSON Lines).")],
    out: Annotated[Path, typer.Option(help="The file of answers to write.")],
    model: Annotated[str, typer.Option(help="A model id, a Hub id, a folder or a GGUF file.")] = models.STARTER,
    adapter: Annotated[str, typer.Option(help="none, an adapter id, a run, a Hub id or a folder.")] = "none",
    name: Annotated[str, typer.Option(help="What the game calls it; without it model and adapter.")] = "",
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 0.9,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096)] = _DEFAULTS.max_new_tokens,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answers.")] = 0,
) -> None:
    """Let a model answer a file of questions; the answers can be played in the blind game."""
    asked = list(answer_files.read_questions(questions).values())
    blend = Blend.of([adapter])
    settings = ChatSettings(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    backend = open_backend(models.resolve(model), LoadSettings(), report)
    try:
        for each in blend.adapters:
            backend.attach(each)
        chat = functools.partial(stream, backend, blend=blend, cold=True)
        called = name or (model if adapter == "none" else f"{model} with {adapter}")
        count = answering.write(out, called, _counted(answering.answers(chat, asked, settings), len(asked)))
    except OSError as error:
        raise EngineError(f"{out} cannot be written: {error.strerror}.") from error
    finally:
        backend.close()
    print(f"{count} answers are in {out}.")


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


def _counted(made, count: int):
    for number, each in enumerate(made, 1):
        report(Progress(f"Answered {number} of {count}"))
        yield each

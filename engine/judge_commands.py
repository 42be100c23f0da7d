"""Answers made and judged, in the terminal. `evaluate generate`: a model answers the published prompts or a file; `judge`: a model
that another server runs compares such answers."""

import functools
import json
from pathlib import Path
from typing import Annotated

import typer

from engine import models
from engine.backends import open_backend
from engine.blend import NO_ADAPTER, Blend
from engine.chat import stream
from engine.errors import EngineError
from engine.evaluate import generations
from engine.evaluate.generations import SETS, Made
from engine.events import Progress
from engine.paths import public_name
from engine.settings import BackendName, ChatSettings, Layout, LoadSettings, Quantization, load_settings
from engine.terminal import AsJson, log, report

_DEFAULTS = ChatSettings()
_DATA = f"{' or '.join(SETS)}: the published prompts, fetched once; or a file of question_id, text, category (JSON Lines)."


def _help(name: str, of: type = LoadSettings) -> str:
    return of.model_fields[name].description


def generate(
    out: Annotated[Path, typer.Option(help="The file of answers, something.jsonl. One that was begun is gone on with.")],
    data: Annotated[str, typer.Option(help=_DATA)] = "vicuna",
    model: Annotated[str, typer.Option(help="A model id, a Hub id, a folder or a GGUF file.")] = models.STARTER,
    adapter: Annotated[str, typer.Option(help="none, an adapter id, a run, a Hub id or a folder.")] = NO_ADAPTER,
    name: Annotated[str, typer.Option(help="What the game and the ratings call it; without it model and adapter.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many questions, spread evenly over the file.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answers.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, max=2, help=_help("temperature", ChatSettings))] = _DEFAULTS.temperature,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help=_help("top_p", ChatSettings))] = _DEFAULTS.top_p,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096, help=_help("max_new_tokens", ChatSettings))] = _DEFAULTS.max_new_tokens,
    backend: Annotated[BackendName, typer.Option(help=_help("backend"))] = BackendName.auto,
    base_url: Annotated[str, typer.Option(help=_help("base_url"))] = "",
    api_key_env: Annotated[str, typer.Option(help=_help("api_key_env"))] = "",
    layout: Annotated[Layout, typer.Option(help=_help("layout"))] = Layout.sharper,
    quantization: Annotated[Quantization | None, typer.Option(help=_help("quantization"))] = None,
    as_json: AsJson = False,
) -> None:
    """Let a model answer questions; the answers can be played in the blind game, and judged. A killed run goes on where it ended."""
    settings = ChatSettings(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    load = load_settings(backend, base_url, api_key_env, quantization, layout)
    spec, blend = models.resolve(model, load), Blend.of([adapter])
    asked = generations.spread(generations.questions(data, report), limit)
    opened = open_backend(spec, load, report)
    try:
        for each in blend.adapters:
            opened.attach(each)
        chat = functools.partial(stream, opened, blend=blend, cold=True)
        loaded = opened.loaded
        about = {
            "model": public_name(loaded.model),
            "adapter": blend.label or NO_ADAPTER,
            "backend": loaded.backend,
            "quantization": loaded.quantization,
        }
        called = name or (f"{about['model']} with {blend.label}" if blend.parts else about["model"])
        called = called.replace(":", " ")  # in published files what follows a colon is a version, and no part of the name
        for each in generations.generate(chat, out, called, asked, settings, about):
            match each:
                case Progress():
                    report(each)
                case Made():
                    made = each
    except KeyboardInterrupt:
        log(f"Stopped. What was answered is in {out}; the same command goes on with it.")
        raise typer.Exit(1) from None
    except OSError as error:
        raise EngineError(f"{out} cannot be written: {error.strerror}.") from error
    finally:
        opened.close()
    if as_json:
        print(json.dumps({"out": str(out), "answers": made.answers, "new": made.new, "name": called, **about}, ensure_ascii=False))
        return
    print(f"{made.answers} answers are in {out}, {made.new} of them new.")

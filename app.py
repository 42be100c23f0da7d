"""Start the app: reads flags, builds the services, builds the page, serves it."""

import contextlib
import sys
from typing import Annotated

import typer

from engine import ports
from engine.errors import EngineError
from engine.model_spec import STARTER
from engine.runtime import Runtime
from engine.services import Services
from engine.settings import BackendName, Layout, LoadSettings, Quantization, load_settings


def _help(name: str) -> str:
    return LoadSettings.model_fields[name].description


def main(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    share: Annotated[bool, typer.Option("--share", help="Also open a public gradio.live link.")] = False,
    model: Annotated[
        str, typer.Option(help="A model id (see `python -m engine models`), a Hub id, a folder, a GGUF file, or scripted.")
    ] = STARTER,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="none, an adapter id, a run, a Hub id or a folder. Without it: the model's own, and guanaco-mini on the starter."
        ),
    ] = None,
    backend: Annotated[BackendName, typer.Option(help=_help("backend"))] = BackendName.auto,
    base_url: Annotated[str, typer.Option(help=_help("base_url"))] = "",
    api_key_env: Annotated[str, typer.Option(help=_help("api_key_env"))] = "",
    layout: Annotated[Layout, typer.Option(help=_help("layout"))] = Layout.sharper,
    quantization: Annotated[Quantization | None, typer.Option(help=_help("quantization"))] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="For public hosts: no downloads, uploads, training or file paths from visitors.")
    ] = False,
    training: Annotated[
        bool, typer.Option("--training", help="With --read-only: visitors may finetune, on data they upload or that is on the Hub.")
    ] = False,
) -> None:
    """Guanaco Playground: chat with a 4-bit Guanaco in the browser."""
    try:
        ports.check(host, port)
        with contextlib.closing(Runtime(load_settings(backend, base_url, api_key_env, quantization, layout))) as runtime:
            # The model loads in a process of its own while this one imports gradio.
            runtime.load(model, adapter, log=True)
            import ui

            ui.serve(Services(runtime, read_only, training), host, port, share)
    except EngineError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(main)

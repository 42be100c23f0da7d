"""The command line: `python -m engine models|chat|inspect-data|estimate|train|job|runs|export|elo|evaluate|judge|fetch-answers|votes|layouts|thumbs|doctor`.

With `--json` a command prints one JSON document on stdout; all else goes to stderr. Exit code 0 done, 2 bad input
(one clear line on stderr), 1 anything else.
"""

import itertools
import json
import sys
import traceback
from dataclasses import asdict
from typing import Annotated, Literal, NoReturn

import typer

from engine import (
    doctor_commands,
    evaluate_commands,
    export_commands,
    game_commands,
    hardware,
    inspecting,
    job_commands,
    judge_commands,
    layout_figures,
    models,
    rating_commands,
    training_commands,
)
from engine.backends import open_backend
from engine.blend import Blend
from engine.chat import stream
from engine.data_formats import FORMATS
from engine.datasets import AUTO
from engine.errors import BadInput, EngineError
from engine.events import Failed, Finished, Notice, Token
from engine.examples import Lengths
from engine.messages import Conversation, checked_text
from engine.prompts import PROMPTS, prompt_format
from engine.settings import BackendName, ChatSettings, Layout, LoadSettings, Quantization, load_settings, made, option
from engine.store import Store
from engine.telling import counted
from engine.terminal import AsJson, log, report

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Guanaco Playground without a browser.")
_DEFAULTS = ChatSettings()


def _help(name: str, of: type = ChatSettings) -> str:
    return of.model_fields[name].description


@app.command("models")
def list_models(
    quantizations: Annotated[
        bool, typer.Option("--quantizations", help="Compare llama.cpp's quantizations of LLaMA 7B to 65B instead: size, memory, use.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models known by name: size, licence, whether they fit this machine and are on disk."""
    machine = hardware.machine()
    rows = models.quantization_listing(machine) if quantizations else models.listing(machine)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    print(f"This machine: {machine.summary}")
    if quantizations:
        _print_quantizations(rows, machine)
        return
    print(f"{'id':<15}{'parameters':>11}{'download':>10}{'in 4 bits':>10}  {'fits':<5}{'on disk':<9}{'prompt':<10}licence")
    for row in rows:
        print(
            f"{row['id']:<15}{row['size'] / 1e9:>10.2f}B{row['download_bytes'] / 1e9:>8.1f}GB{row['memory_4bit_bytes'] / hardware.GIB:>8.1f}GB  "
            f"{'yes' if row['fits'] else 'no':<5}{'yes' if row['on_disk'] else 'no':<9}{row['prompt_format']:<10}{row['licence']}{' (gated)' if row['gated'] else ''}"
        )


def _print_quantizations(rows: list[dict], machine: hardware.Machine) -> None:
    print(f"Memory is RAM for 2,048 tokens of chat: {machine.model_ram / 1e9:.1f} GB can be used. * is the best that fits.")
    for model, group in itertools.groupby(rows, key=lambda row: row["model"]):
        print(f"\n{model:<15}{'bits':>5}{'file':>9}{'memory':>9}  {'fits':<5}good for")
        for row in group:
            print(
                f"{'*' if row['best'] else ' '} {row['method']:<13}{row['bits']:>5.2f}{row['file_bytes'] / 1e9:>7.2f}GB"
                f"{row['memory_bytes'] / 1e9:>7.2f}GB  {'yes' if row['fits'] else 'no':<5}{row['use']}"
            )


@app.command()
def chat(
    text: Annotated[str, typer.Argument(metavar="PROMPT", help="The message to answer.")],
    model: Annotated[str, typer.Option(help="A model id (see `models`), a Hub id, a folder or a GGUF file.")] = models.STARTER,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="An adapter id, Hub id or folder; none for the bare base. Several are mixed. Without it: none, or the adapter that is part of the model."
        ),
    ] = None,
    scale: Annotated[
        list[float] | None, typer.Option(help="How strongly an adapter counts, 0 to 1.5; as often as --adapter, in the same order.")
    ] = None,
    backend: Annotated[BackendName, typer.Option(help=_help("backend", LoadSettings))] = BackendName.auto,
    base_url: Annotated[str, typer.Option(help=_help("base_url", LoadSettings))] = "",
    api_key_env: Annotated[str, typer.Option(help=_help("api_key_env", LoadSettings))] = "",
    layout: Annotated[Layout, typer.Option(help=_help("layout", LoadSettings))] = Layout.sharper,
    quantization: Annotated[Quantization | None, typer.Option(help=_help("quantization", LoadSettings))] = None,
    system: Annotated[str, typer.Option(help="System text.")] = "",
    prompt_format: Annotated[str | None, typer.Option(help="guanaco, openorca, alpaca, chat or plain; without it the model's own.")] = None,
    temperature: Annotated[float, typer.Option(help=_help("temperature"))] = _DEFAULTS.temperature,
    top_p: Annotated[float, typer.Option(help=_help("top_p"))] = _DEFAULTS.top_p,
    top_k: Annotated[int, typer.Option(help=_help("top_k"))] = _DEFAULTS.top_k,
    repetition_penalty: Annotated[float, typer.Option(help=_help("repetition_penalty"))] = _DEFAULTS.repetition_penalty,
    max_new_tokens: Annotated[int, typer.Option(help=_help("max_new_tokens"))] = _DEFAULTS.max_new_tokens,
    seed: Annotated[int | None, typer.Option(help=_help("seed"))] = None,
    as_json: AsJson = False,
) -> None:
    """Answer one message."""
    settings = made(
        ChatSettings,
        option,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    load = load_settings(backend, base_url, api_key_env, quantization, layout)
    spec = models.resolve(model, load)
    blend = Blend.of(adapter or [spec.adapter], scale or [])
    conversation = Conversation(system=checked_text(system, "The system text")).add("user", checked_text(text))
    opened = open_backend(spec, load, report)
    try:
        for name in blend.adapters:
            opened.attach(name)
        for event in stream(opened, conversation, settings, blend=blend, form=prompt_format, cold=True):
            match event:
                case Token():
                    if not as_json:
                        print(event.text, end="", flush=True)
                case Notice():
                    log(event.text)
                case Failed():
                    raise event.error
                case Finished():
                    _finish(event, as_json)
    finally:
        opened.close()


@app.command("inspect-data")
def inspect_data(
    source: Annotated[
        str,
        typer.Argument(metavar="FILE", help="CSV, TSV, JSON, JSON Lines, Parquet or text; or a Hub data set owner/name[@config][:split]."),
    ],
    data_format: Annotated[str, typer.Option("--format", help=f"{AUTO}, or one of {', '.join(FORMATS)}.")] = AUTO,
    prompt: Annotated[str, typer.Option("--prompt-format", help=f"One of {', '.join(PROMPTS)}.")] = "guanaco",
    model: Annotated[str, typer.Option(help="The model whose tokenizer counts.")] = models.STARTER,
    max_length: Annotated[
        int | None, typer.Option(help="Most tokens of a row; 512 where no other limit is given.", show_default=False)
    ] = None,
    source_length: Annotated[int | None, typer.Option(help="Most tokens before the last answer.")] = None,
    target_length: Annotated[int | None, typer.Option(help="Most tokens of the last answer with its end.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Which column is a format's field, as in instruction=question; as often as needed.")
    ] = None,
    learn: Annotated[Literal["answers", "everything"], typer.Option(help="What is learnt.")] = "answers",
    as_json: AsJson = False,
) -> None:
    """Say what is in a data set, row by row, before anything is trained on it."""
    limits = {} if (max_length, source_length, target_length) == (None, None, None) else {"total": max_length}
    lengths = Lengths(**limits, source=source_length, target=target_length)
    spec, form = models.resolve(model), prompt_format(prompt)
    found = inspecting.inspected(source, spec, form, lengths, data_format, _columns(column or []), learn == "everything", report)
    if as_json:
        print(json.dumps(found.document(form, spec, lengths), ensure_ascii=False))
    else:
        print(found.table())


def _columns(pairs: list[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        field, separator, column = pair.partition("=")
        if not (field and separator and column):
            raise BadInput(f"--column {pair}: say which column is a field, as in instruction=question.")
        columns[field] = column
    return columns


app.command("train")(training_commands.train)
app.command("estimate")(training_commands.estimate)
app.command("job")(job_commands.job)
app.command("runs")(training_commands.list_runs)
app.command("export")(export_commands.export_run)
app.command("elo")(rating_commands.rate)
app.add_typer(evaluate_commands.app, name="evaluate")
app.command("judge")(judge_commands.judge)
app.command("fetch-answers")(game_commands.fetch_answers)
app.command("votes")(game_commands.votes)
app.command("doctor")(doctor_commands.doctor)


@app.command("layouts")
def compare_layouts(
    model: Annotated[str, typer.Option(help="A model that llama.cpp runs.")] = models.STARTER, as_json: AsJson = False
) -> None:
    """Measure a model as shipped (sharper) against its layout for this processor (faster): speed and perplexity, here."""
    rows = layout_figures.measured(models.resolve(model), report)
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['layout']:<9}{row['quantization']:<10}{row['bytes'] / 1e6:>8.0f} MB{row['tokens_per_second']:>8.1f} tokens/s"
            f"   perplexity {row['perplexity']:.2f}"
        )


@app.command()
def thumbs(as_json: AsJson = False) -> None:
    """Print the visitors' verdicts on answers, one JSON object a line, oldest first; with --json as one list."""
    rows = Store().thumbs()
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


def _finish(event: Finished, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(event), ensure_ascii=False))
        return
    print()
    log(
        f"{counted(event.tokens, 'token')}, {event.tokens_per_second} tokens/s, first after {event.ttft_seconds:.2f} s, ended: {event.finish_reason}, seed {event.seed}"
    )


def main() -> NoReturn:
    """Run a command and exit with the code of the contract."""
    try:
        code = app(standalone_mode=False) or 0
    except EngineError as error:
        log(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        code = 1
    except Exception as error:
        code = _exit_code_of(error)
    sys.exit(code)


def _exit_code_of(error: Exception) -> int:
    """Typer's own complaints are bad input, in one line; anything else shows where it happened."""
    message = getattr(error, "format_message", None)
    if message:
        if message():
            log(f"{message()} (see --help)")
        return 2
    traceback.print_exception(error)
    return 1


if __name__ == "__main__":
    main()

"""`python -m engine evaluate`: perplexity, MMLU and CrowS-Pairs of a model, resumed where they stopped; what was measured; two of them
compared; answers for a judge or the game. Ctrl-C ends and keeps what was scored."""

import json
import os
import shlex
import signal
import threading
from typing import Annotated

import typer

from engine import judge_commands, models
from engine.blend import NO_ADAPTER
from engine.errors import BadInput
from engine.evaluate import comparing, expectations, measurements, measuring
from engine.evaluate.measurements import Measurement, MeasurementSettings
from engine.evaluate.perplexity import As
from engine.events import Ended, Event, Notice, Progress, Queued
from engine.settings import BackendName, LoadSettings, Quantization, load_settings, made, option
from engine.terminal import AsJson, log, report

app = typer.Typer(no_args_is_help=True, help="Measure a model: perplexity, MMLU, CrowS-Pairs; or have it answer.")
app.command("generate")(judge_commands.generate)


def _help(name: str, of: type = MeasurementSettings) -> str:
    return of.model_fields[name].description


Model = Annotated[str, typer.Option(help="A model id (see `models`), a Hub id, a folder or a GGUF file.")]
Adapter = Annotated[
    str, typer.Option(help="An adapter id, a run, a Hub id or a folder; none for the bare base. Without it: none, or the model's own.")
]
Data = Annotated[str, typer.Option(help=_help("data"))]
Limit = Annotated[int | None, typer.Option(help=_help("limit"))]
Seed = Annotated[int, typer.Option(help=_help("seed"))]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows/--stop-at-bad-rows", help="Leave out rows that cannot be used, or end.")]
Backend = Annotated[BackendName, typer.Option(help="What runs the model; auto is transformers, which can do all of it.")]
BaseUrl = Annotated[str, typer.Option(help=_help("base_url", LoadSettings))]
ApiKeyEnv = Annotated[str, typer.Option(help=_help("api_key_env", LoadSettings))]
Held = Annotated[Quantization | None, typer.Option(help=f"{_help('quantization', LoadSettings)} Without it nf4.")]
Resume = Annotated[str, typer.Option(metavar="ID", help="Go on with a measurement that did not end, by its own settings.")]


@app.command()
def perplexity(
    model: Model = models.STARTER,
    adapter: Adapter = "",
    data: Data = "",
    read_as: Annotated[As, typer.Option("--as", help=_help("read_as"))] = "auto",
    prompt_format: Annotated[str, typer.Option(help=_help("prompt_format"))] = "auto",
    system: Annotated[str | None, typer.Option(help=_help("system"))] = None,
    max_length: Annotated[int, typer.Option(help=_help("max_length"))] = 512,
    limit: Limit = None,
    seed: Seed = 0,
    skip_bad_rows: SkipBadRows = True,
    backend: Backend = BackendName.auto,
    quantization: Held = None,
    resume: Resume = "",
    as_json: AsJson = False,
) -> None:
    """Perplexity of a text, or of the answers of a data set as training would learn them."""
    load = _load(backend, "", "", quantization)
    own = {"read_as": read_as, "prompt_format": prompt_format, "system": system, "max_length": max_length}
    _measure("perplexity", resume, as_json, model, adapter, load, data=data, limit=limit, seed=seed, skip_bad_rows=skip_bad_rows, **own)


@app.command()
def mmlu(
    model: Model = models.STARTER,
    adapter: Adapter = "",
    data: Data = "",
    shots: Annotated[int, typer.Option(help=f"0 or 5. {_help('shots')}")] = 5,
    shots_from: Annotated[str, typer.Option(help=_help("shots_from"))] = "",
    limit: Limit = None,
    seed: Seed = 0,
    skip_bad_rows: SkipBadRows = True,
    backend: Backend = BackendName.auto,
    base_url: BaseUrl = "",
    api_key_env: ApiKeyEnv = "",
    quantization: Held = None,
    resume: Resume = "",
    as_json: AsJson = False,
) -> None:
    """MMLU by subject, group and on average: which of A to D is likeliest behind the question."""
    load = _load(backend, base_url, api_key_env, quantization)
    own = {"shots": shots, "shots_from": shots_from}
    _measure("mmlu", resume, as_json, model, adapter, load, data=data, limit=limit, seed=seed, skip_bad_rows=skip_bad_rows, **own)


@app.command()
def crows(
    model: Model = models.STARTER,
    adapter: Adapter = "",
    data: Data = "",
    limit: Limit = None,
    seed: Seed = 0,
    skip_bad_rows: SkipBadRows = True,
    backend: Backend = BackendName.auto,
    quantization: Held = None,
    resume: Resume = "",
    as_json: AsJson = False,
) -> None:
    """CrowS-Pairs: how often the more stereotypical of two sentences is the likelier one, by category."""
    load = _load(backend, "", "", quantization)
    _measure("crows", resume, as_json, model, adapter, load, data=data, limit=limit, seed=seed, skip_bad_rows=skip_bad_rows)


@app.command("list")
def list_measurements(as_json: AsJson = False) -> None:
    """List the measurements, newest first."""
    rows = measurements.of_all(measurements.summary)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    if not rows:
        print("Nothing has been measured yet. Begin with: python -m engine evaluate mmlu --limit 200")
    width = max([42, *(len(row["id"]) for row in rows)]) + 2
    for row in rows:
        text = measuring.words(row["result"]["measure"], row["result"]) if row["result"] else row["text"]
        print(f"{row['id']:<{width}}{row['status']:<13}{text}")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="A measurement, such as the base's.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another one of the same items, such as the adapter's.")],
    as_json: AsJson = False,
) -> None:
    """Compare two measurements item by item, with a paired test."""
    found = comparing.compared(measurements.find(first), measurements.find(second))
    if as_json:
        print(json.dumps(found.plain(), ensure_ascii=False))
        return
    print(found.words)
    print(", ".join(f"{word} {count:,}" for word, count in found.counted.items()))


def _load(backend: BackendName, base_url: str, api_key_env: str, quantization: Quantization | None) -> LoadSettings:
    if backend == BackendName.auto and not base_url:
        backend = BackendName.transformers
    return load_settings(backend, base_url, api_key_env, quantization)


def _measure(name: str, resume: str, as_json: bool, model: str, adapter: str, load: LoadSettings, **values: object) -> None:
    measurement = _resumed(name, resume) if resume else _new(name, model, adapter, load, values)
    if not measurement.result:
        log(f"Measurement {measurement.id} in {measurement.folder}")
        _end_on_signals(measurement)
        ended = measuring.work(measurement, _show)
        if ended.status != "done":
            log(f"{ended.text} Go on with: python -m engine evaluate {name} --resume {shlex.quote(measurement.id)}")
            raise typer.Exit(1)
    if as_json:
        print(json.dumps(measurements.summary(measurement), ensure_ascii=False))
        return
    facts = measurement.facts
    print(
        f"{facts['model']}, adapter {facts['adapter']}: {facts['backend']}, {facts['quantization']}, {facts['compute_dtype']}, {facts['device']}"
    )
    _print(measurement)


def _resumed(name: str, id: str) -> Measurement:
    found = measurements.find(id)
    if found.settings.measure != name:
        raise BadInput(
            f"{id} measures {found.settings.measure}: go on with python -m engine evaluate {found.settings.measure} --resume {id}"
        )
    return found


def _new(name: str, model: str, adapter: str, load: LoadSettings, values: dict) -> Measurement:
    spec = models.resolve(model, load)
    chosen = adapter or spec.adapter or NO_ADAPTER
    settings = made(MeasurementSettings, option, measure=name, model=model, adapter=chosen, load=load, **values)
    log(expectations.expected(settings, measuring.read(settings, report)).text)
    return measurements.create(settings)


def _end_on_signals(measurement: Measurement) -> None:
    """The first Ctrl-C (or a polite kill) asks to end; a second Ctrl-C ends at once."""

    def ask(number: int, frame: object) -> None:
        measurement.ask_to_stop(os.getpid())
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)


def _show(event: Event) -> None:
    match event:
        case Progress():
            report(event)
        case Notice():
            log(event.text)
        case Queued():
            log(f"Waiting for {event.holder}, place {event.place} in line.")
        case Ended():
            pass  # told by whoever waits for the end


def _print(measurement: Measurement) -> None:
    """A result as a table."""
    measure, result = measurement.settings.measure, measurement.result
    print(f"{measuring.titled(measure, measurement.facts)}: {measuring.words(measure, result)}")
    groups = {"mmlu": ("groups", "subjects"), "crows": ("categories",), "perplexity": ()}[measure]
    for key in groups:
        print()
        for row in result[key]:
            print(f"{row.get('title', row['name']):<44}{row['share']:>7.1%}  ({row['low']:.1%} – {row['high']:.1%})  of {row['of']:,}")
    for text in (*result["told"], *result.get("caveats", ())):
        print(f"\n{text}")

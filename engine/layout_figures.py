"""Both layouts of a model measured on this machine, and the figures kept for whoever chooses between them."""

import contextlib
import json
import statistics
from pathlib import Path

from engine import gguf_file, hardware, hub, measuring, paths
from engine.errors import BadInput
from engine.events import Progress
from engine.model_spec import ModelSpec
from engine.settings import Layout, LoadSettings

ROUNDS = 5


def kept(spec: ModelSpec) -> list[dict]:
    """What `measured` gave the last time, empty where it never ran on this machine for the file as it is."""
    rows = _known().get(_key(spec.gguf_path)) if spec.gguf_path else None
    return rows if isinstance(rows, list) else []


def measured(spec: ModelSpec, report: hub.Report) -> list[dict]:
    """A row for each layout, sharper first: layout, quantization, bytes, tokens_per_second, perplexity. Takes about half a
    minute for a small model; the two take turns, and the machine should do nothing else.

    Raises BadInput for what llama.cpp does not run and where the faster layout would not pay, EngineError."""
    from engine.backends.llamacpp import LlamaCppBackend

    if spec.runs_with(LoadSettings(), hardware.machine()) != "llama.cpp":
        raise BadInput(f"{spec.id} does not run through llama.cpp here, so there is no layout to choose.")
    with contextlib.ExitStack() as stack:
        opened = {
            layout: stack.enter_context(contextlib.closing(LlamaCppBackend(spec, LoadSettings(layout=layout), report, most_slots=1)))
            for layout in Layout
        }
        speeds: dict[Layout, list[float]] = {layout: [] for layout in Layout}
        for number in range(ROUNDS + 1):
            report(Progress("Measuring the speed of both layouts", number / (ROUNDS + 1)))
            for layout, backend in opened.items():
                speeds[layout].append(measuring.speed(backend.client))
        rows = []
        for layout, backend in opened.items():
            report(Progress(f"Measuring how sharp the {layout} layout is"))
            rows.append(
                {
                    "layout": str(layout),
                    "quantization": gguf_file.quantization(backend.header),
                    "bytes": backend.header.path.stat().st_size,
                    # The first round reads the file from the disk.
                    "tokens_per_second": round(statistics.median(speeds[layout][1:]), 1),
                    "perplexity": round(measuring.perplexity(backend.client), 2),
                }
            )
        _keep(spec.gguf_path, rows)
    return rows


def _known() -> dict:
    """All figures that were kept; none where they cannot be read, since they can be measured again."""
    with contextlib.suppress(BadInput, OSError):
        return paths.read_object(_place(), "the figures of layouts")
    return {}


def _keep(path: Path, rows: list[dict]) -> None:
    beside = _place().with_suffix(".part")
    beside.write_text(json.dumps({**_known(), _key(path): rows}), encoding="utf-8")
    beside.replace(_place())


def _key(path: Path) -> str:
    state = path.stat()
    return f"{path.name}-{state.st_size}-{state.st_mtime_ns}"


def _place() -> Path:
    return paths.home() / "layouts.json"

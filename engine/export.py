"""A finished run, to take along: its adapter, merged weights, GGUF files, a notebook that redoes it, or a repository on the Hub.

An export is complete or absent, checked before it counts, and overwrites nothing.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine import adapters, destinations, gguf_export, hub, merging, model_card, notebook_export, paths, pushing, runs, trained
from engine.destinations import Exported
from engine.errors import BadInput
from engine.events import Progress
from engine.trained import Trained

# A card with its picture, a recipe, a playground.json.
_SPARE_BYTES = 2_000_000


def export(name: str, kind: str, dest: str, report: hub.Report, public: bool = False) -> Exported:
    """Export the run of that id or folder. `public` is for the Hub alone. Raises BadInput or EngineError with what to do."""
    if kind not in KINDS:
        raise BadInput(f"There is no export {kind!r}. There are: {', '.join(KINDS)}.")
    if public and kind != "hub":
        raise BadInput("--public is for --to hub: a folder on this machine is nobody else's.")
    return KINDS[kind](trained.find(name), dest, report, public)


def _exported(source: Trained, kind: str, target: Path, checks: dict | None = None, notes: tuple[str, ...] = ()) -> Exported:
    found = sorted(target.rglob("*")) if target.is_dir() else [target]
    files = {(path.relative_to(target) if target.is_dir() else path.name): path.stat().st_size for path in found if path.is_file()}
    return Exported(
        source.run.id, kind, str(target), {str(name): size for name, size in files.items()}, checks or {}, _about(source, *notes)
    )


def _about(source: Trained, *notes: str) -> tuple[str, ...]:
    gated = f"The base {source.base} is gated: whoever uses this has to accept its licence on its page of the Hub."
    return (*notes, *([gated] if source.gated else []))


def _adapter(source: Trained, dest: str, report: hub.Report, public: bool) -> Exported:
    target = destinations.checked(dest, source.run)
    with destinations.writing(target, _adapter_bytes(source)) as folder:
        _write_adapter(folder, source)
    return _exported(source, "adapter", target)


def _adapter_bytes(source: Trained) -> int:
    return source.adapter.weights.stat().st_size + _SPARE_BYTES


def _write_adapter(folder: Path, source: Trained, repo: str = "") -> None:
    """PEFT's two files, where the adapter comes from, its recipe and its card. No path of this machine is in any of them."""
    shutil.copyfile(source.adapter.weights, folder / adapters.WEIGHTS)
    config = paths.read_object(source.run.adapter / adapters.CONFIG, adapters.CONFIG)
    config["base_model_name_or_path"] = source.original or source.base
    facts = source.adapter.playground | {
        "base": source.base,
        "base_id": paths.public_name(str(source.adapter.playground.get("base_id", ""))),
    }
    for name, value in ((adapters.CONFIG, config), (adapters.PLAYGROUND, facts)):
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    # Before the card and the recipe: people may write on in those.
    paths.write_manifest(folder)
    (folder / runs.RECIPE).write_text(source.shareable_recipe.to_yaml(), encoding="utf-8")
    model_card.write(folder, source, "adapter", repo)
    adapters.read(folder, source.run.id)


def _merged(source: Trained, dest: str, report: hub.Report, public: bool) -> Exported:
    target = destinations.checked(dest, source.run)
    found = merging.write(source, target, report)
    return _exported(source, "merged", target, {"merged": found.numbers}, (f"Checked: {found.text}.",))


def _gguf(source: Trained, dest: str, report: hub.Report, public: bool) -> Exported:
    target = destinations.checked(dest, source.run)
    likely, agreement = gguf_export.write(source, target, report)
    checks = {"merged": likely.numbers, "gguf": agreement.numbers}
    return _exported(source, "gguf", target, checks, (f"Checked: {likely.text}; {agreement.text}.",))


def _notebook(source: Trained, dest: str, report: hub.Report, public: bool) -> Exported:
    target = destinations.checked(dest, source.run)
    return _exported(source, "notebook", target, notes=notebook_export.write(source, target))


def _hub(source: Trained, dest: str, report: hub.Report, public: bool) -> Exported:
    pushing.check(dest)
    report(Progress("Writing the adapter and its card", None))
    with tempfile.TemporaryDirectory(dir=paths.home()) as folder:
        target = Path(folder) / "adapter"
        with destinations.writing(target, _adapter_bytes(source)) as partial:
            _write_adapter(partial, source, dest)
        address = pushing.push(target, dest, public, f"Adapter of the run {source.run.id}", report)
        files = {path.name: path.stat().st_size for path in sorted(target.iterdir()) if path.name != paths.MANIFEST}
    return Exported(source.run.id, "hub", address, files, notes=_about(source, f"It is {'public' if public else 'private'}."))


KINDS: dict[str, Callable[[Trained, str, hub.Report, bool], Exported]] = {
    "adapter": _adapter,
    "merged": _merged,
    "gguf": _gguf,
    "notebook": _notebook,
    "hub": _hub,
}

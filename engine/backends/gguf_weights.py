"""A model as one GGUF file, seen to before it is loaded: fetched or converted if it must be, its header read, cuts found."""

from pathlib import Path

from engine import ggml, gguf_file, gguf_hub, layouts, paths, starter
from engine.errors import BadInput
from engine.gguf_file import Header
from engine.hub import Report
from engine.model_spec import ModelSpec, folder_name
from engine.settings import Layout


def fetch(spec: ModelSpec, report: Report) -> Header:
    """The header of the model's GGUF file, which is then there with all its tensors. Raises BadInput or EngineError."""
    if spec.kind == "starter":
        path = starter.gguf(report)
        try:
            return gguf_file.read(path)
        except BadInput as error:
            return gguf_file.read(starter.gguf(report, str(error)))
    if spec.format == "ggml":
        return gguf_file.read(_converted(spec, report))
    if spec.format == "gguf" and spec.local:
        return gguf_file.read(spec.local)
    if spec.gguf_repository:
        return gguf_file.read(gguf_hub.fetch(*spec.gguf_repository, report))
    raise BadInput(f"{spec.id} has no GGUF file that llama.cpp could run. Choose the backend transformers, or a GGUF file of it.")


def in_layout(header: Header, layout: Layout, report: Report) -> Header:
    """The header of the file in the layout asked for, which is made once. Raises BadInput where it would not pay."""
    if layout == Layout.sharper:
        return header
    folder = paths.models() / "faster" / folder_name(str(header.path))
    return gguf_file.read(layouts.relay(header.path, folder, report))


def _converted(spec: ModelSpec, report: Report) -> Path:
    """The GGUF file made of a GGML file, once for each version of that."""
    folder = paths.models() / f"{spec.folder.name}-gguf"
    kept = next(iter(folder.glob("*.gguf")), None)
    if kept and paths.read_manifest(folder).get("origin") == spec.origin and not paths.damaged(folder):
        return kept
    return ggml.to_gguf(spec.local, folder, report, source=spec.source, origin=spec.origin)


def damaged(path: Path) -> str | None:
    """What is wrong with a file whose checksum is known, None where nothing is or no checksum is known (faults, row 9)."""
    return paths.damaged(path.parent) if has_checksum(path) else None


def has_checksum(path: Path) -> bool:
    """Whether a manifest beside the file holds its checksum."""
    return (path.parent / paths.MANIFEST).is_file()


def again(spec: ModelSpec, path: Path, wrong: str, layout: Layout, report: Report) -> Header:
    """The header of a file made again in place of a damaged one. Raises BadInput where that is the person's own to do."""
    if layout == Layout.faster:
        path.unlink()
        return in_layout(fetch(spec, report), layout, report)
    if spec.kind == "starter":
        return gguf_file.read(starter.gguf(report, wrong))
    raise BadInput(f"The model {spec.id} is damaged: {wrong}. Delete {path.parent} and fetch it again.")

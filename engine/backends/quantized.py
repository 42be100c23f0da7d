"""4-bit weights kept on disk: quantizing takes seconds to minutes on a CPU, so it is done once for each model.

The copy is an optimisation only: it is used where it is whole and was made from the very files that are there now.
"""

import contextlib
import shutil
from pathlib import Path

from engine import paths
from engine.errors import BadInput
from engine.model_spec import ModelSpec, folder_name
from engine.settings import LoadSettings

SPARE_BYTES = 2 * 2**30


def place(spec: ModelSpec, load: LoadSettings) -> Path:
    """Where the 4-bit copy of a model with these settings is, or would be."""
    double = "-double" if load.double_quantization else ""
    return paths.models() / "quantized" / f"{folder_name(str(spec.folder))}-{load.quantization}{double}-{load.compute_dtype}"


def _origin(spec: ModelSpec) -> list:
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(spec.folder.glob("*.safetensors"))]


def current(spec: ModelSpec, load: LoadSettings) -> Path | None:
    """The folder of a copy made from the model's files as they are now, or None. Its checksums are not compared here."""
    folder = place(spec, load)
    try:
        manifest = paths.read_manifest(folder)
    except BadInput:
        return None
    return folder if manifest.get("origin") == _origin(spec) else None


def keep(model, spec: ModelSpec, load: LoadSettings) -> None:
    """Save a freshly quantized model, if the disk has room to spare. Failing to is no failure: the next start quantizes
    again."""
    target = place(spec, load)
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(target.parent).free < model.get_memory_footprint() + SPARE_BYTES:
            return
        with paths.building(target) as folder:
            model.save_pretrained(folder)
            paths.write_manifest(folder, origin=_origin(spec))

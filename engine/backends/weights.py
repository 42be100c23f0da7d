"""A model's weights, seen to before they are loaded: fetched, converted or made again, verified, and what cannot run refused."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine import conversion, hardware, hub, models, paths, starter
from engine.backends import gguf_weights, quantized
from engine.errors import BadInput
from engine.events import Progress
from engine.model_files import check_architecture, read_config
from engine.model_spec import ModelSpec
from engine.settings import LoadSettings


def fetch(spec: ModelSpec, load: LoadSettings, report: hub.Report) -> tuple[ModelSpec, Path]:
    """See that the weights lie in `spec.folder` as safetensors, whole: downloaded, converted or made again if they must
    be. Gives the spec completed by what its config says, and the folder to load weights from: its own, or a 4-bit copy.
    Refuses before any download what cannot run or fit here."""
    report(Progress(f"Checking {spec.id}"))
    there = spec.in_safetensors
    copy = quantized.current(spec, load) if there and load.quantization != "none" and not hardware.machine().has_gpu else None
    if copy and not _damage_found_while_importing(copy):
        return models.described(spec, read_config(spec.folder)), copy
    wrong = _damage_found_while_importing(spec.folder) if there else None
    if spec.format != "safetensors":
        if wrong:
            report(Progress(f"{spec.id} is damaged ({wrong}); making it again"))
        if wrong or not there:
            if spec.kind == "starter":
                starter.make(report)
            else:
                source = gguf_weights.fetch(spec, report).path
                conversion.gguf_to_folder(source, spec.folder, report, source=spec.source, origin=spec.origin)
    elif not there:
        repo, spec = looked_up(spec)
        models.check_fit(spec, hardware.machine(), load)
        hub.download(repo, hub.model_files(repo), spec.folder, report)
    elif wrong := wrong or damaged_safetensors(spec.folder):
        raise BadInput(f"The model {spec.id} is damaged: {wrong}. Delete {spec.folder} and fetch it again.")
    config = read_config(spec.folder)
    check_architecture(config, spec.id)
    return models.described(spec, config), spec.folder


def looked_up(spec: ModelSpec) -> tuple[hub.Repository, ModelSpec]:
    """A model's repository on the Hub, and the spec completed by its config, of which alone anything is fetched. Refuses what cannot
    run here, or has no safetensors weights."""
    repo = hub.repository(spec.source)
    config = hub.read_json(repo, "config.json")
    check_architecture(config, spec.source)
    hub.model_files(repo)
    return repo, models.described(spec, config)


def _damage_found_while_importing(folder: Path) -> str | None:
    """`paths.damaged`, with the imports of the libraries in this thread meanwhile: both take a second or more."""
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(paths.damaged, folder)
        import torch  # noqa: F401
        import transformers.models.auto.modeling_auto  # noqa: F401

        return found.result()


def damaged_safetensors(folder: Path) -> str | None:
    """Read every weights file's header: None when all are whole, else which is not. Finds cuts and broken headers;
    flipped bits inside tensors are found where a manifest holds the file's checksum."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "numpy") as file:
                file.keys()
        except (SafetensorError, OSError, ValueError) as error:
            return f"{path.name} cannot be read ({str(error)[:100]})"
    return None

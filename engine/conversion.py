"""A GGUF file turned once into a transformers folder (float32 safetensors, tokenizer, manifest), complete or absent."""

from pathlib import Path

from engine import gguf_file, hardware, hub, paths, quiet
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.models import smaller_models


def gguf_to_folder(gguf: Path, target: Path, report: hub.Report, **about: object) -> Path:
    """Dequantise a GGUF model into `target`, with `about` in its manifest. Takes 20-40 s for 135M parameters on two cores.

    transformers reads GGUF but will not save what it read; its state dict in a plain model of the same config saves.
    Raises BadInput for a file that is damaged or of an architecture that transformers cannot read from GGUF.
    """
    _check_room(gguf, target)
    report(Progress(f"Converting {gguf.name} once (under a minute for a small model)", None))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet.libraries()
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        report(Progress(f"Converting {gguf.name}: weights", 0.3))
        with quiet.bars():
            read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    except Exception as error:
        raise BadInput(
            f"{gguf.name} cannot be read: it is damaged, or of an architecture this cannot convert ({type(error).__name__}: {str(error)[:160]})."
        ) from error
    report(Progress(f"Converting {gguf.name}: saving", 0.8))
    config = type(read.config)(
        **{key: value for key, value in read.config.to_dict().items() if key not in ("quantization_config", "_name_or_path")}
    )
    with torch.device("meta"):
        plain = type(read)(config)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    with paths.building(target) as folder:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        paths.write_manifest(folder, **about)
    return target


def _check_room(gguf: Path, target: Path) -> None:
    """Refuse before the first byte is read what does not fit unquantized, in memory or on disk (faults, row 35)."""
    shape = gguf_file.architecture(gguf_file.read(gguf))
    need = int(4 * (shape.parameters if shape else 8 * gguf.stat().st_size))
    machine = hardware.machine()
    if need * 1.2 > machine.memory_free:
        raise BadInput(
            f"{gguf.name} has to be converted once, which needs {need * 1.2 / hardware.GIB:.1f} GB of memory; {machine.memory_free / hardware.GIB:.1f} GB are free. "
            f"Close other programs, or choose one of: {', '.join(smaller_models(machine)[:4])}."
        )
    if need > hub.free_bytes(target):
        raise EngineError(
            f"{gguf.name} has to be converted once, which needs {need / 1e9:.1f} GB of disk; {hub.free_bytes(target) / 1e9:.1f} GB are free in {target.parent}. "
            "Free some space, or set GUANACO_HOME to a larger disk."
        )

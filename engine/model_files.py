"""What a model's files are, read without opening any weights: paths, configs, and what is refused by them."""

from pathlib import Path

from engine import paths
from engine.errors import BadInput

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def local_path(name: str) -> Path:
    """A person's spelling of a path, `~` included. Raises BadInput for what can be none."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(f"{name[:80]!r} is no path this machine can open ({error}).") from error
    return path


def absolute_path(name: str) -> str:
    """A file's or folder's name with the whole path, so that it is found from any folder; any other name, and none, as it is."""
    return str(path.resolve()) if name and (path := local_path(name)).exists() else name


def read_config(folder: Path) -> dict:
    """The parsed `config.json` of a model folder. Raises BadInput where there is none or it is no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise BadInput(f"{folder} is not a model folder: it has no config.json.")
    return paths.read_object(path, str(path))


def check_architecture(config: dict, name: str) -> None:
    """Refuse, from its config alone, a model that is no causal language model transformers knows (faults, row 4)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = str(config.get("model_type", "unknown"))[:60]
    if config.get("is_encoder_decoder"):
        raise BadInput(
            f"{name} is an encoder-decoder model ({kind}). This app runs decoder-only language models such as Llama, Qwen, Mistral or SmolLM."
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        code = " It wants to run code of its own, which is never allowed." if config.get("auto_map") else ""
        raise BadInput(f"{name} has the architecture {kind!r}, which the installed transformers cannot run as a language model.{code}")

"""What a model's files are, read without opening any weights: configs, GGUF headers, and what is refused by them."""

import struct
from pathlib import Path

from engine import paths
from engine.errors import BadInput
from engine.memory import Architecture

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def local_path(name: str) -> Path:
    """A person's spelling of a path, `~` included. Raises BadInput for what can be none."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(f"{name[:80]!r} is no path this machine can open ({error}).") from error
    return path


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


def check_gguf(path: Path) -> None:
    """Refuse a file that does not begin as GGUF version 2 or 3, naming what it is instead."""
    with open(path, "rb") as file:
        head = file.read(8)
    if len(head) < 8 or head[:4] != b"GGUF":
        old = {b"lmgg": "GGML", b"tjgg": "GGJT", b"fmgg": "GGMF"}.get(head[:4])
        raise BadInput(
            f"{path.name} is not a model file this can read: "
            + (f"it is {old}, a format of 2023 that came before GGUF." if old else "it is no GGUF file.")
        )
    version = struct.unpack("<I", head[4:])[0]
    if version not in (2, 3):
        raise BadInput(f"{path.name} is not a model file this can read: GGUF version {version}, known are 2 and 3.")


def gguf_shape(path: Path) -> Architecture | None:
    """The model's shape from a GGUF file's own metadata; None where it does not state it. Raises BadInput for a cut file."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {
            name.partition(".")[2]: field.contents()
            for name, field in reader.fields.items()
            if "tokenizer" not in name and not name.startswith("GGUF.")
        }
        tokens = reader.get_field("tokenizer.ggml.tokens")
        tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    except Exception as error:
        raise BadInput(
            f"{path.name} is damaged: it cannot be read as GGUF ({type(error).__name__}: {str(error)[:120]}). Fetch it again."
        ) from error
    return Architecture.from_config(
        {
            "num_hidden_layers": fields.get("block_count"),
            "hidden_size": fields.get("embedding_length"),
            "intermediate_size": fields.get("feed_forward_length"),
            "num_attention_heads": fields.get("attention.head_count"),
            "num_key_value_heads": fields.get("attention.head_count_kv"),
            "head_dim": fields.get("attention.key_length"),
            "vocab_size": len(tokens.data) if tokens else None,
            "tie_word_embeddings": tied,
            "max_position_embeddings": fields.get("context_length"),
        }
    )

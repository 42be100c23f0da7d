"""A checked LoRA adapter as llama.cpp reads it: a GGUF file of its own, made once and kept by what went into it.

Changes nothing in what the adapter computes: every module keeps the scale that PEFT would give it, and its base is
checked as for transformers. Imports no torch.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from engine import adapters, hub, paths
from engine.adapters import Adapter
from engine.errors import BadInput, EngineError
from engine.model_spec import ModelSpec

NAME = "adapter.gguf"
# Part of every cache key: a new number makes all adapters again.
LAYOUT = 1
# GGUF architecture -> whether its q and k rows are interleaved. llama.cpp rotates neighbouring rows of a head in these,
# transformers row i and row i + half; their converter reorders the weights, so the rows of an adapter's B must follow.
INTERLEAVED = {"llama": True, "smollm3": True, "qwen2": False, "qwen3": False, "gemma": False, "gemma2": False, "gemma3": False}
FAMILIES = "Llama, Mistral, SmolLM, Qwen2, Qwen2.5, Qwen3, Gemma, Gemma 2 and Gemma 3"
# llama.cpp's graph applies adapters to these. The GGUF name map knows many more spellings, some of another row order.
_LINEAR = re.compile(r"(model\.layers\.)(?P<layer>\d+)(\.self_attn\.[qkvo]_proj|\.mlp\.(?:gate|up|down)_proj)|lm_head")
# Float32 is exact for every source, and llama.cpp rounds activations too where matrices are float16. Beyond this size
# that costs more memory than it is worth, and what came as float16 stays it.
EXACT_BYTES = 200_000_000


@dataclass(frozen=True)
class GgufBase:
    """What of a base's GGUF header an adapter is checked and converted by.

    `architecture`: `general.architecture`; `heads`, `kv_heads`: its `attention.head_count` and `attention.head_count_kv`;
    `tensors`: name -> shape as GGUF gives it, a matrix as (in, out).
    """

    spec: ModelSpec
    architecture: str
    heads: int
    kv_heads: int
    tensors: Mapping[str, tuple[int, ...]]


def convert(adapter: Adapter, base: GgufBase) -> Path:
    """The adapter as a GGUF file for llama.cpp to load beside `base`: kept from before where it is whole, else made.

    At scale 1 llama.cpp multiplies by alpha / rank, with one alpha for all modules and the rank of each module's
    matrices; what differs from that (rsLoRA, alphas of single modules) is multiplied into B. Raises BadInput for a damaged
    adapter, one of another base, and a base of an architecture that is not in `INTERLEAVED`.
    """
    if base.architecture not in INTERLEAVED:
        raise BadInput(
            f"Adapters on GGUF models of the architecture {base.architecture[:60]!r} are not supported. These families work: {FAMILIES}. "
            "Load the base from its transformers weights to use this adapter."
        )
    adapters.check_stated_base(adapter, base.spec)
    target = paths.adapters() / "gguf" / _key(adapter, base)
    with FileLock(paths.adapters() / ".gguf.lock"):
        if not (target / NAME).is_file() or paths.damaged(target):
            arrays = adapters.load_arrays(adapter)
            names = _checked_names(adapter, base, arrays)
            _check_room(adapter, arrays, target)
            with paths.building(target) as folder:
                _write(folder / NAME, adapter, base, arrays, names)
                paths.write_manifest(folder, source=adapter.id, base=base.spec.source)
    return target / NAME


def forget(name: str) -> None:
    """Remove what was made of the adapter of that name."""
    with FileLock(paths.adapters() / ".gguf.lock"):
        for manifest in (paths.adapters() / "gguf").glob(f"*/{paths.MANIFEST}"):
            with contextlib.suppress(BadInput):  # damaged: it is made again where it is wanted
                if paths.read_manifest(manifest.parent).get("source") == name:
                    shutil.rmtree(manifest.parent, ignore_errors=True)


def _key(adapter: Adapter, base: GgufBase) -> str:
    """Hex digest of all that the file depends on: weights, believed config, and the base's shape."""
    believed = adapter.config.model_dump(include={"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"})
    shape = [base.architecture, base.heads, base.kv_heads, sorted((name, list(size)) for name, size in base.tensors.items())]
    # Patterns stay in their order: the first key that matches counts.
    return hashlib.sha256(json.dumps([LAYOUT, paths.sha256(adapter.weights), believed, shape]).encode()).hexdigest()[:32]


def _checked_names(adapter: Adapter, base: GgufBase, arrays: Mapping) -> dict[str, str]:
    """Module name -> GGUF name of the base's matrix that it changes, after every check of `adapters.check_base`."""
    names, shapes = {}, {}
    for module in adapters.lora_modules(arrays):
        if module.endswith("embed_tokens"):
            raise BadInput(f"The adapter {adapter.id} changes {module}: this app and llama.cpp adapt linear layers only, no embeddings.")
        if module == "lm_head" and "output.weight" not in base.tensors:
            raise BadInput(
                f"The adapter {adapter.id} changes lm_head, which this base shares with its embeddings; llama.cpp cannot change one of them. "
                "Load the base from its transformers weights to use this adapter."
            )
        name = _gguf_name(module, base.architecture)
        shape = base.tensors.get(name, ())
        if len(shape) == 2:
            names[module], shapes[module] = name, (shape[1], shape[0])
    adapters.check_base(adapter, base.spec, shapes, arrays)
    return names


def _gguf_name(module: str, architecture: str) -> str | None:
    """The GGUF name of a linear layer's matrix, None for what is none."""
    import gguf

    match = _LINEAR.fullmatch(module)
    if not match:
        return None
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    # The map of one layer serves all: how many there are, the base's tensors say.
    known = gguf.get_tensor_name_map(number, 1).get_name(match.expand(r"\g<1>0\g<3>") if match["layer"] else module)
    return known and known.replace("blk.0.", f"blk.{match['layer']}.") + ".weight"


def _check_room(adapter: Adapter, arrays: Mapping, target: Path) -> None:
    need = 4 * sum(array.size for array in arrays.values())
    if need > hub.free_bytes(target):
        raise EngineError(
            f"The adapter {adapter.id} has to be converted once, which needs {need / 1e9:.1f} GB of disk; "
            f"{hub.free_bytes(target) / 1e9:.1f} GB are free in {target.parent}. Free some space, or set GUANACO_HOME to a larger disk."
        )


def _write(path: Path, adapter: Adapter, base: GgufBase, arrays: Mapping, names: Mapping[str, str]) -> None:
    import gguf
    import numpy

    config = adapter.config
    halves_stay = 4 * sum(array.size for array in arrays.values()) > EXACT_BYTES
    writer = gguf.GGUFWriter(path, base.architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, config.lora_alpha)
        for module, name in names.items():
            side_a, side_b = (arrays[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
            plain = config.lora_alpha / config.rank(module)
            if config.scale(module) != plain:
                side_b = numpy.multiply(side_b, config.scale(module) / plain, dtype=numpy.float64)
            if INTERLEAVED[base.architecture] and module.endswith(("q_proj", "k_proj")):
                side_b = interleaved(side_b, base.heads if module.endswith("q_proj") else base.kv_heads, base.spec.source)
            for side, array in (("a", side_a), ("b", side_b)):
                writer.add_tensor(f"{name}.lora_{side}", _stored(array, halves_stay))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def interleaved(rows, heads: int, source: str):
    """The rows of each head, first half then second half, as pairs (i, i + half). `rows`: [heads * width, any]. Raises BadInput,
    calling the base `source`, where they are no such heads."""
    if heads < 1 or len(rows) % (2 * heads):
        raise BadInput(f"The base {source} is damaged: its header says {heads} heads, and its rows are {len(rows)}.")
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _stored(array, halves_stay: bool):
    import numpy

    kind = numpy.float16 if halves_stay and array.dtype == numpy.float16 else numpy.float32
    return numpy.ascontiguousarray(array, dtype=kind)

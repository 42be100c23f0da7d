"""A base model as transformers holds it: fetched, verified, loaded in 4 bits by bitsandbytes or unquantized; for chat and training.

Imports torch when a model is opened, not before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import hardware, hub, memory, models, quiet, ranks
from engine.backends import quantized
from engine.backends.weights import fetch
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.model_files import read_config
from engine.model_spec import ModelSpec
from engine.settings import LoadSettings


@dataclass(frozen=True)
class Pretrained:
    """A loaded base: its transformers model and tokenizer, and how it is held, in words for people. `load` is what was asked for
    less what this machine has not; `dtype` is the type computed in; `notes` say why."""

    spec: ModelSpec
    model: Any
    tokenizer: Any
    load: LoadSettings
    dtype: str
    device: str
    quantization: str
    notes: tuple[str, ...]

    @property
    def ends(self) -> set[int]:
        """The ids of tokens that end an answer."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return {token for token in (*ids, self.tokenizer.eos_token_id) if token is not None}


def opened(spec: ModelSpec, load: LoadSettings, report: hub.Report) -> Pretrained:
    """Fetch, verify and load. Raises BadInput or EngineError; the message names what and what to do."""
    notes: list[str] = []
    models.check_fit(spec, hardware.machine(), load)
    load = _without_bitsandbytes(load, notes)
    spec, weights = fetch(spec, load, report)
    models.check_fit(spec, hardware.machine(), load)
    import torch

    quiet.libraries()
    report(Progress(f"Loading {spec.id}", None))
    tokenizer = _load_tokenizer(spec)
    capabilities = cuda_capabilities()
    dtype = hardware.compute_dtype(capabilities) if load.compute_dtype == "auto" else load.compute_dtype
    notes.insert(0, hardware.dtype_reason(dtype, capabilities))
    model = _load_model(spec, weights, load, getattr(torch, dtype), bool(capabilities))
    held = (
        "unquantized"
        if load.quantization == "none"
        else load.quantization.upper() + (" double-quantized" if load.double_quantization else "")
    )
    return Pretrained(spec, model, tokenizer, load, dtype, torch.cuda.get_device_name(0) if capabilities else "CPU", held, tuple(notes))


def cuda_capabilities() -> list[tuple[int, int]]:
    """The compute capability of each CUDA device. Raises RuntimeError where the driver counts some that torch cannot use."""
    import torch

    return [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]


def _load_tokenizer(spec: ModelSpec):
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise BadInput(
            f"The tokenizer of {spec.id} cannot be read: it is missing or damaged ({type(error).__name__}: {str(error)[:160]})."
        ) from error
    tokenizer.model_max_length = 10**9  # long texts are cut where they are used, not warned about
    return tokenizer


def _load_model(spec: ModelSpec, folder: Path, load: LoadSettings, dtype, on_gpu: bool):
    import torch
    from transformers import AutoModelForCausalLM

    already = "quantization_config" in read_config(folder)
    fresh = load.quantization != "none" and not already
    # Passed only where it is ours: an explicit None would override the one in the config.
    ours = {"quantization_config": bits_and_bytes(load, dtype)} if fresh else {}
    limits = load.max_memory_gib and {
        int(key) if key.isdigit() else key: int(value * hardware.GIB) for key, value in load.max_memory_gib.items()
    }
    several = on_gpu and _spread(spec, load)
    device_map = "auto" if several else {"": ranks.device() if on_gpu else "cpu"}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            device_map=device_map,
            max_memory=limits if several else None,
            **ours,
        )
    except torch.cuda.OutOfMemoryError as error:
        raise EngineError(
            f"{spec.id} does not fit in GPU memory: {str(error).splitlines()[0]} Close other programs, or choose one of: "
            f"{', '.join(models.smaller_models(hardware.machine())[:4])}."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise BadInput(f"The model {spec.id} cannot be loaded: {type(error).__name__}: {str(error)[:300]}") from error
    if fresh and not on_gpu and not ranks.device():
        quantized.keep(model, spec, load)
    keep_exact(model)
    return model.eval()


def bits_and_bytes(load: LoadSettings, dtype):
    """A BitsAndBytesConfig with every field set: its own defaults are fp4, float32 compute and no double quantization."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=load.quantization,
        bnb_4bit_use_double_quant=load.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=torch.uint8,
    )


def _spread(spec: ModelSpec, load: LoadSettings) -> bool:
    """Whether the base goes over several GPUs: where limits ask for it, or where it leaves less than half of one for the rest. Of
    processes that share a training each has a GPU, and the whole base on it."""
    if ranks.count() > 1:
        return False
    if load.max_memory_gib:
        return True
    gpus = hardware.machine().gpus
    return len(gpus) > 1 and (spec.shape is None or memory.weight_bytes(spec.shape, load, True) > min(gpu.memory for gpu in gpus) / 2)


def _without_bitsandbytes(load: LoadSettings, notes: list[str]) -> LoadSettings:
    """The same settings, or unquantized ones with the reason in `notes` where bitsandbytes does not import (row 2)."""
    if load.quantization == "none":
        return load
    quiet.kernels()
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:
        notes.append(
            f"4 bits are not available here: bitsandbytes cannot be imported ({type(error).__name__}: {error}). The model runs unquantized."
        )
        return load.model_copy(update={"quantization": "none"})
    return load


def linear_shapes(model) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and (out, in) of every linear layer of a model, in 4 bits or not."""
    import torch
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):  # bitsandbytes' Linear4bit is one too
            yield name, (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):  # GPT-2's linear layers, whose weights are [in, out]
            yield name, (module.nf, module.nx)


def keep_exact(model) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for CPUs with AVX512-BF16. It would compute in bfloat16, whatever was
    asked for, and unpack with loss as soon as an adapter is attached: the base would no longer be the base."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False

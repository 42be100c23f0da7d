"""What NF4 does to a weight matrix: rounded by bitsandbytes, as bases are held here (QLoRA, section 3), and looked at."""

from dataclasses import dataclass

import numpy as np

from engine import hub, quiet, starter
from engine.memory import CONSTANT_BITS

BLOCK = 64
# A matrix of the starter that is neither its first nor its last.
MATRIX = "model.layers.15.mlp.down_proj.weight"


@dataclass(frozen=True)
class Rounded:
    """A matrix and what NF4 makes of it. `levels` [16] are the values of NF4, from -1 to 1, `shares` [16] how many of the weights become
    each; `scaled` are the weights over the largest size in their block of 64, `moved` how far each moves in standard deviations of the
    matrix, both [blocks, 64]; `error` is the norm of what changes over that of the matrix; `bits` counts a weight's with its share of
    the constants."""

    levels: np.ndarray
    shares: np.ndarray
    scaled: np.ndarray
    moved: np.ndarray
    error: float
    bits: float


def rounded(weights: np.ndarray, double: bool = True) -> Rounded:
    """Round float32 `weights` whose count is a multiple of 64 to NF4 and back; `double`: the constants are quantized too."""
    quiet.kernels()
    import torch
    from bitsandbytes import functional

    before = torch.from_numpy(np.ascontiguousarray(weights, np.float32))
    packed, state = functional.quantize_4bit(before, blocksize=BLOCK, compress_statistics=double, quant_type="nf4")
    change = (functional.dequantize_4bit(packed, state) - before).numpy()
    codes = packed.numpy().ravel()
    counts = np.bincount(np.concatenate([codes >> 4, codes & 15]), minlength=16)
    blocks = before.numpy().reshape(-1, BLOCK)
    largest = np.abs(blocks).max(1, keepdims=True)
    return Rounded(
        state.code.numpy(),
        counts / counts.sum(),
        np.divide(blocks, largest, out=np.zeros_like(blocks), where=largest > 0),
        (change / before.numpy().std()).reshape(-1, BLOCK),
        float(np.linalg.norm(change) / np.linalg.norm(before.numpy())),
        4 + CONSTANT_BITS[double],
    )


def starter_matrix(report: hub.Report) -> np.ndarray:
    """MATRIX of the starter [out, in], which is fetched and converted first where it is not here. Its weights come in llama.cpp's Q4_1,
    16 evenly spaced values for each 32, so they are real ones that were rounded once already."""
    from safetensors import safe_open

    with safe_open(starter.make(report) / "model.safetensors", "np") as file:
        return file.get_tensor(MATRIX)

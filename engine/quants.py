"""Weights in the 4-bit blocks that llama.cpp repacks for its fast kernels, IQ4_NL and Q4_K, with scales that were searched for.

The blocks are those of ggml (ggml-common.h; the names are its own). numpy only; a chunk of rows at a time, so memory stays small.
"""

import numpy as np

# By name: how many weights a row must be a multiple of. Q4_K is the faster and the sharper of the two.
ROW_MULTIPLES = {"Q4_K": 256, "IQ4_NL": 32}

# The 16 values of IQ4_NL: closer together where a matrix has most of its weights (kvalues_iq4nl of ggml).
CODEBOOK = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
# The nearest entry for every whole number from -128 to 127, so that a weight costs one rounding and one look-up.
_NEAREST = np.abs(np.arange(-128, 128, dtype=np.float32)[:, None] - CODEBOOK).argmin(1).astype(np.uint8)
_NEAREST_VALUE = CODEBOOK[_NEAREST]
# Where the largest weight of a block may come to lie, in either direction; finer or wider lowers the error by under 1% more.
_ENDS = np.concatenate([end * np.linspace(0.8, 1.05, 6) for end in (-127, 113)] + [[-127.0]]).astype(np.float32)
_SHRINKS = (1.0, 0.95, 0.9, 0.85)
MAX_HALF = 65504.0


def quantize(rows: np.ndarray, kind: str, importance: np.ndarray | None = None) -> np.ndarray:
    """Blocks of `kind` for float32 `rows` [n, length] within 1e12 of zero: bytes [n, bytes of a row], least in weighed squared error.

    `importance` [length] weighs columns, see `error_weights`. Length must be a multiple of ROW_MULTIPLES[kind].
    """
    pack = {"IQ4_NL": _iq4_nl, "Q4_K": _q4_k}[kind]
    rows = np.ascontiguousarray(rows, np.float32)
    return pack(rows.reshape(-1, 32), error_weights(rows, importance).reshape(-1, 32)).reshape(len(rows), -1)


def error_weights(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """How much an error in each weight of `rows` [n, length] counts, the same shape: more in large ones and in important columns.

    `importance` [length] is positive; None takes all columns alike. That large weights count for more lowers perplexity though it
    raises the plain squared error (measured in tests/benchmarks/README.md).
    """
    squares = rows**2
    size = np.sqrt(2 * squares.mean(1, keepdims=True) + squares)
    size /= np.maximum(size.mean(1, keepdims=True), np.finfo(np.float32).tiny)
    return size if importance is None else size * importance.astype(np.float32)


def _half(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -MAX_HALF, MAX_HALF).astype("<f2")


def _over(values: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    """Values over divisors, 0 where nothing can be divided by."""
    usable = np.abs(divisors) > np.finfo(np.float32).tiny
    return np.where(usable, values / np.where(usable, divisors, 1), 0)


def _sum(values: np.ndarray) -> np.ndarray:
    return values.sum(-1, keepdims=True)


def _steps(blocks: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Where each weight's nearest value stands in _NEAREST."""
    return np.clip(np.rint(_over(blocks, scale)), -128, 127).astype(np.int16) + 128


def _iq4_nl(blocks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The scale [n, 1] that leaves the least error, tried for each of _ENDS: for given values q the best is sum(x q) / sum(q q)."""
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    best, scale = np.zeros_like(largest), np.zeros_like(largest)
    for end in _ENDS:
        values = _NEAREST_VALUE[_steps(blocks, largest / end)]
        weighed = weights * values
        product = _sum(weighed * blocks)
        candidate = _over(product, _sum(weighed * values))
        gain = product * candidate
        scale = np.where(gain > best, candidate, scale)
        best = np.maximum(gain, best)
    half = _half(scale)
    codes = _NEAREST[_steps(blocks, half.astype(np.float32))]
    packed = np.empty((len(blocks), 18), np.uint8)
    packed[:, :2] = half.view(np.uint8)
    packed[:, 2:] = codes[:, :16] | codes[:, 16:] << 4
    return packed


def _line(blocks: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and minimum, both [n, 1] and not negative, with which scale * (0..15) - minimum comes closest to each block."""
    low, high = np.minimum(blocks.min(1, keepdims=True), 0), np.maximum(blocks.max(1, keepdims=True), 0)
    weight_sum, value_sum = _sum(weights), _sum(weights * blocks)
    best = np.full_like(low, np.inf)
    scale, minimum = np.zeros_like(low), np.zeros_like(low)
    for shrink in _SHRINKS:
        step, start = (high - low) / 15 * shrink, (high + low) / 2 - (high - low) / 2 * shrink
        start = np.minimum(start, 0)
        for _ in range(2):  # as spread out, then as the line of least squares through what that rounded to
            codes = np.clip(np.rint(_over(blocks - start, step)), 0, 15)
            error = _sum(weights * (step * codes + start - blocks) ** 2)
            better = error < best
            best, scale, minimum = np.where(better, error, best), np.where(better, step, scale), np.where(better, -start, minimum)
            weighed = weights * codes
            code_sum, square_sum, product_sum = _sum(weighed), _sum(weighed * codes), _sum(weighed * blocks)
            spread = weight_sum * square_sum - code_sum**2
            step = _over(weight_sum * product_sum - code_sum * value_sum, spread)
            start = _over(square_sum * value_sum - code_sum * product_sum, spread)
            # A minimum above zero cannot be written: then the line goes through zero.
            step = np.maximum(np.where(start > 0, _over(product_sum, square_sum), step), 0)
            start = np.minimum(start, 0)
    return scale, minimum


def _q4_k(blocks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Eight blocks share two 16-bit factors; each has a scale and a minimum of 6 bits, the best among their neighbours."""
    scale, minimum = (each.reshape(-1, 8) for each in _line(blocks, weights))
    factor, minimum_factor = (_half(each.max(1, keepdims=True) / 63) for each in (scale, minimum))
    wide, minimum_wide = factor.astype(np.float32), minimum_factor.astype(np.float32)
    near, minimum_near = (np.clip(np.rint(_over(*each)), 0, 63) for each in ((scale, wide), (minimum, minimum_wide)))
    blocks, weights = blocks.reshape(-1, 8, 32), weights.reshape(-1, 8, 32)

    def codes(level: np.ndarray, minimum_level: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        step, start = (wide * level)[..., None], (minimum_wide * minimum_level)[..., None]
        return np.clip(np.rint(_over(blocks + start, step)), 0, 15), step, start

    best = np.full_like(near, np.inf)
    level, minimum_level = near, minimum_near
    for step in (0, -1, 1):
        for minimum_step in (0, -1, 1):
            tried, minimum_tried = np.clip(near + step, 0, 63), np.clip(minimum_near + minimum_step, 0, 63)
            rounded, slope, start = codes(tried, minimum_tried)
            error = (weights * (slope * rounded - start - blocks) ** 2).sum(2)
            better = error < best
            best = np.where(better, error, best)
            level, minimum_level = np.where(better, tried, level), np.where(better, minimum_tried, minimum_level)
    rounded = codes(level, minimum_level)[0].astype(np.uint8).reshape(-1, 4, 2, 32)
    level, minimum_level = level.astype(np.uint8), minimum_level.astype(np.uint8)
    packed = np.empty((len(blocks), 144), np.uint8)
    packed[:, 0:2], packed[:, 2:4] = factor.view(np.uint8), minimum_factor.view(np.uint8)
    # Blocks 0-3 have their six bits together; those of blocks 4-7 are split, four bits of both in a byte, two above the first.
    packed[:, 4:8] = level[:, :4] | level[:, 4:] >> 4 << 6
    packed[:, 8:12] = minimum_level[:, :4] | minimum_level[:, 4:] >> 4 << 6
    packed[:, 12:16] = level[:, 4:] & 15 | (minimum_level[:, 4:] & 15) << 4
    packed[:, 16:] = (rounded[:, :, 0] | rounded[:, :, 1] << 4).reshape(-1, 128)
    return packed

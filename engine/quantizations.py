"""What llama.cpp's quantizations cost and are good for: bits, file size and memory, computed from a model's shape.

The mixtures are those of today's llama.cpp (`llama_tensor_get_type` in its src/llama-quant.cpp) without an importance matrix.
Files of 2023 differ a little: their output matrix had the type of the rest, and their Q2_K was an eighth larger.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine.architecture import Architecture
from engine.gguf_file import TENSOR_TYPES
from engine.hardware import Machine
from engine.memory import CHAT_TOKENS

# Which type a matrix has in layer `layer` of `layers`.
ByLayer = Callable[[int, int], str]

_TYPES = {stored.name: stored for stored in TENSOR_TYPES.values()}
# What llama.cpp takes where a row is no multiple of 256 weights.
_FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# llama.cpp reads a prompt 512 tokens at a time.
_BATCH = 512
# The process with its libraries, code and vocabulary, before any weight: 0.1 GiB seen, rounded up.
_PROCESS_BYTES = 2**28


def _mixed(better: str, rest: str, where: Callable[[int, int], bool]) -> ByLayer:
    return lambda layer, layers: better if where(layer, layers) else rest


def _more_bits(layer: int, layers: int) -> bool:
    """The half of the layers where more bits pay most: the first and last eighth and every third between them."""
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2


@dataclass(frozen=True)
class Method:
    """A quantization as llama.cpp spells it: the tensor type of most matrices, `base`, and of those that have another.

    `use` says in a sentence what it is good for; `recommended` are those that lose little for their size.
    """

    id: str
    base: str
    use: str
    recommended: bool = False
    output: str = "Q6_K"
    attn_v: ByLayer | None = None
    attn_output: str | None = None
    ffn_down: ByLayer | None = None


METHODS: tuple[Method, ...] = (
    Method(
        "Q2_K",
        "Q2_K",
        "The smallest; answers suffer clearly. For when nothing else fits.",
        attn_v=lambda layer, layers: "Q3_K",
        attn_output="Q3_K",
        ffn_down=lambda layer, layers: "Q3_K",
    ),
    Method("Q3_K_S", "Q3_K", "Very small, with a high loss of quality."),
    Method(
        "Q3_K_M",
        "Q3_K",
        "Very small, with a high loss of quality; better than a smaller model in more bits.",
        attn_v=_mixed("Q5_K", "Q4_K", lambda layer, layers: layer < 2),
        attn_output="Q4_K",
        ffn_down=_mixed("Q5_K", "Q4_K", lambda layer, layers: layer < layers // 16),
    ),
    Method(
        "Q3_K_L",
        "Q3_K",
        "Small, with a substantial loss of quality.",
        attn_v=lambda layer, layers: "Q5_K",
        attn_output="Q5_K",
        ffn_down=lambda layer, layers: "Q5_K",
    ),
    Method("Q4_0", "Q4_0", "The plain 4 bits of 2023: the fastest on most CPUs, less true than Q4_K_M."),
    Method("Q4_1", "Q4_1", "Plain 4 bits with an offset for each block: a little truer than Q4_0, larger than Q4_K_M."),
    Method(
        "Q4_K_S",
        "Q4_K",
        "Small, with more loss of quality than Q4_K_M.",
        attn_v=_mixed("Q5_K", "Q4_K", lambda layer, layers: layer < 4),
        ffn_down=_mixed("Q5_K", "Q4_K", lambda layer, layers: layer < layers // 8),
    ),
    Method(
        "Q4_K_M",
        "Q4_K",
        "Balanced: the usual choice.",
        recommended=True,
        attn_v=_mixed("Q6_K", "Q4_K", _more_bits),
        ffn_down=_mixed("Q6_K", "Q4_K", _more_bits),
    ),
    Method("Q5_0", "Q5_0", "Plain 5 bits of 2023; Q5_K_S is truer at the same size."),
    Method("Q5_1", "Q5_1", "Plain 5 bits with an offset for each block; Q5_K_M is truer and smaller."),
    Method("Q5_K_S", "Q5_K", "Large, with a low loss of quality.", recommended=True),
    Method(
        "Q5_K_M",
        "Q5_K",
        "Large, with a very low loss of quality.",
        recommended=True,
        attn_v=_mixed("Q6_K", "Q5_K", _more_bits),
        ffn_down=_mixed("Q6_K", "Q5_K", _more_bits),
    ),
    Method("Q6_K", "Q6_K", "Very large, with hardly any loss of quality."),
    Method("Q8_0", "Q8_0", "Cannot be told from 16 bits; nearly twice the size of 4 bits, and slower.", output="Q8_0"),
)


def _tensors(shape: Architecture, method: Method) -> Iterator[tuple[int, int, str]]:
    """Rows, weights in a row and type of every tensor of a model."""
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    shared = shape.heads // shape.kv_heads
    yield shape.vocabulary, shape.hidden, method.output if shape.tied else method.base
    if not shape.tied:
        yield shape.vocabulary, shape.hidden, method.output
    yield 2 * shape.layers + 1, shape.hidden, "F32"  # the norms
    for layer in range(shape.layers):
        value = method.attn_v(layer, shape.layers) if method.attn_v else method.base
        # Where many heads share their values, more bits for those cost next to nothing.
        if method.id == "Q2_K" and shared >= 4:
            value = "Q4_K"
        if shape.layers == 80 and shared > 1 and value in ("Q3_K", "Q4_K"):  # Llama 2 70B
            value = "Q5_K"
        yield queries + keys, shape.hidden, method.base
        yield keys, shape.hidden, value
        yield shape.hidden, queries, method.attn_output or method.base
        yield 2 * shape.intermediate, shape.hidden, method.base
        yield shape.hidden, shape.intermediate, method.ffn_down(layer, shape.layers) if method.ffn_down else method.base


def file_bytes(shape: Architecture, method: Method) -> int:
    """Bytes of the weights of a model in this quantization; a file's header adds less than 1 MB for LLaMA's vocabulary."""
    total = 0
    for rows, row, kind in _tensors(shape, method):
        stored = _TYPES[kind]
        if row % stored.weights:
            stored = _TYPES[_FALLBACKS.get(kind, "F16")]
        if row % stored.weights:
            stored = _TYPES["F16"]
        total += rows * row // stored.weights * stored.size
    return total


def bits_per_weight(shape: Architecture, method: Method) -> float:
    """Bits that a weight takes on average, scales included."""
    return 8 * file_bytes(shape, method) / shape.parameters


def memory_bytes(shape: Architecture, method: Method) -> int:
    """Bytes of RAM for chatting: the file, 2,048 tokens of 16-bit cache, and llama.cpp's own buffers.

    The model cards of 2023 add a flat 2.5 GB to the file. That is true of 13B; the cache grows with the model, from 1.1 GB
    for 7B to 5.4 GB for 65B. The buffers are an upper bound: attention scores of all heads, the logits, and a layer's
    activations, each in 32 bits for a batch of the prompt.
    """
    activations = 4 * shape.hidden + 2 * shape.intermediate
    buffers = 4 * _BATCH * (shape.heads * CHAT_TOKENS + shape.vocabulary + activations)
    return file_bytes(shape, method) + shape.cache_bytes(CHAT_TOKENS) + buffers + _PROCESS_BYTES


def fits(shape: Architecture, method: Method, machine: Machine) -> bool:
    """Whether chatting with it fits the RAM that is free: llama.cpp runs on the CPU here, GPUs or not."""
    return memory_bytes(shape, method) <= machine.model_ram


def recommended(shape: Architecture, machine: Machine) -> Method | None:
    """The best method that fits: the largest of the recommended ones, else of all; None where none fits."""
    fitting = [method for method in METHODS if fits(shape, method, machine)]
    return max([method for method in fitting if method.recommended] or fitting, key=lambda method: file_bytes(shape, method), default=None)


def table(shape: Architecture, machine: Machine) -> list[dict]:
    """The rows of the chooser for one model, in the order of METHODS. Sizes in bytes, `bits` a weight on average.

    `recommended` says of a method what Method does, `best` is true of the one that `recommended()` chooses for this machine.
    """
    best = recommended(shape, machine)
    return [
        {
            "method": method.id,
            "bits": round(bits_per_weight(shape, method), 2),
            "file_bytes": file_bytes(shape, method),
            "memory_bytes": memory_bytes(shape, method),
            "fits": fits(shape, method, machine),
            "recommended": method.recommended,
            "best": method is best,
            "use": method.use,
        }
        for method in METHODS
    ]

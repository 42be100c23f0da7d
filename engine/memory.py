"""How much memory chatting with a model and training on it take, from its shape and a recipe alone, before anything is loaded.

What training takes is told part by part. On a CPU the parts are those of `tests/benchmarks/planner.py`, which measures them.
"""

from dataclasses import dataclass

from engine.architecture import Architecture
from engine.hardware import GIB, Machine
from engine.optimizer_state import PAGED_ELEMENTS, state_bytes
from engine.recipe import ALL_LINEAR, Recipe
from engine.settings import LoadSettings

# QLoRA, section 3: one 32-bit constant for 64 weights is 0.5 bits a parameter; quantizing the constants to 8 bits
# with a 32-bit one for 256 of them leaves 8/64 + 32/(64*256) = 0.127.
CONSTANT_BITS = {False: 0.5, True: 8 / 64 + 32 / (64 * 256)}
# The interpreter with torch and the CUDA context or the CPU's work buffers: 0.6-0.9 GiB seen, rounded up.
RUNTIME_BYTES = GIB
# llama.cpp's process with its work buffers: 0.1 GiB seen for a small model, 0.3 for one of 7B.
LLAMA_CPP_BYTES = GIB // 2
CHAT_TOKENS = 2048
# Left free for activations and the system when base weights are unpacked for training on a CPU.
SPARE_BYTES = 3 * GIB
# Tokens of one packed pass on a CPU: taller matrices are no faster, and memory grows with them (tests/benchmarks/README.md).
PASS_TOKENS = 768
# Positions whose logits are held at a time there: 50 MB for a vocabulary of 49,152.
LOGITS_AT_ONCE = 256
# glibc finds no room for an aligned block in a freed one of the same size: what passes through a layer and is not kept leaves
# holes. Share of what the layers keep or pass on; measured.
_HOLES = 0.8
# Bytes of GPU memory for a logit: its float32 value, softmax and gradient and their 16-bit forms, 12 at once, and what torch holds
# around them; measured.
_GPU_LOGIT_BYTES = 20
# A layer that is computed again, with the gradients that pass through it, over what it keeps.
_AGAIN = 1.3
# A question before a sample's answer, in tokens.
_PROMPT_TOKENS = 64


def weight_bytes(shape: Architecture, load: LoadSettings, on_gpu: bool) -> int:
    """Bytes of the weights as `load` holds them; unquantized weights are 16-bit on a GPU and 32-bit on a CPU."""
    wide = 2 if on_gpu else 4
    if load.quantization == "none":
        return shape.parameters * wide
    bits = 4 + CONSTANT_BITS[load.double_quantization]
    return int(shape.linear_parameters * bits / 8) + shape.other_parameters * wide


@dataclass(frozen=True)
class Fit:
    """Whether a model fits, in bytes, and the sentence that says so. `fits` is None where the shape is unknown."""

    fits: bool | None
    need: int | None
    have: int
    text: str


def gguf_fit(shape: Architecture | None, file_bytes: int | None, machine: Machine) -> Fit:
    """Whether chatting with a GGUF file of `file_bytes` through llama.cpp fits this machine's memory (its GPUs are not used), at least
    one conversation of 2,048 tokens at a time. None stands for a file that is yet to be fetched: one of 4.85 bits a weight, as Q4_K_M
    has."""
    have = machine.model_ram
    if shape is None and file_bytes is None:
        return Fit(None, None, have, "its memory need is known once it is loaded")
    need = (file_bytes or int(shape.parameters * 4.85 / 8)) + (shape.cache_bytes(CHAT_TOKENS) if shape else 0) + LLAMA_CPP_BYTES
    # Where more is free, some of it is taken for longer conversations and several at a time (`backends/llamacpp.py`).
    return _verdict(need, have, "memory", "at least ")


def chat_fit(shape: Architecture | None, load: LoadSettings, machine: Machine) -> Fit:
    """Whether chatting with a model of this shape fits this machine: weights, 2,048 tokens of cache, overhead."""
    have = machine.model_memory
    if shape is None:
        return Fit(None, None, have, "its memory need is known once it is loaded")
    need = weight_bytes(shape, load, machine.has_gpu) + shape.cache_bytes(CHAT_TOKENS, 2 if machine.has_gpu else 4) + RUNTIME_BYTES
    where = "GPU memory" if machine.has_gpu else "memory"
    return _verdict(need, have, where)


def _verdict(need: int, have: int, where: str, least: str = "") -> Fit:
    verdict = "fits" if need <= have else "does not fit"
    return Fit(need <= have, need, have, f"{verdict}: needs {least}{need / GIB:.1f} GB of {where}, {have / GIB:.1f} GB can be used")


@dataclass(frozen=True)
class Part:
    """One thing that takes memory, in bytes. `pageable` of them may go to main memory where a GPU's runs short."""

    name: str
    title: str
    bytes: int
    pageable: int = 0


@dataclass(frozen=True)
class Plan:
    """What training takes, part by part, against the `have` bytes of a machine."""

    parts: tuple[Part, ...]
    have: int

    @property
    def total(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def resident(self) -> int:
        """Bytes that must be there at the same time: all but what can be paged out."""
        return self.total - sum(part.pageable for part in self.parts)

    @property
    def fits(self) -> bool:
        return self.resident <= self.have


def unpacks(linear_parameters: int, recipe: Recipe, machine: Machine) -> bool:
    """Whether a CPU holds the base's 4-bit weights unpacked: as the recipe says, else where memory is plenty."""
    if machine.has_gpu or recipe.quantization.kind == "none" or recipe.memory.base_weights == "packed":
        return False
    return recipe.memory.base_weights == "unpacked" or 4 * linear_parameters + SPARE_BYTES <= machine.memory_free


def training_plan(shape: Architecture, recipe: Recipe, machine: Machine) -> Plan:
    """What finetuning a base of this shape by a recipe takes at its peak: on the GPU where there is one, else in RAM.

    Rows count as long as the recipe lets them be. Adapters are those of QLoRA: float32, with float32 gradients.
    """
    learnt = lora_parameters(shape, recipe)
    passes = _gpu_passes(shape, recipe, learnt) if machine.has_gpu else _cpu_passes(shape, recipe, machine)
    parts = [
        *_weight_parts(shape, recipe, machine),
        Part("lora", "LoRA matrices (float32)", 4 * learnt),
        Part("gradients", "Gradients of the LoRA matrices (float32)", 4 * learnt),
        _optimizer_part(shape, recipe, machine),
        *passes,
        _cache_part(shape, recipe, machine, sum(part.bytes for part in passes)),
        Part("runtime", "Runtime (libraries, CUDA context, work buffers)", RUNTIME_BYTES),
    ]
    if not machine.has_gpu:
        parts.append(Part("copies", "Copy of the LoRA matrices as they began", 4 * learnt))
    return Plan(tuple(parts), machine.model_memory)


def training_warning(shape: Architecture | None, recipe: Recipe, machine: Machine) -> str:
    """What a person is told before a run that may not fit; empty where it does, or where the shape is unknown."""
    plan = shape and training_plan(shape, recipe, machine)
    if not plan or plan.fits:
        return ""
    return (
        f"This run is estimated to need {plan.resident / GIB:.1f} GB, {plan.have / GIB:.1f} GB can be used. Where memory runs out, "
        "passes are made smaller. Shorter rows, a lower rank, activation checkpointing or a smaller base need less."
    )


def lora_parameters(shape: Architecture, recipe: Recipe) -> int:
    """How many numbers the adapter has: rank times what goes in and comes out of each adapted layer (LoRA, section 4.1)."""
    return sum(rows * columns for rows, columns in _lora_matrices(shape, recipe))


def _lora_matrices(shape: Architecture, recipe: Recipe) -> list[tuple[int, int]]:
    targets, rank = recipe.lora.targets, recipe.lora.r
    adapted = [linear for linear in shape.linears if targets == ALL_LINEAR or linear.name in targets]
    return [size for linear in adapted for size in ((rank, linear.inputs), (linear.outputs, rank))] * shape.layers


def _weight_parts(shape: Architecture, recipe: Recipe, machine: Machine) -> list[Part]:
    held, linear = recipe.quantization, shape.linear_parameters
    if held.kind == "none":
        wide = 2 if machine.has_gpu else 4
        return [
            Part("weights", f"Linear weights ({8 * wide} bits)", wide * linear),
            Part("embeddings", f"Embeddings and norms ({8 * wide} bits)", wide * shape.other_parameters),
        ]
    parts = [
        Part("weights", f"Linear weights ({held.kind.upper()})", linear // 2),
        Part(
            "constants",
            "Quantization constants" + (" (double-quantized)" if held.double else ""),
            int(linear * CONSTANT_BITS[held.double] / 8),
        ),
        Part("embeddings", "Embeddings and norms (float32)", 4 * shape.other_parameters),
    ]
    if unpacks(linear, recipe, machine):
        parts.append(Part("unpacked", "Linear weights, unpacked once for speed (float32)", 4 * linear))
    else:
        largest = max(each.inputs * each.outputs for each in shape.linears)
        parts.append(Part("workspace", "One matrix, unpacked while it is used", largest * (2 if machine.has_gpu else 4)))
    return parts


def _optimizer_part(shape: Architecture, recipe: Recipe, machine: Machine) -> Part:
    name = recipe.optimization.optimizer
    sizes = [(rows * columns, state_bytes(name, rows, columns)) for rows, columns in _lora_matrices(shape, recipe)]
    pages = name.startswith("paged_") and machine.has_gpu
    pageable = sum(taken for size, taken in sizes if size >= PAGED_ELEMENTS) if pages else 0
    return Part("optimizer", f"Optimizer state ({name})", sum(taken for _, taken in sizes), pageable)


def _cache_part(shape: Architecture, recipe: Recipe, machine: Machine, free: int) -> Part:
    """What the sample answers take beyond the `free` bytes that passes leave between steps."""
    samples = recipe.samples
    tokens = len(samples.prompts) * (_PROMPT_TOKENS + samples.max_new_tokens)
    need = shape.cache_bytes(tokens, 2 if machine.has_gpu else 4)
    return Part("kv_cache", "Keys and values of the sample answers, beyond what passes leave free", max(0, need - free))


def _cpu_passes(shape: Architecture, recipe: Recipe, machine: Machine) -> list[Part]:
    """Activations as `engine.lora_layers` and `engine.packing` keep them for the backward pass, all float32; where weights stay
    in 4 bits PEFT's layers keep the inputs that dropout left, with its masks, instead of the places."""
    row, micro = recipe.data.max_length, recipe.optimization.micro_batch
    tokens = row * max(1, min(micro, PASS_TOKENS // row))
    rank = sum(rows for rows, _ in _lora_matrices(shape, recipe)[::2]) // shape.layers
    inputs = sum(linear.inputs for linear in shape.linears)
    if recipe.quantization.kind == "none" or unpacks(shape.linear_parameters, recipe, machine):
        dropped = 2 * recipe.lora.dropout * inputs  # 64-bit places of what is left out
    else:
        dropped = (1.25 if recipe.lora.dropout else 0) * inputs
    # The stream twice, both norms' outputs; queries, attention and what goes into o_proj; keys, values; gate, its SiLU, up, product.
    layer = 4 * tokens * (4 * shape.hidden + 3 * shape.query_width + 2 * shape.key_width + 4 * shape.intermediate + rank + dropped)
    logits = Part("logits", "Logits of one stretch, and their sums", 2 * 4 * min(tokens, LOGITS_AT_ONCE) * shape.vocabulary)
    parts = [_activations(shape, recipe, tokens, layer, 2), logits]
    if not recipe.memory.activation_checkpointing:  # what is checkpointed trains with lean allocation, which leaves none
        parts.append(Part("holes", "Memory that the allocator cannot use again", int(_HOLES * layer * shape.layers)))
    return parts


def _gpu_passes(shape: Architecture, recipe: Recipe, learnt: int) -> list[Part]:
    """Activations of padded passes under 16-bit autocast: a float32 stream, 16-bit inputs of matrices, dropout's masks. Measured by
    `tests/benchmarks/gpu.py`."""
    data, micro = recipe.data, recipe.optimization.micro_batch
    tokens = data.max_length * micro
    wide = 4 if recipe.quantization.compute_dtype == "float32" else 2
    # The stream and the norms' outputs, twice, in float32; queries, attention and what goes into o_proj; keys, values; gate, its SiLU,
    # up, product. An adapter keeps its input, where that is not the base's own, and the mask of what was left out.
    norms, attention, gated = 16 * shape.hidden, wide * (3 * shape.query_width + 2 * shape.key_width), 4 * wide * shape.intermediate
    own = wide if wide == 2 or recipe.lora.dropout else 0
    adapters = sum(linear.inputs for linear in shape.linears) * (own + (1 if recipe.lora.dropout else 0))
    layer = tokens * (norms + attention + gated + adapters)
    target = min(data.target_length or data.max_length, data.max_length)
    logits = micro * target * shape.vocabulary * _GPU_LOGIT_BYTES
    copies = 0
    if wide == 2:
        output = shape.vocabulary * shape.hidden if recipe.quantization.kind != "none" else 0
        copies = 2 * (output + (0 if recipe.memory.activation_checkpointing else learnt))
    # Where layers are computed again, that comes after the logits are gone: only what these take beyond it counts.
    again = int(_AGAIN * layer) if recipe.memory.activation_checkpointing else 0
    return [
        _activations(shape, recipe, tokens, layer, _AGAIN),
        Part("logits", "Logits and their gradients", max(0, logits - again)),
        Part("casts", "16-bit copies of the output layer and of the LoRA matrices", copies),
    ]


def _activations(shape: Architecture, recipe: Recipe, tokens: int, layer: float, again: float) -> Part:
    """What a pass keeps, at `layer` bytes a layer: of all layers, or where each begins (float32) and one of them, `again` times as
    large with its gradients."""
    if recipe.memory.activation_checkpointing:
        kept = 4 * tokens * shape.hidden * shape.layers
        return Part("activations", "Activations (one layer at a time, with checkpoints)", int(kept + again * layer))
    return Part("activations", "Activations", int(layer * shape.layers))

"""How much memory a model takes, from its shape alone, before anything is downloaded or loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

from engine.hardware import GIB, Machine
from engine.settings import LoadSettings

# QLoRA, section 3: one 32-bit constant for 64 weights is 0.5 bits a parameter; quantizing the constants to 8 bits
# with a 32-bit one for 256 of them leaves 8/64 + 32/(64*256) = 0.127.
CONSTANT_BITS = {False: 0.5, True: 8 / 64 + 32 / (64 * 256)}
# The interpreter with torch and the CUDA context or the CPU's work buffers: 0.6-0.9 GiB seen, rounded up.
RUNTIME_BYTES = GIB
# llama.cpp's process with its work buffers: 0.1 GiB seen for a small model, 0.3 for one of 7B.
LLAMA_CPP_BYTES = GIB // 2
CHAT_TOKENS = 2048


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder with gated MLP and rotary positions (the Llama family and its relatives)."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int = 0
    tied: bool = False
    context: int = 4096

    @classmethod
    def from_config(cls, config: Mapping) -> "Architecture | None":
        """The shape in a `config.json`, or None where its fields are not of this family."""
        try:
            heads = int(config["num_attention_heads"])
            return cls(
                layers=int(config["num_hidden_layers"]),
                hidden=int(config["hidden_size"]),
                intermediate=int(config["intermediate_size"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                vocabulary=int(config["vocab_size"]),
                head_size=int(config.get("head_dim") or 0),
                tied=bool(config.get("tie_word_embeddings", False)),
                context=int(config.get("max_position_embeddings") or 4096),
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def head_width(self) -> int:
        return self.head_size or self.hidden // self.heads

    @property
    def linear_parameters(self) -> int:
        """Weights of the attention and MLP projections: those that 4 bits hold."""
        attention = self.hidden * self.head_width * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def other_parameters(self) -> int:
        """Embeddings, output head and norms: kept in 16 or 32 bits."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + (2 * self.layers + 1) * self.hidden

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.other_parameters

    def cache_bytes(self, tokens: int, bytes_each: int = 2) -> int:
        """Bytes of the keys and values of `tokens` tokens."""
        return 2 * self.layers * self.kv_heads * self.head_width * tokens * bytes_each


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
    """Whether chatting with a GGUF file of `file_bytes` through llama.cpp fits this machine's memory (its GPUs are not used).
    None stands for a file that is yet to be fetched: one of 4.85 bits a weight, as Q4_K_M has."""
    have = machine.model_ram
    if shape is None and file_bytes is None:
        return Fit(None, None, have, "its memory need is known once it is loaded")
    need = (file_bytes or int(shape.parameters * 4.85 / 8)) + (shape.cache_bytes(CHAT_TOKENS) if shape else 0) + LLAMA_CPP_BYTES
    return _verdict(need, have, "memory")


def chat_fit(shape: Architecture | None, load: LoadSettings, machine: Machine) -> Fit:
    """Whether chatting with a model of this shape fits this machine: weights, 2,048 tokens of cache, overhead."""
    have = machine.model_memory
    if shape is None:
        return Fit(None, None, have, "its memory need is known once it is loaded")
    need = weight_bytes(shape, load, machine.has_gpu) + shape.cache_bytes(CHAT_TOKENS, 2 if machine.has_gpu else 4) + RUNTIME_BYTES
    where = "GPU memory" if machine.has_gpu else "memory"
    return _verdict(need, have, where)


def _verdict(need: int, have: int, where: str) -> Fit:
    verdict = "fits" if need <= have else "does not fit"
    return Fit(need <= have, need, have, f"{verdict}: needs {need / GIB:.1f} GB of {where}, {have / GIB:.1f} GB can be used")

"""The shape of a decoder: what is known of a model's size from its `config.json` alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# Families whose layers are called as Llama's, by transformers' `model_type`.
_NAMED_ALIKE = ("gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3", "smollm3")


class Linear(NamedTuple):
    """A projection of a block: the name of its layer type, and how many numbers go in and come out of it."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder with gated MLP and rotary positions (the Llama family and its relatives). `named`: its layers are called
    as `linears` says; of other families only the sizes are known."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int = 0
    tied: bool = False
    context: int = 4096
    named: bool = field(default=True, compare=False)

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
                named=config.get("model_type") in _NAMED_ALIKE,
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def head_width(self) -> int:
        return self.head_size or self.hidden // self.heads

    @property
    def query_width(self) -> int:
        """Numbers that all queries of a token have."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Numbers that all keys of a token have, and its values."""
        return self.kv_heads * self.head_width

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The projections of one block, by the names that transformers gives them."""
        queries, keys = self.query_width, self.key_width
        return (
            Linear("q_proj", self.hidden, queries),
            Linear("k_proj", self.hidden, keys),
            Linear("v_proj", self.hidden, keys),
            Linear("o_proj", queries, self.hidden),
            Linear("gate_proj", self.hidden, self.intermediate),
            Linear("up_proj", self.hidden, self.intermediate),
            Linear("down_proj", self.intermediate, self.hidden),
        )

    @property
    def linear_parameters(self) -> int:
        """Weights of the attention and MLP projections: those that 4 bits hold."""
        return self.layers * sum(linear.inputs * linear.outputs for linear in self.linears)

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

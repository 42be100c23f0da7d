"""Settings declared once: type, default, bounds and help become the form, the command line and the documents."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SYSTEM_CHARS = 8_000
MAX_SEED = 2**31 - 1


class Settings(BaseModel):
    """Base of all settings: frozen, unknown names refused, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ChatSettings(Settings):
    """How an answer is sampled. The defaults are those of the published Guanaco answers (top-p 0.9, temperature 0.7)."""

    temperature: float = Field(
        0.7, ge=0, le=2, title="Temperature", description="0 always takes the likeliest token; higher is more varied."
    )
    top_p: float = Field(
        0.9, gt=0, le=1, title="Top-p", description="Sample from the smallest set of tokens with this much probability; 1 turns it off."
    )
    top_k: int = Field(0, ge=0, le=1000, title="Top-k", description="Sample from this many likeliest tokens; 0 turns it off.")
    repetition_penalty: float = Field(
        1.0, ge=0.5, le=2, title="Repetition penalty", description="Above 1 makes tokens already used less likely; 1 turns it off."
    )
    max_new_tokens: int = Field(512, ge=1, le=4096, title="Longest answer", description="The answer stops after this many tokens.")
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, title="Seed", description="The same seed gives the same answer; empty draws a new one."
    )


class Quantization(StrEnum):
    """How linear weights are held."""

    nf4 = "nf4"
    fp4 = "fp4"
    none = "none"


Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class LoadSettings(Settings):
    """How weights are held in memory (QLoRA, section 3: NF4, double quantization, compute dtype)."""

    quantization: Literal["nf4", "fp4", "none"] = Field(
        "nf4", title="Quantization", description="4-bit NormalFloat (nf4), 4-bit float (fp4), or none: 16 bits on a GPU, 32 on a CPU."
    )
    double_quantization: bool = Field(
        True, title="Double quantization", description="Quantize the quantization constants too: about 0.37 bits less a parameter."
    )
    compute_dtype: Dtype = Field(
        "auto", title="Compute type", description="auto takes bfloat16 on GPUs that have it, float16 on older ones, float32 on a CPU."
    )
    max_memory_gib: dict[str, float] | None = Field(
        None, title="Memory limits", description="Most GiB to use a device, e.g. {'0': 10, 'cpu': 20}."
    )

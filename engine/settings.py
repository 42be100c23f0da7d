"""Settings declared once: type, default, bounds and help become the form, the command line and the documents."""

import os
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from engine.errors import BadInput

MAX_SYSTEM_CHARS = 8_000
MAX_SEED = 2**31 - 1
# Below it sampling takes the likeliest token anyway, and dividing by it would overflow.
LEAST_TEMPERATURE = 0.01


class Settings(BaseModel):
    """Base of all settings: frozen, unknown names refused, no NaN or infinity. Errors do not repeat what was given: it may be a key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


Made = TypeVar("Made", bound=Settings)


def option(name: str) -> str:
    """What a setting is called on the command line."""
    return f"--{name.replace('_', '-')}"


def made(kind: type[Made], called: Callable[[str], str] = str, **values: object) -> Made:
    """Settings of a kind with these values. Raises BadInput with the first that is none, by what it is `called`."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise BadInput(f"There is no setting {name}. There are: {', '.join(kind.model_fields)}.") from error
        raise BadInput(f"{called(name)}: {first['msg']}.") from error


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


class BackendName(StrEnum):
    """What runs a model."""

    auto = "auto"
    transformers = "transformers"
    llama_cpp = "llama.cpp"
    remote = "remote"


class Layout(StrEnum):
    """How llama.cpp holds a GGUF file's weights."""

    sharper = "sharper"
    faster = "faster"


MemoryLimits = Annotated[
    dict[Annotated[str, Field(pattern=r"^(\d+|cpu)$")], Annotated[float, Field(gt=0)]] | None,
    BeforeValidator(lambda value: {str(key): limit for key, limit in value.items()} if isinstance(value, Mapping) else value),
    Field(
        title="Memory limits",
        description="Spread the base over GPUs (and the CPU), each with at most this many GiB, e.g. {'0': 10, '1': 10, 'cpu': 20}. "
        "Without limits it is spread where one GPU is too small for it.",
    ),
]


def _address(url: str) -> str:
    """Refuses what is no address, and one that has a user and a password in it: settings are kept and shown."""
    if "@" in url:
        raise ValueError(
            "--base-url is kept and shown, so it may hold no user or password. Leave out what ends with @; the server's key comes from the "
            "environment variable that --api-key-env names."
        )
    import httpx  # where an address is given, it is loaded anyway

    try:
        httpx.URL(url)
        urlsplit(url).port  # httpx takes any number for a port
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"--base-url is no address: {error}. It looks like http://localhost:8000/v1.") from error
    return url


def _variable(name: str) -> str:
    """Refuses what can be no variable: it may be the key itself."""
    if name and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(
            "--api-key-env takes the name of the environment variable that holds the key, such as OPENAI_API_KEY; what was given can be no "
            "name. If it is the key itself, put it into a variable and name that."
        )
    return name


class LoadSettings(Settings):
    """What runs a model and how its weights are held in memory (QLoRA, section 3: NF4, double quantization, compute dtype)."""

    backend: BackendName = Field(
        BackendName.auto,
        title="Backend",
        description="auto runs GGUF files through llama.cpp where there is no GPU, all else through transformers; remote asks another server.",
    )
    base_url: Annotated[str, AfterValidator(_address)] = Field(
        "", title="Base URL", description="For remote: where the OpenAI-compatible server is, e.g. http://localhost:8000/v1."
    )
    api_key_env: Annotated[str, AfterValidator(_variable)] = Field(
        "", title="API key", description="For remote: the name of the environment variable that holds its key."
    )
    quantization: Literal["nf4", "fp4", "none"] = Field(
        "nf4", title="Quantization", description="4-bit NormalFloat (nf4), 4-bit float (fp4), or none: 16 bits on a GPU, 32 on a CPU."
    )
    double_quantization: bool = Field(
        True, title="Double quantization", description="Quantize the quantization constants too: about 0.37 bits less a parameter."
    )
    compute_dtype: Dtype = Field(
        "auto", title="Compute type", description="auto takes bfloat16 on GPUs that have it, float16 on older ones, float32 on a CPU."
    )
    layout: Layout = Field(
        Layout.sharper,
        title="Layout",
        description="For llama.cpp: sharper runs a file as shipped; faster lays it anew once for this kind of processor, at some loss.",
    )
    max_memory_gib: MemoryLimits = None

    def key(self) -> str | None:
        """The server's key, None where no variable is named. Raises BadInput where that variable holds none."""
        key = os.environ.get(self.api_key_env) if self.api_key_env else None
        if self.api_key_env and not key:
            raise BadInput(
                f"The environment variable {self.api_key_env} holds no key. Set it to the key of the server, or leave --api-key-env out."
            )
        return key


def load_settings(
    backend: BackendName, base_url: str, api_key_env: str, quantization: Quantization | None, layout: Layout = Layout.sharper
) -> LoadSettings:
    """Settings from what a person said on a command line: who names a quantization wants transformers, who names a server
    wants that one. Raises BadInput where the two are at odds with the backend, or where a key or a password is in the wrong place; a key
    that is missing is told here, before anything keeps the name it was looked for by."""
    if base_url and backend == "auto":
        backend = BackendName.remote
    if quantization and backend == "auto":
        backend = BackendName.transformers
    if backend == "remote" and not re.match(r"https?://[^/\s]", base_url):
        raise BadInput("The remote backend asks another server: say which with --base-url, e.g. http://localhost:8000/v1.")
    if backend != "remote" and (base_url or api_key_env):
        raise BadInput(f"--base-url and --api-key-env are for the remote backend; --backend is {backend}.")
    if quantization and backend != "transformers":
        raise BadInput(f"--quantization is for the transformers backend; --backend is {backend}.")
    if layout != "sharper" and backend not in ("auto", "llama.cpp"):
        raise BadInput(f"--layout is for the llama.cpp backend; --backend is {backend}.")
    held = (quantization or Quantization.nf4).value
    try:
        load = LoadSettings(backend=backend, base_url=base_url, api_key_env=api_key_env, quantization=held, layout=layout)
    except ValidationError as error:
        raise BadInput(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    load.key()
    return load

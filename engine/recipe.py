"""A training run written down: which base, how it is held, what is learnt from which data, for how long.

One `Recipe` is the form, the YAML file, the command line and the run folder's `recipe.yaml`. Unknown keys are refused by name.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from engine.errors import BadInput
from engine.examples import Lengths
from engine.settings import MAX_SEED, MAX_SYSTEM_CHARS, Dtype, MemoryLimits, Settings

ALL_LINEAR = "all-linear"
MAX_RECIPE_BYTES = 200_000
# The usual names of transformers' TrainingArguments(optim=...) that need no further package.
Optimizer = Literal[
    "adamw_torch",
    "adamw_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "adafactor",
    "sgd",
]
Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine"]


def _number(value: object) -> object:
    """YAML 1.1 reads 2e-4 as text, because it has no dot."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Float = Annotated[float, BeforeValidator(_number)]


class QuantizationRecipe(Settings):
    """How the base's linear weights are held (QLoRA, section 3)."""

    kind: Literal["nf4", "fp4", "none"] = Field(
        "nf4", title="Quantization", description="4-bit NormalFloat (nf4), 4-bit float (fp4), or none: 16 bits on a GPU, 32 on a CPU."
    )
    double: bool = Field(
        True, title="Double quantization", description="Quantize the quantization constants too: about 0.37 bits less a parameter."
    )
    compute_dtype: Dtype = Field(
        "auto", title="Compute type", description="auto takes bfloat16 on GPUs that have it, float16 on older ones, float32 on a CPU."
    )


class LoraRecipe(Settings):
    """The adapter (LoRA; QLoRA puts one on every linear layer of a block)."""

    r: int = Field(
        16, ge=1, le=1024, title="Rank", description="Width of the adapter's matrices: more can learn more, and takes more memory."
    )
    alpha: Float = Field(
        32.0,
        ge=0.01,
        le=65536,
        title="Alpha",
        description="The adapter's change is multiplied by alpha / rank. Raising it acts like a higher rate.",
    )
    dropout: Float = Field(
        0.05,
        ge=0,
        lt=1,
        title="Dropout",
        description="Share of the adapter's inputs left out at random while training, against learning by heart.",
    )
    targets: Literal["all-linear"] | list[str] = Field(
        ALL_LINEAR, title="Layers", description="all-linear, or names of layer types such as q_proj and v_proj."
    )
    start_from: str = Field(
        "none", title="Start from", description="An adapter to go on from instead of a fresh one: id, Hub id or folder."
    )
    save_as: Literal["float32", "float16"] = Field(
        "float32", title="Save as", description="Numeric type of the finished adapter's file; float16 halves it."
    )


class DataRecipe(Settings):
    """What is learnt, and how rows become tokens."""

    source: str = Field(
        "", title="Data", description="A file (JSON, JSONL, CSV, TSV, Parquet, text) or a Hub data set, owner/name[:split]."
    )
    format: str = Field("auto", title="Format", description="How rows are read; auto looks at them.")
    columns: dict[str, str] = Field({}, title="Columns", description="Fields of the format and the columns that hold them here.")
    prompt_format: str = Field(
        "auto",
        title="Prompt format",
        description="How turns become text: guanaco, openorca, alpaca, chat or plain; auto is the model's own.",
    )
    system: str = Field(
        "", max_length=MAX_SYSTEM_CHARS, title="System text", description="Stands before every conversation that brings none."
    )
    learn: Literal["answers", "everything"] = Field(
        "answers", title="Learn", description="Only the answers (and where they end), or the questions as well."
    )
    max_length: int = Field(
        512, ge=8, le=32_768, title="Longest row", description="In tokens. What is longer is cut, and still ends with the end token."
    )
    source_length: int | None = Field(
        None, ge=4, le=32_768, title="Longest question", description="In tokens; cut apart from the answer. Empty: only the row is limited."
    )
    target_length: int | None = Field(
        None, ge=4, le=32_768, title="Longest answer", description="In tokens; cut apart from the question. Empty: only the row is limited."
    )
    held_out: Annotated[int | float, BeforeValidator(_number)] = Field(
        0.05, ge=0, title="Held out", description="Rows kept from training to test what was learnt: a number of rows, or a share below 1."
    )
    held_out_from: Literal["random", "last"] = Field("random", title="Held out from", description="Rows drawn at random, or the last ones.")
    skip_bad_rows: bool = Field(
        True, title="Skip bad rows", description="Train on the rows that can be read; otherwise one bad row stops the run."
    )

    @property
    def lengths(self) -> Lengths:
        """The limits of a row."""
        return Lengths(self.max_length, self.source_length, self.target_length)


class OptimizationRecipe(Settings):
    """How the adapter is learnt. A step takes `batch` rows, in `accumulation` passes that share the memory."""

    optimizer: Optimizer = Field(
        "paged_adamw_32bit", title="Optimizer", description="Paged ones give their state to main memory when the GPU's runs short."
    )
    learning_rate: Float = Field(2e-4, gt=0, le=1, title="Learning rate", description="How far each step goes.")
    schedule: Schedule = Field("constant", title="Schedule", description="How the learning rate changes over the run.")
    warmup_steps: int = Field(0, ge=0, le=1_000_000, title="Warm-up", description="Steps in which the learning rate rises from zero.")
    beta2: Float = Field(0.999, ge=0, lt=1, title="Beta 2", description="How slowly Adam forgets the size of past gradients.")
    weight_decay: Float = Field(0.0, ge=0, le=1, title="Weight decay", description="How fast unused weights shrink.")
    max_grad_norm: Float = Field(
        0.3, ge=0, le=1000, title="Largest gradient", description="Longer gradients are cut to this norm; 0 leaves them."
    )
    batch: int = Field(16, ge=1, le=4096, title="Batch", description="Rows that one step learns from.")
    accumulation: int = Field(
        1,
        ge=1,
        le=4096,
        title="Accumulation",
        description="Passes a batch is split into: as many times less memory for rows, the same result.",
    )
    steps: int | None = Field(None, ge=1, le=10_000_000, title="Steps", description="How long to train, at most. Empty: by epochs.")
    epochs: Float | None = Field(
        None,
        gt=0,
        le=10_000,
        title="Epochs",
        description="How often every row is seen, at most. With steps as well, what is reached first ends the run.",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, title="Seed", description="The same seed gives the same run.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.batch % self.accumulation:
            raise ValueError(f"a batch of {self.batch} rows cannot be split into {self.accumulation} equal passes (accumulation)")
        if self.steps is None and self.epochs is None:
            raise ValueError("give steps or epochs")
        return self

    @property
    def micro_batch(self) -> int:
        """Rows that share a pass."""
        return self.batch // self.accumulation

    def steps_over(self, rows: int) -> int:
        """How many steps a run over so many rows takes."""
        by_epochs = [] if self.epochs is None else [max(1, math.ceil(self.epochs * rows / self.batch))]
        return min([*by_epochs, *([] if self.steps is None else [self.steps])])


class MemoryRecipe(Settings):
    """What is traded between memory and time."""

    activation_checkpointing: bool = Field(
        True,
        title="Activation checkpointing",
        description="Keep less of each layer and compute it again: about a third slower, far less memory.",
    )
    base_weights: Literal["auto", "packed", "unpacked"] = Field(
        "auto",
        title="Base weights",
        description="On a CPU 4-bit weights are unpacked anew at each use, or once if memory is plenty: the same numbers, several times as fast.",
    )
    max_memory_gib: MemoryLimits = None


class SamplesRecipe(Settings):
    """Watch it learn: questions answered before the first step and at every evaluation."""

    prompts: list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000)]] = Field(
        [], max_length=8, title="Sample prompts", description="Answered before training and at every evaluation."
    )
    max_new_tokens: int = Field(48, ge=1, le=1024, title="Longest sample", description="In tokens.")


class CadenceRecipe(Settings):
    """How often, in steps, what takes time beside training is done."""

    save_every: int = Field(
        250, ge=1, le=1_000_000, title="Save every", description="Steps between checkpoints; the last step is always saved."
    )
    eval_every: int = Field(
        187, ge=1, le=1_000_000, title="Evaluate every", description="Steps between tests on the held-out rows; before and after as well."
    )
    keep: int = Field(2, ge=1, le=1000, title="Keep", description="Checkpoints that stay on disk.")


class Recipe(Settings):
    """A whole run. What is not given has the default that the class says."""

    model: str = Field("starter", min_length=1, max_length=1_000, title="Base", description="A model id, a Hub id or a folder.")
    quantization: QuantizationRecipe = QuantizationRecipe()
    lora: LoraRecipe = LoraRecipe()
    data: DataRecipe = DataRecipe()
    optimization: OptimizationRecipe
    memory: MemoryRecipe = MemoryRecipe()
    samples: SamplesRecipe = SamplesRecipe()
    cadence: CadenceRecipe = CadenceRecipe()

    def to_yaml(self) -> str:
        """The whole recipe, every field written out, in the order of the class."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)

    def with_data(self, source: str, format: str = "auto", columns: Mapping[str, str] | None = None) -> "Recipe":
        """The same recipe on other data; without `format` and `columns` they are to be found out."""
        data = self.data.model_copy(update={"source": source, "format": format, "columns": dict(columns or {})})
        return self.model_copy(update={"data": data})

    def changed(self, changes: Mapping[str, object]) -> "Recipe":
        """The same recipe with other values for dotted keys, as in `{"optimization.accumulation": 2}`."""
        fields = self.model_dump()
        for key, value in changes.items():
            section, _, name = key.rpartition(".")
            (fields[section] if section else fields)[name] = value
        return Recipe.model_validate(fields)


def parse(text: str, what: str = "The recipe") -> Recipe:
    """The recipe in YAML text. Raises BadInput that names the key and what is wrong with it."""
    if len(text.encode()) > MAX_RECIPE_BYTES:
        raise BadInput(f"{what} is far too long for a recipe.")
    try:
        fields = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f": in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInput(f"{what} is no YAML{place}: {error.problem or error.context}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"{what} is no YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(fields, dict):
        raise BadInput(f"{what} must hold keys and values, such as `model: starter`.")
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise BadInput(f"{what}: {_complaint(error, fields)}") from error


# What pydantic's messages want in words that are not a program's.
_WANTED = {"model_type": "keys and values", "int_parsing": "a whole number", "int_from_float": "a whole number"}


def _complaint(error: ValidationError, fields: dict) -> str:
    """The first thing that is wrong, by the dotted name of its key."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part not in ("literal['all-linear']", "list[str]", "int", "float"))
    if first["type"] == "extra_forbidden":
        section = Recipe.model_fields[first["loc"][0]].annotation if len(first["loc"]) > 1 else Recipe
        return f"there is no key {key!r}. The keys there are: {', '.join(section.model_fields)}."
    if key == "optimization" and first["type"] == "missing":
        return "the key 'optimization' is missing. It says how long to train, such as `optimization: {epochs: 3}`."
    if first["type"] == "missing":
        return f"the key {key!r} is missing."
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith("Input should be"):
        wanted = _WANTED.get(first["type"], message.removeprefix("Input should be "))
        message = f"it must be {wanted}, and is {str(first['input'])[:60]!r}"
    return f"{key}: {message[0].lower()}{message[1:]}." if key else message


def read(path: Path) -> Recipe:
    """The recipe in a file. Raises BadInput where there is none."""
    try:
        size = path.stat().st_size
        if size > MAX_RECIPE_BYTES:
            raise BadInput(f"{path.name} has {size:,} bytes, far too many for a recipe.")
        return parse(path.read_text(encoding="utf-8-sig"), path.name)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path.name} is no text in UTF-8.") from error
    except OSError as error:
        raise BadInput(f"The recipe {path} cannot be read ({error.strerror}).") from error

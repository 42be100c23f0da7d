"""What a run would refuse, told before it is begun: from names and configs alone, without weights and without torch."""

import math
from collections.abc import Iterable

from engine import adapters, models, pace
from engine.adapters import Adapter
from engine.backends import weights
from engine.blend import NO_ADAPTER
from engine.datasets import MOST_PUBLIC_ROWS
from engine.errors import BadInput
from engine.model_files import read_config
from engine.model_spec import ModelSpec
from engine.pace import Pace
from engine.recipe import ALL_LINEAR, Recipe

# What a visitor's run may have on a public host, where others wait behind it. Rows and answers count each time.
MOST_UPDATES, MOST_ANSWERS, MOST_SAMPLED, MOST_SECONDS = 300, 100, 10_000, 3_600
# A forecast may be far off: such a run is stopped after so many seconds of training, and may be put in line again.
LONGEST_SECONDS = 2 * MOST_SECONDS
# The same of what it leaves on the disk.
MOST_RANK, MOST_SAVED, MOST_KEPT = 64, 30, 3
EMBEDDING = "lora.targets names an embedding. Adapters change linear layers only: leave it out."


def base(name: str) -> ModelSpec:
    """The base that a recipe names. Raises BadInput for what cannot be trained."""
    spec = models.resolve(name)
    if spec.kind in ("remote", "scripted"):
        raise BadInput(f"{name} has no weights here to be trained. Choose a model id, a Hub id or a folder.")
    return spec


def as_known_here(spec: ModelSpec) -> ModelSpec:
    """A base with its shape, where that is in the registry or its config on disk."""
    return models.described(spec, read_config(spec.folder)) if spec.shape is None and spec.in_safetensors else spec


def looked_at(spec: ModelSpec) -> ModelSpec:
    """The same; of one that is yet to be fetched from the Hub the config alone is. Raises BadInput for an architecture that cannot be
    trained (faults, row 4), EngineError where the Hub does not answer."""
    unknown = spec.kind == "hub" and spec.format == "safetensors" and not spec.in_safetensors
    return weights.looked_up(spec)[1] if unknown else as_known_here(spec)


def start(recipe: Recipe, spec: ModelSpec) -> Adapter | None:
    """The adapter that a recipe goes on from, None for a fresh one; of the Hub's nothing large is fetched. Raises BadInput where it
    is none, not safetensors, or of another base (faults, rows 6 to 8), EngineError where the Hub does not answer."""
    if recipe.lora.start_from in ("", NO_ADAPTER):
        return None
    found = adapters.looked_at(recipe.lora.start_from)
    adapters.check_stated_base(found, spec)
    return found


def check_layers(recipe: Recipe, spec: ModelSpec) -> None:
    """Raises BadInput where no layer is called as the recipe wants (faults, row 5), as far as the base's shape tells the names."""
    targets = recipe.lora.targets
    if targets == ALL_LINEAR or recipe.lora.start_from not in ("", NO_ADAPTER) or not (spec.shape and spec.shape.named):
        return
    wanted, there = {target.rpartition(".")[2] for target in targets}, {linear.name for linear in spec.shape.linears}
    if "embed_tokens" in wanted:
        raise BadInput(EMBEDDING)
    if not wanted & {*there, "lm_head"}:
        raise BadInput(no_layers(spec.id, targets, there))


def check_for_visitors(recipe: Recipe, rows: int, mean_tokens: float, speed: Pace) -> None:
    """Raises BadInput where a run over so many rows of so many tokens is more than a visitor may start on a public host of that pace."""
    work = pace.work(recipe, rows)
    tests = pace.tests(recipe, work.steps)
    passed = work.steps * recipe.optimization.batch + tests * work.tested
    answers = tests * len(recipe.samples.prompts)
    saved = math.ceil(work.steps / recipe.cadence.save_every)
    for what, count, most, mend in (
        ("rows of data", rows, MOST_PUBLIC_ROWS, "Bring fewer rows in step 2."),
        ("updates", work.steps, MOST_UPDATES, f"Set Steps in step 4 to {MOST_UPDATES} or less."),
        ("rows to learn from and to test, each time counted", passed, MOST_PUBLIC_ROWS, "Lower Batch or raise Evaluate every in step 4."),
        ("sample answers", answers, MOST_ANSWERS, "Raise Evaluate every in step 4, or ask fewer prompts."),
        ("tokens in sample answers", answers * recipe.samples.max_new_tokens, MOST_SAMPLED, "Lower Longest sample in step 4."),
        ("as its adapter's rank", recipe.lora.r, MOST_RANK, f"Set Rank in step 4 to {MOST_RANK} or less."),
        ("checkpoints", saved, MOST_SAVED, "Raise Save every in step 4."),
        ("checkpoints kept", min(saved, recipe.cadence.keep), MOST_KEPT, f"Set Keep in step 4 to {MOST_KEPT} or less."),
    ):
        if count > most:
            raise BadInput(f"On this public host a run may have at most {most:,} {what}; this one has {count:,}. {mend}")
    seconds = pace.whole_seconds(recipe, rows, mean_tokens, speed)
    if seconds > MOST_SECONDS:
        raise BadInput(
            f"On this public host a run may take an hour; this one would take {pace.duration_words(seconds)}. Lower Steps or Batch in step 4, "
            "or Longest row in step 2."
        )


def no_layers(name: str, targets: str | list[str], there: Iterable[str]) -> str:
    """Which layer types there are, where none is called as the recipe says."""
    wanted = (
        "linear layers" if targets == ALL_LINEAR else f"layers called {', '.join(targets)}" if any(targets) else "layers without a name"
    )
    kinds = f"It has: {', '.join(sorted(there))}." if there else "It has no linear layers that an adapter could change."
    return f"{name} has no {wanted} (lora.targets). {kinds}"

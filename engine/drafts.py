"""What somebody has chosen in the finetune wizard so far: a recipe whose data may still be missing.

It lives in the visitor's browser and comes back with every action, so all of it is checked each time.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from engine import datasets, models, presets
from engine.errors import BadInput
from engine.recipe import DataRecipe, Recipe
from engine.settings import Settings

# For data of one's own: rows kept to see what was learnt, passes over the rest.
_HELD_OUT, _EPOCHS, _MOST_STEPS = 0.1, 3.0, 1_875
# What bases are compared by: one pass over so many rows of so many tokens.
COMPARED_ROWS, COMPARED_TOKENS = 1_000, 200


def on(recipe: Recipe, data: DataRecipe) -> Recipe:
    """A base's own recipe on this data, or on what is yet to come. What a published recipe says of its own data set does not hold for
    another, nor a number of rows to hold out for as many rows as somebody has."""
    kept = {"source": data.source, "format": data.format, "columns": data.columns}
    plan = recipe.optimization
    if not recipe.data.source or recipe.data.source != data.source:
        kept |= {"held_out": _HELD_OUT, "held_out_from": "random"}
        if recipe.data.source:
            kept |= {"learn": "answers", "system": data.system, "source_length": None, "target_length": None}
            plan = plan.model_copy(update={"epochs": _EPOCHS, "steps": min(plan.steps or _MOST_STEPS, _MOST_STEPS)})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=kept), "optimization": plan})


class Draft(Settings):
    """`title` is what the data is called for people, `run` the run that was started from it, or chosen to be tried, last."""

    recipe: Recipe = on(presets.preset(models.STARTER), DataRecipe())
    title: str = ""
    run: str = ""


@dataclass(frozen=True)
class Base:
    """A base to choose, with what its own recipe needs here: bytes, whether it fits, `seconds` for one pass over COMPARED_ROWS, bytes to
    fetch for a training (None: unknown) and whether they are here."""

    id: str
    title: str
    licence: str
    gated: bool
    need: int
    fits: bool
    seconds: float
    fetch: int | None
    on_disk: bool


def read(value: object) -> Draft:
    """The draft that a browser kept. One that another version wrote or that makes no sense gives way to a fresh one."""
    if isinstance(value, Mapping):
        with contextlib.suppress(ValidationError):
            return Draft.model_validate(value)
    return Draft()


def with_model(draft: Draft, model: str) -> Draft:
    """The draft on another base, by that base's own recipe; data stays. Raises BadInput where there is no such model."""
    spec = models.resolve(model.strip())
    if not spec.can_be_finetuned:
        raise BadInput(f"{spec.title} cannot be finetuned: it has no weights that training could use.")
    recipe = presets.of_model(spec.id).model_copy(update={"model": model.strip()})
    return draft.model_copy(update={"recipe": on(recipe, draft.recipe.data)})


def with_data(draft: Draft, source: str, title: str, format: str = datasets.AUTO, columns: Mapping[str, str] | None = None) -> Draft:
    """The draft on other data."""
    return draft.model_copy(update={"recipe": draft.recipe.with_data(source, format, columns), "title": title})


def rows(draft: Draft) -> tuple[str, str, str, Mapping[str, str]]:
    """What `with_data` takes of a draft."""
    data = draft.recipe.data
    return data.source, draft.title, data.format, data.columns


def missing(draft: Draft) -> str:
    """Why training cannot start yet, as a sentence that says what to do; empty where it can."""
    return "" if draft.recipe.data.source else "Choose the data first: step 2."


def changed(draft: Draft, changes: Mapping[str, object]) -> Draft:
    """The draft with other values for dotted keys of its recipe. Raises BadInput where one cannot be."""
    try:
        return draft.model_copy(update={"recipe": draft.recipe.changed(changes)})
    except ValidationError as error:
        raise BadInput(f"{', '.join(changes)}: {error.errors()[0]['msg']}.") from error


def with_preset(draft: Draft, name: str) -> Draft:
    """The draft by another recipe, the base's own without a name; base and data stay. Raises BadInput where there is none such."""
    found = presets.preset(name) if name else presets.of_model(models.resolve(draft.recipe.model).id)
    lora = found.lora.model_copy(update={"start_from": draft.recipe.lora.start_from})
    recipe = found.model_copy(update={"model": draft.recipe.model, "lora": lora})
    return draft.model_copy(update={"recipe": on(recipe, draft.recipe.data)})


def in_force(draft: Draft, own: str) -> str | None:
    """The name of the preset that the draft's recipe is, `own` for that of its base; None where it is none of them."""
    for name in ("", *presets.PRESETS):
        with contextlib.suppress(BadInput):  # the base may be gone
            if with_preset(draft, name).recipe == draft.recipe:
                return name or own
    return None

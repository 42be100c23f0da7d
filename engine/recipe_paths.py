"""A recipe is told from any folder: its base, the adapter that it goes on from and its data are named so that a later process finds them,
wherever that was started."""

from engine import adapters, models
from engine.model_files import absolute_path
from engine.recipe import Recipe
from engine.settings import LoadSettings


def absolute(plan: Recipe) -> Recipe:
    """The same recipe, what it names on this machine with the whole path. Ids and what is not here stay as they are."""
    return plan.changed(
        {
            "model": models.absolute(plan.model, LoadSettings()),
            "lora.start_from": adapters.absolute(plan.lora.start_from),
            "data.source": absolute_path(plan.data.source),
        }
    )

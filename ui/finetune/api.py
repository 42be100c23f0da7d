"""The wizard for programs: what a person does on the page, as named endpoints that take a recipe as YAML."""

import gradio as gr

from engine import drafts, fitting, recipe
from engine.drafts import Draft
from engine.errors import BadInput
from ui import form
from ui.finetune.start import TrainStep
from ui.finetune.workshop import Workshop

_SHOWN = 20


def endpoints(shop: Workshop, train: TrainStep) -> None:
    """Offer them in the Blocks that are open. Following, stopping and resuming are those of the view of a run."""

    def draft_of(text: str) -> Draft:
        shop.allowed()
        made = recipe.parse(text)
        draft = Draft(recipe=made, title=made.data.source.rpartition("/")[2])
        shop.allowed(draft)
        return draft

    def finetune_preview(recipe_yaml: str) -> dict:
        """The data of a recipe: format, first rows, bad rows, and what its limits cut off.

        Args:
            recipe_yaml: The recipe, as `python -m engine train` takes it.
        """
        with form.explained(plain=True):
            draft = draft_of(recipe_yaml)
            if why := drafts.missing(draft):
                raise BadInput(why)
            first = shop.first(draft)
            measured = shop.counted(draft)
            cut = shop.cut(draft, measured)
        return {
            "format": first.format,
            "reason": first.reason,
            "rows": [{"line": line, "question": asked, "answer": answer} for line, _, asked, answer, _ in first.table()[:_SHOWN]],
            "bad": [{"line": each.line, "reason": each.reason} for each in measured.bad],
            "learnable": cut.rows,
            "cut": cut.cut,
            "unlearnable": cut.unlearnable,
            "tokens": cut.total,
            "means": shop.sentence(draft),
        }

    def finetune_estimate(recipe_yaml: str) -> dict:
        """What a recipe takes in memory on this machine and others, in bytes.

        Args:
            recipe_yaml: The recipe, as `python -m engine train` takes it.
        """
        with form.explained(plain=True):
            draft = draft_of(recipe_yaml)
            shape = shop.spec(draft).shape
            if shape is None:
                raise BadInput("The shape of this base is not known before it is on disk.")
            plans = fitting.plans(shape, draft.recipe)
        return {
            name: {"resident": plan.resident, "total": plan.total, "have": plan.have, "fits": plan.fits} for name, plan in plans.items()
        }

    def finetune_start(recipe_yaml: str, name: str = "") -> str:
        """Start a finetuning run by a recipe, in the background; gives its id for finetune_status.

        Args:
            recipe_yaml: The recipe, as `python -m engine train` takes it.
            name: What to call the run; empty for the name of its data.
        """
        with form.explained(plain=True):
            draft = draft_of(recipe_yaml)
            return train.begin(draft.model_copy(update={"title": name or draft.title}))

    for endpoint in (finetune_preview, finetune_estimate, finetune_start):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_limit=2, concurrency_id="estimates")

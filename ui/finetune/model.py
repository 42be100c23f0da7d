"""Step 1 of the wizard: the base to finetune, and the adapter to go on from."""

from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component

from engine import drafts
from engine.blend import NO_ADAPTER
from engine.drafts import Draft, read
from engine.errors import EngineError
from ui import form
from ui.finetune import views
from ui.finetune.workshop import Workshop, kept


@dataclass
class ModelStep:
    """The components of the step; `outputs` are filled by `shown`."""

    shop: Workshop
    base: gr.Dropdown = field(init=False)
    start_from: gr.Dropdown = field(init=False)
    table: gr.HTML = field(init=False)

    def draw(self) -> "ModelStep":
        with gr.Row():
            self.base = gr.Dropdown(
                [],
                label="Base model",
                info="What is finetuned. A Hub id (owner/name) or a folder can be typed as well.",
                allow_custom_value=True,
                min_width=300,
                elem_id="ft-base",
            )
            self.start_from = gr.Dropdown(
                [],
                label="Start from",
                info="A fresh adapter, or one to go on with.",
                allow_custom_value=True,
                min_width=300,
                elem_id="ft-start-from",
            )
        self.table = gr.HTML(elem_id="ft-bases", apply_default_css=False)
        return self

    @property
    def outputs(self) -> list[Component]:
        return [self.base, self.start_from, self.table]

    def shown(self, draft: Draft) -> list:
        model, chosen, wrong = draft.recipe.model, None, ""
        try:
            chosen = self.shop.spec(draft)
        except EngineError as error:  # such as a folder that is gone
            wrong = views.told(str(error), "wrong")
        found = self.shop.bases(chosen)
        choices = [(f"{base.title} · {views.gigabytes(base.need)}{'' if base.fits else ', too large here'}", base.id) for base in found]
        if model not in [id for _, id in choices]:
            choices.insert(0, (model, model))
        adapters = [("a fresh adapter" if id == NO_ADAPTER else title, id) for title, id in self.shop.services.adapter_choices(model)]
        return [
            gr.Dropdown(choices=choices, value=model),
            gr.Dropdown(choices=adapters, value=draft.recipe.lora.start_from),
            wrong + views.bases(found),
        ]

    def listed_again(self, draft: Draft, table: str) -> list:
        """What there is to choose by now, as the tab is entered once more; what stands in the fields stays. Before `table` was filled
        for the first time that is on its way."""
        if not table:
            return [gr.skip()] * 3
        base, start_from, table = self.shown(draft)
        return [gr.Dropdown(choices=base.choices), gr.Dropdown(choices=start_from.choices), table]

    def wire(self, draft: gr.BrowserState) -> None:
        def choose(model: str, kept_draft: object) -> list:
            before = read(kept_draft)
            try:
                self.shop.allowed(drafts.changed(Draft(), {"model": model or "?"}))
                changed = drafts.with_model(before, model or "")
                self.shop.base(changed)
            except EngineError as error:
                return self._refused(before, f"{error} The base is still {before.recipe.model}.")
            return [kept(changed), *self.shown(changed)]

        def start_from(adapter: str, kept_draft: object) -> list:
            before = read(kept_draft)
            try:
                self.shop.allowed(drafts.changed(Draft(), {"lora.start_from": adapter or NO_ADAPTER}))
                changed = drafts.changed(before, {"lora.start_from": (adapter or "").strip() or NO_ADAPTER})
                self.shop.check_start(changed)
            except EngineError as error:
                held = before.recipe.lora.start_from
                return self._refused(before, f"{error} It still starts from {'a fresh adapter' if held in ('', NO_ADAPTER) else held}.")
            return [kept(changed), *self.shown(changed)]

        # A base or an adapter of the Hub is looked at, which may take a moment.
        how = {"api_visibility": "private", **form.QUICK, "show_progress": "minimal", "show_progress_on": self.table}
        self.base.input(choose, [self.base, draft], [draft, *self.outputs], **how)
        self.start_from.input(start_from, [self.start_from, draft], [draft, *self.outputs], **how)

    def _refused(self, draft: Draft, why: str) -> list:
        """What was typed stays, to be mended; the draft is as it was."""
        *_, table = self.shown(draft)
        return [gr.skip(), gr.skip(), gr.skip(), views.told(why, "wrong") + table]

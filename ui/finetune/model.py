"""Step 1 of the wizard: the base to finetune, and the adapter to go on from."""

from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from engine import drafts
from engine.blend import NO_ADAPTER
from engine.drafts import Draft, read
from engine.errors import EngineError
from ui import form
from ui.finetune import views
from ui.finetune.turns import Turn
from ui.finetune.workshop import Workshop, asking, kept, latest, unheard


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

    def wire(self, draft: gr.BrowserState) -> list[Dependency]:
        """Gives the events that change the draft."""

        def choose(ask: dict, kept_draft: object, model: str) -> dict:
            """The base that was asked for and what it was asked in place of, or why it cannot be; the draft may be another by now."""
            before, found = read(kept_draft), {**ask, "model": (model or "").strip(), "wrong": ""}
            if found["model"] != before.recipe.model:
                try:
                    self.shop.allowed(drafts.changed(Draft(), {"model": found["model"] or "?"}))
                    self.shop.base(drafts.with_model(before, found["model"]))
                except EngineError as error:
                    found["wrong"] = str(error)
            return {**found, "before": before.recipe.model}

        def take(found: dict, kept_draft: object, *said: str | None) -> list:
            """The base that was found, in the draft as it is now; `said` is what both pickers hold."""
            now = read(kept_draft)
            if found["wrong"]:
                return self._refused(now, f"{found['wrong']} The base is still {now.recipe.model}.")
            if now.recipe.model == found["model"]:  # Gradio tells also that a picker was left as it was, and some choices twice
                return self._unchanged(now, *said)
            if now.recipe.model != found["before"]:  # by a recipe with a base of its own
                wrong = f"{found['model']} was found, but another base was chosen meanwhile. Choose it again to finetune it."
                return self._refused(now, wrong)
            with form.explained():
                self.shop.allowed(drafts.changed(Draft(), {"model": found["model"] or "?"}))
                changed = drafts.with_model(now, found["model"])
            return self._taken(changed, found)

        def start_from(ask: dict, kept_draft: object, adapter: str) -> dict:
            """The same of the adapter, which was looked at for the base of then."""
            before, chosen = read(kept_draft), (adapter or "").strip() or NO_ADAPTER
            found = {**ask, "chosen": chosen, "model": before.recipe.model, "before": before.recipe.lora.start_from, "wrong": ""}
            if chosen != found["before"]:
                try:
                    self.shop.allowed(drafts.changed(Draft(), {"lora.start_from": chosen}))
                    self.shop.check_start(drafts.changed(before, {"lora.start_from": chosen}))
                except EngineError as error:
                    found["wrong"] = str(error)
            return found

        def take_start(found: dict, kept_draft: object, *said: str | None) -> list:
            now = read(kept_draft)
            wrong, chosen, held = found["wrong"], found["chosen"], now.recipe.lora.start_from
            another = now.recipe.model != found["model"]
            if not wrong and (chosen == held or (another and chosen == found["before"])):
                return self._unchanged(now, *said)
            if another:
                wrong = "Another base was chosen meanwhile. Choose what to start from again."
            if wrong:
                return self._refused(now, f"{wrong} It still starts from {'a fresh adapter' if held in ('', NO_ADAPTER) else held}.")
            with form.explained():
                changed = drafts.changed(now, {"lora.start_from": chosen})
            return self._taken(changed, found)

        changing = []
        # A base or an adapter of the Hub is looked at, which may take a moment.
        shown = {"show_progress": "minimal", "show_progress_on": self.table}
        how = {"api_visibility": "private", "trigger_mode": "multiple", **form.QUICK, **shown}
        for picker, look, take_it in ((self.base, choose, take), (self.start_from, start_from, take_start)):
            what, answer = look.__name__, gr.JSON(visible=False, label="found")
            found = picker.input(look, [answer, draft, picker], answer, js=asking(what, what), **how)
            taking = Turn(take_it, [answer, draft, self.base, self.start_from], [draft, *self.outputs], handed=True, **form.QUICK)
            taking.after(found.success, inputs=[answer], hand=latest(what))
            changing.append(taking.after(found.failure, hand=unheard(what)))
        return changing

    def _taken(self, draft: Draft, found: dict) -> list:
        """What was found is the draft's now; a later ask may have been refused."""
        *pickers, table = self.shown(draft)
        refused = views.told(found["refused"], "wrong") if found.get("refused") else ""
        return [kept(draft), *pickers, refused + table]

    def _unchanged(self, draft: Draft, base: str | None, adapter: str | None) -> list:
        """What was touched is the draft's already. What the other picker asks for may be on its way, or be told to be wrong until both
        say what the draft does."""
        held = draft.recipe.lora.start_from
        *_, table = self.shown(draft)
        there = (base, adapter or held) == (draft.recipe.model, held)
        return [gr.skip(), gr.skip(), gr.skip() if adapter else gr.Dropdown(value=held), table if there else gr.skip()]

    def _refused(self, draft: Draft, why: str) -> list:
        """What was typed stays, to be mended; the draft is as it was."""
        *_, table = self.shown(draft)
        return [gr.skip(), gr.skip(), gr.skip(), views.told(why, "wrong") + table]

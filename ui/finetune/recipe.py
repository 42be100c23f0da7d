"""Step 4 of the wizard: the recipe, a few choices first and every field of it under "advanced"; the form is made of the classes."""

import secrets
from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from engine import drafts, presets, recipe
from engine.drafts import Draft, read
from engine.errors import EngineError
from engine.paths import public_name
from engine.recipe import Recipe
from ui import assets, form
from ui.finetune import counting, views
from ui.finetune.workshop import Workshop, kept

# The choices of most people, by section; the rest is under "advanced".
SIMPLE = {"optimization": ("learning_rate", "epochs", "steps"), "lora": ("r",), "samples": ("prompts",)}
# What other steps choose.
ELSEWHERE = {"data": ("source", "format", "columns", "max_length"), "lora": ("start_from",)}
SECTIONS = {name: each.annotation for name, each in Recipe.model_fields.items() if name != "model"}
TITLES = {
    "quantization": "How the base is held",
    "lora": "The adapter",
    "data": "Rows",
    "optimization": "Learning",
    "memory": "Memory",
    "samples": "Watch it learn",
    "cadence": "Saving and testing",
}
OWN = "the base's own"


@dataclass
class RecipeStep:
    """The components of the step; `fields` are those of the recipe by dotted key."""

    shop: Workshop
    outputs: list[Component] = field(default_factory=list)
    standing: list[Component] = field(default_factory=list)
    fields: dict[str, Component] = field(default_factory=dict)

    def draw(self) -> "RecipeStep":
        self.means = gr.HTML(elem_id="ft-means", apply_default_css=False)
        self.counting, self.filled = counting.line(), [self.means]
        self.preset = gr.Dropdown(
            [OWN, *presets.PRESETS], value=OWN, label="Preset", info="A recipe to begin with; your base and data stay.", elem_id="ft-preset"
        )
        with gr.Group(elem_id="ft-simple"):
            for section, names in SIMPLE.items():
                self._draw(section, names)
        with gr.Accordion("Advanced: every field of the recipe", open=False, elem_id="ft-advanced"):
            for section, kind in SECTIONS.items():
                others = tuple(name for name in kind.model_fields if name not in (*SIMPLE.get(section, ()), *ELSEWHERE.get(section, ())))
                if others:
                    gr.Markdown(f"**{TITLES[section]}**")
                    self._draw(section, others)
            self.yaml = gr.Textbox(label="The recipe as YAML", lines=6, max_lines=30, buttons=["copy"], elem_id="ft-yaml")
            with gr.Row():
                self.take = gr.Button("Take this YAML", size="sm", elem_id="ft-take-yaml")
                self.save = gr.Button("Save as recipe.yaml", size="sm", elem_id="ft-save-yaml")
        # Which filling of the fields stands there, and which recipe they say by now, by the filling that it began with. The page has
        # both, as it has the draft: what the server remembers would be ahead of it.
        self.filling, self.said = gr.JSON(visible=False, label="filling"), gr.JSON(visible=False, label="said")
        self.outputs = [self.means, self.preset, *self.fields.values(), self.yaml, self.filling, self.said]
        # What `entered` looks at beside the draft.
        self.standing = [self.filling, self.said, *self.fields.values()]
        return self

    def _draw(self, section: str, names: tuple[str, ...]) -> None:
        kind = SECTIONS[section]
        without = tuple(name for name in kind.model_fields if name not in names)
        drawn = zip((name for name in kind.model_fields if name in names), form.components(kind, without), strict=True)
        self.fields |= {f"{section}.{name}": component for name, component in drawn}

    def shown(self, draft: Draft) -> list:
        held = {
            f"{section}.{name}": value
            for section, kind in SECTIONS.items()
            for name, value in zip(kind.model_fields, form.values(getattr(draft.recipe, section)), strict=True)
        }
        filling = {"filling": secrets.token_hex(8)}
        fields = [*(held[key] for key in self.fields), draft.recipe.to_yaml()]
        return [self._means(draft), self._in_force(draft), *fields, filling, filling | _recipe(draft)]

    def entered(self, draft: Draft, filling: dict | None, said: dict | None, *values: object) -> list:
        """The same, without what stands there already: somebody may be writing in the fields by the time that they would be filled."""
        if self._agree(draft, filling, said) and self.changed(draft, values) == (draft, ""):
            return [self._means(draft), *[gr.skip()] * (len(self.outputs) - 1)]
        return self.shown(draft)

    def agreed(self, draft: Draft, filling: dict | None, said: dict | None) -> list:
        """Everything of the step anew where the fields say another recipe than the draft's: they were filled for another, or when
        something was changed that came later."""
        return [gr.skip()] * len(self.outputs) if self._agree(draft, filling, said) else self.shown(draft)

    def _agree(self, draft: Draft, filling: dict | None, said: dict | None) -> bool:
        return bool(filling and said) and said == filling | _recipe(draft)

    def _in_force(self, draft: Draft) -> str | None:
        """The preset that the draft is, None where it is another recipe."""
        try:
            self.shop.allowed(draft)  # else visitors' drafts would be looked up on the host's disk
            return drafts.in_force(draft, OWN)
        except EngineError:
            return None

    def sentences(self, draft: Draft) -> list:
        return [self._means(draft)]

    def _means(self, draft: Draft) -> str:
        try:
            return views.told(self.shop.sentence(draft), "means")
        except EngineError as error:
            return views.told(str(error), "wrong")

    def changed(self, draft: Draft, values: tuple) -> tuple[Draft, str]:
        """The draft with what the components say, as far as it can be, and a sentence on what cannot."""
        given = dict(zip(self.fields, values, strict=True))
        sections, wrong = {}, []
        for section in SECTIONS:
            mine = {key.partition(".")[2]: value for key, value in given.items() if key.startswith(f"{section}.")}
            sections[section], said = form.taken(getattr(draft.recipe, section), mine)
            wrong += [said] if said else []
        return draft.model_copy(update={"recipe": draft.recipe.model_copy(update=sections)}), " ".join(wrong)

    def wire(self, draft: gr.BrowserState) -> list[Dependency]:
        """Gives the events that change the draft."""

        def change(request: gr.Request, kept_draft: object, filling: dict | None, said: dict | None, *values: object) -> list:
            before = read(kept_draft)
            if not self._agree(before, filling, said):  # all of the fields would be taken, for the one that was touched
                return [gr.skip(), *self.shown(before)]
            made, wrong = self.changed(before, values)
            self.shop.give_up_others(made, request.session_hash)
            told = views.told(wrong, "wrong") if wrong else self._means(made)
            untouched = [gr.skip()] * len(self.fields)
            # Somebody may be writing it, and a field that is left as it was is told as well.
            text = gr.skip() if made == before else made.recipe.to_yaml()
            return [kept(made), told, self._in_force(made), *untouched, text, gr.skip(), filling | _recipe(made)]

        def leave(request: gr.Request, kept_draft: object, filling: dict | None, said: dict | None, *values: object) -> list:
            sliders = [each if isinstance(each, gr.Slider) else None for each in self.fields.values()]
            shown = [form.left(value, at.minimum, at.maximum) if at else value for at, value in zip(sliders, values)]
            # What was right is taken already, and somebody may be typing elsewhere.
            same = shown == [*values]
            return [gr.skip()] * (1 + len(self.outputs)) if same else change(request, kept_draft, filling, said, *shown)

        def begin_with(name: str, kept_draft: object) -> list:
            before = read(kept_draft)
            if not name or name == self._in_force(before):  # Gradio tells also that it was left as it was, and some choices twice
                return [gr.skip()] * (1 + len(self.outputs))
            with form.explained():
                self.shop.allowed(before)
                made = drafts.with_preset(before, "" if name == OWN else name)
            return [kept(made), *self.shown(made)]

        def take(text: str, kept_draft: object) -> list:
            with form.explained():
                self.shop.allowed()
                before = read(kept_draft)
                found = recipe.parse(text or "")
                same = found.data.source == before.recipe.data.source
                made = before.model_copy(update={"recipe": found, "title": before.title if same else public_name(found.data.source)})
                self.shop.allowed(made)
            return [kept(made), *self.shown(made)]

        how = {"api_visibility": "private", "trigger_mode": "always_last", **form.QUICK}
        inputs = [draft, *self.standing]
        shown = [draft, *self.outputs]
        left = [each.release for each in self.fields.values() if isinstance(each, gr.Slider)]
        self.save.click(None, self.yaml, None, js=assets.saving("'recipe.yaml'"), api_visibility="private")
        # What is pasted or deleted in a text box is no input to Gradio.
        written = [each.blur for each in self.fields.values() if isinstance(each, gr.Textbox)]
        typed = gr.on([*(each.input for each in self.fields.values()), *written], change, inputs, shown, **how, **form.AS_TYPED)
        chosen = (
            gr.on(left, leave, inputs, shown, **how, **form.AS_TYPED),
            self.preset.input(begin_with, [self.preset, draft], [draft, *self.outputs], **how),
            self.take.click(take, [self.yaml, draft], [draft, *self.outputs], **how),
        )
        for event in (typed, *chosen):
            counting.after(event, self, draft, typed=event is typed)
        return [typed, *chosen]


def _recipe(draft: Draft) -> dict:
    return {"recipe": draft.recipe.model_dump(mode="json")}

"""Step 4 of the wizard: the recipe, a few choices first and every field of it under "advanced"; the form is made of the classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from pydantic import ValidationError

from engine import drafts, presets, recipe
from engine.drafts import Draft, read
from engine.errors import EngineError
from engine.paths import public_name
from engine.recipe import Recipe
from ui import assets, form
from ui.finetune import counting, views
from ui.finetune.turns import Turn
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
_UNTIL = "Until it is mended, what was there before counts."


@dataclass
class RecipeStep:
    """The components of the step; `fields` are those of the recipe by dotted key, `entering` fills it."""

    shop: Workshop
    outputs: list[Component] = field(default_factory=list)
    fields: dict[str, Component] = field(default_factory=dict)
    entering: Turn = field(init=False)

    def draw(self) -> "RecipeStep":
        self.means = gr.HTML(elem_id="ft-means", apply_default_css=False)
        self.wrong = gr.HTML(elem_id="ft-recipe-wrong", apply_default_css=False)
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
        # The recipe that the fields say: what differs from it was touched since. The page has it, as it has the draft.
        self.said = gr.JSON(visible=False, label="said")
        self.outputs = [self.means, self.preset, self.wrong, *self.fields.values(), self.yaml, self.said]
        return self

    def _draw(self, section: str, names: tuple[str, ...]) -> None:
        kind = SECTIONS[section]
        without = tuple(name for name in kind.model_fields if name not in names)
        drawn = zip((name for name in kind.model_fields if name in names), form.components(kind, without), strict=True)
        self.fields |= {f"{section}.{name}": component for name, component in drawn}

    def shown(self, draft: Draft) -> list:
        """Everything of the step anew."""
        fields = self._held(draft.recipe).values()
        return [self._means(draft), self._in_force(draft), "", *fields, draft.recipe.to_yaml(), draft.recipe.model_dump(mode="json")]

    def _held(self, recipe: Recipe) -> dict[str, object]:
        """What the fields show of a recipe."""
        values = {
            f"{section}.{name}": value
            for section, kind in SECTIONS.items()
            for name, value in zip(kind.model_fields, form.values(getattr(recipe, section)), strict=True)
        }
        return {key: values[key] for key in self.fields}

    def agreed(self, draft: Draft, there: Recipe, given: Mapping[str, object]) -> tuple[Draft, str, set[str]]:
        """The draft with what was touched in the fields since they said the recipe that is `there`, as far as it can be; a sentence on
        what cannot; and the keys of what was touched."""
        sections, wrong, touched = {}, [], set()
        for section in SECTIONS:
            mine = {key.partition(".")[2]: value for key, value in given.items() if key.startswith(f"{section}.")}
            was = getattr(there, section)
            now, why = form.taken(was, mine)
            new = {name: value for name, value in mine.items() if getattr(now, name) != getattr(was, name)}
            sections[section], also = form.taken(getattr(draft.recipe, section), new)
            touched |= {f"{section}.{name}" for name in new}
            wrong += [why or also] if why or also else []
        return draft.model_copy(update={"recipe": draft.recipe.model_copy(update=sections)}), " ".join(wrong), touched

    def _followed(self, before: Draft, made: Draft, said: object, wrong: str, touched: set[str], standing: Mapping[str, object]) -> list:
        """The draft and all outputs, without what stands there already: somebody may be writing in the fields, or in the YAML. A field
        is filled where what is `standing` in it is another thing and it was not `touched`."""
        fields = [gr.skip() if key in touched or standing[key] == held else held for key, held in self._held(made.recipe).items()]
        recipe, told = made.recipe.model_dump(mode="json"), views.told(f"{wrong} {_UNTIL}", "wrong") if wrong else ""
        text = [gr.skip()] * 2 if recipe == said else [made.recipe.to_yaml(), recipe]
        return [gr.skip() if made == before else kept(made), self._means(made), self._in_force(made), told, *fields, *text]

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

    def wire(self, draft: gr.BrowserState) -> list[Dependency]:
        """Gives the events that change the draft."""

        def enter(kept_draft: object, said: object, *values: object) -> list:
            """The fields as the draft says; what was touched and has not come there yet goes there, but for what is wrong."""
            before, there, given = read(kept_draft), _recipe(said), dict(zip(self.fields, values, strict=True))
            if there is None:
                return [gr.skip(), *self.shown(before)]
            made, _, touched = self.agreed(before, there, given)
            return self._followed(before, made, said, "", touched, given)

        def change(request: gr.Request, kept_draft: object, said: object, *values: object) -> list:
            before, there, given = read(kept_draft), _recipe(said), dict(zip(self.fields, values, strict=True))
            if there is None:
                return [gr.skip(), *self.shown(before)]
            made, wrong, touched = self.agreed(before, there, given)
            self.shop.give_up_others(made, request.session_hash)
            return self._followed(before, made, said, wrong, touched, self._held(there))

        def leave(request: gr.Request, kept_draft: object, said: object, *values: object) -> list:
            sliders = [each if isinstance(each, gr.Slider) else None for each in self.fields.values()]
            shown = [form.left(value, at.minimum, at.maximum) if at else value for at, value in zip(sliders, values)]
            return change(request, kept_draft, said, *shown)

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

        inputs, shown = [draft, self.said, *self.fields.values()], [draft, *self.outputs]
        sliders = [each.release for each in self.fields.values() if isinstance(each, gr.Slider)]
        self.save.click(None, self.yaml, None, js=assets.saving("'recipe.yaml'"), api_visibility="private")
        # What is pasted or deleted in a text box is no input to Gradio.
        written = [each.blur for each in self.fields.values() if isinstance(each, gr.Textbox)]
        typed = Turn(change, inputs, shown, **form.QUICK, **form.AS_TYPED)
        typed = typed.after(partial(gr.on, [*(each.input for each in self.fields.values()), *written]))
        chosen = (
            Turn(leave, inputs, shown, **form.QUICK, **form.AS_TYPED).after(partial(gr.on, sliders)),
            Turn(begin_with, [self.preset, draft], shown, **form.QUICK).after(self.preset.input),
            Turn(take, [self.yaml, draft], shown, **form.QUICK).after(self.take.click),
        )
        self.entering = Turn(enter, inputs, shown, **form.QUICK, **form.AS_TYPED)
        counting.after(self, draft, *chosen, self.entering.event, typed=typed)
        return [typed, *chosen]


def _recipe(said: object) -> Recipe | None:
    """The recipe that the fields say by what the page has of it; None where it has none."""
    try:
        return Recipe.model_validate(said)
    except ValidationError:
        return None

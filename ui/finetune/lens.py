"""Step 3 of the wizard: real rows as the model will see them, token for token what trains."""

from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component

from engine.drafts import Draft, read
from engine.errors import EngineError
from engine.lens import lens
from ui import form
from ui.finetune import views
from ui.finetune.workshop import Workshop

_ROWS = 3
LEGEND = (
    '<p class="legend"><span class="learnt">learnt</span> <span class="read">only read</span> <span class="cut">cut off</span> '
    '<span class="learnt end">end</span> The colours are those of training: the loss counts what is learnt, nothing else.</p>'
)


@dataclass
class LensStep:
    """The components of the step; `outputs` are filled by `shown`."""

    shop: Workshop
    outputs: list[Component] = field(default_factory=list)

    def draw(self) -> "LensStep":
        gr.HTML(LEGEND, elem_id="ft-legend", apply_default_css=False)
        self.row = gr.Slider(1, 2, value=1, step=1, label="Row", elem_id="ft-row")
        self.tokens = gr.HTML(views.READING, elem_id="ft-lens", apply_default_css=False)
        self.outputs = [self.row, self.tokens]
        return self

    def shown(self, draft: Draft, row: float | None = 1) -> list:
        """What is shown from a row on. The number in its box stays where there is such a row, as does one that is being typed."""
        if not draft.recipe.data.source:
            return [gr.skip(), views.told("Choose the data first: step 2.")]
        try:
            there = self.shop.readable(draft).conversations
            first = max(1, min(int(row or 1), len(there)))
            data, tokenizer, made = draft.recipe.data, self.shop.tokenizer(draft), self.shop.form(draft)
            seen = []
            for number in range(first, min(first + _ROWS, len(there) + 1)):
                asked = there[number - 1].or_system(data.system)
                seen.append((number, lens(tokenizer, asked, made, data.lengths, data.learn == "everything")))
            moved = {"value": first} if row and row != first else {}
            return [gr.Slider(maximum=max(2, len(there)), interactive=len(there) > 1, **moved), views.lens(seen)]
        except EngineError as error:
            return [gr.skip(), views.told(str(error), "wrong")]

    def wire(self, draft: gr.BrowserState) -> None:
        def turn(row: float | None, kept_draft: object) -> str:
            now = read(kept_draft)
            try:
                row = form.whole_number(self.row.label, row, 1, len(self.shop.readable(now).conversations)) if now.recipe.data.source else 1
            except EngineError as error:
                return views.told(str(error), "wrong")
            return self.shown(now, row)[1]

        def leave(row: float | None, kept_draft: object) -> str:
            return self.shown(read(kept_draft), row)[1]

        how = {"api_visibility": "private", "trigger_mode": "always_last", **form.QUICK, **form.AS_TYPED}
        for event, function in ((self.row.input, turn), (self.row.release, leave)):
            event(function, [self.row, draft], self.tokens, **how)

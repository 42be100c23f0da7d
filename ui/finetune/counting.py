"""Rows are counted by themselves wherever a draft has no counts, and the sentences that need them fill when they are there."""

from collections.abc import Iterator
from typing import Protocol

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from engine.drafts import Draft, read
from engine.errors import EngineError
from engine.preview import Measured
from ui import form
from ui.finetune import views
from ui.finetune.turns import Turn
from ui.finetune.workshop import Workshop

# Rows are counted apart from quick events, which must not wait for them. Several steps of one page may wait for the same count.
COUNTING = {"concurrency_limit": 6, "concurrency_id": "counting", "show_progress": "hidden"}
_COUNTED = views.told("The rows are counted.")
# So long the end of what somebody types is waited for.
_CALM_SECONDS = 0.4


def line() -> gr.HTML:
    """The place that says how far counting is."""
    return gr.HTML(elem_classes="ft-counting", apply_default_css=False)


class Step(Protocol):
    """A step with sentences that need counts: `filled` shows what `sentences` gives, `counting` is its `line`."""

    shop: Workshop
    counting: gr.HTML
    filled: list[Component]

    def sentences(self, draft: Draft) -> list: ...


def after(step: Step, draft: gr.BrowserState, *events: Dependency, typed: Dependency | None = None) -> Dependency:
    """When one of these events has ended, count the draft's rows where they are not, and fill the step's sentences when they are. What is
    `typed` may go on changing. Gives the event that fills them."""
    shop = step.shop

    def counted(event: Dependency, calm: float = 0) -> Dependency:
        def count(request: gr.Request, kept_draft: object) -> Iterator[str]:
            now = read(kept_draft)
            if not now.recipe.data.source or shop.measured(now):
                yield ""
                return
            yield views.READING
            try:
                for each in shop.measuring(now, request.session_hash or "", type(step).__name__, calm):
                    if isinstance(each, Measured):
                        yield _COUNTED if each.done else views.told(views.counted(each))
            except EngineError as error:
                yield views.told(str(error), "wrong")

        return event.success(count, draft, step.counting, api_visibility="private", trigger_mode="always_last", **COUNTING)

    def fill(text: str, kept_draft: object) -> object:
        line = "" if text == _COUNTED else gr.skip()  # why it could not be counted stays
        told = [line, *step.sentences(read(kept_draft))]
        return told if step.filled else line  # Gradio takes a list for one component as its value

    # Where nothing was counted, what stands there stays. The sentences are of the draft as the change before left it.
    filling = Turn(fill, [step.counting, draft], [step.counting, *step.filled], handed=True, **form.QUICK)
    counts = [*map(counted, events), *([counted(typed, _CALM_SECONDS)] if typed else [])]
    return filling.after(*(each.success for each in counts), inputs=[step.counting], hand="text => text || null")

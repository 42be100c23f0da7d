"""The tab that compares: one prompt, two answers side by side, one of which can be kept as the conversation.

The comparison itself comes from the visitor's browser with each action and goes back to it; the host keeps none."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from engine.blend import NO_ADAPTER
from engine.comparison import Comparison
from engine.errors import BadInput
from engine.library import Library
from engine.messages import checked_text
from engine.models import MODELS
from engine.services import Services
from engine.settings import MAX_SYSTEM_CHARS, ChatSettings
from engine.threads import Thread
from ui import assets, chat, form, sidebar
from ui.answers import Comparisons
from ui.models import draw_blend
from ui.render import SIDES, side_by_side

TAB = "compare"
LOADED = ("The loaded model", "")
SIDE_NAMES = ("model", *chat.BLEND_NAMES)
SIDE = len(SIDE_NAMES)
BARE = ["", NO_ADAPTER, 1, NO_ADAPTER, 1]
# What the page's script holds, in the place of an event's first inputs.
HELD = "(...values) => [window.guanacoComparison ?? null, ...values.slice(1)]"
KEEPING = "(...values) => [window.guanacoAction.side, window.guanacoComparison ?? null, ...values.slice(2)]"
# One click from the chat: this tab opens, A is the bare base, B what the chat is set to.
OPEN = f"(...blend) => [{{selected: '{TAB}', __type__: 'update'}}, '', '{NO_ADAPTER}', 1, '{NO_ADAPTER}', 1, '', ...blend]"


@dataclass(frozen=True)
class Parts:
    """The components of the tab; `sides` are the inputs of `Services.side` for A and for B."""

    sides: list[list[Component]]
    view: gr.HTML
    message: gr.Textbox
    compare: gr.Button
    stop: gr.Button
    swap: gr.Button
    new: gr.Button

    @property
    def both(self) -> list[Component]:
        return [*self.sides[0], *self.sides[1]]


def tab(services: Services, talk: chat.Talk, tabs: gr.Tabs, mine: gr.Tab) -> list[Component]:
    """Draw the tab inside the Blocks that are open; gives the inputs of `Services.side` for A and for B. `mine` is the place of it
    in `tabs`."""
    with gr.Column(elem_id="compare-tab"):
        with gr.Row(elem_id="compare-sides"):
            first = _draw_side(services, SIDES[0])
            swap = gr.Button("⇄ Swap", size="sm", scale=0, min_width=60, elem_id="swap")
            second = _draw_side(services, SIDES[1])
        view = gr.HTML(
            {},
            html_template="<div></div>",
            js_on_load=assets.script("messages.js", "compare.js"),
            elem_id="comparison",
            apply_default_css=False,
        )
        with gr.Row(elem_classes="composer"):
            message = form.message_box("Message to both", "Write a message to both", "compare-message")
            new = gr.Button("New", scale=0, min_width=80, elem_id="compare-new")
            send = gr.Button("Compare", variant="primary", scale=0, min_width=80, elem_id="compare-send")
            stop = gr.Button("Stop", variant="stop", scale=0, min_width=80, elem_id="compare-stop")
        gr.Markdown(
            "An empty message answers the last one again. System text and sampling are those of the Chat tab.",
            elem_classes="footnote",
            container=False,
        )
    parts = Parts([first, second], view, message, send, stop, swap, new)
    _wire(services, talk, parts, tabs, mine)
    return parts.both


def _draw_side(services: Services, name: str) -> list[Component]:
    """The inputs of `Services.side`."""
    with gr.Column(elem_id=f"side-{name.lower()}", elem_classes="side-settings", min_width=0):
        model = gr.Dropdown(
            _models(services),
            value="",
            interactive=not services.read_only,
            label=f"Model {name}",
            allow_custom_value=not services.read_only,
        )
        return [model, *draw_blend(services, name)]


def _models(services: Services) -> list[tuple[str, str]]:
    return [LOADED] if services.read_only else [LOADED, *services.model_choices()]


def _wire(services: Services, talk: chat.Talk, parts: Parts, tabs: gr.Tabs, mine: gr.Tab) -> None:
    view, message, both = parts.view, parts.message, parts.both
    comparisons = Comparisons(services)
    held = gr.JSON(visible=False, label="comparison")
    number = gr.Number(visible=False, label="side", precision=0)

    def compared(request: gr.Request, comparison: object, text: str, sides: Sequence, rest: Sequence) -> Iterator[dict]:
        """Ask both sides, or the last message once more where there is no text: updates of the view. All that comes in is
        checked before the first of them."""
        system, *settings = rest
        with form.explained():
            checked = checked_text(system or "", "The system text", MAX_SYSTEM_CHARS)
            read = Comparison.read(comparison)
            again = read.thread.turns and not (text or "").strip()
            begun = read.to_answer_again(checked) if again else read.asked(text, checked)
            chosen = [services.side(*side) for side in sides]
            updates = comparisons.stream(begun, chosen, form.read(ChatSettings, *settings), request.session_hash)
            first = next(updates)
        yield first
        yield from updates

    def ask(request: gr.Request, comparison: object, message: str, *rest) -> Iterator[dict]:
        updates = compared(request, comparison, message, (rest[:SIDE], rest[SIDE : 2 * SIDE]), rest[2 * SIDE :])
        yield {**next(updates), "taken": "box"}
        yield from updates

    def ask_from_chat(request: gr.Request, message: str, conversation: object, *rest) -> Iterator[dict]:
        """The bare base against what the chat is set to, on the message in its box or on its last one. Without either it is
        only the tab that opens."""
        with form.explained():
            begun = Comparison.of(Thread.read(conversation))
        if not (message or "").strip() and not begun.thread.path():
            yield comparisons.shown(begun)
            return
        sides = (BARE, ["", *rest[: chat.BLEND]])
        updates = compared(request, begun.model_dump(mode="json"), message, sides, rest[chat.BLEND :])
        yield {**next(updates), "taken": "chat"}
        yield from updates

    def stop(request: gr.Request) -> None:
        comparisons.stops.stop(request.session_hash)

    def swap(comparison: object, *sides) -> list:
        with form.explained():
            swapped = Comparison.read(comparison).swapped()
        return [comparisons.shown(swapped), *sides[SIDE:], *sides[:SIDE]]

    def keep(side: int, comparison: object, conversation: object, library: object, *sides) -> list:
        """A side as the conversation of the chat, on top of what was said there meanwhile; it goes on with that side's
        adapters where the model is the loaded one."""
        with form.explained():
            if side not in (0, 1):
                raise BadInput("The side to keep is 0 (A) or 1 (B).")
            read = Comparison.read(comparison)
            known = (Thread.read(conversation), *Library.read(library).threads)
            kept = read.kept(side, next((each for each in known if each.id == read.thread.id), None))
        model, *blend = sides[side * SIDE : (side + 1) * SIDE]
        here = model in (None, "", services.state().model)
        return [*sidebar.opening(kept), gr.Tabs(selected=chat.TAB), *(blend if here else [gr.skip()] * chat.BLEND)]

    def restore(comparison: object) -> dict:
        """What was compared when this page was last here; one that cannot be read gives way to a new one."""
        try:
            return comparisons.shown(Comparison.read(comparison))
        except BadInput:
            return comparisons.shown(Comparison.read(None))

    def unload(comparison: object) -> dict:
        with form.explained():
            services.unload_second()
        return restore(comparison)

    def turned(model: str) -> list:
        """The adapters for another model, turned to the one that is part of it."""
        own = MODELS[model].adapter if model in MODELS else None
        choices = services.adapter_choices(model or "")
        return [gr.Dropdown(choices=choices, value=own or NO_ADAPTER), gr.Dropdown(choices=choices, value=NO_ADAPTER)]

    def opened(*models: str) -> list:
        """The pickers' choices as they are now."""
        choices = [(_models(services), services.adapter_choices(model or "")) for model in models]
        return [gr.Dropdown(choices=each) for side, adapters in choices for each in (side, adapters, adapters)]

    def set_out(comparison: object, *values) -> list:
        """B as the chat is set, where nothing was compared and both sides are the same: a model beside itself tells nothing."""
        a, b, talked = values[:SIDE], values[SIDE : 2 * SIDE], values[2 * SIDE :]
        return [gr.skip()] * chat.BLEND if comparison or a != b else list(talked)

    names = [f"{name}_{side.lower()}" for side in SIDES for name in SIDE_NAMES]
    form.names(ask, *names, "system", settings=ChatSettings)
    form.names(ask_from_chat, *chat.BLEND_NAMES, "system", settings=ChatSettings)
    form.names(swap, *names)
    form.names(keep, *names)
    chosen = [talk.system, *talk.settings]
    empty = side_by_side(Comparison.read(None))
    own = {"fn": None, "api_visibility": "private", "show_progress": "hidden"}
    # Before the other event of this button: the page runs them one after the other.
    talk.compare.click(**own, inputs=talk.blend, outputs=[tabs, *both], js=OPEN)
    events = (
        gr.on(
            [message.submit, parts.compare.click], ask, [held, message, *both, *chosen], view, js=HELD, api_name="compare", **chat.ANSWERING
        ),
        talk.compare.click(
            ask_from_chat, [talk.message, talk.current, *talk.blend, *chosen], view, api_name="compare_from_chat", **chat.ANSWERING
        ),
    )
    for event in events:
        form.afterwards(event, "window.guanacoCompared")
    view.box_taken(**own, inputs=None, outputs=message, js="() => ''")
    view.chat_taken(**own, inputs=None, outputs=talk.message, js="() => ''")
    parts.stop.click(stop, None, None, api_name="stop_comparing", **form.SILENT)
    parts.swap.click(swap, [held, *both], [view, *both], js=HELD, api_name="swap_sides", **form.QUICK)
    parts.new.click(**own, inputs=None, outputs=view, js=f"() => window.guanacoNewComparison({json.dumps(empty)})")
    kept = view.keep_side(
        keep,
        [number, held, talk.current, talk.library, *both],
        [*talk.opened, tabs, *talk.blend],
        js=KEEPING,
        api_name="keep_side",
        **form.QUICK,
    )
    form.afterwards(kept, "window.guanacoChanged")
    view.unload_second(unload, held, view, js=HELD, api_name="unload_second", **form.QUICK)
    view.restore_comparison(restore, held, view, js=HELD, api_name="restore_comparison", **form.SILENT)
    models, adapters = [side[0] for side in parts.sides], [[side[1], side[3]] for side in parts.sides]
    for model, pickers in zip(models, adapters, strict=True):
        form.when_chosen(model, turned, pickers, api_visibility="private", **form.SILENT)
    lists = [each for model, pickers in zip(models, adapters, strict=True) for each in (model, *pickers)]
    mine.select(opened, models, lists, api_visibility="private", **form.SILENT)
    mine.select(set_out, [held, *both, *talk.blend], parts.sides[1][1:], js=HELD, api_visibility="private", **form.SILENT)

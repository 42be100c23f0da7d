"""What is running, for every visitor, and the choice of model and adapter: load with progress, cancel, unload."""

import html
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from engine import hardware
from engine.blend import MAX_SCALE, NO_ADAPTER
from engine.errors import EngineError
from engine.services import Services
from ui import form
from ui.gguf import Layouts, draw_chooser, draw_layouts
from ui.render import status

BUSY_SECONDS, CALM_SECONDS = 1, 4


@dataclass(frozen=True)
class Models:
    """The chip and the pickers; `wire` makes them work once all of a tab is drawn."""

    services: Services
    chip: gr.HTML
    model: gr.Dropdown
    blend: list[Component]
    about: gr.HTML
    layouts: Layouts
    load: gr.Button
    cancel: gr.Button
    unload: gr.Button

    @property
    def adapter(self) -> Component:
        """The first adapter's picker."""
        return self.blend[0]

    def wire(self) -> None:
        """Connect the buttons, and a timer that keeps chip and pickers true."""
        services = self.services
        after = [self.chip, self.load, self.cancel, self.unload]

        def now(adapter: str | None) -> list:
            phase = services.state().phase
            mine = not services.read_only
            return [
                chip(services, adapter),
                gr.Button(visible=mine and phase != "loading"),
                gr.Button(visible=mine and phase == "loading"),
                gr.Button(visible=mine and phase == "ready"),
            ]

        def load(model: str, layout: str, adapter: str | None) -> list:
            with form.explained():
                services.load(model, layout)
            return now(adapter)

        def cancel(adapter: str | None) -> list:
            with form.explained():
                services.cancel_load()
            return now(adapter)

        def unload(adapter: str | None) -> list:
            with form.explained():
                services.unload()
            return now(adapter)

        def look(adapter: str | None, mixed_in: str | None, seen: tuple | None) -> list:
            """`seen` is the model that this page last knew, the adapters it offers, and what both pickers held when it was last seen
            ready; None until it has opened. When the model changes, a picker turns to what came with the new one, unless somebody has
            chosen for that one already, while it was loaded; what has not changed is not sent, as somebody may be typing."""
            state = services.state()
            if seen is None:
                return [*now(adapter), *[gr.skip()] * 4]
            known, offered, held = seen
            shown = turned = (adapter, mixed_in)
            choices, ready = services.adapter_choices(), state.phase == "ready"
            if ready and state.model != known:
                came = (services.chosen_adapter(), NO_ADAPTER)
                turned = tuple(new if at == before else at for new, at, before in zip(came, shown, held, strict=True))
            return [
                *now(turned[0]),
                *(_offering(choices, offered, value, at) for value, at in zip(turned, shown, strict=True)),
                gr.Timer(BUSY_SECONDS if state.phase == "loading" else CALM_SECONDS),
                (state.model, choices, turned) if ready else (known, choices, held),
            ]

        def hold(adapter: str | None, mixed_in: str | None, seen: tuple | None) -> tuple | None:
            """What is chosen as a load begins was chosen for the model before."""
            return seen and (*seen[:2], (adapter, mixed_in))

        def opened() -> list:
            chosen = services.chosen_adapter()
            name = services.state().model
            return [
                *now(chosen),
                gr.Dropdown(choices=services.model_choices(), value=name or None),
                _about(services, name),
                gr.Dropdown(choices=services.adapter_choices(), value=chosen),
                (name if services.state().phase == "ready" else "", services.adapter_choices(), (chosen, NO_ADAPTER)),
            ]

        seen = gr.State(None)
        gr.context.Context.root_block.load(
            opened, None, [*after, self.model, self.about, self.adapter, seen], api_visibility="private", **form.SILENT
        )
        self.layouts.wire(self.model)
        self.load.click(load, [self.model, self.layouts.choice, self.adapter], after, api_name="load_model", **form.QUICK)
        self.cancel.click(cancel, self.adapter, after, api_name="cancel_load", **form.QUICK)
        self.unload.click(unload, self.adapter, after, api_name="unload_model", **form.QUICK)
        self.model.change(lambda model: _about(services, model), self.model, self.about, api_name="about_model", **form.SILENT)
        timer = gr.Timer(BUSY_SECONDS)
        pickers = [self.adapter, self.blend[2]]
        self.load.click(hold, [*pickers, seen], seen, api_visibility="private", **form.SILENT)
        timer.tick(look, [*pickers, seen], [*after, *pickers, timer, seen], api_name="status", **form.SILENT)


def _offering(choices: list, before: list, value: str | None, shown: str | None):
    """A picker with these choices that turns from `shown` to `value`; as it is where nothing changed."""
    if value != shown:
        return gr.Dropdown(choices=choices, value=value)
    return gr.skip() if choices == before else gr.Dropdown(choices=choices)


def chip(services: Services, adapter: str | None) -> str:
    """The status chip as HTML."""
    shown = "" if adapter in (None, NO_ADAPTER) else adapter
    return status(services.state(), hardware.machine(), shown, services.runtime.memory())


def _about(services: Services, model: str) -> str:
    try:
        return html.escape(services.about_model(model))
    except EngineError as error:
        return f'<span class="wrong">{html.escape(str(error))}</span>'


def draw_chip() -> gr.HTML:
    """The chip alone, where it belongs on the page."""
    return gr.HTML(elem_id="status", apply_default_css=False)


def draw_pickers(services: Services, chip_: gr.HTML) -> Models:
    """The pickers and their buttons."""
    model = gr.Dropdown(
        services.model_choices(),
        interactive=not services.read_only,
        label="Model",
        allow_custom_value=not services.read_only,
        info="This host's model" if services.read_only else "A known model, a Hub id (owner/name), a folder or a GGUF file",
    )
    about = gr.HTML(elem_id="about-model", apply_default_css=False)
    layouts = draw_layouts(services)
    with gr.Row(elem_id="model-buttons"):
        load = gr.Button("Load", size="sm", variant="primary", min_width=60, visible=not services.read_only, elem_id="load")
        cancel = gr.Button("Cancel loading", size="sm", variant="stop", min_width=60, visible=False, elem_id="cancel-load")
        unload = gr.Button("Unload", size="sm", min_width=60, visible=False, elem_id="unload")
    if not services.read_only:
        draw_chooser(model)
    return Models(services, chip_, model, draw_blend(services), about, layouts, load, cancel, unload)


def draw_blend(services: Services, side: str = "") -> list[Component]:
    """The inputs of `Services.blend`; `side` names that of a comparison they belong to."""
    own = f" {side}" if side else ""
    adapter = gr.Dropdown(
        services.adapter_choices(),
        value=NO_ADAPTER,
        label=f"Adapter{own}",
        allow_custom_value=True,
        info=None if side else "LoRA on top of the base; none is the bare base",
    )
    scale = {"minimum": 0, "maximum": MAX_SCALE, "step": 0.05, "value": 1}
    about = None if side else "0 is the bare base, 1 the adapter as trained"
    strength = gr.Slider(**scale, label=f"Strength{own}", info=about, elem_classes="strength")
    with gr.Accordion("Mix in another adapter", open=False, elem_classes="mix"):
        second = gr.Dropdown(services.adapter_choices(), value=NO_ADAPTER, label=f"Mixed in{own}", allow_custom_value=True)
        second_strength = gr.Slider(**scale, label=f"Its strength{own}")
    return [adapter, strength, second, second_strength]

"""What there is to choose of a GGUF model: its layout, with both figures measured on this host, and its quantization."""

import html
from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from engine import hardware, models, quantizations
from engine.services import Services
from engine.settings import Layout
from ui import form

# In the page, so that it never comes after the end of what it waits for.
WAITING = "() => ({ __type__: 'update', interactive: false })"
LAYOUTS = [("Sharper: as shipped", Layout.sharper.value), ("Faster: laid anew for this processor", Layout.faster.value)]


@dataclass(frozen=True)
class Layouts:
    """The choice of layout for the model in the picker, and what both cost here."""

    services: Services
    choice: gr.Radio
    figures: gr.HTML
    measure: gr.Button

    def wire(self, model: gr.Dropdown) -> None:
        """Show the figures of whatever model is picked; measure them when asked."""
        services = self.services

        def picked(name: str, **turned: str) -> list:
            offered = services.has_layouts(name)
            return [gr.Radio(visible=offered, **turned), gr.HTML(figures(services, name), visible=offered), gr.Button(visible=offered)]

        def opened(name: str) -> list:
            return picked(name, value=services.runtime.load_settings.layout.value)

        def measure(name: str) -> Iterator[str]:
            with form.explained():
                for progress in services.measure_layouts(name):
                    yield html.escape(f"{name}: {progress} …")
            yield figures(services, name)

        def measured(name: str) -> list:
            return [figures(services, name), gr.Button(interactive=True)]

        parts = [self.choice, self.figures, self.measure]
        model.change(picked, model, parts, api_visibility="private", **form.SILENT)
        gr.context.Context.root_block.load(opened, model, parts, api_visibility="private", **form.SILENT)
        how = {"api_visibility": "private", **form.SILENT}
        # It takes a minute, in which another model may be picked: the button waits, and the figures are of what is picked by the end.
        self.measure.click(None, None, self.measure, js=WAITING, **how)
        measuring = self.measure.click(measure, model, self.figures, api_name="measure_layouts", **form.QUICK)
        for ended in (measuring.success, measuring.failure):
            ended(measured, model, [self.figures, self.measure], **how)


def draw_layouts(services: Services) -> Layouts:
    """The choice, hidden until a model is picked that has it."""
    return Layouts(
        services,
        gr.Radio(LAYOUTS, value=services.runtime.load_settings.layout.value, label="Layout", visible=False, elem_id="layout"),
        gr.HTML(visible=False, elem_id="layout-figures", apply_default_css=False),
        gr.Button("Measure both here", size="sm", visible=False, elem_id="measure-layouts"),
    )


def figures(services: Services, name: str) -> str:
    """What both layouts of a model cost on this host, as HTML; a hint where that was not measured."""
    rows = services.layout_figures(name)
    if not rows:
        return "What both cost on this host is not measured yet; it takes about a minute."
    cells = "".join(
        f"<tr><td>{html.escape(str(row['layout']))}</td><td>{row['tokens_per_second']:.0f} tokens/s</td><td>perplexity {row['perplexity']:.1f}</td></tr>"
        for row in rows
    )
    return f"<table>{cells}</table><p>Measured for {html.escape(name)} on this host; lower perplexity is sharper.</p>"


def draw_chooser(model: gr.Dropdown) -> None:
    """Every quantization of LLaMA 7B to 65B: bits, sizes, whether it fits, what it is good for; and the way to load one."""
    sizes = [spec.id for spec in models.MODELS.values() if spec.kind == "guanaco"]
    with gr.Accordion("Which quantization?", open=False, elem_id="chooser"):
        size = gr.Dropdown([(each.removeprefix("guanaco-").upper(), each) for each in sizes], value=sizes[0], label="Model size")
        table = gr.HTML(chooser(sizes[0]), elem_id="quantizations", apply_default_css=False)
        repository = gr.Textbox("", label="Hub repository of GGUF files", placeholder="owner/name-GGUF", max_lines=1)
        method = gr.Dropdown([each.id for each in quantizations.METHODS], value="Q4_K_M", label="Quantization")
        pick = gr.Button("Put it into the model picker", size="sm", elem_id="pick-quantization")
    size.change(chooser, size, table, api_name="quantizations", **form.SILENT)
    pick.click(lambda owner, kind: f"{(owner or '').strip()}:{kind}", [repository, method], model, api_visibility="private", **form.SILENT)


def chooser(model: str) -> str:
    """The table of one model size as HTML."""
    if model not in models.MODELS:
        return "There is no such size. Choose one of the list."
    rows = quantizations.table(models.MODELS[model].shape, hardware.machine())
    lines = "".join(
        f'<tr class="{"best" if row["best"] else ""}"><th scope="row">{row["method"]}{" ★" if row["best"] else ""}</th><td>{row["bits"]:.1f}</td>'
        f"<td>{row['file_bytes'] / 1e9:.1f}</td><td>{row['memory_bytes'] / 1e9:.1f}</td><td>{'fits' if row['fits'] else 'too large'}</td></tr>"
        f'<tr><td colspan="5" class="use">{html.escape(row["use"])}</td></tr>'
        for row in rows
    )
    head = "<tr><th></th><th>bits</th><th>file GB</th><th>RAM GB</th><th>here</th></tr>"
    return f"<table>{head}{lines}</table><p>★ the best that fits this host. RAM is for 2,048 tokens of chat.</p>"

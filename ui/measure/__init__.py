"""The tab that measures: perplexity, MMLU and CrowS-Pairs of a model here, beside what was published; base against adapter on the same
items.

A measurement is a job of the host: a reload, a second tab and a restart of the app find it as it is.
"""

import shlex
from pathlib import Path

import gradio as gr

from engine import uploads
from engine.blend import NO_ADAPTER
from engine.errors import BadInput, EngineError
from engine.evaluate import pairs
from engine.evaluate.measurements import MeasurementSettings
from engine.models import STARTER
from engine.services import Services
from engine.settings import BackendName, LoadSettings
from ui import form
from ui.measure import expected, history
from ui.measure.history import NOT_HERE
from ui.telling import told

TAB = "measure"
MEASURES = [("MMLU", "mmlu"), ("Perplexity", "perplexity"), ("CrowS-Pairs", "crows")]
ABOUT = {
    "mmlu": "Multiple-choice questions of 57 subjects. The answer is the likeliest of A, B, C and D behind “Answer:”; by chance a quarter is right.",
    "perplexity": "How well a text, or the answers of a data set, are foretold: as many words as the model wavers between. Less is better.",
    "crows": "Pairs of sentences, one more stereotypical than the other: how often the model finds that one likelier. Half is no preference.",
}
HELD = [("4 bits, NF4 as QLoRA holds it", "nf4"), ("4 bits, FP4", "fp4"), ("as trained, not quantized", "none")]
SHOTS = [("five answered questions before each (as published)", 5), ("none", 0)]
READ_AS = [("find out", "auto"), ("a text as a whole", "text"), ("the answers of its rows", "answers")]
# What is started waits for the data to be read, and for the Hub where they are there.
STARTING = {"concurrency_limit": 2, "concurrency_id": "measure", "show_progress": "minimal"}
_SAMPLE = 200


def tab(services: Services, opening: gr.Tab) -> None:
    """Draw the tab inside the Blocks that are open."""
    if services.read_only:
        gr.Markdown(NOT_HERE, elem_id="measure-away")
    with gr.Column(elem_id="measure", visible=not services.read_only):
        measure = gr.Radio(MEASURES, value="mmlu", label="Measure", elem_id="ms-measure")
        about = gr.HTML(told(ABOUT["mmlu"]), elem_id="ms-about", apply_default_css=False)
        with gr.Row():
            model = gr.Dropdown(
                [], label="Model", info="An id, a Hub id or a folder.", allow_custom_value=True, min_width=260, elem_id="ms-model"
            )
            adapter = gr.Dropdown(
                [], label="Adapter", info="None: the bare base.", allow_custom_value=True, min_width=220, elem_id="ms-adapter"
            )
            held = gr.Dropdown(
                HELD, value="nf4", label="Weights", info="A small model loses something in 4 bits.", min_width=220, elem_id="ms-held"
            )
        with gr.Row():
            data = gr.Dropdown(
                _sources("mmlu"),
                value="",
                label="Data",
                info="A file's path or a Hub data set, owner/name. Or upload it.",
                allow_custom_value=True,
                min_width=260,
                elem_id="ms-data",
            )
            shots = gr.Dropdown(SHOTS, value=5, label="Shots", min_width=220, elem_id="ms-shots")
            read_as = gr.Dropdown(READ_AS, value="auto", label="Read as", visible=False, min_width=220, elem_id="ms-read-as")
        file = gr.UploadButton("Upload a file", size="sm", type="filepath", elem_id="ms-upload")
        with gr.Row():
            limit = gr.Number(
                _SAMPLE, precision=0, label="Sample", info="So many, drawn evenly. Empty: all.", min_width=160, elem_id="ms-limit"
            )
            seed = gr.Number(0, precision=0, label="Seed", info="The same seed draws the same ones.", min_width=160, elem_id="ms-seed")
        base = gr.Checkbox(True, label="Also the bare base, on the same ones", elem_id="ms-base")
        means = gr.HTML(elem_id="ms-means", apply_default_css=False)
        start = gr.Button("Measure", variant="primary", elem_id="ms-start")
        view = history.draw(services)

    chosen = [measure, model, adapter, held, data, shots, read_as, limit, seed]

    def turn(measure: str) -> list:
        sources = _sources(measure)
        return [
            told(ABOUT.get(measure, "")),
            gr.Dropdown(choices=sources, value=sources[0][1] if sources else None),
            gr.Dropdown(visible=measure == "mmlu"),
            gr.Dropdown(visible=measure == "perplexity"),
        ]

    def adapters_of(model: str) -> object:
        choices = services.adapter_choices(model or "")
        return gr.Dropdown(choices=choices, value=NO_ADAPTER)

    def opened(chosen: str | None) -> list:
        """The loaded model at first; later what was chosen stays."""
        if services.read_only:
            return [gr.skip(), gr.skip()]
        if chosen:
            return [gr.Dropdown(choices=services.model_choices()), gr.Dropdown(choices=services.adapter_choices(chosen))]
        model = services.state().model
        return [
            gr.Dropdown(choices=services.model_choices(), value=model),
            gr.Dropdown(choices=services.adapter_choices(model), value=services.chosen_adapter()),
        ]

    def upload(path: str | None) -> object:
        with form.explained():
            _owner_only(services)
            if not path:
                return gr.skip()
            kept = uploads.keep(Path(path), Path(path).name)
            return gr.Dropdown(choices=[(Path(path).name, str(kept))], value=str(kept))

    def foretold(*values) -> str:
        if services.read_only:
            return ""
        *chosen, with_base = values
        if said := _served(services, chosen[1]):
            return told(said)
        try:
            return told(expected.text(settings(*chosen), bool(with_base)))
        except EngineError as error:
            return told(str(error), "wrong")

    def begin(measure, model, adapter, held, data, shots, read_as, limit, seed, with_base: bool) -> dict:
        with form.explained():
            _owner_only(services)
            if said := _served(services, model):
                raise BadInput(said)
            plan = settings(measure, model, adapter, held, data, shots, read_as, limit, seed)
            expected.check(plan)
            begun = pairs.start(plan, bool(with_base))
            return {"open": [each.id for each in begun]}

    how = {"api_visibility": "private", "trigger_mode": "always_last", **form.QUICK}
    typed = {**how, **form.AS_TYPED}
    turned = measure.input(turn, measure, [about, data, shots, read_as], **how)
    other = form.when_chosen(model, adapters_of, [adapter], **how)
    here = opening.select(opened, model, [model, adapter], **how)
    brought = file.upload(upload, file, data, **how | {"show_progress": "minimal"})
    for event in (turned, other, here, brought):
        event.then(foretold, [*chosen, base], means, **typed)
    for field in (adapter, held, data, shots, read_as, limit, seed, base):
        field.input(foretold, [*chosen, base], means, **typed)
    start.click(begin, [*chosen, base], view, api_name="measure_start", **STARTING)


def settings(measure, model, adapter, held, data, shots, read_as, limit, seed) -> MeasurementSettings:
    """What the form says. Raises BadInput that names the field."""
    values = {
        "measure": measure,
        "model": (model or "").strip() or STARTER,
        "adapter": (adapter or "").strip() or NO_ADAPTER,
        "load": form.read_fields(LoadSettings, {"backend": BackendName.transformers, "quantization": held}),
        "data": (data or "").strip(),
        "shots": shots,
        "read_as": read_as,
        "limit": limit,
        "seed": seed or 0,
    }
    return form.read_fields(MeasurementSettings, values)


def _sources(measure: str) -> list[tuple[str, str]]:
    """Data that need not be brought."""
    if measure == "mmlu":
        return [("the published validation questions", "")]
    if measure == "perplexity":
        return [(title, str(path)) for title, path in uploads.bundled().items()]
    return []


def _served(services: Services, model: str | None) -> str:
    """What is said of the model that another machine serves, which is not measured here; empty for any other."""
    load, name = services.runtime.load_settings, (model or "").strip()
    if load.backend != BackendName.remote or not name or name != services.state().model:
        return ""
    key = f" --api-key-env {load.api_key_env}" if load.api_key_env else ""
    return (
        f"{name} runs on another machine, of whose models MMLU alone can be measured, and that by a command: python -m engine evaluate mmlu "
        f"--base-url {shlex.quote(load.base_url)}{key} --model {shlex.quote(name)}. Here choose a model of this machine."
    )


def _owner_only(services: Services) -> None:
    if services.read_only:
        raise BadInput(NOT_HERE)

"""The tab that trains: the run under way and those before it."""

import gradio as gr

from engine.services import Services
from ui import assets, form
from ui.finetune import history, training

TAB = "finetune"


def tab(services: Services) -> None:
    """Draw the tab inside the Blocks that are open."""
    run = training.draw(services)
    runs = history.draw(services)
    chosen = gr.Textbox(visible=False, label="run")
    recipe = gr.Code(visible=False, elem_id="cloned", language="yaml")
    taken = assets.taking("run")
    runs.open_run(lambda name: {"open": name}, chosen, run, js=taken, api_visibility="private", **form.SILENT)
    shelf = history.Shelf(services)
    runs.clone_run(lambda name: gr.Code(shelf.recipe(name), visible=True), chosen, recipe, js=taken, api_visibility="private", **form.QUICK)

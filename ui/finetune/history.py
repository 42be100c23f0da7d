"""The list of runs: their small curves, several laid over each other, what their recipes differ in, what they answer; deleting them."""

import shutil

import gradio as gr

from engine import history, paths
from engine.errors import BadInput
from engine.services import Services
from ui import assets, form
from ui.finetune.training import PLAIN, named

# Runs there are those of many.
NOT_YOURS = "The list of runs is for hosts of one's own. Run the app on your own machine for it."


def draw(services: Services) -> gr.HTML:
    """The list inside the Blocks that are open. It triggers `open_run` and `clone_run`; which run is meant is the `run` of
    `assets.taking`."""
    view = gr.HTML(
        {},
        html_template="<div></div>",
        js_on_load=assets.script("chart.js", "runs.js"),
        elem_id="runs",
        apply_default_css=False,
        most=history.MAX_COMPARED,
    )
    shelf = Shelf(services)
    gr.api(shelf.every, api_name="finetune_runs", **PLAIN)
    gr.api(shelf.compare, api_name="finetune_compare", **PLAIN)
    gr.api(shelf.delete, api_name="finetune_delete", **PLAIN)
    gr.api(shelf.recipe, api_name="finetune_recipe", **PLAIN)
    return view


class Shelf:
    """What the list's endpoints do."""

    def __init__(self, services: Services):
        self._services = services

    def every(self) -> dict:
        """All runs, newest first (`engine.history.summaries`), the bytes they take and those that are free."""
        if self._services.read_only:
            return {"off": NOT_YOURS, "runs": []}
        with form.explained():
            rows = history.summaries()
            free = shutil.disk_usage(paths.runs()).free
            return {"runs": rows, "bytes": sum(row["bytes"] for row in rows), "free": free}

    def compare(self, runs: list[str]) -> dict:
        """Runs beside each other, as `engine.history.compared`."""
        with form.explained():
            self._owner_only()
            if not isinstance(runs, (list, tuple)):
                raise BadInput("Name the runs in a list.")
            return history.compared([named(run)[0] for run in runs])

    def delete(self, run: str, sure: bool = False) -> dict:
        """Delete a run; where it is not `sure`, say what that takes away."""
        with form.explained():
            self._owner_only()
            name, found = named(run)
            if found.process:
                raise BadInput(f"{found.id} is under way. Stop it first.")
            text = history.lost(found, self._services.state().adapters)
            if sure is True:
                history.delete(found)
            return {"run": name, "deleted": sure is True, "text": text}

    def recipe(self, run: str) -> str:
        """A run's recipe as YAML, to begin another run from."""
        with form.explained():
            self._owner_only()
            return history.recipe(named(run)[1]).to_yaml()

    def _owner_only(self) -> None:
        if self._services.read_only:
            raise BadInput(NOT_YOURS)

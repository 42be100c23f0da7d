"""Step 6 of the wizard: start the run, and follow it; the run is the host's, so a reload or a second tab sees the same one."""

import secrets
import shlex
from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component

from engine import drafts, jobs, runs
from engine.drafts import Draft, read
from engine.errors import BadInput, EngineError
from engine.preview import SHOWN_ROWS
from engine.rows import LEAST_ROWS
from engine.services import NO_TRAINING
from ui import form
from ui.finetune import training, views
from ui.finetune.hub_gpu import HubGpu
from ui.finetune.workshop import Workshop, kept

STARTING = {"concurrency_limit": 1, "concurrency_id": "start", "show_progress": "hidden"}
# On a public host: more would only wait.
_MOST_UNDER_WAY = 3


@dataclass
class TrainStep:
    """The components of the step; `outputs` are filled by `shown`. `view` follows a run."""

    shop: Workshop
    outputs: list[Component] = field(default_factory=list)

    def draw(self) -> "TrainStep":
        self.means = gr.HTML(elem_id="ft-start-means", apply_default_css=False)
        self.start = gr.Button("Start training", variant="primary", elem_id="ft-start")
        self.command = gr.Textbox(
            label="The same on the command line",
            info="Save the recipe of step 4 as recipe.yaml.",
            interactive=False,
            buttons=["copy"],
            max_lines=2,
            elem_id="ft-command",
        )
        self.hub = None if self.shop.services.read_only else HubGpu(self.shop, self._name).draw()
        self.view = training.draw(self.shop.services)
        self.outputs = [self.means, self.start, self.command, self.view]
        return self

    def shown(self, draft: Draft) -> list:
        why = self._missing(draft)
        said = views.told(why, "wrong") if why else views.told(self.shop.sentence(draft), "means")
        view = {"open": draft.run} if self.shop.services.read_only and draft.run else gr.skip()
        return [said, gr.Button(interactive=not why), self._command(draft), view]

    def _missing(self, draft: Draft) -> str:
        """Why training cannot start, empty where it can."""
        if not self.shop.services.may_train:
            return NO_TRAINING
        try:
            if why := drafts.missing(draft):
                return why
            cut = self.shop.cutoff(draft)
            if cut and cut.rows < LEAST_ROWS:
                return (
                    f"{cut.rows} row can be learnt from; at least {LEAST_ROWS} are needed. Bring more rows, or raise the cutoff in step 2."
                )
            first = self.shop.first(draft)  # fails where it cannot be read, or is not the visitor's to read
            if first.unsure:
                return f"{first.reason} Say in step 2 which column holds what."
            if len(first.conversations) < LEAST_ROWS and first.rows < SHOWN_ROWS:
                return f"{len(first.conversations)} row can be learnt from; at least {LEAST_ROWS} are needed. Bring more rows in step 2."
        except EngineError as error:
            return str(error)
        return ""

    def _command(self, draft: Draft) -> str:
        if self.shop.services.read_only:
            return "python -m engine train recipe.yaml --data FILE"
        data = f" --data {shlex.quote(draft.recipe.data.source)}" if draft.recipe.data.source else ""
        return f"python -m engine train recipe.yaml{data}"

    def _name(self, draft: Draft) -> str:
        """What a run of the draft is called. Raises BadInput that says what is missing."""
        if why := self._missing(draft):
            raise BadInput(why)
        title = draft.title.partition(":")[0]
        return title.rpartition(".")[0] or title or draft.recipe.model.rpartition("/")[2]

    def begin(self, draft: Draft) -> str:
        """Start a run by the draft's recipe and give its id. Raises BadInput that says what is missing."""
        name = self._name(draft)
        if self.shop.services.read_only:
            waiting = sum(bool(run.process) for run in runs.every())
            if waiting >= _MOST_UNDER_WAY:
                raise BadInput(f"{waiting} runs are under way or in line here already. Try again when one has ended.")
            name = f"{secrets.token_hex(8)}-{name}"  # who knows a run's name can follow and stop it
        return jobs.start(draft.recipe, name).id

    def wire(self, draft: gr.BrowserState) -> None:
        def start(kept_draft: object) -> list:
            with form.explained():
                now = read(kept_draft)
                run = self.begin(now)
            return [kept(now.model_copy(update={"run": run})), {"open": run}]

        self.start.click(start, draft, [draft, self.view], api_visibility="private", **STARTING)
        if self.hub:
            self.hub.wire(draft, self.view, **STARTING)

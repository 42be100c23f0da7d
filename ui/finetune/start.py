"""Step 6 of the wizard: start the run, and follow it; the run is the host's, so a reload or a second tab sees the same one."""

from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component

from engine import drafts, jobs, pace, recipe_paths, runs, trainable, visitors
from engine.drafts import Draft, read
from engine.errors import BadInput, EngineError
from engine.preview import SHOWN_ROWS, Measured
from engine.rows import LEAST_ROWS
from engine.services import NO_TRAINING
from ui import form
from ui.finetune import counting, training, views
from ui.finetune.hub_gpu import HubGpu
from ui.finetune.turns import Turn
from ui.finetune.workshop import Workshop, kept

STARTING = {"concurrency_limit": 1, "concurrency_id": "start", "show_progress": "hidden"}


@dataclass
class TrainStep:
    """The components of the step; `outputs` are filled by `shown`. `view` follows a run."""

    shop: Workshop
    outputs: list[Component] = field(default_factory=list)

    def draw(self) -> "TrainStep":
        self.means = gr.HTML(elem_id="ft-start-means", apply_default_css=False)
        self.counting = counting.line()
        self.started = gr.Textbox(visible=False, label="started")
        self.start = gr.Button("Start training", variant="primary", elem_id="ft-start")
        self.filled = [self.means, self.start]
        self.command = gr.Textbox(
            label="The same on the command line",
            info="Save the recipe of step 4 as recipe.yaml.",
            interactive=False,
            buttons=["copy"],
            max_lines=6,
            elem_id="ft-command",
        )
        self.hub = None if self.shop.services.read_only else HubGpu(self.shop, lambda draft: self._name(draft, here=False)).draw()
        self.view = training.draw(self.shop.services)
        self.outputs = [self.means, self.start, self.command, self.view]
        return self

    def shown(self, draft: Draft) -> list:
        # Always the same value, so that entering the step again does not turn it again.
        view = {"open": draft.run} if self.shop.services.read_only and draft.run else gr.skip()
        return [*self.sentences(draft), self._command(draft), view]

    def sentences(self, draft: Draft) -> list:
        """What the run would be, and whether it can start."""
        why = self._missing(draft, self.shop.measured(draft))
        said = views.told(why, "wrong") if why else views.told(self.shop.sentence(draft), "means")
        return [said, gr.Button(interactive=not why)]

    def _missing(self, draft: Draft, measured: Measured | None, here: bool = True) -> str:
        """Why training cannot start, empty where it can. `measured` are the draft's rows, where they are counted."""
        if not self.shop.services.may_train:
            return NO_TRAINING
        try:
            if why := drafts.missing(draft):
                return why
            first = self.shop.readable(draft)
            cut = measured and self.shop.cut(draft, measured)
            count, help = (cut.rows, ", or raise “Longest row”") if cut else (len(first.conversations), "")
            if count < LEAST_ROWS and (cut or first.rows < SHOWN_ROWS):
                return f"{count or 'No'} row can be learnt from; at least {LEAST_ROWS} are needed. Bring more rows{help} in step 2."
            if why := self.shop.refused(draft):
                return why
            if cut:
                pace.work(draft.recipe, cut.rows)  # raises where all would be held out
            if measured and measured.bad and not draft.recipe.data.skip_bad_rows:
                there = f"{len(measured.bad):,} of {measured.data.rows:,} rows"
                return f"{there} cannot be used. Mend the data, or tick “Skip bad rows” in step 4."
            trainable.check_layers(draft.recipe, self.shop.base(draft))
            self.shop.check_start(draft)
            if self.shop.services.read_only and measured:
                self.shop.check_for_visitors(draft, measured)
            return self.shop.too_large(draft) if here else ""
        except EngineError as error:
            return str(error)

    def _command(self, draft: Draft) -> str:
        if self.shop.services.read_only:
            return "python -m engine train recipe.yaml --data FILE"
        return "python -m engine train recipe.yaml"

    def _name(self, draft: Draft, here: bool = True) -> str:
        """What a run of the draft is called. Raises BadInput that says what is missing, or what is too large where it is to run `here`."""
        # How much a visitor's run takes follows from its rows.
        count = self.shop.counted if self.shop.services.read_only and draft.recipe.data.source else self.shop.measured
        if why := self._missing(draft, count(draft), here):
            raise BadInput(why)
        title = draft.title.partition(":")[0]
        return title.rpartition(".")[0] or title or draft.recipe.model.rpartition("/")[2]

    def begin(self, draft: Draft) -> str:
        """Start a run by the draft's recipe and give its id. Raises BadInput that says what is missing."""
        name = self._name(draft)
        self._check_new(draft)
        if self.shop.services.read_only:
            return visitors.start(draft.recipe, name, self.shop.services.runtime.state.adapters).id
        return jobs.start(draft.recipe, name).id

    def _check_new(self, draft: Draft) -> None:
        """Raises BadInput where the draft's own run is under way by this very recipe: a second one would only wait to do the same."""
        try:
            run = runs.known_as(draft.run, self.shop.services.read_only)
        except BadInput:
            return
        if run.process and run.recipe == recipe_paths.absolute(draft.recipe):
            raise BadInput("This recipe is being trained already, as you see below. Stop that run first, or change the recipe.")

    def wire(self, draft: gr.BrowserState) -> None:
        def start(kept_draft: object) -> list:
            with form.explained():
                run = self.begin(read(kept_draft))
            return [run, training.turned_to(run)]

        def remember(run: str, kept_draft: object) -> dict:
            return kept(read(kept_draft).model_copy(update={"run": run}))

        # What was changed a moment before is part of the run.
        begun = [Turn(start, draft, [self.started, self.view], once=True, **STARTING).after(self.start.click)]
        if self.hub:
            begun.append(self.hub.wire(draft, self.started, self.view, **STARTING))
        Turn(remember, [self.started, draft], draft, **form.QUICK).after(*(each.success for each in begun))

"""Step 5 of the wizard: memory against this machine and others, "make it fit", and a short probe that measures instead."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from engine import fitting, jobs, probing, runs, trainable, visitors
from engine.drafts import Draft, read
from engine.errors import BadInput, EngineError
from engine.probing import Probe
from engine.recipe import Recipe
from ui import form
from ui.finetune import counting, views
from ui.finetune.turns import Turn
from ui.finetune.workshop import Workshop, kept

_LOOK_SECONDS = 0.5
# Of a visitor's probe, with the time in line: there is one at a time, and others wait for it.
_MOST_SECONDS = 300
LARGER = (
    "Or leave this machine: step 6 trains it on a GPU of Hugging Face, and “When one machine is too small” in the README has the commands for "
    "that, for several GPUs, and for chatting with a big model that another machine serves."
)
_WAITED = "The machine is busy: on this public host a probe ends after 5 minutes in line. Try again later, or start the run, which waits."
_TOO_LONG = "The probe was ended: on this public host it may take 5 minutes. Lower Batch in step 4, or Longest row in step 2."
PROBING = {"concurrency_limit": 1, "concurrency_id": "probe", "show_progress": "hidden"}


@dataclass
class FitStep:
    """The components of the step; `outputs` are filled by `shown`."""

    shop: Workshop
    outputs: list[Component] = field(default_factory=list)

    def draw(self) -> "FitStep":
        self.told = gr.HTML(elem_id="ft-fit-told", apply_default_css=False)
        self.counting, self.filled = counting.line(), []
        self.bars = gr.HTML(elem_id="ft-bars", apply_default_css=False)
        with gr.Row():
            self.make = gr.Button("Make it fit", size="sm", elem_id="ft-make-fit")
            self.probe = gr.Button("Probe: ten steps on the longest rows", size="sm", elem_id="ft-probe")
            self.stop = gr.Button("Stop the probe", size="sm", variant="stop", visible=False, elem_id="ft-stop-probe")
        self.found = gr.State(None)
        self.outputs = [self.told, self.bars]
        return self

    def shown(self, draft: Draft, probe: Probe | None = None) -> list:
        try:
            spec = self.shop.spec(draft)
            shape = spec.shape
            if shape is None and probe:
                return [views.told(probe.text, "good" if probe.status == "done" else "wrong"), ""]
            if shape is None:
                return [views.told("The shape of this base is known once it is on disk; the probe measures it."), ""]
            trainable.check_layers(draft.recipe, spec)
            plans = fitting.plans(shape, draft.recipe)
            here = next(iter(plans.values()))
            verdict = (
                "It fits this machine." if here.fits else "It does not fit this machine. “Make it fit” changes the recipe until it does."
            )
            larger = "" if here.fits or self.shop.services.read_only else views.told(LARGER)
            took = views.told(self.shop.duration(draft, probe.seconds_per_step)) if probe and probe.seconds_per_step else ""
            return [views.told(verdict, "good" if here.fits else "wrong") + larger + took, views.memory_bars(plans, probe)]
        except EngineError as error:
            return [views.told(str(error), "wrong"), ""]

    def sentences(self, draft: Draft) -> list:
        """None: the probe alone says how long it takes, from counts that are there when it ends."""
        return []

    def probing(self, draft: Draft) -> Iterator[list]:
        """Probe a draft: updates of the `outputs`, of the button that stops it, and at the end the recipe and what was measured. A
        visitor's is held to what their run is, and to a few minutes. Raises BadInput or EngineError where it cannot begin."""
        self.shop.allowed(draft)
        if not draft.recipe.data.source:
            raise BadInput("Choose the data first: the probe trains on its longest rows.")
        yield [views.told("Probing: reading the rows."), gr.skip(), gr.Button(visible=True), None]
        theirs = self.shop.services.read_only
        if theirs:
            visitors.check_disk()
            self.shop.check_for_visitors(draft, self.shop.counted(draft))
            if why := self.shop.too_large(draft):
                raise BadInput(why)
        run = probing.start(draft.recipe, lambda progress: None, theirs)
        try:
            began, found = time.monotonic(), None
            while found is None:
                time.sleep(_LOOK_SECONDS)
                found = probing.outcome(run)
                seconds = round(time.monotonic() - began)
                waits = runs.phase(run, runs.all_events(run)) == "waiting"
                doing = "Another run has the machine; the probe waits in line" if waits else "Probing: ten steps on the longest rows"
                yield [views.told(f"{doing}, {seconds} s so far."), gr.skip(), gr.skip(), gr.skip()]
                if theirs and found is None and seconds >= _MOST_SECONDS:
                    yield [views.told(_WAITED if waits else _TOO_LONG, "wrong"), gr.skip(), gr.Button(visible=False), None]
                    return
        finally:
            probing.stop(run)
        yield [gr.skip(), gr.skip(), gr.Button(visible=False), (draft.recipe, found)]

    def measured(self, plan: Recipe, found: Probe, draft: Draft) -> list:
        """What a probe measured by a recipe, of the draft as it is now."""
        if draft.recipe == plan:
            return self.shown(draft, found)
        told, bars = self.shown(draft)
        return [told + views.told(f"The recipe was changed since the probe began. Of what it was: {found.text}"), bars]

    def wire(self, draft: gr.BrowserState) -> list[Dependency]:
        """Gives the event that changes the draft."""

        def fit(kept_draft: object) -> list:
            with form.explained():
                before = read(kept_draft)
                self.shop.allowed(before)
                shape = self.shop.spec(before).shape
                if shape is None:
                    raise BadInput("The shape of this base is not known yet, so nothing can be computed. Probe it.")
                made, said = fitting.made_to_fit(shape, before.recipe, jobs.machine())
                changed = before.model_copy(update={"recipe": made})
                told, bars = self.shown(changed)
            return [kept(changed), told + "".join(map(views.told, said or ["Nothing had to be changed."])), bars]

        def probe(kept_draft: object) -> Iterator[list]:
            with form.explained():
                yield from self.probing(read(kept_draft))

        made = Turn(fit, draft, [draft, *self.outputs], **form.QUICK).after(self.make.click)
        counting.after(self, draft, made)
        running = self.probe.click(probe, draft, [*self.outputs, self.stop, self.found], api_visibility="private", **PROBING)
        self.keep_up(running, draft)
        ended = [self.told, self.stop]
        running.failure(lambda: ["", gr.Button(visible=False)], None, ended, api_visibility="private", **form.SILENT)
        stopped = views.told("The probe was stopped.")
        self.stop.click(lambda: [stopped, gr.Button(visible=False)], None, ended, cancels=running, api_visibility="private", queue=False)
        return [made]

    def keep_up(self, event: Dependency, draft: gr.BrowserState) -> None:
        """Show what the latest probe measured when an event has ended."""

        def measured(found: tuple[Recipe, Probe] | None, kept_draft: object) -> list:
            return self.measured(*found, read(kept_draft)) if found else [gr.skip()] * len(self.outputs)

        how = {"api_visibility": "private", "trigger_mode": "always_last", **form.QUICK}
        event.success(measured, [self.found, draft], self.outputs, **how)

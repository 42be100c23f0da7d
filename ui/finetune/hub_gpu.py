"""In step 6 of the wizard: the same training as a Hugging Face Job, what it costs and what is sent said first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import gradio as gr
from gradio.events import Dependency

from engine import hub_jobs, job_bundle, job_offer, jobs, pushing, recipe_paths
from engine.drafts import Draft, read
from engine.errors import BadInput, EngineError
from engine.job_offer import Flavor
from ui import form
from ui.finetune import views
from ui.finetune.training import turned_to
from ui.finetune.workshop import Workshop

_LIMIT = "2h"
_UNCOUNTED = "How long it takes is told once the rows are counted."


@dataclass
class HubGpu:
    """The panel's components. `name` is what a run of a draft is called; it raises BadInput where the draft cannot be trained."""

    shop: Workshop
    name: Callable[[Draft], str]
    # The machines as the Hub listed them last: what is typed asks it for nothing.
    _listed: dict[str, Flavor] = field(default_factory=dict)

    def draw(self) -> "HubGpu":
        with gr.Accordion("Train on a Hugging Face GPU instead", open=False, elem_id="ft-job") as self.panel:
            gr.Markdown(
                "For bases that are too large or too slow here. It is paid by the minute, needs a token with write permission "
                "(HF_TOKEN, or `hf auth login`), and goes on when this app is closed."
            )
            with gr.Row():
                self.flavor = gr.Dropdown(label="Machine", choices=[], elem_id="ft-job-flavor")
                self.limit = gr.Textbox(
                    _LIMIT, label="Time limit", info="As in 90m or 2h. It saves before it ends.", elem_id="ft-job-limit"
                )
            self.told = gr.HTML(elem_id="ft-job-told", apply_default_css=False)
            # What it was told of. The page has it, as it has what is told: what the server remembers would be ahead of it.
            self.of = gr.JSON(visible=False, label="told of")
            self.agreed = gr.Checkbox(
                False, label="Send what is named above to Hugging Face, and start what it costs", elem_id="ft-job-agreed"
            )
            self.go = gr.Button("Start on Hugging Face", elem_id="ft-job-start")
        return self

    def opened(self, draft: Draft, flavor: str | None, limit: str, of: dict | None) -> list:
        """The machines with their prices, what the chosen one would cost, whether somebody agreed, and to what: to nothing where it was
        told `of` another job, or of none."""
        try:
            self._listed = {each.name: each for each in job_offer.flavors()}
        except EngineError as error:
            return [gr.skip(), views.told(str(error), "wrong"), False, None]
        choices = [(each.text, name) for name, each in self._listed.items()]
        chosen, machines = flavor, gr.Dropdown(choices=choices)  # another may be chosen meanwhile, which stays
        if flavor not in self._listed:
            chosen = next(iter(self._listed))
            machines = gr.Dropdown(choices=choices, value=chosen)
        asked = _asked(draft, chosen, limit)
        return [machines, self.cost(draft, chosen, limit), gr.skip() if of == asked else False, asked]

    def again(self, of: dict | None, draft: Draft, flavor: str | None, limit: str) -> list:
        """What is told, whether somebody agreed, and of what: anew where it was told of another job, to which nobody agreed."""
        asked = _asked(draft, flavor, limit)
        if of in (None, asked):
            return [gr.skip()] * 3
        return [self.cost(draft, flavor, limit), False, asked]

    def counted(self, told: str, of: dict | None, draft: Draft, flavor: str | None, limit: str) -> object:
        """What is told, with how long it takes, where that waited for the rows to be counted."""
        waited = _UNCOUNTED in (told or "") and of == _asked(draft, flavor, limit)
        return self.cost(draft, flavor, limit) if waited else gr.skip()

    def cost(self, draft: Draft, flavor: str | None, limit: str) -> str:
        """What the job would cost and what is sent for it, or why there can be none."""
        if not flavor:
            return ""
        try:
            self.name(draft)
            plan, seconds = recipe_paths.absolute(draft.recipe), job_offer.limit_of(limit)
            job_bundle.check(plan)
            pushing.token()
            base, machine = self.shop.base(draft), self._listed.get(flavor) or job_offer.flavor(flavor)
            rows = self.shop.cutoff(draft)
            notes = job_offer.offer(plan, base, machine, seconds, rows).notes
        except EngineError as error:
            return views.told(str(error), "wrong")
        uncounted = () if rows else (_UNCOUNTED,)
        return "".join(map(views.told, (*uncounted, *notes)))

    def start(self, draft: Draft, flavor: str | None, limit: str, agreed: bool) -> str:
        """Start the job and follow it; the run's id. Raises BadInput or EngineError with what to do."""
        if not agreed:
            raise BadInput("Nothing was sent. Tick the box that says what is sent and paid for, then start it.")
        if not flavor:
            raise BadInput("Choose a machine first.")
        name = self.name(draft)
        run = hub_jobs.start(draft.recipe, name, job_offer.flavor(flavor).name, job_offer.limit_of(limit), lambda progress: None)
        jobs.resume(run)
        return run.id

    def wire(self, draft: gr.BrowserState, started: gr.Textbox, view: gr.HTML, **how: object) -> Dependency:
        """The event that starts a job: its run goes into `started`, and `view` turns to it."""

        def start(kept_draft: object, flavor: str | None, limit: str, agreed: bool, of: dict | None) -> Iterator[list]:
            with form.explained():
                if of != _asked(read(kept_draft), flavor, limit):
                    raise BadInput(
                        "Nothing was sent: what stands above was of other rows, another recipe, another machine or another time limit. Read "
                        "it again, then start it."
                    )
                yield [gr.skip(), gr.skip(), views.told("Sending the recipe and its data, and starting the job."), gr.skip()]
                run = self.start(read(kept_draft), flavor, limit, agreed)
                said = views.told("The job is started. Below it is followed as any other run.", "good")
                yield [run, turned_to(run), said, False]

        def told(kept_draft: object, flavor: str | None, limit: str, of: dict | None) -> list:
            draft = read(kept_draft)
            asked = _asked(draft, flavor, limit)
            return [self.cost(draft, flavor, limit), gr.skip() if of == asked else False, asked]

        def changed(kept_draft: object, flavor: str | None, limit: str, of: dict | None) -> list:
            # Gradio says that a machine was chosen whenever the list is left.
            same = not flavor or of == _asked(read(kept_draft), flavor, limit)
            return [gr.skip()] * 3 if same else told(kept_draft, flavor, limit, of)

        def opened(kept_draft: object, *asked) -> list:
            return self.opened(read(kept_draft), *asked)

        chosen, quick = [draft, self.flavor, self.limit], {"api_visibility": "private", **form.QUICK}
        asked, anew = [*chosen, self.agreed, self.of], ([*chosen, self.of], [self.told, self.agreed, self.of])
        self._again(self.panel.expand(opened, anew[0], [self.flavor, *anew[1]], **quick), draft)
        self.flavor.input(changed, *anew, trigger_mode="always_last", **quick)
        self.limit.change(changed, *anew, **quick)
        going = self.go.click(start, asked, [started, view, self.told, self.agreed], api_visibility="private", **how)
        going.failure(told, *anew, **quick)
        return going

    def keep_up(self, filled: Dependency, counted: Dependency, draft: gr.BrowserState) -> None:
        """What is told follows the draft when the step is filled, and the rows when they are counted."""
        self._again(filled, draft)
        counted.success(
            lambda told, of, kept_draft, *asked: self.counted(told, of, read(kept_draft), *asked),
            [self.told, self.of, draft, self.flavor, self.limit],
            self.told,
            api_visibility="private",
            **form.QUICK,
        )

    def _again(self, event: Dependency, draft: gr.BrowserState) -> None:
        event.success(
            lambda of, kept_draft, *asked: self.again(of, read(kept_draft), *asked),
            [self.of, draft, self.flavor, self.limit],
            [self.told, self.agreed, self.of],
            api_visibility="private",
            **form.QUICK,
        )


def _asked(draft: Draft, flavor: str | None, limit: str) -> dict:
    """What is agreed to: this recipe, on this machine, for so long at most."""
    return {"recipe": draft.recipe.model_dump(mode="json"), "flavor": flavor, "limit": limit}

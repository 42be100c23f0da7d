"""Step 7 of the wizard: chat with what was trained, see what changed, duel it blind against its base, and take it along."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component

from engine import models, runs, telling, trying
from engine.blend import NO_ADAPTER
from engine.drafts import Draft, read
from engine.errors import BadInput, EngineError
from engine.game.decks import Deck
from engine.runs import Run
from ui import compare, form, game
from ui.answers import Stops
from ui.chat import ANSWERING, Talk
from ui.chat import TAB as CHAT
from ui.finetune import views
from ui.finetune.forgetting import Forgetting
from ui.finetune.taking import Taking
from ui.finetune.turns import Turn
from ui.finetune.workshop import Workshop, kept
from ui.measure.history import NOT_HERE

# The game's script shows the deck of the duel, also where that tab was opened before there was one.
PLAY = "() => { window.guanacoDeck = document.querySelector('#ft-try-told [data-deck]')?.dataset.deck; window.guanacoPlay?.(); return []; }"


def answered(count: int) -> str:
    """What is said of a duel of so many questions."""
    are = "is" if count == 1 else "are"
    return f"{telling.counted(count, 'question')} {are} answered by both. Which is which stays hidden until you have chosen."


@dataclass
class TryStep:
    """The components of the step; `outputs` are filled by `shown`. `sides` are the pickers of the tab that compares."""

    shop: Workshop
    talk: Talk
    tabs: gr.Tabs
    sides: list[Component]
    outputs: list[Component] = field(default_factory=list)

    def draw(self) -> "TryStep":
        self.run = gr.Dropdown([], label="What was trained", info="Finished runs, newest first.", elem_id="ft-run")
        with gr.Row():
            self.chat = gr.Button("Chat with it", variant="primary", elem_id="ft-chat")
            self.compare = gr.Button("Base and mine, side by side", elem_id="ft-compare")
            self.duel = gr.Button("Blind duel: base or mine?", elem_id="ft-duel")
            self.stop = gr.Button("Stop the duel", variant="stop", visible=False, elem_id="ft-stop-duel")
        self.told = gr.HTML(elem_id="ft-try-told", apply_default_css=False)
        self.play = gr.Button("Play it in the blind game", visible=False, elem_id="ft-play")
        self.changes = gr.HTML(elem_id="ft-changes", apply_default_css=False)
        self.forgetting = Forgetting(self.shop, self._measurable).draw()
        self.taking = Taking(self.shop, self._found).draw()
        # The run that all of this is of, and whether somebody chose it here. The page has it: the picker may be another run's by now.
        self.of = gr.JSON(visible=False, label="shown")
        self.outputs = [self.run, self.of, self.told, self.play, self.changes, *self.forgetting.outputs, *self.taking.outputs]
        return self

    def shown(self, draft: Draft, chosen: str = "") -> list:
        theirs = self.shop.services.read_only
        names = [name for name, run in trying.finished().items() if not theirs or (run.public and name == draft.run)]
        if not names:
            return [gr.Dropdown(choices=[], value=None), *self._of("", views.told(self._none(draft)))]
        run = next((name for name in (chosen, draft.run) if name in names), names[0])
        return [gr.Dropdown(choices=names, value=run), *self._of(run, "")]

    def _none(self, draft: Draft) -> str:
        """Why there is nothing to try."""
        with contextlib.suppress(BadInput):
            if runs.known_as(draft.run, self.shop.services.read_only).process:
                return "The run is still under way, as step 6 shows. It can be tried here when it is done."
        return "Nothing has been trained yet. Step 6 starts a run."

    def _of(self, run: str, told: str) -> list:
        """All but the picker, for another run; the duel on the page, if any, is not of this one."""
        changes = views.changes(trying.changes(runs.known_as(run))) if run else ""
        return [{"run": run}, told, gr.Button(visible=False), changes, "", *self.taking.shown(run)]

    def _found(self, run: str | None) -> Run:
        self.shop.allowed()
        if not run:
            raise BadInput("Choose a finished run first.")
        found = runs.known_as(run, self.shop.services.read_only)
        if not found.adapter.is_dir():
            raise BadInput(f"{run} has no adapter yet: it is not finished.")
        return found

    def _measurable(self, run: str | None) -> Run:
        if self.shop.services.read_only:
            raise BadInput(NOT_HERE)
        return self._found(run)

    def _load_base(self, name: str, run: Run) -> None:
        """See that the run's base is the loaded model; it may still be loading afterwards."""
        services, model = self.shop.services, run.recipe.model
        state = services.state()
        if state.phase in ("ready", "loading") and state.model == models.resolve(model).id:
            return
        services.load(model, adapter=name)

    def wire(self, draft: gr.BrowserState) -> None:
        services, stops = self.shop.services, Stops()
        blend = [NO_ADAPTER, 1, NO_ADAPTER, 1]

        def choose(run: str | None, of: dict | None, kept_draft: object) -> list:
            if (run or "") == (of or {"run": ""}).get("run"):  # Gradio tells also that it was left as it was, and some choices twice
                return [gr.skip()] * len(self.outputs)
            try:
                self._found(run)
                there, of, *others = self.shown(read(kept_draft), run)
            except EngineError as error:  # told here: after a failure Gradio forgets who was to be shown next
                return [gr.skip(), {}, views.told(str(error), "wrong"), *[gr.skip()] * (len(self.outputs) - 3)]
            # What stands in the picker stays: it may be another run by now, which is shown next.
            return [gr.Dropdown(choices=there.choices), {**of, "chosen": True}, *others]

        def remember(of: dict | None, kept_draft: object) -> dict:
            """Whoever comes back finds the run that was chosen; the draft may be another by now."""
            return kept(read(kept_draft).model_copy(update={"run": of["run"]})) if of and of.get("chosen") else gr.skip()

        def chat(run: str) -> list:
            with form.explained():
                self._load_base(run, self._found(run))
            return [gr.Tabs(selected=CHAT), run, *blend[1:]]

        def side_by_side(run: str) -> list:
            with form.explained():
                self._load_base(run, self._found(run))
            return [gr.Tabs(selected=compare.TAB), *compare.BARE, "", run, *blend[1:]]

        def duel(request: gr.Request, run: str) -> Iterator[list]:
            flag = stops.begin(request.session_hash)
            try:
                found = self._found(run)
                model = found.recipe.model
                sides = [services.side(model, NO_ADAPTER, 1, None, 1), services.side(model, run, 1, None, 1)]
                yield [views.told("Both begin to answer."), gr.Button(visible=True), gr.Button(visible=False)]
                for each in services.duel(sides, (f"{model}, the base", f"mine: {found.id}"), trying.questions(found), flag.is_set):
                    if isinstance(each, Deck):
                        services.shelf.add(each)
                        made = f'<span data-deck="{each.id}"></span>'
                        yield [views.told(answered(len(each.questions)), "good") + made, gr.Button(visible=False), gr.Button(visible=True)]
                    else:
                        yield [views.told(each.text), gr.skip(), gr.skip()]
            except EngineError as error:
                yield [views.told(f"There is no duel: {error}", "wrong"), gr.Button(visible=False), gr.skip()]
            finally:
                stops.end(request.session_hash, flag)

        def stop(request: gr.Request) -> None:
            stops.stop(request.session_hash)

        how = {"api_visibility": "private", **form.QUICK}
        chosen = self.run.input(choose, [self.run, self.of, draft], self.outputs, trigger_mode="always_last", **how)
        Turn(remember, [self.of, draft], draft, **form.QUICK).after(chosen.success)
        self.chat.click(chat, self.run, [self.tabs, *self.talk.blend], **how)
        self.compare.click(side_by_side, self.run, [self.tabs, *self.sides], **how)
        playing = [self.told, self.stop, self.play]
        begun = self.duel.click(duel, self.run, playing, api_visibility="private", **ANSWERING)
        broken = views.told("The duel broke off. Try again; the app's log says why.", "wrong")
        ended = [self.told, self.stop]
        begun.failure(lambda: [broken, gr.Button(visible=False)], None, ended, api_visibility="private", **form.SILENT)
        self.stop.click(stop, None, None, api_visibility="private", **form.SILENT)
        self.play.click(lambda: gr.Tabs(selected=game.TAB), None, self.tabs, js=PLAY, **how)
        self.forgetting.wire(self.run)
        self.taking.wire(self.run)

"""The tab that finetunes: from a file to a chatbot of one's own, step by step; every step can be left and entered again.

A draft of the recipe lives in the visitor's browser; runs are the host's.
"""

import gradio as gr
from gradio.components import Component

from engine.drafts import read
from engine.library import storage_secret
from engine.services import Services
from ui import assets, form
from ui.chat import STORAGE_KEY, Talk
from ui.finetune import api, counting, history
from ui.finetune.data import DataStep
from ui.finetune.fit import FitStep
from ui.finetune.lens import LensStep
from ui.finetune.model import ModelStep
from ui.finetune.recipe import RecipeStep
from ui.finetune.start import TrainStep
from ui.finetune.training import turned_to
from ui.finetune.tryout import TryStep
from ui.finetune.turns import Turn
from ui.finetune.workshop import Workshop, kept

TAB = "finetune"
LABELS = ("Model", "Data", "Token lens", "Recipe", "Fit", "Train", "Try it", "Runs")
# Rows or a tokenizer of the Hub may not have been fetched to this host yet.
READING = {"concurrency_id": "reading"}
DATA, LENS, RECIPE, FIT, TRAIN, TRY, RUNS = range(1, len(LABELS))
# What visitors see in place of all that would only be refused.
_AWAY = f"""### Finetuning is off on this host

Elsewhere this tab goes from a file of yours to your own chatbot in eight steps: {" · ".join(LABELS)}. Run the app on a machine of your own
(`python app.py`), the finetuning notebook on a free GPU of Colab, or a Space of your own, where you may allow it."""


def tab(services: Services, opening: gr.Tab, talk: Talk, tabs: gr.Tabs, sides: list[Component]) -> None:
    """Draw the tab inside the Blocks that are open. `sides` are the pickers of the tab that compares."""
    if not services.may_train:
        gr.Markdown(_AWAY, elem_id="ft-away")
        shop = Workshop(services)
        return api.endpoints(shop, TrainStep(shop))
    draft = gr.BrowserState(None, storage_key=f"{STORAGE_KEY}.finetune", secret=storage_secret())
    shop = Workshop(services)
    steps = [
        ModelStep(shop),
        DataStep(shop),
        LensStep(shop),
        RecipeStep(shop),
        FitStep(shop),
        TrainStep(shop),
        TryStep(shop, talk, tabs, sides),
    ]
    at = gr.BrowserState(0, storage_key=f"{STORAGE_KEY}.finetune-step", secret=storage_secret())
    # The steps ahead cannot be pressed in a walkthrough, and whoever comes back wants one of these.
    with gr.Row(elem_id="ft-jump"):
        jumps = {
            number: gr.Button(LABELS[number], size="sm", scale=0, min_width=70, elem_id=f"ft-to-{number}") for number in (TRAIN, TRY, RUNS)
        }
    # Pressed by the page: a step is filled as it is entered, and again where a change made in another one comes late.
    fills = [gr.Button(visible="hidden", elem_id=f"ft-fill-{number}") for number in range(RUNS)]
    drawn: list[gr.Step] = []
    onward: list[gr.Button] = []
    with gr.Walkthrough(selected=0, elem_id="ft-steps") as walk:
        for number, label in enumerate(LABELS):
            with gr.Step(label, id=number, elem_id=f"ft-step-{number}") as step:
                drawn.append(step)
                if number == RUNS:
                    runs = history.draw(services)
                    continue
                steps[number].draw()
                if number < TRAIN:
                    with gr.Row(elem_classes="onward"):
                        onward.append(gr.Button("Next", variant="primary", scale=0, min_width=120, elem_id=f"ft-next-{number}"))
                        if label == "Data":
                            hurry = gr.Button("Skip to training with these defaults", scale=0, min_width=260, elem_id="ft-hurry")
    changing = [[*(step.wire(draft) or ())] for step in steps]
    recipe, train = steps[RECIPE], steps[TRAIN]

    def entered(number: int):
        return lambda kept_draft, *others: steps[number].shown(read(kept_draft), *others)

    how = {"api_visibility": "private", **form.QUICK}
    for number, step in enumerate(drawn):
        seen = step.select(None, None, at, js=f"() => {number}", api_visibility="private")
        if number == RUNS:
            continue
        seen.success(None, [at, draft], None, js=_filling(number, anyway=True), api_visibility="private")
        if number == RECIPE:
            recipe.entering.after(fills[number].click)
            continue
        reads = READING if number in (DATA, LENS) else {}
        inputs, typed = ([draft, steps[LENS].row], form.AS_TYPED) if number == LENS else (draft, {})
        # Whoever comes back before it is filled has changed something elsewhere meanwhile.
        shown = fills[number].click(entered(number), inputs, steps[number].outputs, trigger_mode="always_last", **how | reads | typed)
        # By then the draft may be another than the one it was filled by.
        shown.success(
            None, [at, draft], None, js=f"(at, draft) => {{ if (at === {number}) ({_FILL})(at, draft); }}", api_visibility="private"
        )
        if number == DATA:
            steps[number].counts(shown, draft)
        if number in (FIT, TRAIN):
            counted = counting.after(steps[number], draft, shown)
        if number == FIT:
            steps[number].keep_up(shown, draft)
        if number == TRAIN and (hub := steps[number].hub):
            hub.keep_up(shown, counted, draft)
    # Not the step that made the change, which shows it already, and not the first, where somebody may be typing the name of a base.
    for number, events in enumerate(changing):
        late = _filling(*(each for each in (DATA, LENS, RECIPE, FIT, TRAIN) if each != number))
        for event in events:
            event.success(None, [at, draft], None, js=late, api_visibility="private")

    # Whichever way a step is entered, its own event fills it.
    for number, button in (*enumerate(onward, 1), (TRAIN, hurry)):
        button.click(None, None, walk, js=f"() => ({_ONWARD})({number})", api_visibility="private")
    for number, button in jumps.items():
        button.click(None, None, walk, js=f"() => ({{selected: {number}, __type__: 'update'}})", api_visibility="private")
    # Where this browser was when it was last here. Set on the page: an answer of a busy server would come after the person's next press.
    opening.select(
        None,
        at,
        walk,
        js=f"at => ({{selected: {[*range(len(LABELS))]}.includes(at) ? at : 0, __type__: 'update'}})",
        api_visibility="private",
    )
    first = steps[0]
    opening.select(lambda kept_draft, table: first.listed_again(read(kept_draft), table), [draft, first.table], first.outputs, **how)

    chosen = gr.Textbox(visible=False, label="run")
    runs.open_run(lambda run: [gr.Walkthrough(selected=TRAIN), turned_to(run)], chosen, [walk, train.view], js=assets.taking("run"), **how)

    def try_out(run: str, kept_draft: object) -> list:
        return [kept(read(kept_draft).model_copy(update={"run": run})), gr.Walkthrough(selected=TRY)]

    acting = "() => window.guanacoAction.run"
    Turn(try_out, [chosen, draft], [draft, walk], handed=True, **form.QUICK).after(train.view.try_run, hand=acting)

    def clone(run: str, kept_draft: object) -> list:
        with form.explained():
            made = shop.clone(run, read(kept_draft))
        return [kept(made), gr.Walkthrough(selected=RECIPE), *recipe.shown(made)]

    Turn(clone, [chosen, draft], [draft, walk, *recipe.outputs], handed=True, **form.QUICK).after(runs.clone_run, hand=acting)
    api.endpoints(shop, train)


# A number that is wrong is mended before the next step, where nobody would see that another one counts.
_ONWARD = """(number) => {
  const wrong = [...document.querySelectorAll(":is(#ft-limit-wrong, #ft-recipe-wrong) .wrong")].find((each) => each.checkVisibility());
  if (!wrong) return {selected: number, __type__: "update"};
  wrong.scrollIntoView({block: "center"});
  wrong.animate([{opacity: 0.2}, {opacity: 1}], 500);
  return {__type__: "update"};
}"""


# The page's part of what fills the step that it is `at`: its button is pressed, once it is drawn, but for a draft that fills it already.
_FILL = """(at, draft) => {
  const now = JSON.stringify(draft), filled = (window.guanacoFilled ||= {});
  if (filled[at] === now) return;
  filled[at] = now;
  const press = () => {
    const button = document.getElementById(`ft-fill-${at}`);
    if (button) button.click();
    else requestAnimationFrame(press);
  };
  press();
}"""


def _filling(*steps: int, anyway: bool = False) -> str:
    """The page's part of what fills the step that it is `at`, where that is one of these. Where the draft is as it was, what somebody is
    typing stays, unless it is to be filled `anyway`."""
    return f"""(at, draft) => {{
  const now = JSON.stringify(draft), same = now === window.guanacoDraft;
  window.guanacoDraft = now;
  if (!{[*steps]}.includes(at) || !{"true" if anyway else "!same"}) return;
  delete window.guanacoFilled?.[at];
  ({_FILL})(at, draft);
}}"""

"""What comes late in the wizard: a base, rows, counts, a step that was entered before; nothing that was chosen meanwhile is undone."""

import shutil
import threading

import browser
import gradio as gr
import pytest
import training
from builders import until
from pages import wired
from test_finetune_flow import bring, brought, choose_base, has, to_recipe, yaml

from engine import drafts, fitting, preview, recipe, recipe_paths, runs, trying
from engine.drafts import Draft
from engine.errors import EngineError
from engine.runtime import Runtime
from engine.services import Services
from ui.finetune.data import DataStep
from ui.finetune.lens import LensStep
from ui.finetune.model import ModelStep
from ui.finetune.recipe import RecipeStep
from ui.finetune.workshop import Workshop, kept


def test_rows_that_were_asked_for_twice_are_no_other_rows(home, rows):
    take = wired(DataStep(Workshop(Services(Runtime(isolated=False)))), "take")
    before = Draft()
    found = {"wrong": "", "before": kept(before), "draft": kept(drafts.with_data(before, str(rows), "mine"))}
    draft, told, *_ = take(found, kept(before))
    assert take(found, draft)[:2] == [draft, told] and "mine" in told
    unchanged, told, *_ = take(found, kept(drafts.with_data(before, "other.jsonl", "other")))
    assert unchanged == gr.skip() and "other rows were chosen meanwhile" in told


def test_a_base_that_is_found_late_undoes_nothing_that_was_chosen_meanwhile(home, tiny, two_adapters):
    step = ModelStep(Workshop(Services(Runtime(isolated=False))))
    choose, take, start_from, take_start = (wired(step, name) for name in ("choose", "take", "start_from", "take_start"))
    before = Draft()
    found = choose({"ask": 1}, kept(before), str(tiny))
    assert found["ask"] == 1 and not found["wrong"]
    meanwhile = drafts.with_data(before, "mine.jsonl", "mine")
    draft, *_ = take(found, kept(meanwhile))
    assert drafts.read(draft) == drafts.with_model(meanwhile, str(tiny))
    edited = kept(drafts.changed(drafts.read(draft), {"lora.r": 3}))
    assert take(found, edited, str(tiny), "none")[0] == gr.skip(), "who asked twice keeps what was changed since"
    other = kept(drafts.with_model(before, "guanaco-7b"))
    draft, *_, told = take(found, other)
    assert draft == gr.skip() and "another base was chosen meanwhile" in told
    *_, told = take(choose({"ask": 2}, kept(before), "/no/such"), other)
    assert "The base is still guanaco-7b." in told
    adapter = start_from({"ask": 1}, edited, two_adapters[0])
    draft, *_ = take_start(adapter, kept(drafts.changed(drafts.read(edited), {"lora.r": 5})))
    assert (drafts.read(draft).recipe.lora.start_from, drafts.read(draft).recipe.lora.r) == (two_adapters[0], 5)
    draft, *_, told = take_start(adapter, other)
    assert draft == gr.skip() and "Another base was chosen meanwhile." in told


def test_one_field_that_is_touched_takes_no_others_of_another_recipe_along(home, tiny):
    step = RecipeStep(Workshop(Services(Runtime(isolated=False))))
    change, rank = wired(step, "change"), list(step.fields).index("lora.r")
    asked, draft = gr.Request(session_hash="page"), Draft()

    def edited(values: list, r: int) -> list:
        return [r if at == rank else each for at, each in enumerate(values)]

    begun = [component.value for component in step.fields.values()]
    _, _, _, *fields, _, said = step.shown(draft)
    assert begun != fields, "the class's defaults are another recipe than the first draft's"
    for there in (None, {}, {"recipe": "mine"}):
        unchanged, _, _, _, *shown, _, now = change(asked, kept(draft), there, *edited(begun, 64))
        assert (unchanged, shown, now) == (gr.skip(), fields, said)
    first, *_, followed = change(asked, kept(draft), said, *edited(fields, 64))
    assert drafts.read(first) == drafts.changed(draft, {"lora.r": 64})
    second, *_, followed = change(asked, first, followed, *edited(fields, 65))
    assert drafts.read(second) == drafts.changed(draft, {"lora.r": 65})
    # Another base came meanwhile: its recipe is shown in all other fields.
    other = drafts.with_model(draft, str(tiny))
    third, _, _, told, *shown, text, now = change(asked, kept(other), followed, *edited(fields, 66))
    wanted = drafts.changed(other, {"lora.r": 66})
    assert (drafts.read(third), told, text, now) == (wanted, "", wanted.recipe.to_yaml(), kept(wanted)["recipe"])
    assert shown[rank] == gr.skip()
    by_then = [old if new == gr.skip() else new for old, new in zip(edited(fields, 66), shown, strict=True)]
    assert by_then == step.shown(wanted)[3 : 3 + len(fields)]


@pytest.mark.long
@browser.needs_chromium
def test_another_base_is_counted_while_the_count_for_the_one_before_goes_on(page, tiny, rows, tmp_path, monkeypatch):
    asked, begun, counting, measuring = [], [], preview.counting, Workshop.measuring
    other = shutil.copytree(tiny, tmp_path / "another-llama")

    def all_but_the_first(data, tokenizer, form, system="", stop=lambda: False):
        begun.append(form)
        while len(begun) == 1:
            if stop():
                return
            threading.Event().wait(0.01)
        yield from counting(data, tokenizer, form, system, stop)

    monkeypatch.setattr(preview, "counting", all_but_the_first)
    monkeypatch.setattr(Workshop, "measuring", lambda *arguments: asked.append(arguments) or measuring(*arguments))
    with browser.opened(page.url) as tab:
        bring(tab, tiny, rows)
        until(lambda: len(asked) == 1)
        tab.click("#ft-step-0-button")
        tab.click("#ft-next-0")
        until(lambda: len(asked) == 2)
        tab.click("#ft-step-0-button")
        choose_base(tab, other)
        tab.click("#ft-next-0")
        tab.wait_for_selector("#ft-lengths svg")
        assert len(begun) == 2 and not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_a_step_that_was_entered_before_a_change_had_come_is_filled_again(page, tiny, rows, monkeypatch):
    """A number typed in step 4 and answered when step 6 is open; the lens entered again before it was filled."""
    typed, looked, seen, agreed, shown = threading.Event(), threading.Event(), [], RecipeStep.agreed, LensStep.shown

    def late(step, draft, *others):
        seen.append(draft.recipe.data.max_length)
        assert looked.wait(60)
        return shown(step, draft, *others)

    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        to_recipe(tab)
        yaml(tab)
        monkeypatch.setattr(RecipeStep, "agreed", lambda *arguments: typed.wait(60) and agreed(*arguments))
        tab.locator("#ft-simple").get_by_label("Steps").fill("2")
        tab.click("#ft-to-5")
        has(tab, "#ft-start-means", "passes over")
        typed.set()
        has(tab, "#ft-start-means", "2 updates")
        monkeypatch.setattr(LensStep, "shown", late)
        tab.click("#ft-step-1-button")
        tab.click("#ft-next-1")
        until(lambda: len(seen) == 1)
        tab.click("#ft-step-1-button")
        tab.get_by_label("number input for Longest row").fill("104")
        has(tab, "#ft-lengths", "the limit is 104.")
        tab.click("#ft-next-1")
        looked.set()
        until(lambda: len(seen) == 2 and seen[1] == 104)
        assert not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_a_base_that_is_found_when_another_step_is_open_is_shown_there(page, tiny, rows, tmp_path, monkeypatch):
    """Named in step 1 and left without Enter; found when the step that is open by then has shown the base before. One that is refused by
    then leaves alone what somebody does there."""
    others = [*(shutil.copytree(tiny, tmp_path / f"another-{number}") for number in range(3)), "owner/nowhere"]
    found = {str(other): threading.Event() for other in others}
    base, shown, looked = Workshop.base, LensStep.shown, []
    fields, filled = RecipeStep.shown, []

    def late(shop, draft):
        assert draft.recipe.model not in found or found[draft.recipe.model].wait(60)
        if draft.recipe.model == "owner/nowhere":
            raise EngineError("It is nowhere.")
        return base(shop, draft)

    monkeypatch.setattr(Workshop, "base", late)
    monkeypatch.setattr(LensStep, "shown", lambda step, draft, *row: looked.append(draft.recipe.model) or shown(step, draft, *row))
    monkeypatch.setattr(RecipeStep, "shown", lambda step, draft: filled.append(draft) or fields(step, draft))
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        tab.get_by_label("number input for Longest row").fill("104")
        has(tab, "#ft-lengths", "the limit is 104.")

        def name(other, *presses: str) -> None:
            tab.click("#ft-step-0-button")
            tab.fill("#ft-base input", str(other))
            tab.locator("#ft-base input").blur()
            for press in presses:
                tab.click(press)

        name(others[0], "#ft-next-0")
        has(tab, "#ft-lengths", "the limit is 104.")
        found[str(others[0])].set()
        has(tab, "#ft-lengths", "the limit is 512.")
        assert tab.input_value("#ft-limit input[type=number]") == "512"
        name(others[1], "#ft-next-0", "#ft-next-1")
        until(lambda: str(others[0]) in looked)
        found[str(others[1])].set()
        until(lambda: str(others[1]) in looked)
        name(others[2], "#ft-to-5")
        has(tab, "#ft-start-means", "known once the rows are counted")
        found[str(others[2])].set()
        has(tab, "#ft-start-means", "passes over")
        name("owner/nowhere", "#ft-next-0", "#ft-next-1", "#ft-next-2")
        yaml(tab)
        until(lambda: tab.evaluate("1") and filled)
        tab.fill("#ft-yaml textarea", "mine")
        found["owner/nowhere"].set()
        tab.wait_for_function("document.querySelector('#ft-bases').textContent.includes('It is nowhere.')")
        tab.click("#ft-next-3")
        has(tab, "#ft-fit-told", "fit")
        assert len(filled) == 1 and tab.locator("#ft-yaml textarea").evaluate("box => box.value") == "mine" and not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_what_comes_late_is_counted_where_it_is_waited_for(page, tiny, rows, monkeypatch):
    """Rows that come when the run is about to be started, and while others are counted for the recipe; a recipe that is made to fit."""
    came, counted, fitted, first, counting = *(threading.Event() for _ in range(3)), preview.first, preview.counting
    lines = rows.read_text().splitlines()

    def slow(source, *others):
        assert source == str(rows) or came.wait(60)
        return first(source, *others)

    def slowly(data, tokenizer, form, system="", stop=lambda: False):
        *_, whole = counting(data, tokenizer, form, system, stop)
        yield preview.Measured(data, (), whole.shapes[:4], frozenset(), whole.anew)
        while not counted.wait(0.05):
            if stop():
                return
        yield whole

    def made(shape, plan, machine):
        assert fitted.wait(60)
        return plan.changed({"optimization.steps": 2}), ["Two steps."]

    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        monkeypatch.setattr(preview, "first", slow)
        monkeypatch.setattr(preview, "counting", slowly)
        tab.get_by_role("tab", name="Paste").click()
        tab.fill("#ft-paste textarea", "\n".join(lines))
        tab.click("#ft-take-pasted")
        tab.click("#ft-hurry")
        has(tab, "#ft-start-means", "passes over")
        came.set()
        has(tab, "#ft-step-5 .ft-counting", "4 of 12 rows are counted.")
        counted.set()
        has(tab, "#ft-start-means", "passes over")
        tab.wait_for_function("!document.querySelector('#ft-step-5 .ft-counting p')")
        came.clear()
        counted.clear()
        tab.click("#ft-step-1-button")
        tab.fill("#ft-paste textarea", "\n".join(reversed(lines)))
        tab.click("#ft-take-pasted")
        to_recipe(tab)
        before = recipe.parse(yaml(tab)).data.source
        box = tab.locator("#ft-step-3").get_by_label("System text")
        box.press_sequentially("Be brief.")
        has(tab, "#ft-step-3 .ft-counting", "4 of 12 rows are counted.")
        came.set()
        tab.wait_for_function("before => !document.querySelector('#ft-yaml textarea').value.includes(before)", arg=before)
        counted.set()
        has(tab, "#ft-means", "passes over")
        tab.wait_for_function("!document.querySelector('#ft-step-3 .ft-counting p')")
        tab.click("#ft-next-3")
        has(tab, "#ft-fit-told", "It fits")
        monkeypatch.setattr(fitting, "made_to_fit", made)
        tab.click("#ft-make-fit")
        tab.click("#ft-to-5")
        has(tab, "#ft-start-means", "passes over")
        fitted.set()
        has(tab, "#ft-start-means", "2 updates")
        assert not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_a_field_touched_before_the_recipe_is_shown_takes_no_other_field_along(page, tiny, rows, monkeypatch):
    go, asked, shown = threading.Event(), [], RecipeStep.shown

    def late(step, draft):
        asked.append(draft)
        assert len(asked) > 1 or go.wait(60)
        return shown(step, draft)

    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        to_recipe(tab)
        monkeypatch.setattr(RecipeStep, "shown", late)
        tab.reload()
        tab.wait_for_selector("#status .chip")
        tab.get_by_role("tab", name="Finetune").click()
        until(lambda: len(asked) == 1)
        rank = tab.get_by_label("number input for Rank")
        rank.fill("63")
        until(lambda: len(asked) > 1)
        go.set()
        tab.wait_for_selector("#ft-means p")
        held = recipe.parse(yaml(tab))
        assert held.lora.r != 63 and rank.input_value() == str(held.lora.r)
        rank.fill("62")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('r: 62\\n')")
        assert recipe.parse(yaml(tab)) == held.changed({"lora.r": 62})
        assert not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_the_run_that_was_chosen_last_is_the_one_shown(page, tiny, rows, home, monkeypatch):
    go, asked = threading.Event(), []
    for name in ("first", "second"):
        training.fresh(recipe_paths.absolute(training.plan(tiny, rows)), runs.fresh_folder(name)).adapter.mkdir()
    new, old = trying.finished()

    def changes(run):
        asked.append(run.id)
        assert run.id != old or go.wait(60)
        return [trying.Change("Say one.", "", f"This is {run.id}.")]

    monkeypatch.setattr(trying, "changes", changes)
    with browser.opened(page.url) as tab:
        tab.get_by_role("tab", name="Finetune").click()
        tab.wait_for_selector("#ft-bases table")
        tab.click("#ft-to-6")
        has(tab, "#ft-changes", f"This is {new}.")
        for name in (old, new):
            tab.click("#ft-run input")
            tab.get_by_role("option", name=name, exact=True).click()
            until(lambda: old in asked)
        go.set()
        until(lambda: asked[-1] == new)
        has(tab, "#ft-changes", f"This is {new}.")
        assert tab.input_value("#ft-run input") == new and not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_rows_that_come_while_their_step_is_filled_are_what_it_shows(page, tiny, rows, monkeypatch):
    came, go, seen, first, shown = threading.Event(), threading.Event(), [], preview.first, DataStep.shown

    def late(step, draft):
        seen.append(draft.title)
        assert draft.title == "owner/slow" or go.wait(60)
        return shown(step, draft)

    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        monkeypatch.setattr(preview, "first", lambda source, *others: first(rows, *others) if came.wait(60) else None)
        tab.get_by_role("tab", name="Hub").click()
        tab.fill("#ft-hub :is(textarea, input)", "owner/slow")
        tab.click("#ft-fetch")
        tab.click("#ft-step-0-button")
        monkeypatch.setattr(DataStep, "shown", late)
        tab.click("#ft-next-0")
        until(lambda: tab.evaluate("1") and len(seen) == 1)
        came.set()
        has(tab, "#ft-data-told", "owner/slow")
        go.set()
        until(lambda: tab.evaluate("1") and len(seen) == 3)
        has(tab, "#ft-data-told", "owner/slow")
        assert seen[1:] == ["owner/slow"] * 2 and not tab.errors

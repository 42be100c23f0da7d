"""A dropdown of the wizard that is entered and left again changes nothing: Gradio tells that as a choice. An ask that comes to nothing
drops no good one before it."""

import json
import threading

import browser
import gradio as gr
import pytest
import training
from builders import until
from pages import wired
from test_finetune_flow import brought, has, to_recipe, yaml

from engine import drafts, preview, recipe, recipe_paths, runs, trying
from engine.blend import NO_ADAPTER
from engine.drafts import Draft
from engine.errors import EngineError
from engine.runtime import Runtime
from engine.services import Services
from ui.finetune.data import SAME, DataStep
from ui.finetune.lens import LensStep
from ui.finetune.model import ModelStep
from ui.finetune.recipe import OWN, RecipeStep
from ui.finetune.workshop import Workshop, kept


@pytest.fixture
def answered(page, monkeypatch):
    """The names of the events that the app has answered."""
    names, process = [], page.blocks.process_api

    async def process_api(block_fn, *arguments, **options):
        try:
            return await process(block_fn, *arguments, **options)
        finally:
            names.append(block_fn.name)

    monkeypatch.setattr(page.blocks, "process_api", process_api)
    return names


def touch(tab, picker, answered: list, *events: str) -> None:
    """Enter a dropdown with the keyboard and leave it, until those events of it are answered."""
    before = {name: answered.count(name) for name in events}
    picker.focus()
    tab.keyboard.press("Tab")
    until(lambda: all(answered.count(name) > count for name, count in before.items()), 30)


def shop() -> Workshop:
    return Workshop(Services(Runtime(isolated=False)))


def test_a_base_or_adapter_that_is_the_drafts_already_is_not_looked_at_and_undoes_nothing(home, tiny, two_adapters, monkeypatch):
    step = ModelStep(shop())
    choose, take, start_from, take_start = (wired(step, name) for name in ("choose", "take", "start_from", "take_start"))
    old = drafts.changed(Draft(), {"lora.r": 3, "lora.start_from": two_adapters[0]})
    with monkeypatch.context() as patch:
        for look in ("base", "check_start"):
            patch.setattr(Workshop, look, lambda *asked: pytest.fail("it was looked up"))
        base, start = choose({"ask": 1}, kept(old), old.recipe.model), start_from({"ask": 1}, kept(old), two_adapters[0])
    for found, take_it in ((base, take), (start, take_start)):
        *untouched, table = take_it(found, kept(old), old.recipe.model, two_adapters[0])
        assert untouched == [gr.skip()] * 3 and "wrong" not in table
        # The other picker asks for what is refused or on its way: that stays, and so does what was told of it.
        for said in (("owner/coming", two_adapters[0]), (old.recipe.model, "owner/coming")):
            assert take_it(found, kept(old), *said) == [gr.skip()] * 4
    # Another base has come, with a recipe of its own.
    new = drafts.with_model(old, str(tiny))
    assert take_start(start, kept(new), str(tiny), NO_ADAPTER)[0] == gr.skip()
    assert "wrong" not in take_start(start, kept(new), str(tiny), NO_ADAPTER)[3]
    draft, *_ = take(choose({"ask": 2}, kept(new), old.recipe.model), kept(new), old.recipe.model, NO_ADAPTER)
    assert drafts.read(draft).recipe.model == old.recipe.model, "another one is taken as ever"
    *_, told = take(choose({"ask": 3}, kept(old), str(tiny)) | {"refused": "There is no such."}, kept(old), str(tiny), NO_ADAPTER)
    assert told.index("There is no such.") < told.index(tiny.name)


def test_a_preset_that_is_none_or_in_force_throws_nothing_away(home):
    begin_with = wired(RecipeStep(shop()), "begin_with")
    edited = drafts.changed(Draft(), {"lora.r": 3})
    assert set(map(str, begin_with(None, kept(edited)))) == set(map(str, begin_with(OWN, kept(Draft())))) == {str(gr.skip())}
    assert drafts.read(begin_with(OWN, kept(edited))[0]) == Draft()


def test_a_field_that_is_left_as_it_was_leaves_the_yaml_that_somebody_writes(home):
    step, draft = RecipeStep(shop()), Draft()
    change = wired(step, "change")
    _, _, _, *fields, _, said = step.shown(draft)
    made, *_, text, _ = change(gr.Request(session_hash="page"), kept(draft), said, *fields)
    assert made == text == gr.skip()


def test_fields_that_say_the_draft_are_not_filled_when_their_step_is_entered_again(home):
    step, draft = RecipeStep(shop()), drafts.changed(Draft(), {"lora.r": 3})
    enter = wired(step, "enter")
    means, preset, _, *fields, _, said = step.shown(draft)
    assert enter(kept(draft), said, *fields) == [gr.skip(), means, preset, "", *[gr.skip()] * (len(fields) + 2)]
    wrong = [-1 if name == "lora.r" else value for name, value in zip(step.fields, fields, strict=True)]
    for other, *standing in ((Draft(), *fields), (draft, *wrong)):
        same, _, _, told, *filled, _, now = enter(kept(other), said, *standing)
        assert dict(zip(step.fields, filled, strict=True))["lora.r"] == other.recipe.lora.r
        assert (same, told) == (gr.skip(), "") and (said if now == gr.skip() else now) == kept(other)["recipe"]
        assert [each for each in filled if each != gr.skip()] == [other.recipe.lora.r], "what is wrong alone gives way"
    # What was typed, and has not come to the draft yet, goes there.
    typed = [7 if name == "lora.r" else value for name, value in zip(step.fields, fields, strict=True)]
    made, _, _, _, *filled, text, now = enter(kept(draft), said, *typed)
    wanted = drafts.changed(draft, {"lora.r": 7})
    assert (drafts.read(made), text, now) == (wanted, wanted.recipe.to_yaml(), kept(wanted)["recipe"])
    assert set(map(str, filled)) == {str(gr.skip())}


def test_the_row_that_somebody_looks_at_stays_when_the_lens_is_filled_again(home, tiny, rows):
    step = LensStep(shop())
    wired(step, "turn")
    draft = drafts.with_data(drafts.with_model(Draft(), str(tiny)), str(rows), "rows")
    for row, first, moved in ((1, 1, None), (5, 5, None), (None, 1, None), (12, 12, None), (99, 12, 12), (0.5, 1, 1)):
        slider, shown = step.shown(draft, row)
        changes = slider.constructor_args
        assert (changes.get("value"), changes["maximum"]) == (moved, 12) and f"Row {first}<" in shown


def test_what_is_wrong_with_the_limit_is_told_beside_the_lengths(home, rows, monkeypatch):
    step = DataStep(shop())
    lengths_now, cut = wired(step, "lengths_now"), wired(step, "cut")
    draft = kept(drafts.with_data(Draft(), str(rows), "rows"))
    assert lengths_now(draft) == gr.skip(), "nothing is counted yet"
    monkeypatch.setattr(Workshop, "measured", lambda shop, draft: True)
    monkeypatch.setattr(DataStep, "_lengths", lambda step, draft: "the lengths")
    for limit in (4, 8.5, None, 100_000):
        same, told, lengths = cut(limit, draft)
        assert (same, lengths) == (gr.skip(), gr.skip()) and "Longest row: a whole number from 8" in told
    assert cut(104, draft)[1:] == ["", "the lengths"]
    assert lengths_now(draft) == "the lengths" and lengths_now(kept(Draft())) == ""


def test_columns_stay_where_the_format_is_the_one_they_are_for(home, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("frage,antwort\nWas ist eins?,Eins.\n")
    fields, mapped = wired(DataStep(shop()), "fields"), {"instruction": "frage", "output": "antwort"}
    draft = kept(drafts.with_data(Draft(), str(file), "mine", "alpaca", mapped))
    assert set(map(str, fields("alpaca", "alpaca", draft))) == {str(gr.skip())}
    for format, chosen in (("alpaca", ["frage", SAME, "antwort"]), ("text", [SAME])):
        now, *columns = fields(format, "chat", draft)
        assert (now, [each.value for each in columns if each.visible]) == (format, chosen), "the draft's are found again"


@pytest.mark.long
@browser.needs_chromium
def test_the_pickers_of_columns_are_drawn_once_when_a_format_is_chosen(page, answered, tiny, rows):
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        tab.click("#ft-format button >> nth=0")
        box = tab.locator("#ft-format input").first
        box.click()
        tab.get_by_role("option", name="Alpaca").first.click()
        tab.get_by_label("Column of “input”").fill("output")
        tab.keyboard.press("Enter")
        box.fill("ShareGPT")
        tab.keyboard.press("Enter")
        tab.get_by_label("Column of “conversations”").wait_for()
        assert not tab.get_by_label("Column of “input”").count()
        tab.get_by_label("number input for Longest row").fill("104")
        has(tab, "#ft-lengths", "the limit is 104.")
        assert answered.count("fields") == 2 and not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_tabbing_over_the_dropdowns_of_a_step_changes_nothing(page, answered, tiny, rows):
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        to_recipe(tab)
        tab.get_by_label("number input for Rank").fill("3")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('r: 3\\n')")
        held = recipe.parse(yaml(tab))
        tab.click("#ft-step-0-button")
        has(tab, "#ft-bases", tiny.name)
        touch(tab, tab.locator("#ft-base input"), answered, "choose", "take")
        touch(tab, tab.locator("#ft-start-from input"), answered, "start_from", "take_start")
        filled = answered.count("<lambda>")
        tab.click("#ft-next-0")
        until(lambda: answered.count("<lambda>") > filled)
        tab.get_by_role("tab", name="Bundled").click()
        touch(tab, tab.locator("#ft-bundled input"), answered, "bring")
        tab.click("#ft-format button >> nth=0")
        tab.get_by_label("Column of").first.fill("output")
        tab.keyboard.press("Enter")
        touch(tab, tab.locator("#ft-format input").first, answered, "fields")
        tab.get_by_label("number input for Longest row").fill("104")
        has(tab, "#ft-lengths", "the limit is 104.")
        assert tab.get_by_label("Column of").first.input_value() == "output" and not tab.locator(".toast-body").count()
        to_recipe(tab)
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('max_length: 104\\n')")
        touch(tab, tab.locator("#ft-preset input"), answered, "begin_with")
        for picker in tab.locator("#ft-step-3 input[role=combobox]:visible").all():
            picker.focus()
            tab.keyboard.press("Tab")
        tab.locator("#ft-simple").get_by_label("Steps").fill("2")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('steps: 2\\n')")
        assert recipe.parse(yaml(tab)) == held.changed({"data.max_length": 104, "optimization.steps": 2})
        assert not tab.locator(".toast-body").count() and not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_rows_on_their_way_come_where_a_later_ask_comes_to_nothing(page, answered, tiny, rows, monkeypatch):
    gates, real = {name: threading.Event() for name in ("owner/slow", "owner/good", "owner/gone", "owner/late")}, preview.first

    def first(source, *others):
        assert source not in gates or gates[source].wait(60)
        if source == "owner/gone":
            raise EngineError("There is no owner/gone.")
        return real(rows if source in gates else source, *others)

    def fetch(name):
        tab.get_by_role("tab", name="Hub").click()
        tab.fill("#ft-hub :is(textarea, input)", name)
        tab.click("#ft-fetch")

    def touch_bundled():
        tab.get_by_role("tab", name="Bundled").click()
        touch(tab, tab.locator("#ft-bundled input"), answered, "bring")

    monkeypatch.setattr(preview, "first", first)
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        fetch("owner/slow")
        tab.get_by_role("tab", name="Paste").click()
        tab.click("#ft-take-pasted")
        has(tab, "#ft-data-told", "There is no text. Paste rows")
        touch_bundled()
        gates["owner/slow"].set()
        has(tab, "#ft-data-told", "owner/slow")
        # One that has come before the later ask comes to nothing.
        fetch("owner/good")
        fetch("owner/gone")
        came = answered.count("bring")
        gates["owner/good"].set()
        until(lambda: answered.count("bring") > came)
        gates["owner/gone"].set()
        tab.get_by_text("There is no owner/gone.").wait_for()
        has(tab, "#ft-data-told", "owner/good")
        # Rows that were brought after a bundled set are not replaced by it.
        tab.get_by_role("tab", name="Bundled").click()
        tab.click("#ft-bundled input")
        tab.get_by_role("option").first.click()
        has(tab, "#ft-data-told", "Guanaco mini")
        touch_bundled()
        assert "Guanaco mini" in tab.input_value("#ft-bundled input")
        tab.get_by_role("tab", name="Paste").click()
        tab.fill("#ft-paste textarea", rows.read_text())
        tab.click("#ft-take-pasted")
        has(tab, "#ft-data-told", "Pasted rows")
        touch_bundled()
        assert tab.input_value("#ft-bundled input") == ""
        tab.get_by_label("number input for Longest row").fill("104")
        has(tab, "#ft-lengths", "the limit is 104.")
        assert "Pasted rows" in tab.inner_text("#ft-data-told")
        # A later ask that the app's queue has no place for.
        refused, pasted = [], json.dumps(rows.read_text())[1:40]

        def join(route):
            if pasted not in json.dumps(route.request.post_data_json["data"]):
                return route.continue_()
            refused.append(route.fulfill(status=503, json={"detail": "The queue is full."}))

        tab.route("**/queue/join*", join)
        with tab.expect_response(lambda told: "/queue/join" in told.url and "owner/late" in (told.request.post_data or "")):
            fetch("owner/late")
        tab.get_by_role("tab", name="Paste").click()
        tab.click("#ft-take-pasted")
        until(lambda: tab.evaluate("1") and refused)
        gates["owner/late"].set()
        has(tab, "#ft-data-told", "owner/late")
        assert not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_the_run_that_was_chosen_stays_with_what_was_made_of_it(page, answered, tiny, rows, monkeypatch):
    for name in ("first", "second"):
        training.fresh(recipe_paths.absolute(training.plan(tiny, rows)), runs.fresh_folder(name)).adapter.mkdir()
    new, old = trying.finished()
    monkeypatch.setattr(trying, "changes", lambda run: [trying.Change("Say one.", "", f"This is {run.id}.")])

    def duel(*asked):
        raise EngineError("The second model does not fit.")
        yield

    monkeypatch.setattr(Services, "duel", duel)
    with browser.opened(page.url) as tab:
        tab.get_by_role("tab", name="Finetune").click()
        tab.wait_for_selector("#ft-bases table")
        tab.click("#ft-to-6")
        has(tab, "#ft-changes", f"This is {new}.")
        tab.click("#ft-run input")
        tab.get_by_role("option", name=old, exact=True).click()
        has(tab, "#ft-changes", f"This is {old}.")
        tab.click("#ft-duel")
        has(tab, "#ft-try-told", "There is no duel")
        tab.fill("#ft-export-where :is(textarea, input)", "me/mine")
        tab.click("#ft-export-kind input")
        tab.get_by_role("option", name="hub", exact=True).click()
        command = f"document.querySelector('#ft-export-command :is(textarea, input)').value.endsWith('{old} --to hub me/mine')"
        tab.wait_for_function(command)
        touch(tab, tab.locator("#ft-run input"), answered, "choose", "remember")
        touch(tab, tab.locator("#ft-export-kind input"), answered, "_command")
        tab.click("#ft-save-recipe")
        until(lambda: "recipe" in answered)
        assert tab.evaluate(command) and tab.input_value("#ft-export-kind input") == "hub"
        assert "There is no duel" in tab.inner_text("#ft-try-told")
        shown = answered.count("choose")
        for step in (5, 6):
            tab.click(f"#ft-to-{step}")
        tab.wait_for_function("document.querySelector('#ft-export-kind input').value === 'adapter'")
        assert tab.input_value("#ft-run input") == old and answered.count("choose") == shown
        assert f"This is {old}." in tab.inner_text("#ft-changes") and not tab.errors

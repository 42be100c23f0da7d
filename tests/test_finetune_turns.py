"""Changes of the wizard's draft that are made at the same time: each is made of what the one before it left, and none is lost."""

import threading

import anyio
import browser
import pytest
from builders import until
from test_finetune_flow import brought, has, to_recipe, yaml

from engine import preview, recipe, runs
from ui.finetune.recipe import RecipeStep

pytestmark = [pytest.mark.long, browser.needs_chromium]


class Held:
    """The answers of an event, by its name, which come when `go` is set; `asked` is set once one is held."""

    def __init__(self, blocks, name: str, monkeypatch):
        self.go, self.asked, process = threading.Event(), threading.Event(), blocks.process_api

        async def process_api(block_fn, *arguments, **options):
            answer = await process(block_fn, *arguments, **options)
            if block_fn.name == name:
                self.asked.set()
                await anyio.to_thread.run_sync(lambda: self.go.wait(60))
            return answer

        monkeypatch.setattr(blocks, "process_api", process_api)


def waiting(tab, handed: bool = False) -> None:
    """Until a change waits for its turn, one that something is handed to where it is to be `handed`."""
    tab.wait_for_function("handed => window.guanacoTurns.waiting.some(each => !handed || each.given)", arg=handed)


def test_a_number_that_is_left_out_of_bounds_and_another_that_is_typed_meanwhile_are_both_taken(page, tiny, rows, monkeypatch):
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        to_recipe(tab)
        yaml(tab)
        rank, steps = tab.get_by_label("number input for Rank"), tab.locator("#ft-simple").get_by_label("Steps")
        rank.fill("0")
        has(tab, "#ft-recipe-wrong", "Rank: a whole number")
        left = Held(page.blocks, "leave", monkeypatch)
        tab.keyboard.press("Tab")
        until(left.asked.is_set)
        steps.fill("2")
        waiting(tab)
        left.go.set()
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('steps: 2\\n')")
        taken = recipe.parse(yaml(tab))
        assert (taken.lora.r, taken.optimization.steps) == (1, 2) and (rank.input_value(), steps.input_value()) == ("1", "2")
        has(tab, "#ft-means", "2 updates")
        assert not tab.inner_text("#ft-recipe-wrong") and not tab.errors


def test_rows_that_come_while_a_text_is_typed_and_the_text_are_both_taken(page, tiny, rows, monkeypatch):
    came, first = threading.Event(), preview.first
    lines = rows.read_text().splitlines()
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        monkeypatch.setattr(preview, "first", lambda source, *others: (source == str(rows) or came.wait(60)) and first(source, *others))
        tab.get_by_role("tab", name="Paste").click()
        tab.fill("#ft-paste textarea", "\n".join(reversed(lines)))
        tab.click("#ft-take-pasted")
        to_recipe(tab)
        before = recipe.parse(yaml(tab)).data
        typed = Held(page.blocks, "change", monkeypatch)
        box = tab.locator("#ft-step-3").get_by_label("System text")
        box.press_sequentially("Be brief.")
        until(typed.asked.is_set)
        came.set()
        waiting(tab, handed=True)
        typed.go.set()
        tab.wait_for_function("before => !document.querySelector('#ft-yaml textarea').value.includes(before)", arg=before.source)
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('Be brief.')")
        has(tab, "#ft-means", "passes over")
        assert box.input_value() == "Be brief." and not tab.errors


def test_a_change_that_fails_holds_up_no_other(page, tiny, rows, monkeypatch):
    agreed, broken = RecipeStep.agreed, []

    def once(*arguments):
        if not broken:
            raise broken.append(1) or RuntimeError("It broke.")
        return agreed(*arguments)

    def away(route):
        if turned_away or 63 not in route.request.post_data_json["data"]:
            return route.continue_()
        turned_away.append(route.fulfill(status=503, json={"detail": "The queue is full."}))

    turned_away = []
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        to_recipe(tab)
        yaml(tab)
        rank = tab.get_by_label("number input for Rank")
        tab.fill("#ft-yaml textarea", "nonsense: [")
        tab.click("#ft-take-yaml")
        tab.locator(".toast-body").first.wait_for()
        rank.fill("61")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('r: 61\\n')")
        monkeypatch.setattr(RecipeStep, "agreed", once)
        rank.fill("62")
        until(lambda: tab.evaluate("1") and broken)
        tab.locator("#ft-simple").get_by_label("Steps").fill("2")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('steps: 2\\n')")
        assert recipe.parse(yaml(tab)).lora.r == 62, "what was typed is taken with the next change"
        tab.route("**/queue/join*", away)
        rank.fill("63")
        until(lambda: tab.evaluate("1") and turned_away)
        tab.locator("#ft-simple").get_by_label("Steps").fill("3")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('steps: 3\\n')", timeout=20_000)
        assert recipe.parse(yaml(tab)).lora.r == 63 and not tab.errors


def test_a_run_begins_with_what_was_changed_a_moment_before_and_once(page, tiny, rows, monkeypatch):
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        to_recipe(tab)
        changed = Held(page.blocks, "change", monkeypatch)
        tab.locator("#ft-simple").get_by_label("Steps").fill("50000")
        until(changed.asked.is_set)
        for number, filled in ((3, "#ft-bars .machine"), (4, "#ft-start:not([disabled])")):
            tab.click(f"#ft-next-{number}")
            tab.wait_for_selector(filled)
        started = Held(page.blocks, "start", monkeypatch)
        tab.click("#ft-start")
        waiting(tab)
        changed.go.set()
        until(started.asked.is_set)
        tab.click("#ft-start")
        assert tab.evaluate("window.guanacoTurns.waiting.length") == 0, "a second press starts no other"
        started.go.set()
        tab.wait_for_selector("#run h2")
        assert [run.recipe.optimization.steps for run in runs.every()] == [50_000] and not tab.errors
        tab.click("#ft-start")
        has(tab, ".toast-body", "This recipe is being trained already")
        assert len(runs.every()) == 1

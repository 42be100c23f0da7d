"""What a person does out of order in the wizard: half-typed numbers, choices beside what takes long, counts that come late."""

import browser
import pytest
from pages import Page

from engine.backends.scripted import ScriptedBackend


@pytest.fixture
def page(home):
    served = Page(ScriptedBackend())
    yield served
    served.close()


def brought(tab, tiny, file) -> None:
    """Open the wizard, choose the tiny base and bring the rows, until they are counted."""
    tab.get_by_role("tab", name="Finetune").click()
    tab.wait_for_selector("#ft-bases table")
    tab.fill("#ft-base input", str(tiny))
    tab.keyboard.press("Enter")
    has(tab, "#ft-bases", tiny.name)
    tab.click("#ft-next-0")
    tab.wait_for_selector("#ft-upload input[type=file]", state="attached")
    tab.set_input_files("#ft-upload input[type=file]", file)
    tab.wait_for_selector("#ft-lengths svg")


def has(tab, selector: str, text: str) -> None:
    """Wait until that part of the page says so."""
    tab.wait_for_function("([part, text]) => document.querySelector(part)?.innerText.includes(text)", arg=[selector, text])


@pytest.mark.long
@browser.needs_chromium
def test_half_typed_numbers_are_not_taken_and_no_message_pops_up(page, tiny, rows):
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        tab.evaluate(
            """() => { window.toasts = 0; new MutationObserver(seen => { for (const each of seen) for (const node of each.addedNodes)
            if (node.querySelector?.('.toast-body') || node.classList?.contains('toast-body')) window.toasts++ }).observe(document.body,
            { childList: true, subtree: true }); }"""
        )
        limit = tab.locator("#ft-limit input[type=number]")
        for typed in ("", "3", "99999"):
            limit.fill(typed)
            has(tab, "#ft-lengths", "Longest row: a whole number from 8 to 2,048.")
        limit.fill("16")
        has(tab, "#ft-lengths", "no answer within the limit")
        limit.fill("3")
        has(tab, "#ft-lengths", "a whole number from 8")
        tab.keyboard.press("Tab")
        has(tab, "#ft-lengths", "no answer within the limit")
        assert limit.input_value() == "8", "what the box shows when it is left is what is taken"
        limit.fill("256")
        has(tab, "#ft-lengths", "0 of 12 rows are cut")
        tab.click("#ft-next-1")
        has(tab, "#ft-lens", "Row 1")
        row = tab.locator("#ft-row input[type=number]")
        row.fill("")
        has(tab, "#ft-lens", "Row: a whole number from 1 to 12.")
        row.fill("5")
        has(tab, "#ft-lens", "Row 5")
        tab.click("#ft-next-2")
        tab.wait_for_selector("#ft-means p")
        tab.locator("#ft-advanced button").first.click()
        tab.wait_for_selector("#ft-yaml textarea")
        rank = tab.get_by_label("number input for Rank")
        rank.fill("0")
        has(tab, "#ft-means", "Rank: a whole number from 1 to 1,024.")
        tab.locator("#ft-simple").get_by_label("Steps").fill("2")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('steps: 2')")
        has(tab, "#ft-means", "2 updates")
        rank.fill("4")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('r: 4\\n')")
        assert tab.evaluate("window.toasts") == 0 and not tab.errors

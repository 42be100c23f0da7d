"""What is wrong in the wizard stays in sight until it is mended: numbers out of bounds hold the next step back, rows that cannot be
taken are not shown as taken."""

import browser
import pytest
from playwright.sync_api import expect
from test_finetune_flow import brought, has, to_recipe


@pytest.mark.long
@browser.needs_chromium
def test_a_wrong_number_is_mended_before_the_next_step(page, tiny, rows):
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        limit = tab.locator("#ft-limit input[type=number]")
        limit.fill("3")
        has(tab, "#ft-limit-wrong", "Longest row: a whole number from 8")
        for pressed in ("#ft-hurry", "#ft-next-1"):
            tab.dispatch_event(pressed, "click")  # without leaving the box, which takes the nearest number
            expect(limit).to_be_visible()
        limit.fill("256")
        expect(tab.locator("#ft-limit-wrong .wrong")).to_have_count(0)
        to_recipe(tab)
        rate = tab.locator("#ft-simple").get_by_label("Learning rate")
        rate.fill("0")
        has(tab, "#ft-recipe-wrong", "Learning rate: a number above 0 to 1. Until it is mended, what was there before counts.")
        tab.click("#ft-next-3")
        expect(tab.locator("#ft-recipe-wrong .wrong")).to_be_in_viewport()
        expect(rate).to_have_value("0")
        rate.fill("0.01")
        expect(tab.locator("#ft-recipe-wrong .wrong")).to_have_count(0)
        tab.click("#ft-next-3")
        tab.wait_for_selector("#ft-bars .machine")
        assert not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_rows_that_cannot_be_taken_are_named_beside_those_that_stay(page, tiny, rows, tmp_path):
    (tmp_path / "broken.jsonl").write_text("no json\nnor this\n")
    (tmp_path / "of-a-spreadsheet.csv").write_bytes("question;answer\nWie heißt er?;Müller\nUnd sie?;Jürgens\n".encode("latin-1"))
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        tab.click("#ft-upload button[aria-label='Clear']")
        tab.set_input_files("#ft-upload input[type=file]", tmp_path / "broken.jsonl")
        has(tab, "#ft-data-told", f"The rows below are still those of {rows.name}.")
        told = tab.inner_text("#ft-data-told")
        assert told.startswith("broken.jsonl has no rows that can be read: in line 1, it is not JSON") and str(tmp_path) not in told
        assert "0 of 12 rows are cut" in tab.inner_text("#ft-lengths") and tab.locator("#ft-preview table").count() == 1
        tab.click("#ft-upload button[aria-label='Clear']")
        tab.set_input_files("#ft-upload input[type=file]", tmp_path / "of-a-spreadsheet.csv")
        has(tab, "#ft-step-1", "Save the file as UTF-8, which spreadsheets call CSV UTF-8, and bring it again.")
        assert "/" not in tab.inner_text("#ft-data-told") and not tab.errors

"""The list of runs as a person meets it: compared, opened, cloned, deleted; while one of them trains and another goes."""

import os
import time

import browser
import pytest
from pages import Page
from playwright.sync_api import expect
from test_history import _started, _step, recorded, write
from test_run_view import open_tab, to_list

from engine import history, paths
from engine.backends.scripted import ScriptedBackend
from engine.events import Evaluated


@pytest.fixture
def served():
    page = Page(ScriptedBackend())
    yield page
    page.close()


@browser.needs_chromium
def test_runs_are_compared_opened_cloned_and_deleted(served):
    for curve, name in (("overfitting", "first"), ("healthy", "second"), ("rate-too-high", "third")):
        recorded(curve, name)
        time.sleep(0.02)
    with browser.opened(served.url) as page:
        open_tab(page)
        to_list(page)
        page.wait_for_selector("#runs [data-run=first]")
        assert page.locator("#runs .spark path").count() == 6 and "on disk" in page.inner_text("#runs .space")
        page.check("#runs [data-run=first] input")
        page.check("#runs [data-run=second] input")
        page.wait_for_selector("#runs .compared table")
        table = page.inner_text("#runs .compared table")
        assert "Learning rate" in table and "0.003" in table and "0.001" in table and "lora.r\n" not in table
        assert page.locator("#runs .compared .chart path.line").count() == 2
        page.click("#runs [data-run=first] button.link")
        expect(page.locator("#run h2")).to_have_text("first")
        to_list(page)
        page.click("#runs [data-run=second] >> text=Clone")
        expect(page.locator("#ft-simple").get_by_label("Learning rate")).to_have_value("0.001")
        to_list(page)
        page.click("#runs [data-run=first] >> text=Delete")
        assert "36 steps" in page.inner_text("#runs [data-run=first] .warning")
        page.click("#runs [data-run=first] >> text=Keep it")
        assert (paths.runs() / "first").exists()
        page.click("#runs [data-run=first] >> text=Delete")
        page.click("#runs [data-run=first] >> text=Delete it")
        page.wait_for_selector("#runs [data-run=first]", state="detached")
        assert not (paths.runs() / "first").exists()
        expect(page.locator("#runs .compared .chart path.line")).to_have_count(1)
        page.click("#ft-to-5")
        page.wait_for_function("document.querySelector('#run .trouble')?.innerText.includes('deleted')")
        assert not page.errors and not page.outside


@browser.needs_chromium
def test_runs_laid_over_each_other_follow_a_training_and_a_deletion_elsewhere(served):
    run, other = recorded("healthy", "first"), recorded("overfitting", "second")
    run.claim(os.getpid())
    write(run, _started(40, 24), _step(25))
    with browser.opened(served.url) as page:
        open_tab(page)
        to_list(page)
        page.check("#runs [data-run=first] input")
        page.check("#runs [data-run=second] input")
        page.wait_for_selector("#runs .compared table")
        page.evaluate("document.querySelector('#runs .compared table').kept = true")
        write(run, Evaluated(30, 1.2, 9))
        page.wait_for_function("document.querySelector('#runs .compared .chart svg').ariaLabel.includes('at step 30')")
        assert page.evaluate("document.querySelector('#runs .compared table').kept"), "what their recipes differ in is not drawn anew"
        history.delete(other)
        page.wait_for_function("document.querySelectorAll('#runs .compared .chart path.line').length === 1")
        assert page.locator("#runs .compared h3").first.inner_text().startswith("One run") and not page.errors

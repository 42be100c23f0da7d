"""A visitor's conversations in a real browser: edited, branched, kept over reload and restart, taken out and brought in."""

import contextlib
import json

import browser
import pytest
from builders import until
from pages import Page
from playwright.sync_api import Error
from test_browser import app

from engine.backends.scripted import ScriptedBackend

pytestmark = [pytest.mark.long, browser.needs_chromium]


@pytest.fixture(scope="module")
def served():
    """An app whose answers are always `one two three`."""
    made = Page(ScriptedBackend(["one ", "two ", "three"], seconds_per_token=0.01))
    yield made
    made.close()


def test_edit_branch_undo_and_copy(served):
    with browser.opened(served.url) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        browser.ask(page, "First <b>try</b>")
        browser.act(page, "Edit and send again", "article.user >> nth=0")
        page.fill(".editing textarea", "Second try")
        page.press(".editing textarea", "Enter")
        page.wait_for_selector("#conversation >> text=Second try")
        browser.wait_facts(page, "tokens")
        assert browser.said(page) == ["Second try", "one two three"]
        browser.act(page, "Earlier version", "article.user >> nth=0")
        page.wait_for_selector("#conversation >> text=First <b>try</b>")
        browser.act(page, "Copy message", "article.bot >> nth=0")
        page.wait_for_selector(".icon.done")
        assert page.evaluate("navigator.clipboard.readText()") == "one two three"
        browser.ask(page, "More")
        browser.act(page, "Take this message back", "article.user >> nth=-1")
        page.wait_for_function("document.querySelectorAll('#conversation article').length === 2")
        assert page.input_value("#message textarea") == "More"
        assert not page.errors and not page.outside


def test_a_cut_answer_is_continued_with_the_settings_as_they_are_now(served):
    with browser.opened(served.url) as page:
        page.click("text=Sampling")
        browser.set_slider(page, "Longest answer", "2")
        browser.ask(page, "Count")
        browser.wait_facts(page, "cut at the longest answer")
        assert browser.said(page) == ["Count", "one two"]
        browser.set_slider(page, "Longest answer", "100")
        browser.act(page, "Continue this answer")
        browser.wait_facts(page, "ended by itself")
        assert browser.said(page) == ["Count", "one twoone two three"]
        assert page.get_by_role("button", name="Continue this answer").count() == 0


def test_thumbs_with_a_reason(served):
    with browser.opened(served.url) as page:
        browser.ask(page, "Judge me")
        browser.act(page, "Bad answer")
        page.wait_for_selector("button.down[aria-pressed=true]")
        page.fill(".reason input", "too short")
        page.press(".reason input", "Enter")
        page.wait_for_selector("text=Thank you")

        def rows() -> list:
            return [(row["thumb"], row["reason"]) for row in served.services.store.thumbs() if row["question"] == "Judge me"]

        until(lambda: rows() == [(-1, "too short")])
        browser.act(page, "Bad answer")
        page.wait_for_selector("button.down[aria-pressed=false]")


def test_several_conversations_are_listed_renamed_searched_deleted(served):
    with browser.opened(served.url) as page:
        browser.ask(page, "About llamas")
        page.click("text=New chat")
        page.wait_for_selector("#conversation .welcome", state="visible")
        browser.ask(page, "About guanacos")
        page.wait_for_function("document.querySelectorAll('#chats .open').length === 2")
        assert browser.chats(page) == ["About guanacos", "About llamas"]
        page.get_by_role("button", name="Rename About llamas").click()
        page.fill("#chats .rename", "Woolly <i>things</i>")
        page.press("#chats .rename", "Enter")
        page.wait_for_selector("#chats >> text=Woolly <i>things</i>")
        page.fill("#chats .search", "llamas THREE")
        page.wait_for_function("document.querySelectorAll('#chats .open').length === 1")
        page.click("#chats .open")
        page.wait_for_selector("#conversation >> text=About llamas")
        page.fill("#chats .search", "")
        page.wait_for_function("document.querySelectorAll('#chats .open').length === 2")
        page.get_by_role("button", name="Delete Woolly").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        page.wait_for_function("document.querySelectorAll('#chats .open').length === 1")
        page.wait_for_selector("#conversation .welcome", state="visible")
        assert browser.chats(page) == ["About guanacos"] and browser.said(page) == []
        page.click("#chats .open")
        page.wait_for_selector("#conversation >> text=About guanacos")


def test_export_and_import(served, tmp_path):
    with browser.opened(served.url) as page:
        browser.ask(page, "Keep me")
        with page.expect_download() as download:
            page.click("text=Export JSON")
        download.value.save_as(tmp_path / "all.json")
        with page.expect_download() as download:
            page.click("text=Export Markdown")
        download.value.save_as(tmp_path / "all.md")
    assert json.loads((tmp_path / "all.json").read_text())["conversations"][0]["turns"][0]["text"] == "Keep me"
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "huge.json").write_text(" " * 3_000_001)
    for name in ("all.json", "all.md"):
        with browser.opened(served.url) as page:
            page.set_input_files("#chats input[type=file]", tmp_path / name)
            page.wait_for_selector("text=1 conversation came in")
            page.set_input_files("#chats input[type=file]", tmp_path / "huge.json")
            page.wait_for_selector("text=the limit is 3 MB")
            page.set_input_files("#chats input[type=file]", tmp_path / "bad.json")
            page.wait_for_selector("text=The file is damaged")
            page.click("#chats .open")
            page.wait_for_selector("#conversation >> text=one two three")
            assert browser.said(page) == ["Keep me", "one two three"]
            # Deleted, it comes back where that is asked for.
            page.get_by_label("Delete Keep me").click()
            page.click("#chats .danger")
            page.wait_for_selector("#conversation .welcome", state="visible")
            page.set_input_files("#chats input[type=file]", tmp_path / name)
            page.wait_for_selector("text=1 conversation came in")
            page.wait_for_selector("#chats .open >> text=Keep me")


def test_conversations_outlive_a_reload_and_a_restart(tmp_path):
    home = str(tmp_path / "kept")
    profile = tmp_path / "profile.json"
    with app("--model", "scripted", GUANACO_HOME=home) as url:
        port = int(url.rpartition(":")[2])
        with browser.opened(url) as page:
            browser.ask(page, "Remember the first")
            page.click("text=New chat")
            page.wait_for_selector("#conversation .welcome", state="visible")
            browser.ask(page, "Remember the second")
            page.wait_for_function("document.querySelectorAll('#chats .open').length === 2")
            page.reload()
            page.wait_for_selector("#conversation >> text=Remember the second")
            page.wait_for_function("document.querySelectorAll('#chats .open').length === 2")
            before = browser.said(page)
            page.context.storage_state(path=profile)
    with app("--model", "scripted", port=port, GUANACO_HOME=home) as url, browser.opened(url, storage_state=profile) as page:
        page.wait_for_selector("#conversation >> text=Remember the second")
        assert browser.said(page) == before
        page.wait_for_function("document.querySelectorAll('#chats .open').length === 2")
        page.click("#chats >> text=Remember the first")
        page.wait_for_function("document.querySelector('#conversation .user').innerText.includes('Remember the first')")


def test_a_question_is_kept_though_the_tab_is_closed_midway(served):
    served.backend._pace = 0.5
    with browser.opened(served.url) as page:
        browser.send(page, "Are you there?")
        page.wait_for_function("document.querySelectorAll('#chats .open').length === 1")
        page.reload()
        page.wait_for_selector("#conversation >> text=Are you there?")
        served.backend._pace = 0.01
        browser.act(page, "Answer this message")
        browser.wait_facts(page, "tokens")
        assert browser.said(page) == ["Are you there?", "one two three"]


def test_each_visitor_sees_only_their_own(served):
    with browser.opened(served.url) as page:
        browser.ask(page, "Mine alone")
        other = page.context.browser.new_context().new_page()
        other.goto(served.url)
        other.wait_for_selector("#conversation .welcome", state="visible")
        other.wait_for_selector("text=Your conversations will be listed here")
        assert "Mine alone" not in other.content()


def test_an_answer_that_breaks_off_leaves_a_page_that_says_so_and_keeps_the_question(tmp_path):
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(app("--model", "scripted", GUANACO_HOME=str(tmp_path)))
        page = stack.enter_context(browser.opened(url))
        browser.send(page, "Are you there?")
        page.wait_for_function("document.querySelectorAll('#conversation .bot .block').length > 0")
        url.process.kill()
        page.wait_for_selector("#conversation >> text=The answer broke off")
        assert page.is_visible("#send") and "Are you there?" in browser.said(page)[0]
        stack.enter_context(app("--model", "scripted", port=int(url.rpartition(":")[2]), GUANACO_HOME=str(tmp_path)))
        with contextlib.suppress(Error):  # where the page is loading by itself already, as its host is back
            page.reload()
        page.wait_for_selector("#conversation >> text=Are you there?")
        again = "Continue this answer" if len(browser.said(page)) > 1 else "Answer this message"
        browser.act(page, again, "article >> nth=-1")
        browser.wait_facts(page, "ended by itself")

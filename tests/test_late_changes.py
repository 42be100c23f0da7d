"""The conversation in a real browser, where the server's answers come late: what a person does next goes after them, so that nothing is
undone; and pickers that are only touched change nothing."""

import contextlib
import threading

import browser
import pytest
from pages import Page

from engine.backends.scripted import ScriptedBackend
from engine.settings import MAX_SYSTEM_CHARS
from engine.threads import Thread
from ui import sidebar

pytestmark = [pytest.mark.long, browser.needs_chromium]


@pytest.fixture
def served():
    with contextlib.closing(Page(ScriptedBackend(["one ", "two ", "three"], seconds_per_token=0.01))) as made:
        yield made


@pytest.fixture
def gate(monkeypatch):
    """What opens a conversation, and what keeps a thumb, goes on once it is set."""
    go, opening = threading.Event(), sidebar.opening
    go.set()
    monkeypatch.setattr(sidebar, "opening", lambda *told, **more: go.wait(60) and opening(*told, **more))
    return go


def another_tab(tab, served: Page, name: str):
    """One more tab of the same browser, once it shows the conversation of that name as the open one."""
    more = tab.context.new_page()
    more.goto(served.url)
    more.wait_for_selector(f"#chats .current >> text={name}")
    return more


def test_new_chat_and_what_is_sent_go_after_what_is_still_on_its_way(served, gate, monkeypatch):
    store = served.services.store
    kept = store.thumb
    monkeypatch.setattr(store, "thumb", lambda *told: gate.wait(60) and kept(*told))
    with browser.opened(served.url) as page:
        browser.ask(page, "First")
        page.click("#chats .new-chat")
        browser.ask(page, "Second")
        gate.clear()
        page.click("#chats .open >> text=First")
        page.click("#chats .new-chat")
        page.fill("#message textarea", "Third")
        gate.set()
        page.wait_for_selector("#conversation .welcome", state="visible")
        browser.ask(page, "Third")
        assert browser.said(page) == ["Third", "one two three"]

        gate.clear()
        browser.act(page, "Good answer")
        page.fill("#message textarea", "Fourth")
        page.press("#message textarea", "Enter")
        page.wait_for_function("document.body.dataset.changing === 'give_thumb'")
        gate.set()
        page.wait_for_selector("#conversation >> text=Fourth")
        browser.wait_facts(page, "tokens")
        assert browser.said(page) == ["Third", "one two three", "Fourth", "one two three"]
        assert page.locator("#conversation .icon.up[aria-pressed=true]").count() == 1
        for name, texts in (("First", 2), ("Second", 2), ("Third", 4)):
            page.click(f"#chats .open >> text={name}")
            page.wait_for_function("name => document.querySelector('#conversation .user')?.innerText.includes(name)", arg=name)
            assert len(browser.said(page)) == texts
        # Pressed in one conversation, it is not done to another one that comes meanwhile.
        gate.clear()
        page.click("#chats .open >> text=Second")
        page.wait_for_function("document.body.dataset.changing === 'open_chat'")
        browser.act(page, "Take this message back", "article.user >> nth=-1")
        gate.set()
        page.wait_for_function("document.querySelector('#conversation .user')?.innerText.includes('Second')")
        browser.act(page, "Bad answer")
        page.wait_for_selector("#conversation .icon.down[aria-pressed=true]")
        assert browser.said(page) == ["Second", "one two three"]
        # Pressed twice while something else is on its way, it is done once, and what is typed meanwhile is not sent for it.
        browser.ask(page, "Fifth")
        gate.clear()
        browser.act(page, "Good answer")
        for _ in range(2):
            browser.act(page, "Take this message back", "article.user >> nth=-1")
        page.fill("#message textarea", "Sixth")
        page.press("#message textarea", "Enter")
        gate.set()
        page.wait_for_function("document.querySelector('#message textarea').value.includes('Fifth')")
        assert browser.said(page) == ["Second", "one two three"]
        # New chat stops what was sent just before it.
        page.fill("#message textarea", "Seventh")
        gate.clear()
        browser.act(page, "Good answer")
        for _ in range(2):
            page.press("#message textarea", "Enter")
        page.click("#chats .new-chat")
        gate.set()
        page.wait_for_selector("#conversation .welcome", state="visible")
        assert not page.errors


def test_the_row_of_the_conversation_that_is_open_takes_nothing_away():
    made = Page(ScriptedBackend([f"{number} " for number in range(40)], seconds_per_token=0.05))
    with contextlib.closing(made), browser.opened(made.url) as page:
        browser.send(page, "Hello there")
        page.wait_for_selector("#conversation .live >> text=3")
        page.click("#chats .open >> text=Hello there")
        browser.wait_facts(page, "40 tokens")
        assert "stopped" not in page.inner_text("#conversation") and len(browser.said(page)) == 2


def test_what_one_tab_renames_or_deletes_is_renamed_or_gone_in_the_other(served):
    with browser.opened(served.url) as first:
        browser.ask(first, "Of both")
        second = another_tab(first, served, "Of both")
        second.click("#chats .new-chat")
        second.get_by_label("Rename Of both").click()
        second.fill("#chats input.rename", "Woolly")
        second.keyboard.press("Enter")
        first.wait_for_selector("#chats .open >> text=Woolly")
        browser.ask(first, "More")
        second.wait_for_selector("#chats .open >> text=Woolly")
        assert browser.chats(first) == browser.chats(second) == ["Woolly"]
        # One that is emptied in one tab for a moment is left alone by the other.
        second.click("#chats .open")
        second.wait_for_selector("#conversation >> text=More")
        browser.act(first, "Take this message back", "article.user >> nth=-1")
        second.wait_for_function("document.querySelectorAll('#conversation .message').length === 2")
        browser.act(first, "Take this message back", "article.user >> nth=-1")
        first.wait_for_selector("#chats .empty")
        second.wait_for_selector("#chats .empty")
        browser.ask(first, "Again")
        second.click("#chats .open")
        second.wait_for_selector("#conversation >> text=Again")
        assert browser.chats(first) == browser.chats(second) == ["Woolly"]
        second.get_by_label("Delete Woolly").click()
        second.click("#chats .danger")
        first.wait_for_selector("#conversation .welcome", state="visible")
        first.reload()
        first.wait_for_selector("#chats .empty")
        second.reload()
        second.wait_for_selector("#chats .empty")


def test_nothing_that_comes_late_in_one_tab_brings_back_what_another_deleted_or_took_back(served, gate, monkeypatch):
    renamed = Thread.renamed
    monkeypatch.setattr(Thread, "renamed", lambda *told: gate.wait(60) and renamed(*told))
    with browser.opened(served.url) as first:
        browser.ask(first, "Taken back")
        second = another_tab(first, served, "Taken back")
        gate.clear()
        browser.ask(first, "More")
        second.wait_for_function("document.body.dataset.changing === 'open_chat'")
        for left in (2, 0):
            browser.act(first, "Take this message back", "article.user >> nth=-1")
            first.wait_for_function("left => document.querySelectorAll('#conversation .message').length === left", arg=left)
        second.wait_for_selector("#chats .empty")
        gate.set()
        second.wait_for_function("!('changing' in document.body.dataset)")
        second.click("#chats .new-chat")
        browser.ask(second, "Deleted")
        first.wait_for_selector("#chats .open >> text=Deleted")
        assert browser.chats(first) == browser.chats(second) == ["Deleted"]

        gate.clear()
        first.get_by_label("Rename Deleted").click()
        first.fill("#chats input.rename", "Back again")
        first.keyboard.press("Enter")
        second.get_by_label("Delete Deleted").click()
        second.click("#chats .danger")
        first.wait_for_selector("#chats .empty")
        gate.set()
        first.wait_for_selector("#conversation .welcome", state="visible")
        browser.ask(first, "Last")
        second.wait_for_selector("#chats .open >> text=Last")
        assert browser.chats(first) == browser.chats(second) == ["Last"]


def test_a_deleted_conversation_that_a_closed_tab_had_open_stays_deleted(served):
    with browser.opened(served.url) as page:
        browser.ask(page, "Deleted")
        closed = another_tab(page, served, "Deleted")
        page.click("#chats .new-chat")
        browser.ask(page, "Kept")
        browser.ask(closed, "More")
        closed.close()
        page.get_by_label("Delete Deleted").click()
        page.click("#chats .danger")
        page.wait_for_function("document.querySelectorAll('#chats .chat').length === 1")
        page.reload()
        page.wait_for_selector("#chats .new-chat:enabled")
        page.wait_for_selector("#conversation .welcome", state="visible")
        browser.ask(page, "Next")
        page.wait_for_selector("#chats .open >> text=Next")
        assert browser.chats(page) == ["Next", "Kept"] and browser.said(page) == ["Next", "one two three"]


def test_a_system_text_that_was_too_long_is_shortened_and_sent(served):
    with browser.opened(served.url) as page:
        page.fill("#system textarea", "x" * (MAX_SYSTEM_CHARS + 1))
        page.click("#chats .new-chat")
        page.fill("#message textarea", "Hello")
        page.focus("#send")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=The system text has 8,001 characters")
        page.wait_for_function("document.activeElement === document.querySelector('#message textarea')")
        page.fill("#system textarea", "Briefly.")
        browser.ask(page, "Hello")
        assert browser.said(page) == ["Hello", "one two three"]


def test_a_picker_that_is_only_touched_changes_nothing(served):
    with browser.opened(served.url) as page:

        def touch(label: str) -> None:
            page.locator(f"input[aria-label='{label}']:visible").click()
            with page.expect_response(lambda response: "/run/" in response.url or "/queue/" in response.url):
                page.keyboard.press("Tab")

        page.fill("#system textarea", "Briefly.")
        touch("Take a system text")
        browser.to_tab(page, "Compare")
        adapter = page.locator("input[aria-label='Adapter A']")
        adapter.fill("one/adapter")
        adapter.press("Tab")
        touch("Model A")
        browser.to_tab(page, "Measure")
        measured = page.locator("#ms-adapter input")
        page.wait_for_function("document.querySelector('#ms-model input').value")
        measured.fill("another/adapter")
        measured.press("Tab")
        touch("Model")
        browser.to_tab(page, "Chat")
        browser.ask(page, "Hello")
        assert page.input_value("#system textarea") == "Briefly."
        browser.to_tab(page, "Compare")
        assert adapter.input_value() == "one/adapter"
        browser.to_tab(page, "Measure")
        assert measured.input_value() == "another/adapter"

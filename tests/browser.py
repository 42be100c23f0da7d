"""Chromium for tests, as a person would have it: finds it, opens pages, watches what leaves the machine."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Error, TimeoutError

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
needs_chromium = pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")


@contextlib.contextmanager
def opened(url: str, width: int = 1200, height: int = 900, **context) -> Iterator:
    """A page of the app, ready to type into. `page.outside` lists requests that went elsewhere, `page.errors` script errors."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
        page.outside, page.errors = [], []
        page.on("request", lambda request: None if request.url.startswith((url, "data:", "blob:")) else page.outside.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.set_default_timeout(60_000)
        page.goto(url)
        page.wait_for_selector("#message textarea")
        page.wait_for_selector("#status .chip")  # what the page asks as it opens has come
        try:
            yield page
        finally:
            browser.close()


def to_tab(page, name: str) -> None:
    """Press a tab; on a narrow screen the last ones are in a menu."""
    there = page.get_by_role("tab", name=name, exact=True)
    if not there.is_visible():
        page.get_by_label("More tabs").click()
        there = page.locator(".overflow-dropdown").get_by_text(name, exact=True)
    there.click()


def go_back_to(page, url: str) -> None:
    """Open the address of an app that was started again. Gradio reloads such a page by itself, at a moment of its own, which would end
    a visit that begins just then; the page it has made does so no more."""
    try:
        page.goto(url)
    except Error:
        page.goto(url)


def answers(page, count: int) -> list[str]:
    """Texts of the model's answers on the screen, once there are so many."""
    page.wait_for_function("count => document.querySelectorAll('#conversation .message.bot').length === count", arg=count)
    return page.locator("#conversation .message.bot .body").all_inner_texts()


def said(page) -> list[str]:
    """Texts of all messages on the screen."""
    return page.locator("#conversation .message .body").all_inner_texts()


def act(page, label: str, message: str = "article >> nth=-1") -> None:
    """Press a button of a message: the last one, unless `message` selects another."""
    page.hover(f"#conversation {message}")
    page.locator(f"#conversation {message}").get_by_role("button", name=label).click()


def chats(page) -> list[str]:
    """Names in the list of conversations."""
    return page.locator("#chats .open").all_inner_texts()


def send(page, text: str) -> None:
    """Type a message and press Enter; once more, as a person would, if the page was just ending the answer before."""
    page.fill("#message textarea", text)
    for _ in range(2):
        page.press("#message textarea", "Enter")
        with contextlib.suppress(TimeoutError):
            page.wait_for_function("document.querySelector('#message textarea').value === ''", timeout=5_000)
            return
    raise AssertionError("the message was not taken")


def ask(page, text: str) -> None:
    """Send a message and wait for its whole answer and for the list to hold the conversation."""
    send(page, text)
    wait_facts(page, "tokens")
    page.wait_for_selector("#chats .current", state="attached")


def set_slider(page, label: str, value: str) -> None:
    """Type a slider's value; again, as a person would, where the page was not ready to take it: then the slider does not follow."""
    follows = "([label, value]) => document.querySelector(`input[aria-label='range slider for ${label}']`)?.value === value"
    for _ in range(5):
        page.get_by_label(f"number input for {label}").fill(value)
        page.keyboard.press("Tab")
        with contextlib.suppress(TimeoutError):
            page.wait_for_function(follows, arg=[label, value], timeout=5_000)
            return
    raise AssertionError("the value was not taken")


def clear(page) -> None:
    """Press Clear, and again to say that it is meant; nothing where nothing was said."""
    if not page.locator("#conversation .message").count():
        return
    page.click("#clear")
    page.click("#clear[data-sure]")
    page.wait_for_function("document.querySelectorAll('#conversation .message').length === 0")


def wait_facts(page, text: str, timeout: int = 60_000) -> str:
    """Wait until the answer has ended and the line under it holds `text`; gives the line."""
    page.wait_for_function(
        """text => document.body.dataset.answering === 'false' &&
        ([...document.querySelectorAll('#conversation .facts')].pop()?.innerText || '').includes(text)""",
        arg=text,
        timeout=timeout,
    )
    return page.locator("#conversation .facts").last.inner_text()

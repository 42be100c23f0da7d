"""The chat tab in a real browser: models, starting points, several tabs, keyboard and labels, a calm layout."""

import contextlib
import threading
from dataclasses import replace

import browser
import pytest
from builders import until
from pages import Page

from engine.backends.scripted import ScriptedBackend
from engine.errors import EngineError
from engine.events import Progress

pytestmark = [pytest.mark.long, browser.needs_chromium]
UNNAMED = """() => [...document.querySelectorAll('#chat-tab :is(button, input, textarea, select, [role=region], [role=log], nav)')]
    .filter(node => node.offsetParent !== null && node.type !== 'file')
    .filter(node => !(node.getAttribute('aria-label') || node.innerText?.trim() || node.labels?.length || node.title))
    .map(node => node.outerHTML.slice(0, 200))"""


@pytest.fixture
def served():
    made = Page(ScriptedBackend(["one ", "two ", "three"], seconds_per_token=0.01))
    yield made
    made.close()


def test_a_model_is_loaded_with_progress_cancelled_and_unloaded_and_the_conversation_stays(served, monkeypatch):
    gate = threading.Event()

    def slow(spec, load, report, isolated, cancelled, turns):
        report(Progress("Fetching the weights", 0.4))
        until(lambda: cancelled() or gate.is_set())
        if cancelled():
            raise EngineError("Loading was cancelled.")
        return ScriptedBackend(["new ", "model"], seconds_per_token=0)

    with browser.opened(served.url) as page:
        browser.ask(page, "Before")
        page.wait_for_selector("#about-model >> text=needs no weights")
        page.click("#unload")
        page.wait_for_selector("#status >> text=No model is loaded")
        browser.send(page, "Without a model")
        page.wait_for_selector("#conversation .failed >> text=No model is loaded")
        monkeypatch.setattr("engine.runtime.open_backend", slow)
        page.click("#load")
        page.wait_for_selector("#status >> text=Fetching the weights (40%)")
        page.wait_for_selector("#status progress")
        page.click("#cancel-load")
        page.wait_for_selector("#status >> text=was cancelled")
        page.click("#load")
        page.wait_for_selector("#cancel-load", state="visible")
        gate.set()
        page.wait_for_selector("#unload", state="visible")
        browser.act(page, "Answer this message", "article.user >> nth=-1")
        page.wait_for_selector("#conversation >> text=new model")
        browser.wait_facts(page, "tokens")
        assert browser.said(page) == ["Before", "one two three", "Without a model", "new model"]


def test_an_adapter_that_is_chosen_while_the_model_loads_stays(served, monkeypatch):
    """And where nobody chose, the pickers turn to what came with the new model."""
    gate = threading.Event()

    def slow(spec, load, report, isolated, cancelled, turns):
        until(gate.is_set)
        backend = ScriptedBackend(seconds_per_token=0)
        backend.loaded = replace(backend.loaded, model=spec.id)
        return backend

    monkeypatch.setattr("engine.runtime.open_backend", slow)
    served.runtime.load("starter", "scripted-hosts")
    with browser.opened(served.url) as page:
        adapter = page.locator("input[aria-label=Adapter]")
        page.wait_for_function("document.querySelector('input[aria-label=Adapter]').value === 'scripted-hosts'")
        adapter.click()
        page.get_by_role("option", name="none: the bare base").click()
        page.click("#settings-panel .mix button")
        mixed_in = page.locator("input[aria-label='Mixed in']")
        mixed_in.fill("scripted-mixed")
        mixed_in.press("Tab")
        gate.set()
        page.wait_for_selector("#unload", state="visible")  # comes with what the pickers turn to
        assert adapter.input_value() == "none: the bare base" and mixed_in.input_value() == "scripted-mixed"
        served.runtime.load("scripted", "scripted-other")
        page.wait_for_function("document.querySelector('input[aria-label=Adapter]').value.startsWith('scripted-other')")
        assert mixed_in.input_value() == "none: the bare base"


def test_the_picker_tells_what_a_model_takes_before_it_is_loaded(served):
    with browser.opened(served.url) as page:
        page.click("input[aria-label=Model]")
        options = page.locator("ul[role=listbox] li").all_inner_texts()
        guanaco = next(option for option in options if "Guanaco 65B" in option)
        assert "too large here" in guanaco and "GB" in guanaco and "research only" in guanaco
        page.locator("ul[role=listbox] li", has_text="Guanaco 65B").click()
        page.wait_for_selector("#about-model >> text=does not fit")
        page.click("#load")
        page.wait_for_selector("text=Guanaco 65B does not fit")
        assert "scripted" in page.inner_text("#status")


def test_an_example_sets_its_system_text_and_a_preset_another(served):
    with browser.opened(served.url) as page:
        page.click(".card >> text=Keeping a secret")
        browser.wait_facts(page, "tokens")
        assert "lantern" in page.input_value("#system textarea")
        page.click("#chats .new-chat")
        page.wait_for_selector("#conversation .welcome", state="visible")
        page.click("input[aria-label='Take a system text']")
        page.click("li >> text=Pirate")
        page.wait_for_function("document.querySelector('#system textarea').value.includes('pirate')")
        browser.ask(page, "Hello")
        page.click("#chats .open >> nth=1")
        page.wait_for_function("document.querySelector('#system textarea').value.includes('lantern')")


def test_two_tabs_of_one_browser_lose_nothing_of_each_other(served):
    with browser.opened(served.url) as first:
        second = first.context.new_page()
        second.goto(served.url)
        second.wait_for_selector("#conversation .welcome", state="visible")
        browser.ask(first, "From the first tab")
        second.wait_for_selector("#chats >> text=From the first tab")
        second.click("#chats .new-chat")
        browser.ask(second, "From the second tab")
        first.wait_for_selector("#chats >> text=From the second tab")
        first.click("#chats >> text=From the second tab")
        first.wait_for_function("document.querySelector('#conversation .user').innerText.includes('second')")
        browser.ask(second, "And more of it")
        first.wait_for_selector("#conversation >> text=And more of it")
        first.reload()
        first.wait_for_function("document.querySelectorAll('#chats .open').length === 2")
        assert sorted(browser.chats(first)) == ["From the first tab", "From the second tab"]


def test_everything_has_a_name_and_the_keyboard_reaches_it(served):
    with browser.opened(served.url) as page:
        assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
        page.keyboard.type("Typed at once")
        page.keyboard.press("Enter")
        browser.wait_facts(page, "tokens")
        page.wait_for_selector("#chats .current")
        assert page.evaluate(UNNAMED) == []
        page.locator("article.user .edit").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("End")
        page.keyboard.type(" and changed")
        page.keyboard.press("Enter")
        page.wait_for_selector("#conversation >> text=Typed at once and changed")
        browser.wait_facts(page, "tokens")
        page.locator("article.user .edit").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        assert page.locator(".editing").count() == 0
        page.locator("#chats .open").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Rename ")


def test_a_full_store_says_so_and_keeps_what_it_has(monkeypatch):
    monkeypatch.setattr("ui.sidebar.MAX_LIBRARY_BYTES", 1_500)
    made = Page(ScriptedBackend(["ok"], seconds_per_token=0))
    try:
        with browser.opened(made.url) as page:
            browser.send(page, "Fits")
            browser.wait_facts(page, "token")
            page.wait_for_selector("#chats .current")
            page.click("#chats .new-chat")
            page.wait_for_selector("#conversation .welcome", state="visible")
            browser.send(page, "Does not fit: " + "数据" * 300)
            browser.wait_facts(page, "token")
            page.wait_for_selector("#chats >> text=store is full (conversations: 1)")
            page.reload()
            page.wait_for_selector("#conversation >> text=Does not fit")
            assert browser.chats(page) == ["Fits"]
    finally:
        made.close()


def test_on_a_phone_the_panels_come_and_go_and_nothing_is_wider_than_the_screen():
    wide = (
        "word " * 20
        + "\n\n```python\n"
        + "x = 1 + " * 60
        + "1\n```\n\n| a | b |\n|---|---|\n| "
        + "cell " * 60
        + " | b |\n\n$$"
        + "x+" * 90
        + "x$$"
    )
    made = Page(ScriptedBackend([word + " " for word in wide.split(" ")], seconds_per_token=0))
    try:
        with browser.opened(made.url, 390, 844) as page:
            browser.ask(page, "Wide " + "w" * 300)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.evaluate(
                "document.querySelector('#conversation .turns').scrollWidth <= document.querySelector('#conversation .scroller').clientWidth"
            )
            # Of what is running model and adapter come first, and the machine is left out.
            assert page.inner_text("#status").split("\n")[:2] == ["scripted", "adapter none"] and "cores" not in page.inner_text("#status")
            assert not page.is_visible("#chats")
            page.click("#panel-buttons >> text=Conversations")
            page.wait_for_selector("#chats .open >> text=Wide", state="visible")
            page.keyboard.press("Escape")
            page.wait_for_selector("#chats", state="hidden")
            page.click("#panel-buttons >> text=Settings")
            page.wait_for_selector("input[aria-label=Model]", state="visible")
            page.keyboard.press("Escape")
            page.wait_for_selector("input[aria-label=Model]", state="hidden")
    finally:
        made.close()


def test_nothing_jumps_while_an_answer_streams():
    text = "A paragraph of some words.\n\n```python\nprint('x')\n```\n\n- a point\n- another\n\n" * 8
    made = Page(ScriptedBackend([word + " " for word in text.split(" ")], seconds_per_token=0.01))
    try:
        with browser.opened(made.url) as page:
            browser.ask(page, "First")
            page.evaluate("""() => {
                window.jumps = 0;
                new PerformanceObserver(list => list.getEntries().forEach(entry => { if (!entry.hadRecentInput) window.jumps += entry.value; }))
                    .observe({ type: 'layout-shift' });
            }""")
            top = page.locator("#talk .composer").bounding_box()
            browser.ask(page, "Second")
            assert page.evaluate("window.jumps") < 0.02
            assert page.locator("#talk .composer").bounding_box() == top
            assert page.evaluate("(s => s.scrollHeight - s.scrollTop - s.clientHeight < 60)(document.querySelector('.scroller'))")
    finally:
        made.close()


@pytest.mark.parametrize("size", [(390, 844), (1024, 768), (1280, 700)])
def test_the_page_opens_at_its_top_and_a_conversation_at_its_end(size):
    made = Page(ScriptedBackend(["A paragraph of some words.\n\n"] * 40, seconds_per_token=0))
    top = "document.querySelector('#conversation .scroller').scrollTop"
    at_end = (
        "(s => s.scrollTop > 0 && s.scrollHeight - s.scrollTop - s.clientHeight < 60)(document.querySelector('#conversation .scroller'))"
    )
    with contextlib.closing(made), browser.opened(made.url, *size) as page:
        page.wait_for_timeout(500)
        page.set_viewport_size({"width": size[0], "height": size[1] - 100})  # as a keyboard on the screen makes it
        page.wait_for_timeout(300)
        assert page.evaluate(top) == 0 and page.get_by_role("heading", name="Chat with a 4-bit model").is_visible()
        browser.ask(page, "Hello")
        page.wait_for_function(at_end)
        page.reload()
        page.wait_for_selector("#conversation .message.bot")
        page.wait_for_function(at_end)
        page.hover("#conversation .scroller")
        page.mouse.wheel(0, -300)
        page.wait_for_selector("#conversation .to-end", state="visible")
        browser.clear(page)
        page.wait_for_selector("#conversation .to-end", state="hidden")
        assert page.evaluate(top) == 0


def test_what_is_pressed_while_an_answer_is_written_is_not_undone_by_it():
    words = [f"{number} " for number in range(60)]
    made = Page(ScriptedBackend(words, seconds_per_token=0.05))
    with contextlib.closing(made), browser.opened(made.url) as page:
        browser.send(page, "Hello there")
        page.wait_for_selector("#conversation .live")
        page.get_by_label("Rename Hello there").click()
        page.fill("#chats input.rename", "Woolly")
        page.keyboard.press("Enter")
        assert page.locator("#conversation .live").count(), "it is still written"
        browser.wait_facts(page, "60 tokens")
        page.wait_for_selector("#chats .open >> text=Woolly")
        page.reload()
        page.wait_for_selector("#chats .open >> text=Woolly")
        assert browser.answers(page, 1) == ["".join(words).strip()]
        browser.send(page, "More")
        page.wait_for_selector("#conversation .live")
        page.click("#clear")
        page.click("#clear[data-sure]")
        page.wait_for_selector("#conversation .welcome", state="visible")
        browser.send(page, "Another")
        page.wait_for_selector("#chats .open >> text=Another")
        page.click("#chats .new-chat")
        browser.ask(page, "The next")
        assert sorted(browser.chats(page)) == ["Another", "The next"]
        page.fill("#message textarea", "Stopped at once")
        page.press("#message textarea", "Enter")
        page.click("#stop")
        browser.wait_facts(page, "stopped")

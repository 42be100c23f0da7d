"""Comparing as a person does it: one click from the chat, two columns, swap, keep one."""

import browser
import pytest
from builders import until
from pages import Page
from test_gguf_panel import pick

from engine.backends.scripted import ScriptedBackend

ENDED = "document.body.dataset.comparing === 'false'"


@pytest.fixture
def served():
    made = Page(ScriptedBackend(seconds_per_token=0.02, slots=2))
    yield made
    made.close()


def columns(page) -> list[list[str]]:
    """Texts of the messages in both columns."""
    return [page.locator("#comparison .side").nth(at).locator(".body").all_inner_texts() for at in (0, 1)]


def titles(page) -> list[str]:
    return page.locator("#comparison .side h3").all_inner_texts()


@pytest.mark.long
@browser.needs_chromium
def test_one_click_from_the_chat_two_columns_and_one_of_them_kept(served):
    with browser.opened(served.url) as page:
        browser.ask(page, "Hello")
        pick(page, "Adapter", "scripted-one")
        page.fill("#message textarea", "And both?")
        page.click("#to-compare")
        page.wait_for_function("document.querySelectorAll('#comparison .live .block').length >= 2")
        assert page.locator("#comparison .keep").first.is_hidden()
        page.wait_for_function(ENDED)
        assert titles(page) == ["A · scripted · no adapter", "B · scripted · scripted-one"]
        first = columns(page)
        assert not first[0][0].startswith("[") and first[1][0].startswith("[scripted-one]")
        assert page.inner_text("#comparison .turns >> nth=0").strip() == "And both?"
        assert page.inner_text("#comparison .earlier") == "After 2 earlier messages of “Hello”"
        assert page.input_value("#message textarea") == ""

        page.click("#swap")
        page.wait_for_function("document.querySelector('#comparison h3').innerText.includes('scripted-one')")
        assert columns(page) == first[::-1]
        assert page.input_value("input[aria-label='Adapter A']").startswith("scripted-one")

        page.fill("#compare-message textarea", "Go on")
        page.press("#compare-message textarea", "Enter")
        page.wait_for_function("document.querySelectorAll('#comparison .side .message.user').length === 2 && " + ENDED)
        assert [each[1] for each in columns(page)] == ["Go on", "Go on"]
        assert page.input_value("#compare-message textarea") == ""

        shown = columns(page)
        page.reload()
        page.wait_for_selector("#message textarea")
        page.get_by_role("tab", name="Compare").click()
        page.wait_for_function("document.querySelectorAll('#comparison .side .message.user').length === 2")
        assert columns(page) == shown and titles(page)[0] == "A · scripted · scripted-one"

        page.get_by_role("button", name="Keep A as the conversation").click()
        page.wait_for_selector("#conversation .message.user >> text=Go on")
        assert browser.said(page)[-4:] == ["And both?", *shown[0]]
        branches = page.locator("#conversation .message.bot .count")
        assert branches.count() == 1 and branches.inner_text() == "2/2"
        assert browser.chats(page) == ["Hello"]
        browser.ask(page, "Still here?")
        assert not page.errors and not page.outside


@pytest.mark.long
@browser.needs_chromium
def test_stop_ends_both_and_what_was_kept_before_stays(served):
    served.backend._ends = False
    with browser.opened(served.url) as page:
        page.get_by_role("tab", name="Compare").click()
        page.wait_for_selector("#comparison .hint")
        for empty in (".sides", ".second", ".keep >> nth=0"):
            assert page.locator(f"#comparison {empty}").is_hidden(), empty
        page.fill("#compare-message textarea", "Talk without end")
        page.click("#compare-send")
        page.wait_for_function("document.querySelectorAll('#comparison .live .block').length >= 2")
        page.click("#compare-stop")
        page.wait_for_function(ENDED)
        assert all("stopped" in each for each in page.locator("#comparison .facts").all_inner_texts())
        made = served.backend.produced
        page.click("#compare-new")
        page.wait_for_selector("#comparison .hint", state="visible")
        assert served.backend.produced == made
        assert not page.errors


@pytest.mark.long
@browser.needs_chromium
def test_a_model_that_cannot_be_had_is_named_and_the_message_stays(served):
    with browser.opened(served.url) as page:
        page.get_by_role("tab", name="Compare").click()
        pick(page, "Model B", "no such model")
        page.fill("#compare-message textarea", "Hello")
        page.click("#compare-send")
        page.wait_for_selector("text=no such model >> visible=true")
        assert page.input_value("#compare-message textarea") == "Hello"
        pick(page, "Model B", "The loaded model")
        page.click("#compare-send")
        page.wait_for_function("document.querySelectorAll('#comparison .facts').length === 2")
        assert not page.errors


# What a picker holds ends before its arrow.
CLEAR_OF_ITS_ARROW = """picker => {
  const arrow = picker.closest('.wrap-inner').querySelector('.icon-wrap');
  return picker.getBoundingClientRect().right <= arrow.getBoundingClientRect().left;
}"""


@pytest.mark.long
@browser.needs_chromium
def test_on_a_phone_the_columns_stand_one_above_the_other(served):
    with browser.opened(served.url, 390, 844) as page:
        page.fill("#message textarea", "Hello")
        page.click("#to-compare")
        page.wait_for_function("document.querySelectorAll('#comparison .facts').length === 2")
        upper, lower = (page.locator("#comparison .side").nth(at).bounding_box() for at in (0, 1))
        assert upper["y"] + upper["height"] <= lower["y"] and upper["width"] > 300
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        pickers = page.locator("#compare-sides input[role=combobox] >> visible=true")
        assert pickers.count() == 4 and all(page.evaluate(CLEAR_OF_ITS_ARROW, each) for each in pickers.element_handles())


@pytest.mark.long
@browser.needs_chromium
def test_opened_by_its_tab_it_sets_the_base_beside_what_the_chat_is_set_to(served):
    with browser.opened(served.url) as page:
        pick(page, "Adapter", "scripted-one")
        browser.to_tab(page, "Compare")
        page.wait_for_function("document.querySelector(\"input[aria-label='Adapter B']\").value.startsWith('scripted-one')")
        assert page.input_value("input[aria-label='Adapter A']").startswith("none")
        page.fill("#compare-message textarea", "Hello")
        page.click("#compare-send")
        page.wait_for_function("document.querySelectorAll('#comparison .side h3').length === 2 && " + ENDED)
        assert titles(page) == ["A · scripted · no adapter", "B · scripted · scripted-one"]
        pick(page, "Adapter B", "none")
        browser.to_tab(page, "Chat")
        answered = []
        page.on("response", lambda response: answered.append(response.url) if "/run/" in response.url else None)
        browser.to_tab(page, "Compare")
        until(lambda: page.evaluate("1") and len(answered) >= 2)  # the pickers' choices, and how they are set out
        assert page.input_value("input[aria-label='Adapter B']").startswith("none"), "what is compared stays as it was chosen"

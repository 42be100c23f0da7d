"""The whole way with the real starter, as a new user goes it: a file of instructions, a finetuned adapter, a chat with it."""

import browser
import pytest
from conftest import SHARED, shared
from test_browser import app

FILE = SHARED / "instruct" / "short.jsonl"
# What a person presses from the upload on until a run is under way with defaults; the file dialogue counts as one.
MOST_CLICKS = 8


def finetune(page) -> None:
    page.get_by_role("tab", name="Finetune").click()


@pytest.mark.long
@shared
@browser.needs_chromium
def test_from_upload_to_chatting_with_the_result(starter_home):
    with app(GUANACO_HOME=str(starter_home)) as url, browser.opened(url) as page:
        clicks = 0

        def click(selector: str) -> None:
            nonlocal clicks
            clicks += 1
            page.click(selector)

        finetune(page)
        page.click("#ft-next-0")
        page.wait_for_selector("#ft-upload input[type=file]", state="attached")
        page.set_input_files("#ft-upload input[type=file]", FILE)
        clicks += 1
        page.wait_for_selector("#ft-lengths svg")
        click("#ft-next-1")
        page.wait_for_selector("#ft-lens .learnt.end")
        click("#ft-next-2")
        page.wait_for_selector("#ft-means p")
        page.locator("#ft-simple").get_by_label("Steps").fill("3")  # the defaults take minutes
        page.keyboard.press("Tab")
        page.wait_for_function("document.querySelector('#ft-means').innerText.includes('3 updates')")
        click("#ft-next-3")
        page.wait_for_selector("#ft-bars .machine")
        click("#ft-next-4")
        page.wait_for_selector("#ft-start:not([disabled])")
        before = [folder.name for folder in (starter_home / "runs").glob("short-*")]
        click("#ft-start")
        name = page.wait_for_function(
            """before => {
                const name = document.querySelector('#run')?.innerText.match(/short-[0-9-]+/)?.[0];
                return !before.includes(name) && name;
            }""",
            arg=before,
        ).json_value()
        assert clicks <= MOST_CLICKS
        page.reload()
        page.wait_for_selector("#status .chip")
        finetune(page)
        page.wait_for_function("name => document.querySelector('#run')?.innerText.includes(name)", arg=name)
        state = page.context.storage_state()
        page.close()
        again = page.context.browser.new_context(storage_state=state).new_page()  # closed, and opened again later
        again.set_default_timeout(60_000)
        again.goto(url)
        again.wait_for_selector("#status .chip")
        finetune(again)
        again.wait_for_function("document.querySelector('#run')?.innerText.includes('Done: 3 steps')", timeout=600_000)
        again.click("#ft-to-6")
        again.wait_for_selector("#ft-changes table")
        assert "sample answers differ" in again.inner_text("#ft-changes")
        again.click("#ft-chat")
        again.wait_for_function("name => document.querySelector('#status').innerText.includes(name)", arg=name, timeout=120_000)
        browser.send(again, "What is the capital of Australia?")
        browser.wait_facts(again, "tokens", 240_000)
        assert again.inner_text("#conversation .message.bot .body").strip()
    assert (starter_home / "runs" / name / "adapter" / "adapter_model.safetensors").is_file()

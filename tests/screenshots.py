"""`python tests/screenshots.py`: the pictures of the README, taken of the real starter in a real browser."""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import browser
from test_browser import app

FOLDER = Path(__file__).parent / "screenshots"
QUESTION = "What is a llama? Answer with two short sentences."
CODE = "Write a Python function that returns the larger of two numbers."

# A picture shows no folder of the machine it is taken on.
HIDE = """home => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(home, "~/guanaco");
  for (const box of document.querySelectorAll("input, textarea")) if (box.value.includes(home)) box.value = box.value.replaceAll(home, "~/guanaco");
}"""


def chat(page, text: str) -> None:
    """Ask and wait for the whole answer."""
    browser.send(page, text)
    page.wait_for_function("document.querySelectorAll('#conversation .bot .block').length > 0", timeout=120_000)
    browser.wait_facts(page, "tokens", 240_000)
    page.wait_for_selector("#chats .current", state="attached")


def game(page) -> None:
    """A round of the starter pack, whose texts are this project's own, with a guess made but not revealed."""
    page.get_by_role("tab", name="Blind game").click()
    page.wait_for_selector("#game .setup")
    page.get_by_text("Guanaco mini or the bare starter?").click()
    page.click("#game .begin")
    page.wait_for_selector("#game .round")
    for key in ("a", "3"):
        page.keyboard.press(key)


def wizard(page) -> None:
    """The whole way through the wizard with the rows that come with the app, a picture of each step."""

    def shoot(name: str) -> None:
        page.mouse.move(0, 0)
        page.wait_for_timeout(400)  # bars and lists unfold
        page.evaluate(HIDE, os.environ["GUANACO_HOME"])
        page.screenshot(path=FOLDER / f"wizard-{name}.png")

    page.get_by_role("tab", name="Finetune").click()
    page.wait_for_selector("#ft-bases table")
    shoot("model")
    page.click("#ft-next-0")
    page.get_by_role("tab", name="Bundled").click()
    page.click("#ft-bundled input")
    page.get_by_role("option").first.click()
    page.wait_for_selector("#ft-lengths svg")
    page.wait_for_function("document.querySelector('#ft-lengths').innerText.includes('updates')")
    page.locator("#ft-preview").scroll_into_view_if_needed()
    shoot("data")
    page.click("#ft-next-1")
    page.wait_for_selector("#ft-lens .learnt.end")
    shoot("lens")
    page.click("#ft-next-2")
    page.wait_for_function("document.querySelector('#ft-means').innerText.includes('updates')")
    shoot("recipe")
    page.click("#ft-next-3")
    page.wait_for_selector("#ft-bars .machine")
    shoot("fit")
    page.click("#ft-next-4")
    page.wait_for_selector("#ft-start:not([disabled])")
    page.click("#ft-start")
    page.wait_for_function("document.querySelector('#run')?.innerText.includes('Done: ')", timeout=1_200_000)
    page.locator("#run h2").evaluate("node => node.scrollIntoView()")
    shoot("train")
    page.click("#ft-to-6")
    page.wait_for_selector("#ft-changes table")
    shoot("try")
    page.click("#ft-to-7")
    page.wait_for_selector("#runs .spark path:not([d=''])")
    shoot("runs")


def measure(page) -> None:
    """A sample of MMLU, the adapter and its base; `GUANACO_ANSWERS` says where the questions are, none of which is seen."""
    browser.to_tab(page, "Measure")
    page.wait_for_selector("#ms-means p")
    page.fill("#ms-limit input", "300")
    page.click("#ms-shots input")
    page.get_by_role("option", name="none", exact=True).click()
    page.wait_for_function("document.querySelector('#ms-means').innerText.startsWith('300 of')")
    page.click("#ms-start")
    page.wait_for_function("document.querySelectorAll('#measured .list li.done').length >= 2", timeout=1_200_000)
    page.wait_for_function("document.querySelector('#measured .paired')?.innerText.includes('items')")
    page.locator("#measured .result").evaluate("node => node.scrollIntoView()")
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with app(GUANACO_HOME=os.environ["GUANACO_HOME"]) as url:
        with browser.opened(url, 1280, 860) as page:
            page.wait_for_selector("#status .chip.ready", timeout=240_000)
            page.wait_for_timeout(4_500)  # the chip's memory is told every four seconds
            chat(page, QUESTION)
            page.click("#chats .new-chat")
            chat(page, CODE)
            page.mouse.move(0, 0)
            page.screenshot(path=FOLDER / "light.png")
            state = page.context.storage_state()
        with browser.opened(url, 1280, 860, color_scheme="dark", storage_state=state) as page:
            page.wait_for_selector("#chats .current")
            browser.send(page, "Now explain it, line by line.")
            page.wait_for_function("document.querySelector('#conversation .live .body')?.innerText.length > 150", timeout=120_000)
            page.screenshot(path=FOLDER / "dark.png")
        with browser.opened(url, 1280, 860) as page:
            game(page)
            page.screenshot(path=FOLDER / "game.png")
        with browser.opened(url, 1280, 860) as page:
            wizard(page)
        with browser.opened(url, 1280, 860) as page:
            measure(page)
            page.screenshot(path=FOLDER / "measure.png")
        with browser.opened(url, 390, 844) as page:
            chat(page, QUESTION)
            page.screenshot(path=FOLDER / "phone.png")


if __name__ == "__main__":
    main()

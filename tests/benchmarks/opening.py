"""`python tests/benchmarks/opening.py`: what it takes to open the chat tab of a browser that keeps 200 conversations.

Each has eight messages of 400 characters, about a megabyte in all. The clock runs from the moment the list's component is
there until it holds all of them; the same for a browser that keeps none, in the same run, says what the page itself takes.
"""

import statistics
import tempfile
from pathlib import Path

import common  # noqa: F401  (finds the project)

# isort: split
import browser
from pages import Page

from engine.backends.scripted import ScriptedBackend
from engine.library import to_json
from engine.threads import Thread

CONVERSATIONS, RUNS = 200, 7
CLOCK = """() => {
  const seen = () => {
    const at = performance.now();
    if (document.querySelector('#chats .list')) window.listed ??= at;
    const rows = document.querySelectorAll('#chats .open').length;
    const empty = document.querySelector('#conversation .welcome:not([hidden])') && document.querySelector('#status .chip');
    if (rows === WANTED && (WANTED || empty)) window.opened ??= at;
  };
  new MutationObserver(seen).observe(document, { subtree: true, childList: true });
}"""


def conversations() -> str:
    """An export with so many conversations."""
    threads = []
    for number in range(CONVERSATIONS):
        thread = Thread.new()
        for turn in range(4):
            thread = thread.asked(f"Question {turn} of conversation {number}. ".ljust(400, "q")).answered(
                "An answer. ".ljust(400, "a"), None
            )
        threads.append(thread)
    return to_json(threads)


def opened(page, wanted: int) -> tuple[float, float]:
    """Milliseconds from the list's component to its last row, and from the navigation's start."""
    page.reload()
    page.wait_for_function("window.opened !== undefined")
    return page.evaluate("[window.opened - window.listed, window.opened]")


def main() -> None:
    served = Page(ScriptedBackend(seconds_per_token=0))
    found = {}
    for wanted in (0, CONVERSATIONS):
        with browser.opened(served.url) as page:
            if wanted:
                file = Path(tempfile.mkdtemp()) / "all.json"
                file.write_text(conversations())
                page.set_input_files("#chats input[type=file]", file)
                page.wait_for_function(f"document.querySelectorAll('#chats .open').length === {wanted}")
                print(f"stored: {page.evaluate('JSON.stringify(localStorage).length') / 1e6:.2f} million characters")
            page.add_init_script(f"({CLOCK.replace('WANTED', str(wanted))})()")
            found[wanted] = [opened(page, wanted) for _ in range(RUNS)]
    served.close()
    for wanted, runs in found.items():
        own, whole = (sorted(each) for each in zip(*runs, strict=True))
        print(
            f"{wanted} conversations: median {statistics.median(own):.0f} ms, worst {own[-1]:.0f} ms from the component to the list;"
            f" {statistics.median(whole):.0f} ms from the navigation, {RUNS} runs"
        )


if __name__ == "__main__":
    main()

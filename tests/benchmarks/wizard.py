"""`python tests/benchmarks/wizard.py`: the chat while a training runs beside it, switching tabs meanwhile, how often a run moves, and
the first preview of 10,000 rows. The starter must be on disk; the training is the starter's, of rows made here."""

import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import process, wait_page

# isort: split
import browser
import builders
from pages import BARE

ROWS, ANSWERS, SWITCHES, TOKENS = 10_000, 5, 100, 96
TABS = ("Chat", "Compare", "Finetune", "Blind game", "Leaderboard")
WATCH_SECONDS = 60
# Presses a tab; gives the seconds until a panel that was not shown before is drawn.
SWITCH = """name => new Promise((done, fail) => {
  const shown = () => [...document.querySelectorAll('.tabs > [role=tabpanel]')].find(panel => panel.offsetParent);
  const tab = [...document.querySelectorAll('.tab-container > button[role=tab]')].find(each => each.innerText.trim() === name);
  const before = shown(), began = performance.now();
  const look = () => {
    const now = performance.now();
    if (now - began > 30000) fail(new Error(`${name} did not open`));
    else if (tab.ariaSelected === 'true' && shown() && shown() !== before) requestAnimationFrame(() => done((performance.now() - began) / 1000));
    else requestAnimationFrame(look);
  };
  tab.click();
  look();
})"""
# Gives the seconds between moves of the bar of a run.
GAPS = """seconds => new Promise(done => {
  const bar = () => document.querySelector('#run progress')?.value, gaps = [];
  let last = bar(), moved = performance.now();
  const end = moved + 1000 * seconds;
  const look = () => {
    const now = performance.now();
    if (bar() !== last) { gaps.push((now - moved) / 1000); last = bar(); moved = now; }
    if (now < end) setTimeout(look, 50); else done([...gaps, (now - moved) / 1000]);
  };
  look();
})"""


def rate(client) -> float:
    """Tokens a second of one answer, as its footer says."""
    from engine.settings import ChatSettings

    settings = ChatSettings(temperature=0, max_new_tokens=TOKENS)
    answer = client.predict("Count from one to one hundred in words.", None, *BARE, *settings.model_dump().values(), api_name="/chat")
    return float(re.search(r"([\d.]+) tokens/s", answer["turns"][-1]["facts"])[1])


def rates(client) -> list[float]:
    return [rate(client) for _ in range(ANSWERS)]


def switch_times(page) -> list[float]:
    """Seconds from a press on a tab to another panel on the screen, of switches through all tabs in turn."""
    return [page.evaluate(SWITCH, TABS[number % len(TABS)]) for number in range(1, SWITCHES + 1)]


def previewed(page, rows: Path) -> tuple[float, float]:
    """Seconds from the upload of a file to its first rows on the screen, and to the lengths of all."""
    page.get_by_role("tab", name="Finetune").click()
    page.click("#ft-next-0")
    page.wait_for_selector("#ft-upload input[type=file]", state="attached")
    began = time.perf_counter()
    page.set_input_files("#ft-upload input[type=file]", rows)
    page.wait_for_selector("#ft-preview table")
    shown = time.perf_counter() - began
    page.wait_for_function(
        "document.querySelector('#ft-lengths svg') && document.querySelector('#ft-lengths').innerText.includes('updates')", timeout=180_000
    )
    return shown, time.perf_counter() - began


def main() -> None:
    from engine.drafts import Draft, with_data

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        sentence = "The quick brown fox jumps over the lazy dog near the river. "
        rows.write_text(
            "".join(json.dumps({"instruction": f"Write number {at}.", "output": sentence * (at % 12 + 1)}) + "\n" for at in range(ROWS))
        )
        port = builders.free_port()
        with process([sys.executable, "app.py", "--port", str(port)]):
            wait_page(port)
            from gradio_client import Client

            url = f"http://127.0.0.1:{port}"
            client = Client(url, verbose=False)
            while client.predict("none", api_name="/status")[0].find("ready") < 0:
                time.sleep(1)
            rate(client)
            with browser.opened(url) as page:
                shown, counted = previewed(page, rows)
                alone, still = rates(client), switch_times(page)
                recipe = with_data(Draft(), str(rows), "rows").recipe.changed({"optimization.steps": 1_000, "cadence.eval_every": 1_000})
                run = client.predict(recipe.to_yaml(), "bench", api_name="/finetune_start")
                try:
                    while not client.predict(run, 0, api_name="/finetune_follow").get("steps", {}).get("step"):
                        time.sleep(0.5)
                    beside, busy = rates(client), switch_times(page)
                    page.get_by_role("tab", name="Finetune").click()
                    page.click("#ft-to-5")
                    page.wait_for_selector("#run progress")
                    gaps = page.evaluate(GAPS, WATCH_SECONDS)
                finally:
                    client.predict(run, api_name="/finetune_kill")
    print(f"first preview of {ROWS:,} rows, from the upload to the table: {shown:.1f} s (target 5), all counted after {counted:.0f} s")
    before, after = statistics.median(alone), statistics.median(beside)
    print(f"chat beside a training over chat alone: {after / before:.2f} ({after:.1f} over {before:.1f} tokens/s, medians of {ANSWERS})")
    for name, times in (("alone", still), ("beside a training", busy)):
        quick = sum(each < 0.3 for each in times)
        print(
            f"tab switches {name}: {quick} of {SWITCHES} under 300 ms, median {1e3 * statistics.median(times):.0f} ms, worst {1e3 * max(times):.0f} ms"
        )
    print(f"progress moved {len(gaps)} times in {WATCH_SECONDS} s, at most {max(gaps):.1f} s apart (target 5)")


if __name__ == "__main__":
    main()

"""`python tests/benchmarks/wizard.py`: the chat while a training runs beside it, switching tabs meanwhile, how often a run moves, and
the first preview of 10,000 rows. The starter must be on disk; the training is the starter's, of rows made here."""

import json
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


def rate(client) -> float:
    """Tokens a second of one answer, as its footer says."""
    from engine.settings import ChatSettings

    settings = ChatSettings(temperature=0, max_new_tokens=TOKENS)
    answer = client.predict("Count from one to one hundred in words.", None, *BARE, *settings.model_dump().values(), api_name="/chat")
    return answer["conversation"]["turns"][-1]["facts"]["tokens_per_second"]


def rates(client) -> list[float]:
    return [rate(client) for _ in range(ANSWERS)]


def switch_times(page) -> list[float]:
    """Seconds from a press on a tab to its content on the screen."""
    times = []
    for number in range(SWITCHES):
        name = TABS[number % len(TABS)]
        times.append(
            page.evaluate(
                """name => new Promise(done => {
                  const tab = [...document.querySelectorAll('.tab-container > button[role=tab]')].find(each => each.innerText.trim() === name);
                  const began = performance.now();
                  tab.click();
                  const look = () => {
                    const panel = document.getElementById(tab.getAttribute('aria-controls'));
                    if (tab.getAttribute('aria-selected') === 'true' && panel?.offsetParent) return done((performance.now() - began) / 1000);
                    requestAnimationFrame(look);
                  };
                  requestAnimationFrame(look);
                })""",
                name,
            )
        )
    return times


def main() -> None:
    from engine import preview
    from engine.drafts import Draft, with_data

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        sentence = "The quick brown fox jumps over the lazy dog near the river. "
        rows.write_text(
            "".join(json.dumps({"instruction": f"Write number {at}.", "output": sentence * (at % 12 + 1)}) + "\n" for at in range(ROWS))
        )
        began = time.perf_counter()
        preview.first(rows)
        print(f"first preview of {ROWS:,} rows, {rows.stat().st_size / 1e6:.1f} MB: {time.perf_counter() - began:.2f} s (target 5)")
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
                    gaps = page.evaluate(
                        """seconds => new Promise(done => {
                          const bar = document.querySelector('#run progress'), gaps = [];
                          let last = bar.value, moved = performance.now();
                          const end = moved + 1000 * seconds;
                          const look = () => {
                            const now = performance.now();
                            if (bar.value !== last) { gaps.push((now - moved) / 1000); last = bar.value; moved = now; }
                            if (now < end) setTimeout(look, 50); else done(gaps);
                          };
                          look();
                        })""",
                        WATCH_SECONDS,
                    )
                finally:
                    client.predict(run, api_name="/finetune_kill")
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

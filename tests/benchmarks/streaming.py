"""`python tests/benchmarks/streaming.py`: what streaming costs the page and the server, and how fast Stop stops.

Answers of 500 to 2,000 tokens stream from the scripted backend at 100 tokens/s; the cost is the browser's main-thread
time and the CPU time of the server's process. Stop is measured in the browser on the real starter, from the click to the end on the
screen, and in tokens on the scripted backend.
"""

import re
import statistics
import sys
import time

from common import process, wait_page

# isort: split
import browser
import builders
import psutil
from pages import Page

from engine.backends.scripted import ScriptedBackend
from engine.chat import stream
from engine.messages import Conversation
from engine.settings import ChatSettings

SENTENCE = "Streaming **must** stay cheap, whatever the `length` of the answer is, and however many lines\nit has. "
STOPS = 9


def words(count: int) -> list[str]:
    """An answer of paragraphs, lists and a code block, as tokens of one word each."""
    block = (SENTENCE * 6 + "\n\n- a point\n- another point\n\n```python\nprint('code')\n```\n\n").split(" ")
    return [word + " " for word in (block * (count // len(block) + 1))[:count]]


def serve(port: int) -> None:
    """An app whose answers are of any length at 100 tokens/s, until it is ended."""
    served = Page(ScriptedBackend(words(4096), ends=False, seconds_per_token=0.0099), port=port)
    served.blocks.block_thread()


def cost(page, server: psutil.Process, count: int) -> tuple[float, float, float]:
    """Main-thread seconds in the browser, CPU seconds of the server's process, and seconds on the clock for one answer."""
    page.get_by_label("number input for Longest answer").fill(str(count))
    page.keyboard.press("Tab")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def main_thread() -> float:
        return next(each["value"] for each in session.send("Performance.getMetrics")["metrics"] if each["name"] == "TaskDuration")

    browser.clear(page)
    before, cpu, clock = main_thread(), sum(server.cpu_times()[:2]), time.perf_counter()
    browser.send(page, "Go")
    browser.wait_facts(page, f"{count} tokens", 120_000)
    return main_thread() - before, sum(server.cpu_times()[:2]) - cpu, time.perf_counter() - clock


def engine_alone(count: int) -> float:
    """The share of a core that making such tokens takes by itself, without any page."""
    backend = ScriptedBackend(words(count), seconds_per_token=0.0099)
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in stream(backend, Conversation().add("user", "Hi"), ChatSettings(max_new_tokens=4096)):
        pass
    return (time.process_time() - cpu) / (time.perf_counter() - clock)


def streaming() -> None:
    alone = engine_alone(1000)
    port = builders.free_port()
    with process([sys.executable, __file__, "--serve", str(port)]) as (child, _):
        wait_page(port)
        server = psutil.Process(child.pid)
        with browser.opened(f"http://127.0.0.1:{port}") as page:
            page.click("text=Sampling")
            cost(page, server, 200)
            cpu = sum(server.cpu_times()[:2])
            time.sleep(10)
            idle = (sum(server.cpu_times()[:2]) - cpu) / 10
            rows = {count: [cost(page, server, count) for _ in range(3)] for count in (500, 1000, 2000)}
    print(f"making the tokens takes {alone:.1%} of a core by itself, the server with an open page {idle:.1%} while nothing is asked")
    for count, runs in rows.items():
        shown, cpu, clock = (statistics.median(each) for each in zip(*runs, strict=True))
        print(
            f"{count} tokens in {clock:.1f} s ({count / clock:.0f} tokens/s): page {shown:.2f} s = {shown / clock:.0%} of its main thread,"
            f" server {cpu:.2f} s = {cpu / clock:.1%} of a core, {cpu / clock - alone:.1%} without making the tokens"
        )
    double = [statistics.median(run[0] for run in rows[count]) for count in (1000, 2000)]
    print(f"page cost of 2,000 tokens over that of 1,000: {double[1] / double[0]:.2f} (linear is 2)")


def stop_tokens() -> None:
    late = []
    for at in range(5, 50):
        backend = ScriptedBackend(["word "], ends=False, seconds_per_token=0)
        calls = iter([False] * at + [True] * 1000)
        list(stream(backend, Conversation().add("user", "Hi"), ChatSettings(max_new_tokens=4096), lambda calls=calls: next(calls)))
        late.append(backend.produced - at)
    print(f"stop: at most {max(late)} tokens after the flag (target 3), {len(late)} runs")


def stop_click() -> None:
    port = builders.free_port()
    times = []
    with process([sys.executable, "app.py", "--port", str(port)]):
        wait_page(port)
        with browser.opened(f"http://127.0.0.1:{port}") as page:
            for _ in range(STOPS):
                browser.send(page, "Tell me a long story about a guanaco in the Andes.")
                page.wait_for_function(
                    "document.body.dataset.answering === 'true' && document.querySelectorAll('#conversation .bot .block').length > 0",
                    timeout=120_000,
                )
                page.wait_for_timeout(700 + 110 * len(times))
                times.append(
                    page.evaluate("""() => new Promise(done => {
                    const started = performance.now(), view = document.querySelector('#conversation');
                    const stopped = () => [...view.querySelectorAll('.facts')].pop()?.innerText.includes('stopped');
                    new MutationObserver((_, watch) => stopped() && (watch.disconnect(), done(performance.now() - started)))
                        .observe(view, {subtree: true, childList: true, characterData: true});
                    document.querySelector('#stop').click();
                })""")
                )
                assert re.search(r"\d+ tokens", page.locator("#conversation .facts").last.inner_text())
                browser.clear(page)
    print(
        f"stop: median {statistics.median(times):.0f} ms, worst {max(times):.0f} ms from the click to the end on the screen (target 300), {STOPS} runs on the starter"
    )


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve(int(sys.argv[-1]))
    stop_tokens()
    if "--page" not in sys.argv:
        stop_click()
    streaming()

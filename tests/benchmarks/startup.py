"""`python tests/benchmarks/startup.py`: from the command to a page, against a three-line Gradio app, and to a first token.

Both apps take turns, so that the ratio holds when the machine's speed drifts. The starter must be on disk already.
"""

import json
import statistics
import sys
import time
import urllib.request

from common import process, wait_page

# isort: split
import builders
from pages import BARE

RUNS = 7
HELLO = "import gradio as gr\ngr.Interface(lambda text: text, 'text', 'text').launch(server_port={port}, quiet=True)\n"


def page_seconds(command: list[str], port: int) -> float:
    with process(command) as (_, started):
        wait_page(port)
        return time.perf_counter() - started


def first_token_seconds() -> tuple[float, float]:
    """Seconds to a page and to the first token of the first answer, asked as soon as the page answers."""
    from engine.guanaco_mini import GUANACO_MINI
    from engine.settings import ChatSettings

    port = builders.free_port()
    with process([sys.executable, "app.py", "--port", str(port)]) as (_, started):
        wait_page(port)
        page = time.perf_counter() - started
        base = f"http://127.0.0.1:{port}"
        config = json.load(urllib.request.urlopen(base + "/config"))
        chat = next(each["id"] for each in config["dependencies"] if each["api_name"] == "chat")
        values = [field.default for field in ChatSettings.model_fields.values()]
        data = ["What is the capital of France?", None, GUANACO_MINI, *BARE[1:], *values]
        body = json.dumps({"fn_index": chat, "session_hash": "bench", "data": data}).encode()
        urllib.request.urlopen(urllib.request.Request(base + "/gradio_api/queue/join", body, {"Content-Type": "application/json"})).read()
        for line in urllib.request.urlopen(base + "/gradio_api/queue/data?session_hash=bench"):
            event = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
            view = ((event.get("output") or {}).get("data") or [{}])[0]
            if isinstance(view, dict) and any(turn.get("role") == "assistant" and turn.get("blocks") for turn in view.get("turns") or ()):
                return page, time.perf_counter() - started
    raise SystemExit("no answer came")


def main() -> None:
    ours, hellos = [], []
    for _ in range(RUNS):
        port = builders.free_port()
        hellos.append(page_seconds([sys.executable, "-c", HELLO.format(port=port)], port))
        port = builders.free_port()
        ours.append(page_seconds([sys.executable, "app.py", "--port", str(port)], port))
    ratio = statistics.median(mine / hello for mine, hello in zip(ours, hellos, strict=True))
    print(
        f"page: app {statistics.median(ours):.2f} s, hello world {statistics.median(hellos):.2f} s, ratio {ratio:.2f} (target at most 1.5), {RUNS} runs each"
    )
    tokens = [first_token_seconds() for _ in range(RUNS)]
    print(
        f"first token of the first answer: median {statistics.median(token for _, token in tokens):.1f} s, worst {max(token for _, token in tokens):.1f} s after the command (target 15), {RUNS} runs"
    )


if __name__ == "__main__":
    main()

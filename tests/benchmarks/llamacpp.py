"""llama.cpp through the engine and the app against a bare llama.cpp server, against bitsandbytes' NF4, and eight chats at once.

Needs the starter under GUANACO_HOME in both forms (`python -m engine chat --backend transformers Hi` makes the second).
"""

import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import ROOT, process, wait_page
from llama_servers import LlamaServer

from engine import models
from engine.backends.llamacpp import LlamaCppBackend
from engine.blend import BASE, Blend
from engine.chat import stream
from engine.messages import Conversation
from engine.settings import ChatSettings, LoadSettings

ROUNDS = 5
TOKENS = 128
STORY = Conversation().add("user", "Write a long story about a llama that crosses the mountains, with many details.")
GREEDY = ChatSettings(temperature=0, max_new_tokens=TOKENS)
TOPICS = "the sea, a train, old letters, a garden, two brothers, the winter, a lost key, the market".split(", ")


def opened(slots: int, **load) -> LlamaCppBackend:
    return LlamaCppBackend(models.resolve("starter"), LoadSettings(**load), lambda progress: None, slots)


def answered(backend, conversation=STORY, settings=GREEDY, blend=BASE, cold=True):
    return list(stream(backend, conversation, settings, blend=blend, cold=cold))[-1]


def pace_of_server(server, ids: list[int]) -> float:
    body = {"prompt": ids, "n_predict": TOKENS, "temperature": 0, "cache_prompt": False}
    return server.post("completion", body)["timings"]["predicted_per_second"]


def pace_of_app(client) -> float:
    view = client.predict(message=STORY.messages[0].text, conversation=None, temperature=0, max_new_tokens=TOKENS, api_name="/chat")
    return float(re.search(r"([\d.]+) tokens/s", view["turns"][-1]["facts"]).group(1))


@contextlib.contextmanager
def app():
    """The app on the starter, and a Gradio client of it once the model is loaded."""
    from builders import free_port
    from gradio_client import Client

    port = free_port()
    with process([sys.executable, "app.py", "--port", str(port)]):
        wait_page(port)
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        while "chip ready" not in str(client.predict(api_name="/status")):
            time.sleep(0.5)
        yield client


def against_a_bare_server() -> None:
    with contextlib.closing(opened(8)) as backend, LlamaServer(backend.header.path) as bare, app() as client:
        ids = backend.encode(STORY, "chat").content
        pace_of_server(bare, ids), answered(backend), pace_of_app(client)
        rows = [(pace_of_server(bare, ids), answered(backend).tokens_per_second, pace_of_app(client)) for _ in range(ROUNDS)]
    for name, column in (("engine", 1), ("app", 2)):
        ratio = statistics.median(row[column] / row[0] for row in rows)
        print(
            f"{name} over bare llama.cpp: {ratio:.2f} ({[round(row[column], 1) for row in rows]} over {[round(row[0], 1) for row in rows]})"
        )


def against_nf4() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from engine.backends.pretrained import bits_and_bytes, keep_exact

    folder = models.resolve("starter").folder
    kwargs = {"quantization_config": bits_and_bytes(LoadSettings(), torch.float32), "dtype": torch.float32, "device_map": {"": "cpu"}}
    with contextlib.closing(opened(1)) as backend:
        ids = torch.tensor([backend.encode(STORY, "chat").content])
        ours = [answered(backend).tokens_per_second for _ in range(3)]
        for exact in (True, False):
            model = AutoModelForCausalLM.from_pretrained(folder, **kwargs).eval()
            if exact:
                keep_exact(model)
            paces = []
            for _ in range(3):
                started = time.perf_counter()
                made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, min_new_tokens=24, do_sample=False)
                paces.append((made.shape[1] - ids.shape[1]) / (time.perf_counter() - started))
            name = "exact weights" if exact else "bitsandbytes' own repacking where this processor has it"
            theirs = statistics.median(paces)
            print(f"engine over generate() on NF4, {name}: {statistics.median(ours) / theirs:.1f} ({theirs:.1f} tokens/s)")


def eight_at_once(layout: str) -> None:
    with contextlib.closing(opened(8, layout=layout)) as backend:
        conversations = [Conversation().add("user", f"Write a long story about {topic}, with many details, please.") for topic in TOPICS]
        for conversation in conversations[:2]:
            answered(backend, conversation)
        totals, firsts, gaps, alone, lone_first = [], [], [], [], []
        for _ in range(ROUNDS):
            lone = answered(backend, conversations[0])
            alone.append(lone.tokens_per_second)
            lone_first.append(lone.ttft_seconds)
            moments: list[list[float]] = [[] for _ in conversations]

            def listen(place: int, moments=moments) -> None:
                prompt = backend.encode(conversations[place], "chat")
                for delta in backend.generate(prompt, GREEDY, 1, BASE, lambda: False, True):
                    moments[place] += [time.perf_counter()] * bool(delta.tokens)

            threads = [threading.Thread(target=listen, args=(place,)) for place in range(8)]
            started = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            begun = max(each[0] for each in moments)
            ended = min(each[-1] for each in moments)
            totals.append(sum(begun <= moment <= ended for each in moments for moment in each) / (ended - begun))
            firsts.append((begun - started) / lone.ttft_seconds)
            gaps.append(max(right - left for each in moments for left, right in zip(each, each[1:], strict=False)))
    together = statistics.median(total / one for total, one in zip(totals, alone, strict=True))
    print(
        f"eight chats over one, {layout}: {together:.2f} ({statistics.median(totals):.0f} over {statistics.median(alone):.0f} tokens/s); longest pause "
        f"{max(gaps):.2f} s; last first token {statistics.median(firsts):.1f} times a lone chat's (worst {max(firsts):.1f})"
    )


def second_turn() -> None:
    with contextlib.closing(opened(8)) as backend:
        history = Conversation()
        number = 0
        while backend.encode(history.add("user", "x"), "chat").tokens < 1500:
            number += 1
            history = history.add("user", f"Tell me fact number {number} about rivers, lakes and seas.")
            history = history.add(
                "assistant", f"Fact {number}: water flows from high ground to low ground, and {number * 37} litres are not much."
            )
        short = ChatSettings(temperature=0, max_new_tokens=8)
        shares = []
        for round_ in range(ROUNDS):
            turn = history.add("user", f"Which fact was the best of all, in round {round_}?")
            cold = answered(backend, turn, short)
            said = turn.add("assistant", cold.text).add("user", "And why?")
            warm = answered(backend, said, short, cold=False)
            again = answered(backend, said, short)
            shares.append(warm.ttft_seconds / again.ttft_seconds)
        print(
            f"first token of a second turn on {again.prompt_tokens} tokens, warm over cold: {statistics.median(shares):.0%} (cold {again.ttft_seconds:.1f} s)"
        )


def with_an_adapter() -> None:
    import builders

    folder = models.resolve("starter").folder
    with tempfile.TemporaryDirectory() as place, contextlib.closing(opened(1)) as backend:
        for rank in (16, 64):
            adapter = str(builders.adapter(Path(place) / f"rank-{rank}", "starter", folder, rank=rank))
            backend.attach(adapter)
            answered(backend, blend=Blend.of([adapter]))
            rows = [
                answered(backend, blend=Blend.of([adapter])).tokens_per_second / answered(backend).tokens_per_second for _ in range(ROUNDS)
            ]
            print(f"with an adapter of rank {rank} on all layers over the base: {statistics.median(rows):.2f}")


def start() -> None:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "engine", "chat", "--max-new-tokens", "1", "Hi"], cwd=ROOT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    print(f"command line, from the start to the end of one token: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")


if __name__ == "__main__":
    start()
    against_a_bare_server()
    second_turn()
    eight_at_once("sharper")
    eight_at_once("faster")
    with_an_adapter()
    against_nf4()

"""`python tests/benchmarks/layouts.py [PUBLISHED.jsonl]`: the faster layout of the starter against the file as shipped.

Both take turns, one chat and eight chats at once. Perplexity is on our own text, and on published answers where a file of them
(QLoRA's `answer_gpt4.jsonl`, with `vicuna_questions.jsonl`) is given or lies in the shared data. The starter must be on disk already.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from common import ROOT
from llama_servers import LlamaServer

from engine import layouts, measuring, paths

ROUNDS = 5
CHATS = 8
PUBLISHED = ROOT.parent / "shared" / "data" / "qlora" / "eval" / "generations" / "vicuna" / "answer_gpt4.jsonl"
ANSWERS, MAX_TOKENS = 12, 512


def together(server: LlamaServer, pool: ThreadPoolExecutor) -> float:
    """Tokens a second of eight chats at once, all counted, from the first request to the last answer."""
    prompt = measuring.tokenized(server, measuring.TEXT)

    def ask(chat: int) -> None:
        body = {"prompt": prompt[16 * chat :][:16], "n_predict": 48, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        server.post("completion", body)

    start = time.perf_counter()
    list(pool.map(ask, range(CHATS)))
    return CHATS * 48 / (time.perf_counter() - start)


def published_perplexity(path: Path, answers: Path) -> tuple[float, int]:
    """Of the first twelve published answers, each to its question in the model's own template; by torch, from the file's weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    questions = answers.parents[2] / "prompts" / "vicuna_questions.jsonl"
    asked = {each["question_id"]: each["text"] for each in map(json.loads, questions.read_text().splitlines())}
    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(paths.models() / "starter" / "transformers")
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    loss, tokens = 0.0, 0
    for each in map(json.loads, answers.read_text().splitlines()[:ANSWERS]):
        messages = [{"role": "user", "content": asked[each["question_id"]]}]
        prompt = tokenizer(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)).input_ids
        ids = torch.tensor([(prompt + tokenizer(each["text"]).input_ids)[:MAX_TOKENS]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
        loss += torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item()
        tokens += len(logits)
    return math.exp(loss / tokens), tokens


def main() -> None:
    shipped = next((paths.models() / "starter" / "gguf").glob("*.gguf"))
    answers = Path(sys.argv[1]) if len(sys.argv) > 1 else PUBLISHED
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(CHATS) as pool, ExitStack() as stack:
        start = time.perf_counter()
        faster = layouts.relay(shipped, Path(folder) / "faster", lambda event: None)
        print(
            f"laid anew in {time.perf_counter() - start:.1f} s: {faster.stat().st_size / 1e6:.1f} of {shipped.stat().st_size / 1e6:.1f} MB"
        )
        alone = [stack.enter_context(LlamaServer(each)) for each in (shipped, faster)]
        eight = [stack.enter_context(LlamaServer(each, CHATS)) for each in (shipped, faster)]
        one_speeds, eight_speeds = [], []
        for turn in range(-1, ROUNDS):
            figures = [measuring.speed(each) for each in alone], [together(each, pool) for each in eight]
            if turn >= 0:  # the first round reads the files from the disk
                one_speeds.append(figures[0])
                eight_speeds.append(figures[1])
                print(
                    f"round {turn + 1}: one {figures[0][0]:.0f} / {figures[0][1]:.0f}, eight {figures[1][0]:.0f} / {figures[1][1]:.0f} tokens/s"
                )
        for name, speeds in (("one chat", one_speeds), (f"{CHATS} chats at once", eight_speeds)):
            medians = [statistics.median(each) for each in zip(*speeds, strict=True)]
            ratio = statistics.median(fast / slow for slow, fast in speeds)
            print(f"{name}: faster {medians[1]:.1f}, as shipped {medians[0]:.1f} tokens/s, ratio {ratio:.2f}, {ROUNDS} pairs")
        gains = [statistics.median(many[at] / one[at] for one, many in zip(one_speeds, eight_speeds, strict=True)) for at in (0, 1)]
        print(f"{CHATS} chats over one: as shipped {gains[0]:.2f}, faster {gains[1]:.2f}")
        sharp, fast = (measuring.perplexity(each) for each in alone)
        print(f"perplexity on our text: faster {fast:.2f}, as shipped {sharp:.2f}, ratio {fast / sharp:.3f}")
        if answers.is_file():
            (sharp, tokens), (fast, _) = (published_perplexity(each, answers) for each in (shipped, faster))
            print(f"perplexity on {tokens:,} published tokens: faster {fast:.2f}, as shipped {sharp:.2f}, ratio {fast / sharp:.3f}")


if __name__ == "__main__":
    main()

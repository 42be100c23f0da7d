"""`python tests/benchmarks/training.py [--steps 120] [--pairs 1]`: finetuning the starter against TRL's SFTTrainer, same rows.

NF4 with double quantization, float32, LoRA r 16 on all linear layers, rate 2e-4, batch 4, rows cut to 256 tokens. Both sides
are processes of their own and see the same token ids and targets. Needs the starter on disk, `../shared/data`, and
`pip install trl`. Losses are means over the 40 held-out rows' targets.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import common

from engine import models, prompts, rows, runs, tokenizer_files
from engine.events import Evaluated, Step
from engine.recipe import Recipe
from engine.runs import Run

DATA = common.ROOT.parent / "shared" / "data" / "instruct" / "alpaca.json"
HELD_OUT, LENGTH, BATCH, RANK, ALPHA, DROPOUT, RATE = 40, 256, 4, 16, 32, 0.0, 2e-4


def recipe(steps: int, activation_checkpointing: bool = False) -> Recipe:
    """The comparison's recipe, as this project says it."""
    fields = {
        "lora": {"r": RANK, "alpha": ALPHA, "dropout": DROPOUT},
        "data": {"source": str(DATA), "prompt_format": "chat", "max_length": LENGTH, "held_out": HELD_OUT, "held_out_from": "last"},
        "optimization": {
            "optimizer": "adamw_torch",
            "learning_rate": RATE,
            "schedule": "linear",
            "max_grad_norm": 1.0,
            "batch": BATCH,
            "steps": steps,
        },
        "memory": {"activation_checkpointing": activation_checkpointing},
        "cadence": {"save_every": 1_000_000, "eval_every": 1_000_000},
    }
    return Recipe.model_validate(fields)


def tokens(path: Path, plan: Recipe) -> Path:
    """The rows as this project makes them, for the other side."""
    spec = models.resolve(plan.model)
    tokenizer = tokenizer_files.opened(spec, lambda progress: None)
    found = rows.encoded(plan.data, rows.read(plan.data, print), 0, tokenizer, prompts.prompt_format("chat"), print)
    sides = {
        name: [{"input_ids": row.ids, "completion_mask": [int(learnt) for learnt in row.learn]} for row in part]
        for name, part in (("train", found.train), ("held_out", found.held_out))
    }
    settings = {"batch": BATCH, "learning_rate": RATE, "max_length": LENGTH, "r": RANK, "alpha": ALPHA, "dropout": DROPOUT}
    path.write_text(json.dumps(sides | settings))
    return path


def run(command: list[str], folder: Path) -> tuple[str, int]:
    """What a process printed, and the most memory it held, in bytes."""
    with open(folder / "out", "w+") as out:
        process = subprocess.Popen(command, cwd=common.ROOT, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, command
        out.seek(0)
        return out.read(), usage.ru_maxrss * 1024


def ours(plan: Recipe, folder: Path) -> dict:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(plan.to_yaml())
    command = [sys.executable, "-m", "engine", "train", str(folder / "recipe.yaml"), "--run-dir", str(folder / "run")]
    _, peak = run(command, folder)
    events = runs.all_events(Run(folder / "run"))
    losses = [event.loss for event in events if isinstance(event, Evaluated)]
    last = [event for event in events if isinstance(event, Step)][-1]
    return {"tokens_per_second": last.tokens_per_second, "before": losses[0], "after": losses[-1], "peak": peak}


def theirs(file: Path, steps: int, folder: Path) -> dict:
    model = models.resolve("starter").folder
    text, peak = run([sys.executable, str(Path(__file__).with_name("trl_side.py")), str(file), str(model), str(steps)], folder)
    return json.loads(text.strip().splitlines()[-1]) | {"peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--pairs", type=int, default=1)
    asked = parser.parse_args()
    ways = {
        "the engine": recipe(asked.steps),
        "with activation checkpointing": recipe(asked.steps, activation_checkpointing=True),
    }
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = tokens(folder / "rows.json", next(iter(ways.values())))
        for pair in range(asked.pairs):
            peer = theirs(file, asked.steps, folder)
            _print("TRL", peer)
            for name, plan in ways.items():
                mine = ours(plan, folder / f"{name}-{pair}")
                ratios[name].append(mine["tokens_per_second"] / peer["tokens_per_second"])
                _print(name, mine)
                off = mine["after"] / peer["after"] - 1
                print(f"  {ratios[name][-1]:.2f} times TRL, loss {off:+.1%}, peak {mine['peak'] / peer['peak']:.2f} of TRL's", flush=True)
    for name, found in ratios.items():
        print(f"{name}: {statistics.median(found):.2f} times TRL's real tokens/s, median of {len(found)}")


def _print(name: str, side: dict) -> None:
    fallen = 1 - side["after"] / side["before"]
    print(
        f"{name}: {side['tokens_per_second']:.1f} real tokens/s, held-out loss {side['before']:.4f} -> {side['after']:.4f} (-{fallen:.1%}),"
        f" peak {side['peak'] / 1e9:.2f} GB",
        flush=True,
    )


if __name__ == "__main__":
    main()

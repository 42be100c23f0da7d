"""What the memory planner foretells of trainings on the starter, against what they take: `python tests/benchmarks/planner.py`.

Every recipe trains three steps in a process of its own, on rows that fill its length. Growth is the highest resident memory less
that before anything was loaded, with all libraries imported; the plan's runtime part stands for these and is left out.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import common

RECIPES = {
    "batch 4, 256 tokens": {},
    "batch 1, 256 tokens": {"batch": 1},
    "batch 4, 128 tokens": {"max_length": 128},
    "batch 2, 512 tokens, r 64": {"batch": 2, "max_length": 512, "r": 64},
    "checkpointing": {"checkpointing": True},
    "batch 8, 64 tokens, r 8, checkpointing": {"batch": 8, "max_length": 64, "r": 8, "checkpointing": True},
    "packed weights, 1 row of 256": {"batch": 1, "base_weights": "packed"},
    "paged 8-bit AdamW, r 64, 1 row of 512": {"batch": 1, "max_length": 512, "r": 64, "optimizer": "paged_adamw_8bit"},
    "SGD, dropout 0, 1 row of 512": {"batch": 1, "max_length": 512, "optimizer": "sgd", "dropout": 0.0},
}


def _recipe(rows: Path, batch=4, max_length=256, r=16, checkpointing=False, base_weights="unpacked", optimizer="adamw_torch", dropout=0.05):
    from engine.recipe import Recipe

    return Recipe.model_validate(
        {
            "model": "starter",
            "quantization": {"compute_dtype": "float32"},
            "lora": {"r": r, "alpha": 32, "dropout": dropout},
            "data": {"source": str(rows), "prompt_format": "chat", "max_length": max_length, "held_out": 2},
            "optimization": {"optimizer": optimizer, "batch": batch, "steps": 3},
            "memory": {"activation_checkpointing": checkpointing, "base_weights": base_weights},
        }
    )


def _measure(options: dict) -> None:
    """In the child: train, and print the growth of memory in bytes."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import psutil
    from transformers import Trainer, TrainingArguments  # noqa: F401

    from engine import runs, train

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        long = " ".join(f"Item {number} of the list is a good thing to say." for number in range(200))
        rows.write_text("".join(json.dumps({"instruction": f"Say list {number}.", "output": long}) + "\n" for number in range(40)))
        run = runs.create(Path(folder) / "run", _recipe(rows, **options))
        before = psutil.Process().memory_info().rss
        train.train(run, lambda event: None)
    status = Path("/proc/self/status").read_text()
    highest = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    print(highest - before)


def main() -> None:
    from engine import hardware, memory, models

    shape, machine = models.resolve("starter").shape, hardware.machine()
    rows, errors = [], []
    print("| recipe | foretold MB | measured MB | error |\n|---|---:|---:|---:|")
    for name, options in RECIPES.items():
        plan = memory.training_plan(shape, _recipe(Path("rows.jsonl"), **options), machine)
        foretold = plan.total - next(part.bytes for part in plan.parts if part.name == "runtime")
        command = [sys.executable, __file__, json.dumps(options)]
        measured = int(subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True, check=True).stdout.split()[-1])
        errors.append(foretold / measured - 1)
        rows.append((name, f"{foretold / 1e6:,.0f}", f"{measured / 1e6:,.0f}", f"{errors[-1]:+.0%}"))
        print("| " + " | ".join(rows[-1]) + " |", flush=True)
    sizes = sorted(map(abs, errors))
    print(f"\nmedian error {statistics.median(sizes):.0%}, worst {sizes[-1]:.0%}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _measure(json.loads(sys.argv[1]))
    else:
        main()

"""Small recipes, rows and runs for the tests of training."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from engine import jobs, runs, toy
from engine.events import Event, Step
from engine.examples import Example
from engine.recipe import Recipe
from engine.runs import Run

# Without locks and at the tests' own priority.
trained = jobs.trained_here
ROOT = Path(__file__).resolve().parents[1]
STEPS = 6
# A dozen questions and answers, or as many as asked for.
data = toy.rows


@st.composite
def examples(draw, longest: int = 40):
    """Rows as tokens, at least the last of which is a target."""
    ids = draw(st.lists(st.integers(0, 255), min_size=2, max_size=longest))
    learn = draw(st.lists(st.booleans(), min_size=len(ids) - 1, max_size=len(ids) - 1))
    return Example(tuple(ids), (False, *learn[:-1], True), 0)


def plan(model: Path, source: Path | str, **sections: dict) -> Recipe:
    """A recipe of `STEPS` steps on CPU; `sections` overrides single fields, as in `lora={"r": 2}`."""
    fields: dict = {
        "model": str(model),
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "data": {"source": str(source), "max_length": 96, "held_out": 3, "held_out_from": "last", "prompt_format": "chat"},
        "optimization": {"optimizer": "adamw_torch", "learning_rate": 0.01, "batch": 4, "steps": STEPS, "max_grad_norm": 1.0},
        "memory": {"activation_checkpointing": False},
        "samples": {"prompts": ["Count 1"], "max_new_tokens": 4},
        "cadence": {"save_every": 2, "eval_every": 3},
    }
    for name, section in sections.items():
        fields[name] = {**fields.get(name, {}), **section}
    return Recipe.model_validate(fields)


def prepared(plan: Recipe):
    """What a recipe trains (`engine.trainee.Trainee`), loaded."""
    from engine import trainable, trainee

    return trainee.prepare(plan, trainable.base(plan.model), lambda progress: None)


def written(plan: Recipe, path: Path) -> Path:
    path.write_text(plan.to_yaml(), encoding="utf-8")
    return path


def fresh(plan: Recipe, folder: Path) -> Run:
    return runs.create(folder, plan)


def stop_after(run: Run, step: int) -> Callable[[Event], None]:
    """Asks a run to stop as soon as that step is made."""
    return lambda event: run.ask_to_stop(os.getpid()) if getattr(event, "step", None) == step and type(event) is Step else None


def started(recipe_file: Path, folder: Path, *options: str, **environment: str) -> subprocess.Popen:
    """`python -m engine train` as a process."""
    return begun([sys.executable, "-m", "engine", "train", str(recipe_file), "--run-dir", str(folder), *options], **environment)


def begun(command: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(happened, process: subprocess.Popen, seconds: float = 120) -> None:
    """Until `happened()` is true, or fail with what the process said."""
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def adapter_bytes(run: Run) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()

"""How the curves beside this file were recorded: `python tests/curves/record.py [NAME…]`. Real runs of the starter, two healthy and
the others made to go wrong, on the project's own rows; each gives NAME.jsonl (events) and NAME.yaml (recipe).

A 32-bit run of the starter never made a number that is none, whatever its learning rate: it collapses to a loss that stands still.
So one run's loss is spoilt from the step that SPOILT names on, as damaged memory would."""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from engine import guanaco_mini, jobs, passes, runs  # noqa: E402
from engine.events import Event, Step  # noqa: E402
from engine.recipe import Recipe  # noqa: E402

CURVES: dict[str, dict] = {
    "healthy": {},
    "healthy-single-rows": {"optimization": {"batch": 1, "steps": 40, "learning_rate": 5e-4}, "cadence": {"eval_every": 10}},
    "rate-too-high": {"optimization": {"learning_rate": 0.05}},
    "collapsed": {
        "optimization": {"optimizer": "sgd", "learning_rate": 1.0, "max_grad_norm": 0, "steps": 20},
        "lora": {"alpha": 4096},
    },
    "overfitting": {"rows": 16, "lora": {"dropout": 0.0}, "optimization": {"steps": 36, "learning_rate": 3e-3}},
    "not-a-number": {},
    "hardly-learnt": {"optimization": {"learning_rate": 1e-7}},
    "cut-off": {"data": {"max_length": 80}},
    "too-few-steps": {"optimization": {"steps": 8}},
    "not-evaluated": {"data": {"held_out": 0}},
    "questions-learnt": {"data": {"learn": "everything"}},
}
SPOILT = {"not-a-number": 11}


def recipe(source: Path, rows: int = 0, **sections: dict) -> Recipe:
    """The starter for 24 steps on the shortest rows; `sections` override single fields."""
    fields: dict = {
        "model": "starter",
        "quantization": {"compute_dtype": "float32"},
        "data": {"source": str(source), "format": "messages", "prompt_format": "chat", "max_length": 128, "held_out": 8},
        "optimization": {"optimizer": "adamw_torch", "learning_rate": 1e-3, "batch": 2, "steps": 24, "max_grad_norm": 1.0},
        "memory": {"activation_checkpointing": False},
        "cadence": {"save_every": 100, "eval_every": 6},
    }
    for name, section in sections.items():
        fields[name] = {**fields.get(name, {}), **section}
    return Recipe.model_validate(fields)


def record(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = sorted(guanaco_mini.ROWS.read_text(encoding="utf-8").splitlines(), key=len)
        source = Path(folder) / "rows.jsonl"
        source.write_text("\n".join(lines[: CURVES[name].get("rows", 48)]), encoding="utf-8")
        run = runs.create(Path(folder) / name, recipe(source, **CURVES[name]))
        honest = passes.summed_loss

        def spoil(event: Event) -> None:
            if isinstance(event, Step) and event.step + 1 == SPOILT.get(name):
                passes.summed_loss = lambda learner, part: honest(learner, part) * float("inf")

        jobs.trained_here(run, spoil)
        passes.summed_loss = honest
        events = [json.loads(line) for line in run.events.read_text(encoding="utf-8").splitlines()]
        for event in events:
            if "text" in event:
                event["text"] = event["text"].replace(folder, "")
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events), encoding="utf-8")
        kept = run.recipe.with_data(source.name)
        (HERE / f"{name}.yaml").write_text(kept.to_yaml(), encoding="utf-8")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CURVES:
        record(wanted)

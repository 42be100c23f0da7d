"""What only a GPU shows: `python tests/benchmarks/gpu.py [LAYERS]`, on a machine that has one.

A random Llama of LLaMA 7B's width, of 32 layers unless told otherwise. The memory that the planner foretells of trainings against what
torch takes, seconds per step, and the chat's tokens per second against transformers' own `generate`.
"""

import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import common

assert common

HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 4096, 11008, 32, 32_000
STEPS, WARM_UP = 5, 2
ANSWER, ROUNDS = 64, 3
RECIPES = {
    "1 row of 512, checkpointing": {},
    "2 rows": {"rows": 2},
    "4 rows": {"rows": 4},
    "8 rows": {"rows": 8},
    "1 row of 1,024": {"length": 1024},
    "1 row, r 16, dropout 0": {"r": 16, "dropout": 0.0},
    "4 rows, dropout 0": {"rows": 4, "dropout": 0.0},
    "1 row, float16": {"dtype": "float16"},
    "1 row, float32": {"dtype": "float32"},
    "4 rows, float32": {"rows": 4, "dtype": "float32"},
    "1 row, all activations kept": {"checkpointing": False},
    "4 rows, all activations kept": {"rows": 4, "checkpointing": False},
    "4 rows, all activations kept, dropout 0": {"rows": 4, "checkpointing": False, "dropout": 0.0},
    "1 row, 16-bit base": {"kind": "none"},
    "4 rows, 16-bit base": {"kind": "none", "rows": 4},
    "1 row, AdamW not paged": {"optimizer": "adamw_torch"},
    "1 row, 8-bit AdamW": {"optimizer": "adamw_8bit"},
}


def base(folder: Path, layers: int) -> Path:
    """Random float16 weights, written layer by layer; a token of it is a byte."""
    import torch
    from safetensors.torch import save_file

    from engine import toy

    tokenizer = toy.byte_tokenizer()
    tokenizer.save_pretrained(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    where = {}

    def write(name: str, matrices: dict[str, tuple[int, int]], norms: list[str]) -> None:
        tensors = {key: (torch.randn(size, device="cuda") * 0.02).half().cpu() for key, size in matrices.items()}
        tensors |= {key: torch.ones(HIDDEN, dtype=torch.float16) for key in norms}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        where.update(dict.fromkeys(tensors, name))

    ends = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    write("model-ends.safetensors", ends, ["model.norm.weight"])
    for layer in range(layers):
        at = f"model.layers.{layer}"
        matrices = {f"{at}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        matrices |= {f"{at}.mlp.{name}_proj.weight": (INTERMEDIATE, HIDDEN) for name in ("gate", "up")}
        matrices[f"{at}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        write(f"model-{layer}.safetensors", matrices, [f"{at}.input_layernorm.weight", f"{at}.post_attention_layernorm.weight"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def recipe(
    model: Path,
    data: Path,
    rows=1,
    length=512,
    r=64,
    dropout=0.1,
    dtype="bfloat16",
    kind="nf4",
    checkpointing=True,
    optimizer="paged_adamw_32bit",
):
    """That of the published Guanaco 7B, with two passes a step."""
    from engine.recipe import Recipe

    return Recipe.model_validate(
        {
            "model": str(model),
            "quantization": {"kind": kind, "double": True, "compute_dtype": dtype},
            "lora": {"r": r, "alpha": 16, "dropout": dropout},
            "data": {"source": str(data), "prompt_format": "plain", "max_length": length, "held_out": 0, "learn": "everything"},
            "optimization": {"optimizer": optimizer, "batch": 2 * rows, "accumulation": 2, "steps": STEPS},
            "memory": {"activation_checkpointing": checkpointing},
        }
    )


def training(model: Path, folder: Path) -> None:
    """A table: of each recipe what is foretold, what tensors took and what torch held at most, and the time of a step."""
    import torch

    from engine import hardware, memory, models, runs, train
    from engine.events import Step
    from engine.model_files import read_config

    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps({"instruction": f"Say {number}.", "output": "one two " * 300}) + "\n" for number in range(32)))
    spec = models.resolve(str(model))
    shape = models.described(spec, read_config(spec.folder)).shape
    errors = []
    print("| recipe | foretold GB | tensors GB | held GB | error | s a step |\n|---|---:|---:|---:|---:|---:|", flush=True)
    for index, (name, options) in enumerate(RECIPES.items()):
        made, steps = recipe(model, data, **options), []
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        train.train(runs.create(folder / f"run-{index}", made), lambda event, steps=steps: isinstance(event, Step) and steps.append(event))
        foretold = memory.training_plan(shape, made, hardware.machine()).resident - memory.RUNTIME_BYTES
        held, each = steps[-1].memory, statistics.median(step.seconds for step in steps[WARM_UP:])
        errors.append(foretold / held - 1)
        sizes = [f"{size / hardware.GIB:.2f}" for size in (foretold, torch.cuda.max_memory_allocated(), held)]
        print("| " + " | ".join((name, *sizes, f"{errors[-1]:+.0%}", f"{each:.2f}")) + " |", flush=True)
    sizes = sorted(map(abs, errors))
    print(f"\nmedian error {statistics.median(sizes):.0%}, worst {sizes[-1]:.0%}\n", flush=True)


def chat(model: Path) -> None:
    """Tokens a second of the app's own loop and of transformers' `generate` on the same loaded model, greedy, medians of rounds in turn."""
    import torch

    from engine import models
    from engine.backends import open_backend
    from engine.backends.base import Prompt
    from engine.blend import BASE
    from engine.settings import ChatSettings, LoadSettings

    for kind in ("nf4", "none"):
        load = LoadSettings(backend="transformers", quantization=kind)
        backend = open_backend(models.resolve(str(model)), load, lambda progress: None)
        backend._end_ids = set()  # random weights may end an answer at any token
        asked = list(range(3, 35))
        settings = ChatSettings(temperature=0, max_new_tokens=ANSWER)
        ids = torch.tensor([asked], device="cuda")

        def ours(settings=settings, asked=asked, backend=backend) -> None:
            prompt = Prompt(len(asked), asked)
            assert sum(delta.tokens for delta in backend.generate(prompt, settings, 0, BASE, lambda: False)) == ANSWER

        def theirs(ids=ids, model=backend.base.model) -> None:
            with torch.inference_mode():
                made = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=ANSWER, max_new_tokens=ANSWER
                )
            assert made.shape[1] == ids.shape[1] + ANSWER

        paces = {ours: [], theirs: []}
        for made in (ours, theirs) * (ROUNDS + 1):
            torch.cuda.synchronize()
            began = time.perf_counter()
            made()
            torch.cuda.synchronize()
            paces[made].append(ANSWER / (time.perf_counter() - began))
        mine, others = (statistics.median(found[1:]) for found in paces.values())
        print(f"chat, {kind}: {mine:.1f} tokens/s, `generate` {others:.1f}: {mine / others:.2f} times", flush=True)
        backend.close()


def main() -> None:
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "base").mkdir()
        model = base(Path(folder) / "base", layers)
        chat(model)
        training(model, Path(folder))


if __name__ == "__main__":
    main()

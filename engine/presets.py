"""PRESETS: recipes by name, with the published values of Guanaco and OpenOrca, versions for a T4 of 15 GB, and the starter's.

Published values: QLoRA, table 9 and appendix B.2, with `scripts/finetune_guanaco_*.sh` of artidoro/qlora; the model cards of
uwnlp/llama-2-*-qlora-openorca.
"""

from engine import guanaco_mini
from engine.errors import BadInput
from engine.model_spec import STARTER
from engine.recipe import CadenceRecipe, DataRecipe, LoraRecipe, MemoryRecipe, OptimizationRecipe, QuantizationRecipe, Recipe, SamplesRecipe

_GUANACO_DATA = "timdettmers/openassistant-guanaco"
_OPENORCA_DATA = "Open-Orca/OpenOrca"
QUESTIONS = ["What is a guanaco?", "Explain in two sentences why the sky is blue.", "Write a short poem about the Andes."]
_BF16 = QuantizationRecipe(kind="nf4", double=True, compute_dtype="bfloat16")
# A T4 has no bfloat16: what is computed in 16 bits is computed in float16, what is learnt is held in float32.
_FP16 = QuantizationRecipe(kind="nf4", double=True, compute_dtype="float16")


def _published(
    model: str,
    large: bool,
    batch: int,
    steps: int,
    data: DataRecipe,
    cadence: CadenceRecipe,
    quantization: QuantizationRecipe,
    optimizer: str,
) -> Recipe:
    """What all published recipes share. `large`: those beyond 13 billion parameters, with half the rate and dropout."""
    return Recipe(
        model=model,
        quantization=quantization,
        lora=LoraRecipe(r=64, alpha=16, dropout=0.05 if large else 0.1),
        data=data,
        optimization=OptimizationRecipe(
            optimizer=optimizer,
            learning_rate=1e-4 if large else 2e-4,
            schedule="constant",
            beta2=0.999,
            max_grad_norm=0.3,
            batch=batch,
            accumulation=batch,
            steps=steps,
        ),
        samples=SamplesRecipe(prompts=QUESTIONS, max_new_tokens=128),
        cadence=cadence,
    )


def _guanaco(size: str, quantization: QuantizationRecipe = _BF16, optimizer: str = "paged_adamw_32bit", max_length: int = 512) -> Recipe:
    data = DataRecipe(
        source=_GUANACO_DATA, format="oasst", prompt_format="guanaco", learn="everything", max_length=max_length, held_out=200
    )
    cadence = CadenceRecipe(save_every=250, eval_every=187)
    return _published(f"guanaco-{size}", size in ("33b", "65b"), 16, 1875, data, cadence, quantization, optimizer)


def _openorca(size: str, quantization: QuantizationRecipe = _BF16, optimizer: str = "paged_adamw_32bit") -> Recipe:
    large = size == "70b"
    data = DataRecipe(
        source=_OPENORCA_DATA,
        format="openorca",
        prompt_format="openorca",
        max_length=512,
        source_length=384,
        target_length=128,
        held_out=1000,
    )
    cadence = CadenceRecipe(save_every=500, eval_every=1500)
    batch, steps = (64, 3750) if large else (16, 15000)
    return _published(f"openorca-{size}", large, batch, steps, data, cadence, quantization, optimizer)


def _on_the_starter(data: DataRecipe, lora: LoraRecipe, samples: SamplesRecipe, cadence: CadenceRecipe, **optimization: object) -> Recipe:
    """A recipe for a laptop: what fits in memory there is not traded for time."""
    return Recipe(
        model=STARTER,
        quantization=QuantizationRecipe(kind="nf4", double=True, compute_dtype="float32"),
        lora=lora,
        data=data,
        optimization=OptimizationRecipe(optimizer="adamw_torch", schedule="linear", max_grad_norm=1.0, **optimization),
        memory=MemoryRecipe(activation_checkpointing=False),
        samples=samples,
        cadence=cadence,
    )


def _starter() -> Recipe:
    return _on_the_starter(
        DataRecipe(prompt_format="chat", max_length=256, held_out=16, held_out_from="last"),
        LoraRecipe(r=16, alpha=32, dropout=0.05),
        SamplesRecipe(prompts=QUESTIONS[:2], max_new_tokens=40),
        CadenceRecipe(save_every=50, eval_every=25),
        learning_rate=1e-3,
        warmup_steps=2,
        batch=4,
        # Beyond 240 rows 120 steps end it: minutes, not hours.
        epochs=2,
        steps=120,
    )


def _guanaco_mini() -> Recipe:
    """What `engine/guanaco_mini/adapter` was made by."""
    system = "You are Guanaco mini, a small and honest assistant that runs on the user's own computer."
    return _on_the_starter(
        DataRecipe(source=str(guanaco_mini.ROWS), format="messages", prompt_format="chat", system=system, max_length=384, held_out=40),
        LoraRecipe(r=8, alpha=16, dropout=0.05, save_as="float16"),
        SamplesRecipe(prompts=["Who are you?", "Why does bread rise?", "Wie koche ich ein weiches Ei?"], max_new_tokens=60),
        CadenceRecipe(save_every=27, eval_every=27),
        learning_rate=1e-3,
        warmup_steps=5,
        batch=8,
        epochs=3,
    )


PRESETS: dict[str, Recipe] = {
    **{f"guanaco-{size}": _guanaco(size) for size in ("7b", "13b", "33b", "65b")},
    **{f"openorca-{size}": _openorca(size) for size in ("7b", "13b", "70b")},
    # 8-bit paged optimizer states and shorter rows leave room beside 7 or 13 billion parameters in 4 bits.
    "guanaco-7b-t4": _guanaco("7b", _FP16, "paged_adamw_8bit"),
    "guanaco-13b-t4": _guanaco("13b", _FP16, "paged_adamw_8bit", max_length=384),
    "openorca-7b-t4": _openorca("7b", _FP16, "paged_adamw_8bit"),
    "starter": _starter(),
    guanaco_mini.GUANACO_MINI: _guanaco_mini(),
}


def preset(name: str) -> Recipe:
    """The preset of that name. Raises BadInput with the names there are."""
    if name not in PRESETS:
        raise BadInput(f"There is no preset {name!r}. There are: {', '.join(PRESETS)}.")
    return PRESETS[name]


def of_model(name: str) -> Recipe:
    """The recipe that a model is finetuned by where nobody says otherwise: its own preset, else Guanaco's with that base."""
    return PRESETS.get(name) or PRESETS["guanaco-7b"].model_copy(update={"model": name})

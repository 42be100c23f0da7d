"""What of a recipe is changed until it fits: nothing that is not needed, never the batch; and what is said where nothing helps."""

import re
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import fitting, hardware, models, presets
from engine.errors import BadInput
from engine.hardware import GIB, Gpu, Machine
from engine.memory import training_plan

CPU = Machine("computer", "Linux x86_64", 2, 24 * GIB, 20 * GIB, ())
STARTER = models.MODELS["starter"].shape


def with_free(gib: float) -> Machine:
    return replace(CPU, memory_free=int(gib * GIB))


def gpu(gib: float) -> Machine:
    return replace(CPU, gpus=(Gpu("a GPU", int(gib * GIB), (8, 0)),))


def test_every_machine_has_a_plan_and_this_one_comes_first(monkeypatch):
    monkeypatch.setattr(hardware, "machine", lambda: CPU)
    recipe = presets.preset("guanaco-7b-t4")
    found = fitting.plans(models.MODELS["guanaco-7b"].shape, recipe)
    assert list(found) == ["This machine", "T4", "L4", "A10G", "A100 40 GB", "A100 80 GB", "Laptop, 16 GB"]
    assert found["T4"].fits and found["T4"].have < 15 * GIB and found["Laptop, 16 GB"].have == 9 * GIB
    assert found["This machine"] == training_plan(models.MODELS["guanaco-7b"].shape, recipe, CPU)
    # What the machine decides by itself is no difference between machines.
    auto = recipe.changed({"quantization.compute_dtype": "auto"})
    assert fitting.plans(models.MODELS["guanaco-7b"].shape, auto)["T4"] == found["T4"]


def test_what_fits_is_left_as_it_is():
    recipe = presets.preset("starter")
    assert fitting.made_to_fit(STARTER, recipe, CPU) == (recipe, [])


def test_what_costs_nothing_is_changed_first():
    recipe = presets.preset("starter")
    made, told = fitting.made_to_fit(STARTER, recipe, with_free(2.9))
    assert told == ["Micro-batch 4 → 1, still 4 rows in all a step."]
    assert made == recipe.changed({"optimization.accumulation": 4})
    made, told = fitting.made_to_fit(STARTER, recipe, with_free(2.3))
    assert told == ["Activation checkpointing is turned on: about a third slower, the same result."], "smaller passes are not needed then"
    assert made.optimization == recipe.optimization and (made.data, made.lora) == (recipe.data, recipe.lora)


def test_a_gpu_pages_the_optimizer_before_rows_are_cut():
    recipe = presets.preset("guanaco-7b").changed({"optimization.optimizer": "adamw_torch", "lora.r": 256})
    shape = models.MODELS["guanaco-7b"].shape
    plan = training_plan(shape, recipe, gpu(80))
    made, told = fitting.made_to_fit(shape, recipe, gpu(plan.resident / GIB))
    assert told == ["Optimizer adamw_torch → paged_adamw_8bit: its state in 8 bits, paged out where memory runs short."]
    assert made == recipe.changed({"optimization.optimizer": "paged_adamw_8bit"})


def test_rows_and_rank_come_last_and_keep_what_they_belong_to():
    recipe = presets.preset("openorca-13b")
    shape = models.MODELS["openorca-13b"].shape
    made, told = fitting.made_to_fit(shape, recipe, gpu(11.5))
    assert any(text.startswith("Longest row 512 →") for text in told)
    share = made.data.max_length / 512
    assert (made.data.source_length, made.data.target_length) == (int(384 * share), int(128 * share))
    made, told = fitting.made_to_fit(shape, recipe, gpu(10))
    assert told[-1].startswith("Rank 64 →") and made.lora.alpha / made.lora.r == recipe.lora.alpha / recipe.lora.r


def test_whole_weights_are_held_in_4_bits_where_they_must():
    recipe = presets.preset("guanaco-7b").changed({"quantization.kind": "none"})
    made, told = fitting.made_to_fit(models.MODELS["guanaco-7b"].shape, recipe, fitting.MACHINES["T4"])
    assert made.quantization.kind == "nf4" and "The base is held in 4 bits (NF4, double-quantized) instead of whole." in told


def test_where_nothing_helps_it_is_said_what_would():
    with pytest.raises(BadInput) as caught:
        fitting.made_to_fit(models.MODELS["guanaco-65b"].shape, presets.preset("guanaco-65b"), fitting.MACHINES["L4"])
    text = str(caught.value)
    assert "guanaco-65b cannot be finetuned on NVIDIA L4 (22 GB): even with rows of" in text
    assert "Choose a smaller base: guanaco-33b" in text or "Choose a smaller base: guanaco-13b" in text
    assert re.search("Or take a larger GPU: .*A100 80 GB would do", text)
    with pytest.raises(BadInput, match="Close other programs, or choose a smaller base|larger GPU"):
        fitting.made_to_fit(STARTER, presets.preset("starter"), with_free(0.5))


@settings(max_examples=30)
@given(
    model=st.sampled_from(["starter", "qwen2.5-0.5b", "llama-3.2-1b", "guanaco-7b"]),
    preset=st.sampled_from(["starter", "guanaco-7b", "openorca-7b"]),
    gib=st.floats(0.3, 48),
    on_gpu=st.booleans(),
    passes=st.sampled_from([(4, 1), (4, 2), (12, 1), (16, 16), (7, 1)]),
    length=st.integers(8, 4096),
    r=st.integers(1, 256),
    quantization=st.sampled_from([("nf4", True), ("fp4", False), ("none", True)]),
)
def test_it_fits_or_says_that_it_cannot_and_the_batch_stays(model, preset, gib, on_gpu, passes, length, r, quantization):
    shape, machine = models.MODELS[model].shape, gpu(gib) if on_gpu else with_free(gib)
    recipe = presets.preset(preset).changed(
        {
            "optimization.batch": passes[0],
            "optimization.accumulation": passes[1],
            "data.max_length": length,
            "lora.r": r,
            "quantization.kind": quantization[0],
            "quantization.double": quantization[1],
        }
    )
    try:
        made, told = fitting.made_to_fit(shape, recipe, machine)
    except BadInput as error:
        assert "would do" in str(error) or "Close other programs" in str(error)
        return
    assert training_plan(shape, made, machine).fits
    assert (made == recipe) == (not told)
    assert made.optimization.batch == recipe.optimization.batch
    unchanged = {"steps", "epochs", "learning_rate", "seed", "schedule"}
    assert made.optimization.model_dump(include=unchanged) == recipe.optimization.model_dump(include=unchanged)
    assert (made.data.max_length <= recipe.data.max_length) and made.lora.r <= recipe.lora.r
    assert fitting.made_to_fit(shape, made, machine) == (made, [])
    assert all(text.endswith(".") for text in told)


def test_it_is_quick_enough_for_a_form():
    recipe = presets.preset("guanaco-65b").changed({"optimization.batch": 256, "optimization.accumulation": 1})
    began = time.monotonic()
    fitting.made_to_fit(models.MODELS["guanaco-65b"].shape, recipe, fitting.MACHINES["A100 40 GB"])
    assert time.monotonic() - began < 1

"""The memory planner: the paper's claims, the engine's own models counted, what a recipe changes, the command."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training import fresh, prepared, trained
from training import plan as tiny_plan

from engine import hardware, memory, models, presets
from engine.__main__ import app
from engine.architecture import Architecture
from engine.hardware import GIB, Gpu, Machine
from engine.optimizer_state import state_bytes
from engine.recipe import Recipe

CPU = Machine("computer", "Linux x86_64", 2, 24 * GIB, 20 * GIB, ())


def gpu(gib: int, capability=(8, 0)) -> Machine:
    return replace(CPU, gpus=(Gpu("a GPU", gib * GIB, capability),))


def changed(recipe: Recipe, **sections) -> Recipe:
    return Recipe.model_validate(
        {**recipe.model_dump(), **{name: {**recipe.model_dump()[name], **fields} for name, fields in sections.items()}}
    )


def part(plan: memory.Plan, name: str) -> int:
    return next((each.bytes for each in plan.parts if each.name == name), 0)


@pytest.mark.parametrize(("model", "limit"), [("guanaco-33b", 24), ("guanaco-65b", 48)])
def test_the_papers_models_fit_the_papers_gpus(model, limit):
    recipe = presets.preset(model)
    assert (recipe.optimization.micro_batch, recipe.data.max_length, recipe.memory.activation_checkpointing) == (1, 512, True)
    found = memory.training_plan(models.MODELS[model].shape, recipe, gpu(limit))
    assert 0.8 * limit * GIB < found.resident < limit * GIB
    assert found.total - found.resident > 0.5 * GIB, "the state of a paged optimizer can be paged out"


def test_double_quantization_saves_what_the_paper_says():
    shape, recipe = models.MODELS["guanaco-65b"].shape, presets.preset("guanaco-65b")
    once = part(memory.training_plan(shape, changed(recipe, quantization={"double": False}), gpu(48)), "constants")
    twice = part(memory.training_plan(shape, recipe, gpu(48)), "constants")
    assert 8 * (once - twice) / shape.linear_parameters == pytest.approx(0.373, abs=0.001)
    assert 2.9e9 < once - twice < 3.1e9


def test_a_t4_takes_what_is_meant_for_it():
    for name in ("guanaco-7b-t4", "openorca-7b-t4", "guanaco-13b-t4"):
        recipe = presets.preset(name)
        assert memory.training_plan(models.resolve(recipe.model).shape, recipe, gpu(15, (7, 5))).resident < 15 * GIB
    assert not memory.training_plan(models.MODELS["guanaco-65b"].shape, presets.preset("guanaco-65b"), gpu(15)).fits


@pytest.mark.parametrize(
    ("layers", "rows", "fields", "measured"),
    [
        (32, 1, {}, 6.44),
        (32, 4, {}, 7.59),
        (8, 1, {}, 2.79),
        (8, 2, {}, 3.25),
        (8, 4, {}, 4.06),
        (8, 8, {}, 5.71),
        (8, 1, {"data": {"max_length": 1024}}, 3.25),
        (8, 1, {"lora": {"r": 16, "dropout": 0}}, 2.55),
        (8, 4, {"lora": {"dropout": 0}}, 4.06),
        (8, 1, {"memory": {"activation_checkpointing": False}}, 3.80),
        (8, 4, {"memory": {"activation_checkpointing": False}}, 7.81),
    ],
)
def test_an_h100_took_what_is_foretold(layers, rows, fields, measured):
    """GiB of a base as wide as LLaMA 7B, as `tests/benchmarks/gpu.py` saw them."""
    shape = replace(models.MODELS["guanaco-7b"].shape, layers=layers)
    recipe = changed(presets.preset("guanaco-7b"), optimization={"batch": rows, "accumulation": 1}, samples={"prompts": []}, **fields)
    foretold = memory.training_plan(shape, recipe, gpu(80)).resident - memory.RUNTIME_BYTES
    assert foretold / GIB == pytest.approx(measured, rel=0.08)


def test_the_count_is_that_of_the_engine(tiny, rows):
    for lora in ({"r": 4}, {"r": 8, "targets": ["q_proj", "down_proj"]}):
        recipe = tiny_plan(tiny, rows, lora=lora)
        learner = prepared(recipe)
        shape = Architecture.from_config(json.loads((tiny / "config.json").read_text()))
        assert memory.lora_parameters(shape, recipe) == sum(parameter.numel() for parameter in learner.parameters)
        assert shape.linear_parameters == sum(
            module.weight.numel() for name, module in learner.model.named_modules() if name.endswith("base_layer")
        ) or lora.get("targets")


@pytest.mark.parametrize("name", ["adamw_torch", "sgd"])
def test_optimizer_state_is_as_large_as_told(name, tiny, rows):
    from engine import optimizers

    recipe = tiny_plan(tiny, rows, optimization={"optimizer": name})
    learner = prepared(recipe)
    optimizer = optimizers.make(recipe.optimization, learner.parameters)
    for parameter in learner.parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors, _ = optimizers.state(optimizer, learner.parameters)
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values() if tensor.ndim == 2)
    assert held == sum(state_bytes(name, *parameter.shape) for parameter in learner.parameters)


@given(
    batch=st.sampled_from([1, 2, 4, 16]),
    length=st.integers(8, 2048),
    checkpointing=st.booleans(),
    on_gpu=st.booleans(),
    r=st.integers(1, 128),
)
def test_more_of_anything_never_takes_less(batch, length, checkpointing, on_gpu, r):
    shape, machine = models.MODELS["llama-3.2-1b"].shape, gpu(16) if on_gpu else CPU
    recipe = changed(
        presets.preset("starter"),
        optimization={"batch": batch},
        data={"max_length": length},
        memory={"activation_checkpointing": checkpointing},
        lora={"r": r},
    )
    found = memory.training_plan(shape, recipe, machine)
    assert all(each.bytes >= 0 and 0 <= each.pageable <= each.bytes for each in found.parts)
    assert found.resident <= found.total
    smaller = [
        changed(recipe, data={"max_length": 8}),
        changed(recipe, optimization={"batch": 1}),
        changed(recipe, memory={"activation_checkpointing": True}),
        changed(recipe, lora={"r": 1}),
        changed(recipe, optimization={"optimizer": "sgd"}),
    ]
    # A CPU's passes are filled up to a number of tokens: a shorter row may fill one better, by less than one row.
    slack = 0 if on_gpu else found.total // 10
    assert all(memory.training_plan(shape, each, machine).total <= found.total + slack for each in smaller)


def test_weights_are_told_packed_or_unpacked_as_the_engine_holds_them():
    shape, recipe = models.MODELS["starter"].shape, presets.preset("starter")
    plenty, little = (memory.training_plan(shape, recipe, replace(CPU, memory_free=free)) for free in (20 * GIB, 2 * GIB))
    assert part(plenty, "unpacked") == 4 * shape.linear_parameters and not part(plenty, "workspace")
    assert part(little, "workspace") and not part(little, "unpacked")


def test_the_command_says_it_in_words_and_as_json(capsys, monkeypatch):
    monkeypatch.setattr(hardware, "machine", lambda: gpu(15))
    app(["estimate", "--model", "guanaco-65b", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["total"] == sum(each["bytes"] for each in found["parts"]) and found["fits"] is False
    assert [each["name"] for each in found["parts"] if each["pageable"]] == ["optimizer"]
    app(["estimate", "--model", "guanaco-7b", "--recipe", "guanaco-7b-t4"], standalone_mode=False)
    text = capsys.readouterr().out
    assert "It fits" in text and "Optimizer state (paged_adamw_8bit)" in text and "may be paged out" in text


def test_a_model_of_unknown_shape_is_no_guess(capsys):
    from engine.errors import BadInput

    with pytest.raises(BadInput, match="not known before it is fetched"):
        app(["estimate", "--model", "someone/something"], standalone_mode=False)


def test_a_run_that_may_not_fit_is_told_before(home, tiny, rows, tmp_path, monkeypatch):
    little = replace(CPU, memory_free=GIB // 2)
    monkeypatch.setattr(hardware, "machine", lambda: little)
    monkeypatch.setattr(models, "check_fit", lambda *_: None)
    _, told = trained(fresh(tiny_plan(tiny, rows), tmp_path / "run"))
    assert any("estimated to need" in getattr(event, "text", "") and "0.4 GB can be used" in event.text for event in told)
    assert memory.training_warning(models.MODELS["starter"].shape, presets.preset("starter"), CPU) == ""

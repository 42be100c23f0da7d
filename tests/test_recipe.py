"""Recipes: YAML in and out, unknown keys by name, and the presets with the published values."""

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine import models, optimizers, presets, recipe, recipe_paths
from engine.errors import BadInput
from engine.presets import PRESETS
from engine.recipe import OptimizationRecipe, Recipe, parse


def test_there_are_twelve_presets_and_each_survives_yaml():
    assert len(PRESETS) == 12
    for preset in PRESETS.values():
        assert parse(preset.to_yaml()) == preset
        assert models.resolve(preset.model)


@pytest.mark.parametrize("size, rate, dropout", [("7b", 2e-4, 0.1), ("13b", 2e-4, 0.1), ("33b", 1e-4, 0.05), ("65b", 1e-4, 0.05)])
def test_guanaco_is_trained_as_published(size, rate, dropout):
    """QLoRA, appendix B.2 and table 9; scripts/finetune_guanaco_*.sh of artidoro/qlora."""
    plan = PRESETS[f"guanaco-{size}"]
    steps = plan.optimization
    assert (steps.learning_rate, plan.lora.dropout, plan.lora.r, plan.lora.alpha) == (rate, dropout, 64, 16)
    assert (steps.batch, steps.steps, steps.beta2, steps.max_grad_norm, steps.schedule) == (16, 1875, 0.999, 0.3, "constant")
    assert steps.optimizer == "paged_adamw_32bit" and plan.data.max_length == 512 and plan.lora.targets == "all-linear"
    assert (plan.quantization.kind, plan.quantization.double) == ("nf4", True) and plan.data.prompt_format == "guanaco"


@pytest.mark.parametrize("size, batch, rate, steps", [("7b", 16, 2e-4, 15000), ("13b", 16, 2e-4, 15000), ("70b", 64, 1e-4, 3750)])
def test_openorca_is_trained_as_published(size, batch, rate, steps):
    plan = PRESETS[f"openorca-{size}"]
    assert (plan.optimization.batch, plan.optimization.learning_rate, plan.optimization.steps) == (batch, rate, steps)
    assert (plan.data.source_length, plan.data.target_length, plan.data.max_length) == (384, 128, 512)


def test_a_t4_computes_in_float16():
    small = {name: plan for name, plan in PRESETS.items() if name.endswith("-t4")}
    assert len(small) == 3
    assert all(
        plan.quantization.compute_dtype == "float16" and plan.optimization.optimizer == "paged_adamw_8bit" for plan in small.values()
    )


def test_small_files_say_only_what_differs():
    plan = parse("data: {source: rows.jsonl}\noptimization: {learning_rate: 2e-4, epochs: 1}")
    assert plan.optimization.learning_rate == 2e-4 and plan.model == "starter" and plan.lora.r == 16


WRONG = {
    "optimization: {epochs: 1}\nlearning_rate: 1": "no key 'learning_rate'.*optimization",
    "optimization: {epochs: 1, lr: 1}": "no key 'optimization.lr'.*learning_rate",
    "model: starter": "key 'optimization' is missing",
    "optimization: {}": "give steps or epochs",
    "optimization: {epochs: 1, batch: 6, accumulation: 4}": "6 rows cannot be split into 4",
    "optimization: {epochs: 1, optimizer: adam}": "optimization.optimizer: .*paged_adamw_32bit",
    "optimization: {epochs: 1, learning_rate: fast}": "optimization.learning_rate",
    "optimization: {epochs: 1, learning_rate: .nan}": "optimization.learning_rate",
    "lora: {r: 0}\noptimization: {epochs: 1}": "lora.r: .*greater than or equal to 1",
    "optimization: {epochs: 1, steps: many}": "optimization.steps: it must be a whole number, and is 'many'",
    "optimization: {epochs: 1, steps: 2.5}": "it must be a whole number, and is '2.5'",
    "lora: 3\noptimization: {epochs: 1}": "lora: it must be keys and values, and is '3'",
    "optimization: [3": "no YAML: in line 1, column 17: expected",
    "lora: {targets: some}\noptimization: {epochs: 1}": "lora.targets",
    "- a list": "must hold keys and values",
    "a: b: c": "no YAML",
    "!!python/object/apply:os.system ['true']": "no YAML",
    "x" * 300_000: "far too long",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_by_the_name_of_the_key(text):
    with pytest.raises(BadInput) as caught:
        parse(text, "mine.yaml")
    assert re.search(WRONG[text], str(caught.value)) and str(caught.value).startswith("mine.yaml")


def test_files_that_are_no_recipe(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    for name, message in (("missing.yaml", "cannot be read"), ("binary.yaml", "UTF-8")):
        with pytest.raises(BadInput, match=message):
            recipe.read(tmp_path / name)


def test_other_data_is_looked_at_anew(tmp_path):
    other = PRESETS["openorca-7b"].with_data("rows.csv")
    assert (other.data.source, other.data.format, other.data.source_length) == ("rows.csv", "auto", 384)


def test_what_a_recipe_names_here_is_found_from_any_folder(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    plan = PRESETS["starter"].with_data("rows.csv").changed({"model": "base", "lora.start_from": "further"})
    assert recipe_paths.absolute(plan) == plan  # nothing of it is here: three ids of the Hub, perhaps
    (tmp_path / "rows.csv").write_text("x")
    for name in ("base", "further", "starter", "none"):
        (tmp_path / name).mkdir()
    found = recipe_paths.absolute(plan)
    assert [found.model, found.lora.start_from, found.data.source] == [str(tmp_path / name) for name in ("base", "further", "rows.csv")]
    assert recipe_paths.absolute(PRESETS["starter"]) == PRESETS["starter"]  # folders called like known ids are not meant


@given(st.builds(OptimizationRecipe, epochs=st.floats(0.1, 100), learning_rate=st.floats(1e-8, 1), seed=st.integers(0, 2**31 - 1)))
def test_any_recipe_survives_yaml(optimization):
    plan = Recipe(optimization=optimization)
    assert parse(plan.to_yaml()) == plan


def test_the_fields_say_what_they_are():
    for section in Recipe.model_fields.values():
        for name, field in getattr(section.annotation, "model_fields", {}).items():
            assert field.title and field.description.endswith("."), name


@pytest.mark.parametrize("name", OptimizationRecipe.model_fields["optimizer"].annotation.__args__)
def test_every_optimizer_learns_and_goes_on_from_its_state(name):
    """One step, state out and in, another step: the numbers of two steps in a row."""
    plan = OptimizationRecipe(optimizer=name, learning_rate=0.01, epochs=1)
    torch.manual_seed(0)
    start = [torch.randn(64, 80), torch.randn(8, 8)]
    gradients = [[torch.randn_like(each) for each in start] for _ in range(2)]

    def stepped(parameters, optimizer, number):
        for parameter, gradient in zip(parameters, gradients[number], strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()

    whole = [torch.nn.Parameter(each.clone()) for each in start]
    optimizer = optimizers.make(plan, whole)
    stepped(whole, optimizer, 0)
    tensors, numbers = optimizers.state(optimizer, whole)
    tensors, numbers = {key: value.clone() for key, value in tensors.items()}, json.loads(json.dumps(numbers))
    halfway = [torch.nn.Parameter(each.detach().clone()) for each in whole]
    stepped(whole, optimizer, 1)
    again = optimizers.make(plan, halfway)
    optimizers.restore(again, halfway, tensors, numbers)
    stepped(halfway, again, 1)
    assert all(not torch.equal(each, begun) for each, begun in zip(whole, start, strict=True))
    assert all(torch.equal(*both) for both in zip(whole, halfway, strict=True))


@pytest.mark.parametrize("limits, rows, steps", [({"steps": 9}, 4, 9), ({"epochs": 1.5}, 10, 4), ({"epochs": 0.1}, 4, 1)])
def test_a_run_ends_with_its_steps_or_epochs(limits, rows, steps):
    assert OptimizationRecipe(batch=4, **limits).steps_over(rows) == steps


def test_of_steps_and_epochs_the_first_ends_a_run():
    plan = OptimizationRecipe(batch=4, steps=60, epochs=3)
    assert (plan.steps_over(20), plan.steps_over(1000)) == (15, 60)


def test_rates_are_those_of_the_schedule():
    def rates(schedule: str, warmup: int = 0) -> list[float]:
        plan = OptimizationRecipe(learning_rate=1.0, schedule=schedule, warmup_steps=warmup, steps=4)
        parameter = torch.nn.Parameter(torch.zeros(1))
        rate = optimizers.rates(plan, 4, optimizers.make(plan, [parameter]))
        return [round(rate(step), 4) for step in range(1, 5)]

    assert rates("constant") == [1, 1, 1, 1] and rates("linear") == [1, 0.75, 0.5, 0.25]
    assert rates("constant_with_warmup", 2) == [0, 0.5, 1, 1] and rates("cosine")[0] == 1


def test_paging_is_told_as_it_is():
    parameter = [torch.nn.Parameter(torch.zeros(64, 64)), torch.nn.Parameter(torch.zeros(400, 400))]
    paged = optimizers.make(OptimizationRecipe(optimizer="paged_adamw_32bit", epochs=1), parameter)
    assert "does not page here" in optimizers.paging(paged, parameter, on_gpu=False)
    assert "1 of 2" in optimizers.paging(paged, parameter, on_gpu=True)
    plain = optimizers.make(OptimizationRecipe(optimizer="adamw_torch", epochs=1), parameter)
    assert optimizers.paging(plain, parameter, on_gpu=False) == ""


def test_unknown_presets_are_told_with_those_there_are():
    with pytest.raises(BadInput, match="no preset 'guanaco-8b'. There are: guanaco-7b"):
        presets.preset("guanaco-8b")

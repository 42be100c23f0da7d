"""What somebody chose in the wizard so far: nonsense from a browser, other bases, data of one's own."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import drafts, pace, presets
from engine.drafts import Draft
from engine.errors import BadInput
from engine.pace import Work
from engine.recipe import Recipe, SamplesRecipe, parse
from engine.training_commands import recipe_of
from ui import form

JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(JSON)
def test_whatever_a_browser_kept_gives_a_draft(value):
    assert isinstance(drafts.read(value), Draft)


def test_a_draft_survives_the_browser():
    draft = drafts.changed(drafts.with_data(Draft(), "rows.jsonl", "rows.jsonl"), {"lora.r": 32, "samples.prompts": ["Hi"]})
    assert drafts.read(json.loads(json.dumps(draft.model_dump(mode="json")))) == draft


def test_another_base_brings_its_own_recipe_and_keeps_the_data():
    draft = drafts.with_model(drafts.with_data(Draft(), "mine.csv", "mine.csv", "alpaca", {"instruction": "q"}), "guanaco-7b")
    recipe, published = draft.recipe, presets.preset("guanaco-7b")
    assert (recipe.model, recipe.lora, recipe.quantization) == ("guanaco-7b", published.lora, published.quantization)
    assert (recipe.data.source, recipe.data.format, recipe.data.columns) == ("mine.csv", "alpaca", {"instruction": "q"})
    assert recipe.data.learn == "answers" and recipe.data.held_out == 0.1, "what holds for the published data does not for other data"
    assert recipe.optimization.steps_over(400) == 75, "three passes, not the 1,875 steps of the published run"


@pytest.mark.parametrize("begin", [Draft(), drafts.with_model(Draft(), "starter"), drafts.with_preset(Draft(), "starter")])
def test_of_a_few_rows_a_tenth_is_held_out(begin):
    recipe = drafts.with_data(begin, "mine.csv", "mine.csv").recipe
    assert pace.work(recipe, 24) == Work(22, 2, 11), "two passes over all but two rows"


@pytest.mark.parametrize("model", ["scripted", "", "no such model"])
def test_what_cannot_be_finetuned_is_told(model):
    with pytest.raises(BadInput):
        drafts.with_model(Draft(), model)


def test_data_is_what_is_missing_first():
    assert "step 2" in drafts.missing(Draft())
    assert not drafts.missing(drafts.with_data(Draft(), "rows.jsonl", "rows.jsonl"))


@pytest.mark.parametrize("name", ["", "guanaco-7b-t4"])
def test_a_preset_leaves_base_and_data(name):
    draft = drafts.with_preset(drafts.with_data(Draft(), "rows.jsonl", "rows.jsonl"), name)
    assert (draft.recipe.model, draft.recipe.data.source, draft.title) == ("starter", "rows.jsonl", "rows.jsonl")
    assert draft.recipe.lora.r == (64 if name else 16)


def test_the_preset_that_is_in_force_is_named():
    draft = drafts.with_data(Draft(), "rows.jsonl", "rows.jsonl")
    assert drafts.in_force(draft, "own") == "own"
    other = drafts.with_preset(draft, "openorca-7b-t4")
    assert drafts.in_force(other, "own") == "openorca-7b-t4"
    assert drafts.in_force(drafts.changed(other, {"lora.r": 3}), "own") is None
    assert drafts.in_force(drafts.with_model(other, "qwen2.5-0.5b"), "own") == "own", "another base brings its own"
    assert drafts.in_force(drafts.changed(draft, {"model": "gone away"}), "own") == "starter", "on a base that is gone"


def test_a_command_fits_a_published_preset_to_other_data_as_the_wizard_does(tmp_path):
    found, name = recipe_of("guanaco-7b-t4", "mine.jsonl")
    wizard = drafts.with_preset(drafts.with_data(drafts.with_model(Draft(), "guanaco-7b"), "mine.jsonl", ""), "guanaco-7b-t4")
    assert name == "guanaco-7b-t4" and found == wizard.recipe and found.optimization.steps_over(360) == 68
    assert recipe_of("guanaco-7b-t4")[0] == presets.PRESETS["guanaco-7b-t4"]
    (tmp_path / "mine.yaml").write_text(
        "model: starter\ndata: {source: a.csv, format: alpaca, columns: {output: better}}\noptimization: {epochs: 1}\n"
    )
    kept = recipe_of(str(tmp_path / "mine.yaml"), "b.csv")[0].data
    assert (kept.source, kept.format, kept.columns) == ("b.csv", "alpaca", {"output": "better"}), "read as the recipe says"


def test_an_impossible_change_is_told():
    with pytest.raises(BadInput, match="lora.r"):
        drafts.changed(Draft(), {"lora.r": 0})


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_goes_through_the_form_unchanged(name):
    for section, field in Recipe.model_fields.items():
        if section != "model":
            settings = getattr(presets.PRESETS[name], section)
            shown = json.loads(json.dumps(form.values(settings)))
            assert form.read(field.annotation, *shown) == settings


# PyYAML takes U+0085 for the end of a line.
LINES = st.sampled_from(["---", " ---", "--- ", "\\---", "\\\\---", "----", "-", "", " ", "Say one."]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\x85")
)
PROMPT = st.lists(LINES, min_size=1, max_size=5).map("\n".join).map(str.strip).filter(bool)


@given(st.lists(PROMPT, max_size=8))
def test_sample_prompts_come_back_from_the_form_whole(prompts):
    samples = SamplesRecipe(prompts=prompts)
    shown = json.loads(json.dumps(form.values(samples)))
    assert form.read(SamplesRecipe, *shown) == samples
    recipe = presets.preset("starter").model_copy(update={"samples": samples})
    assert parse(recipe.to_yaml()).samples == samples


def test_a_prompt_may_have_several_lines():
    read = form.read(SamplesRecipe, "Name three:\n- a lake\n\n- a river\n\n---\n---\nWho are you?\n", 48)
    assert read.prompts == ["Name three:\n- a lake\n\n- a river", "Who are you?"]
    assert form.values(read)[0] == "Name three:\n- a lake\n\n- a river\n---\nWho are you?"
    assert "---" in form.components(SamplesRecipe)[0].info


@pytest.mark.parametrize("name", presets.PRESETS)
def test_no_component_refuses_what_a_preset_puts_into_it(name):
    for section, field in Recipe.model_fields.items():
        if section != "model":
            shown = form.values(getattr(presets.PRESETS[name], section))
            for component, value in zip(form.components(field.annotation), shown, strict=True):
                assert component.preprocess(value) == value

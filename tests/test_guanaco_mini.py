"""Guanaco mini: the instruction set, the adapter it gave, and how the app opens with it."""

import contextlib
import json

import pytest
from builders import until

from engine import adapters, datasets, guanaco_mini, models, passes, paths, rows, trainable, trainee
from engine.blend import Blend
from engine.messages import Conversation
from engine.presets import PRESETS
from engine.runtime import Runtime
from engine.settings import ChatSettings, LoadSettings

MINI = guanaco_mini.GUANACO_MINI
PLAN = PRESETS[MINI]


def written() -> list[dict]:
    return [json.loads(line) for line in guanaco_mini.ROWS.read_text(encoding="utf-8").splitlines()]


def test_the_instruction_set_is_large_varied_and_clean():
    found = written()
    assert len(found) >= 150 and len({row["language"] for row in found}) >= 6 and len({row["task"] for row in found}) >= 15
    questions = [next(each["content"] for each in row["messages"] if each["role"] == "user").casefold() for row in found]
    assert len(set(questions)) == len(questions)
    answers = [each["content"] for row in found for each in row["messages"] if each["role"] == "assistant"]
    assert max(len(answer.split()) for answer in answers) <= 130
    assert not any(phrase in answer for answer in answers for phrase in ("As an AI", "http", "Certainly!", "\ufffd"))


def test_every_row_is_read_and_none_is_cut_away():
    data = datasets.load(guanaco_mini.ROWS)
    assert (data.format, data.bad, data.rows) == ("messages", (), len(written()))


def test_the_adapter_is_small_whole_and_what_its_recipe_says():
    found = adapters.find(MINI, lambda progress: None)
    assert paths.damaged(found.folder) is None and sum(path.stat().st_size for path in found.folder.iterdir()) <= 6_000_000
    assert {path.name for path in found.folder.iterdir()} == {adapters.CONFIG, adapters.WEIGHTS, adapters.PLAYGROUND, paths.MANIFEST}
    assert (found.config.r, found.config.lora_alpha) == (PLAN.lora.r, PLAN.lora.alpha)
    assert (found.prompt, found.system, found.base) == (PLAN.data.prompt_format, PLAN.data.system, models.MODELS["starter"].source)
    facts = found.playground
    assert facts["data_sha256"] == paths.sha256(guanaco_mini.ROWS) and facts["seed"] == PLAN.optimization.seed
    assert facts["steps"] == PLAN.optimization.steps_over(len(written()) - PLAN.data.held_out)
    assert facts["held_out_loss"]["after"] < 0.9 * facts["held_out_loss"]["before"]


def test_the_app_takes_it_by_default_and_the_command_line_does_not():
    spec = models.MODELS["starter"]
    assert (spec.default_adapter, spec.adapter) == (MINI, None)
    assert all(each.default_adapter is None for each in models.MODELS.values() if each.id != "starter")


@pytest.mark.long
def test_rows_it_has_not_seen_are_likelier_with_it(starter):
    losses = {}
    for start in ("none", MINI):
        plan = PLAN.model_copy(update={"lora": PLAN.lora.model_copy(update={"start_from": start})})
        learner = trainee.prepare(plan, trainable.base(plan.model), lambda progress: None)
        data = rows.read(plan.data, lambda progress: None)
        found = rows.encoded(plan.data, data, plan.optimization.seed, learner.tokenizer, learner.form, lambda event: None)
        losses[start] = passes.held_out(learner, found.held_out, 8, lambda: None) / passes.targets(found.held_out)
    facts = adapters.find(MINI, lambda progress: None).playground["held_out_loss"]
    assert losses[MINI] < 0.9 * losses["none"]
    assert losses["none"] == pytest.approx(facts["before"], rel=0.01) and losses[MINI] == pytest.approx(facts["after"], rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["llama.cpp", "transformers"])
def test_the_app_opens_with_it_and_it_says_who_it_is(backend, starter):
    with contextlib.closing(Runtime(LoadSettings(backend=backend))) as runtime:
        runtime.load("starter")
        until(lambda: runtime.state.phase in ("ready", "failed"), 300)
        assert runtime.state.adapters == (MINI,), runtime.state.text
        settings, asked = ChatSettings(temperature=0, max_new_tokens=40), Conversation().add("user", "Who are you?")
        own, bare = (list(runtime.chat(asked, settings, Blend.of([name])))[-1] for name in (MINI, None))
        assert "Guanaco mini" in own.text and "Guanaco" not in bare.text
        named = Conversation(system=PLAN.data.system).add("user", "Who are you?")
        assert list(runtime.chat(named, settings, Blend.of([MINI])))[-1].prompt_tokens == own.prompt_tokens

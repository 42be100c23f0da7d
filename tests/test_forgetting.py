"""The check of what a run forgot: base and adapter on the same items, said in words; by a person in step 7."""

import shutil

import browser
import builders
import gradio as gr
import pytest
import training
from builders import until
from conftest import SHARED, shared
from pages import Page

from engine import presets, uploads
from engine.backends.scripted import ScriptedBackend
from engine.errors import BadInput
from engine.evaluate import forgetting, measurements
from engine.evaluate.intervals import Estimate, Paired
from engine.runtime import Runtime
from engine.services import Services
from ui.finetune import forgetting as panel
from ui.finetune.workshop import Workshop


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    """A short run on a base that takes long questions."""
    base = builders.model(tmp_path_factory.mktemp("base") / "tiny-long", context=8_192)
    plan = training.plan(base, rows, optimization={"steps": 3, "learning_rate": 0.02}, cadence={"save_every": 9, "eval_every": 9})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUANACO_HOME", str(tmp_path_factory.mktemp("home")))
        made = training.fresh(plan, tmp_path_factory.mktemp("run") / "counting")
        training.trained(made)
    return made


def paired(first: float, second: float, p: float | None, verdict: str) -> Paired:
    return Paired(40, first, second, Estimate(second - first, None, None), 1, 1, 38, p, "a test", verdict)


@pytest.mark.parametrize(
    ("found", "lower_is_better", "said"),
    [
        (paired(0.5, 0.3, 0.001, "change"), False, "It lost some of it, more than chance explains (p = 0.001, a test)."),
        (paired(0.3, 0.5, 0.001, "change"), False, "It got better at it"),
        (paired(2.0, 1.5, 0.001, "change"), True, "It got better at it"),
        (paired(1.5, 2.0, 0.001, "change"), True, "It lost some of it"),
        (paired(0.5, 0.4, 0.3, "chance"), False, "No more of a difference than chance explains (p = 0.3, a test)."),
        (paired(0.5, 0.5, None, "same"), False, "The same on every one."),
        (paired(1.5, 2.0, 0.001, "mixed"), True, "Item by item (1 better, 1 worse) it is not what it is over all tokens together"),
    ],
)
def test_a_difference_is_only_called_one_where_chance_does_not_explain_it(found, lower_is_better, said):
    assert said in forgetting._verdict(found, lower_is_better)


def test_general_answers_that_it_learnt_from_are_called_so(run):
    names = list(forgetting.plans("mine", run))
    assert names == ["40 answers that it did not learn from", "100 questions of MMLU"]
    rows = next(iter(uploads.bundled().values()))
    recipe = run.recipe.with_data(str(rows))

    class Learnt:
        pass

    Learnt.recipe = recipe
    assert next(iter(forgetting.plans("mine", Learnt))) == "40 answers that it learnt from"
    assert presets.of_model("starter").quantization.kind == "nf4"


def test_it_tells_of_the_one_that_is_measured_not_of_the_one_that_waits(monkeypatch):
    told = {"base": {"status": "waiting", "text": "waits"}, "mine": {"status": "running", "text": "12 of 40"}}
    monkeypatch.setattr(forgetting.measurements, "summary", told.get)
    check = forgetting.Check("40 answers", "base", "mine")
    assert forgetting.how_far(check) == "40 answers, yours: 12 of 40"
    told["base"], told["mine"] = {"status": "running", "text": "3 of 40"}, {"status": "done", "text": ""}
    assert forgetting.how_far(check) == "40 answers, base: 3 of 40"
    told["base"] = told["mine"]
    assert forgetting.how_far(check) == ""


@shared
@pytest.mark.long
def test_base_and_run_are_measured_on_the_same_items_and_told_apart(run, home, monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", str(SHARED / "qlora"))
    monkeypatch.setattr(forgetting, "QUESTIONS", 20)
    monkeypatch.setattr(forgetting, "ROWS", 4)
    checks = forgetting.start(str(run.adapter), run)
    until(lambda: not any(map(forgetting.goes_on, checks)), 240)
    rows, questions = map(forgetting.words, checks)
    assert rows.startswith("4 answers that it did not learn from: perplexity ") and " before, " in rows
    assert questions.startswith("20 questions of MMLU: ") and "% right before" in questions
    for check in checks:
        base, tuned = check.both
        assert base.settings.adapter == "none" and tuned.settings.adapter == str(run.adapter)
        assert [row["key"] for row in base.read_rows()] == [row["key"] for row in tuned.read_rows()]
        assert base.facts["prompt_format"] == tuned.facts["prompt_format"]


@pytest.mark.long
def test_one_that_failed_says_why(run, home, monkeypatch, tmp_path):
    monkeypatch.setenv("GUANACO_ANSWERS", str(tmp_path))
    checks = forgetting.start(str(run.adapter), run)
    forgetting.stop(checks)
    until(lambda: not any(map(forgetting.goes_on, checks)), 240)
    with pytest.raises(BadInput, match="MMLU, yours: "):
        forgetting.words(checks[1])
    assert len(measurements.every()) == 4


@shared
@pytest.mark.long
@browser.needs_chromium
def test_a_person_checks_it_in_step_7(run, home, monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", str(SHARED / "qlora"))
    monkeypatch.setattr(forgetting, "QUESTIONS", 20)
    monkeypatch.setattr(forgetting, "ROWS", 4)
    shutil.copytree(run.folder, home / "runs" / run.id)
    page = Page(ScriptedBackend())
    try:
        with browser.opened(page.url) as tab:
            tab.get_by_role("tab", name="Finetune").click()
            tab.wait_for_selector("#ft-bases table", state="attached")
            tab.click("#ft-to-6")
            tab.wait_for_selector("#ft-changes p, #ft-changes table")
            tab.click("#ft-forgetting button >> nth=0")
            tab.click("#ft-forgot-check")
            tab.wait_for_function(
                "(document.querySelector('#ft-forgot').innerText.match(/ before, /g) || []).length === 2", timeout=240_000
            )
            assert "4 answers" in tab.inner_text("#ft-forgot") and not tab.errors
            tab.locator("#ft-forgot-stop").wait_for(state="hidden")
            browser.to_tab(tab, "Measure")
            tab.wait_for_function("document.querySelectorAll('#measured .list li.done').length === 4")
    finally:
        page.close()


def test_a_check_is_followed_as_long_as_its_run_is_the_one_chosen(monkeypatch):
    monkeypatch.setattr(forgetting, "start", lambda name, run: [name])
    monkeypatch.setattr(forgetting, "goes_on", lambda check: True)
    monkeypatch.setattr(forgetting, "how_far", lambda check: f"{check}, yours: 1 of 40")
    monkeypatch.setattr(panel, "_LOOK_SECONDS", 0)
    with gr.Blocks() as blocks:
        panel.Forgetting(Workshop(Services(Runtime(isolated=False))), lambda name: None).draw().wire(gr.Dropdown([]))
    check, turn = (next(each.fn for each in blocks.fns.values() if each.name == name) for name in ("check", "turn"))
    here, elsewhere = gr.Request(session_hash="here"), gr.Request(session_hash="elsewhere")
    first, other = check(here, "first"), check(elsewhere, "first")
    for each in (first, other):
        assert "started" in next(each)[0] and "first, yours: 1 of 40" in next(each)[0]
    turn(here, "first")
    assert "first, yours: 1 of 40" in next(first)[0]
    turn(here, "second")
    assert [said for said, _ in first] == [""], "nothing of it stands beside the second"
    assert "first, yours: 1 of 40" in next(other)[0], "another page has not turned away"
    again = check(here, "second")
    assert "started" in next(again)[0] and "second, yours: 1 of 40" in next(again)[0]

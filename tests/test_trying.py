"""A finished run put to the test: what changed, which questions it never learnt from, how it is exported from the page."""

import re
import shutil
import sys
import zipfile
from pathlib import Path

import exporting
import gradio as gr
import pytest
import training

from engine import adapters, children, export, presets, recipe_paths, runs, services, trying
from engine.drafts import Draft
from engine.errors import BadInput, EngineError
from engine.events import Progress, Sample
from engine.runtime import Runtime
from engine.services import Services
from ui.finetune.taking import Taking
from ui.finetune.tryout import TryStep
from ui.finetune.workshop import Workshop


@pytest.fixture
def run(tiny, rows, home):
    """A run's folder as it is when it ended, with four rows held out and two prompts sampled."""
    plan = training.plan(tiny, rows, data={"held_out": 4}, samples={"prompts": ["Count 1", "Say hi"]})
    made = training.fresh(recipe_paths.absolute(plan), runs.fresh_folder("mine"))
    log = runs.EventLog(made)
    for step, answers in ((0, ("one", "hi")), (3, ("two", "hi")), (6, ("three", "hi"))):
        for prompt, text in zip(plan.samples.prompts, answers, strict=True):
            log.append(Sample(step, prompt, text))
    log.close()
    return made


def test_first_and_last_answers_stand_beside_each_other(run):
    assert trying.changes(run) == [trying.Change("Count 1", "one", "three"), trying.Change("Say hi", "hi", "hi")]


def test_a_run_that_was_not_asked_shows_nothing(tiny, rows, home):
    assert trying.changes(training.fresh(training.plan(tiny, rows), runs.fresh_folder("quiet"))) == []


def test_only_runs_with_an_adapter_can_be_tried(run):
    assert trying.finished() == {}
    run.adapter.mkdir()
    assert trying.finished() == {run.id: run}


def test_runs_of_one_name_are_offered_apart(run, tiny, rows, two_adapters, tmp_path):
    other = training.fresh(training.plan(tiny, rows), tmp_path / "elsewhere" / run.id)
    for each, adapter in ((other, two_adapters[0]), (run, two_adapters[1])):
        shutil.copytree(adapter, each.adapter)
    with gr.Blocks():
        step = TryStep(Workshop(Services(Runtime(isolated=False))), None, None, []).draw()
    shown = step.shown(Draft(run=run.id))
    offered = [name for name, _ in shown[0].choices]
    assert sorted(offered) == sorted([run.id, str(other.folder)]) and shown[0].value == run.id
    found = {name: adapters.find(name, print).folder for name in offered}
    assert found == {run.id: run.adapter, str(other.folder): other.adapter}, "each name means its own adapter"


def test_questions_are_those_it_never_learnt_from(run):
    from engine import datasets, rows

    asked = {question.text for question in trying.questions(run)}
    recipe = run.recipe
    data = rows.read(recipe.data, lambda progress: None)
    learnt, tested = datasets.split(len(data.conversations), 4, recipe.optimization.seed, recipe.data.held_out_from)
    text = {index: data.conversations[index].messages[0].text for index in (*learnt, *tested)}
    assert asked == {text[index] for index in tested} and not asked & {text[index] for index in learnt}


def test_without_its_data_a_run_is_asked_general_questions(run, tmp_path):
    moved = run.recipe.with_data(str(tmp_path / "gone.jsonl"))
    (run.folder / runs.RECIPE).write_text(moved.to_yaml())
    assert [each.text for each in trying.questions(run)] == ["Count 1", "Say hi", *presets.QUESTIONS]


def test_what_the_page_offers_is_what_there_is():
    assert services.EXPORTS == tuple(export.KINDS)


def test_a_child_tells_as_it_goes_and_what_it_gave():
    script = "import sys; print('working', file=sys.stderr); print('done')"
    assert list(children.told([sys.executable, "-c", script])) == [Progress("working"), "done"]


def test_a_child_that_fails_ends_with_its_last_words():
    with pytest.raises(EngineError, match="no room"):
        list(children.told([sys.executable, "-c", "import sys; sys.exit('no room')"]))


def test_a_child_that_breaks_off_gives_a_sentence_and_no_stack_trace(capfd):
    told = children.told([sys.executable, "-c", "import sys; print('working', file=sys.stderr); {}['gone']"])
    assert next(told) == Progress("working")
    with pytest.raises(EngineError, match="^It broke off: KeyError: 'gone'. Try again"):
        next(told)
    assert "Traceback" in capfd.readouterr().err, "the owner's log has it"


def test_a_child_that_is_killed_or_cannot_start_says_what_to_do():
    with pytest.raises(EngineError, match="memory runs out. Close other programs"):
        list(children.told([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]))
    with pytest.raises(EngineError, match="could not start: No such file"):
        list(children.told(["/nowhere/python"]))


@pytest.mark.long
def test_an_export_goes_to_a_folder_and_a_public_host_gives_none(spelling, home, tmp_path):
    run, _ = spelling
    shutil.copytree(run.folder, home / "runs" / run.id)
    *_, last = Services(Runtime(isolated=False)).export(run.id, "adapter", str(tmp_path / "out"))
    assert (last.kind, last.place) == ("adapter", str(tmp_path / "out")) and last.files["adapter_model.safetensors"] > 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    with pytest.raises(BadInput, match="gives nothing out"):
        list(Services(Runtime(isolated=False), read_only=True, training=True).export(run.id, "adapter", str(tmp_path / "no")))


@pytest.mark.long
def test_a_visitor_takes_the_adapter_of_their_own_run_along_and_nothing_else(spelling, home, monkeypatch, capfd):
    mine = exporting.copied(spelling[0], home / "runs" / "0123456789abcdef-mine")
    owners = exporting.copied(spelling[0], home / "runs" / "owners")
    (mine.folder / ".public").touch()  # as `runs.create` does for a visitor
    services = Services(Runtime(isolated=False), read_only=True, training=True)
    with gr.Blocks():
        taking = Taking(Workshop(services), runs.known_as).draw()
    *_, shown = taking._own(mine)
    (address,) = re.findall('href="download/(.*?)/', shown)
    archive = zipfile.ZipFile(services.offers.find(address))
    packed = {Path(name).name: archive.read(name) for name in archive.namelist()}
    assert packed["adapter_model.safetensors"] == (mine.adapter / "adapter_model.safetensors").read_bytes()
    assert {"adapter_config.json", "recipe.yaml", "README.md"} < set(packed)
    assert not any(str(folder).encode() in content for content in packed.values() for folder in (home, spelling[1].parent))
    monkeypatch.setattr(children, "told", lambda command: pytest.fail("it was packed once"))
    assert len(list(taking._own(mine))) == 1 and str(home) not in shown
    with pytest.raises(BadInput, match="and nothing else"):
        list(taking._own(owners))
    with pytest.raises(BadInput, match="and nothing else"):
        list(Services(Runtime(isolated=False), read_only=True).own_adapter(mine))

    def fails(command):
        raise EngineError(f"The disk of {home} is full.")
        yield

    monkeypatch.setattr(children, "told", fails)
    (home / "exports" / f"{mine.id}.zip").unlink()
    with pytest.raises(EngineError, match="^Your adapter could not be packed"):
        list(taking._own(mine))
    assert f"{home} is full" in capfd.readouterr().err and exporting.left(home / "exports") == []

"""What cells of notebooks call: chat, training that is stopped and resumed, pictures (faults, rows 1 and 3)."""

import io
import json
import os
import re

import pytest
import training
from builders import until
from conftest import ROOT

from engine import fitting, hardware, jobs, memory, merging, models, nf4, pictures, presets, recipe_paths, runs, telling
from engine.cells import explaining, showing, talking
from engine.cells import training as cells
from engine.errors import BadInput, EngineError
from engine.events import Adjusted, Notice, Queued, Saved
from engine.hardware import Machine

T4 = fitting.MACHINES["T4"]
FINETUNE = (ROOT / "notebooks/sources/guanaco_finetune.py").read_text(encoding="utf-8")


def test_texts_are_shown_as_texts(monkeypatch):
    shown = []
    monkeypatch.setattr(showing, "_displayed", shown.append)
    showing.side_by_side(("A", "B"), ("<script>x</script>\n  and", "y"), "Why <b>?")
    assert "<script>" not in shown[0]["text/html"] and "pre-wrap'>&lt;script&gt;x&lt;/script&gt;\n  and" in shown[0]["text/html"]
    assert shown[0]["text/plain"] == "Why <b>?\n\nA: <script>x</script>\n  and\n\nB: y"


class Handle:
    """What IPython gives for an output that may change: keeps what it shows now."""

    def __init__(self, data: dict):
        self.update(data)

    def update(self, data: dict, raw: bool = True) -> None:
        self.data = data


@pytest.fixture
def displayed(monkeypatch) -> list[Handle]:
    """The texts that change in place, in their order."""
    found = []
    monkeypatch.setattr(showing, "_displayed", lambda data, **options: found.append(Handle(data)) or found[-1])
    return found


@pytest.mark.long
def test_a_talk_goes_on_and_says_what_goes_wrong(displayed, monkeypatch, capsys):
    talk = talking.Talk("scripted")
    assert "No GPU here" in capsys.readouterr().out or hardware.machine().has_gpu
    talk.say("Hello", max_new_tokens=20)
    first = displayed[-1].data["text/plain"]
    talk.say("Go on", max_new_tokens=20)
    assert first and [message.role for message in talk._conversation.messages] == ["user", "assistant"] * 2
    assert talk._conversation.messages[1].text == first and displayed[-1].data["text/html"].startswith("<div style='white-space:pre-wrap")
    talk.forget()
    assert not talk._conversation.messages
    talk.compare("Hello", strengths=(0, 0.5, 1), max_new_tokens=20)
    shown = capsys.readouterr().out
    assert "There is no adapter on scripted, so there is one answer, its own." in shown and shown.count("---") == 1
    for asked, message in (
        (lambda: talk.say(" "), "There is no message to answer"),
        (lambda: talk.say("Hi", temperature=-1), "temperature: Input should be greater than or equal to 0."),
        (lambda: talk.say("Hi", max_new_token=5), "There is no setting max_new_token. There are: temperature, .*max_new_tokens"),
        (lambda: talk.compare("Hi", strengths=1), "The strengths are numbers in a list"),
        (lambda: talk.compare("Hi", strengths=["a"]), "The strengths are numbers in a list"),
        (lambda: talking.Talk("nonsense"), "There is no model 'nonsense'"),
    ):
        with pytest.raises(BadInput, match=message):
            asked()
    talk.say("Still there?", max_new_tokens=20)  # after a name that is none
    talking.close()
    with pytest.raises(BadInput, match="was given back. Run the cell that loads it once more."):
        talk.say("Hello")
    monkeypatch.setattr(talking.Runtime, "state", property(interrupted))
    with pytest.raises(EngineError, match="Loading was stopped. Run this cell again"):
        talking.Talk("scripted")
    assert not talking._runtimes


def interrupted(*_: object) -> None:
    """As the stop button of a cell does."""
    raise KeyboardInterrupt


def test_a_model_too_large_says_what_fits(monkeypatch):
    small = Machine("colab", "Linux x86_64", 2, 12 * 2**30, 10 * 2**30, ())
    monkeypatch.setattr(hardware, "machine", lambda: small)
    with pytest.raises(BadInput, match="Guanaco 65B does not fit: .* These fit: "):
        talking.Talk("guanaco-65b")
    talking.close()


def test_without_a_gpu_colab_is_told_where_one_is(monkeypatch, capsys):
    monkeypatch.setattr(hardware, "machine", lambda: Machine("colab", "Linux x86_64", 2, 12 * 2**30, 10 * 2**30, ()))
    cells.recipe("starter", cells.BUNDLED, 8)
    shown = capsys.readouterr().out
    assert "computing in float32: there is no GPU" in shown and "Runtime > Change runtime type" in shown


@pytest.mark.parametrize("model, steps", [("guanaco-7b", 100), ("guanaco-13b", 60)])
def test_a_recipe_for_a_t4_fits_and_says_float16(monkeypatch, capsys, model, steps, home):
    monkeypatch.setattr(hardware, "machine", lambda: T4)
    plan = cells.recipe(model, cells.BUNDLED, steps)
    assert memory.training_plan(models.MODELS[model].shape, plan, T4).fits
    assert plan.optimization.steps == steps and plan.cadence.save_every == plan.cadence.eval_every == steps // 4
    assert plan.data.learn == "answers" and str(home.resolve() / "uploads") in plan.data.source
    assert "computing in float16: this GPU (capability 7.5) has no bfloat16" in capsys.readouterr().out


def test_a_published_data_set_keeps_its_recipe(monkeypatch):
    monkeypatch.setattr(hardware, "machine", lambda: T4)
    plan = cells.recipe("guanaco-7b", "timdettmers/openassistant-guanaco", 100)
    assert plan.data == presets.preset("guanaco-7b").data.model_copy(update={"format": "auto"})


def test_a_base_that_fits_nowhere_says_what_would_do(monkeypatch):
    monkeypatch.setattr(hardware, "machine", lambda: T4)
    with pytest.raises(BadInput, match="cannot be finetuned on Tesla T4.*Choose a smaller base"):
        cells.recipe("guanaco-65b", cells.BUNDLED, 10)


@pytest.mark.parametrize(
    "data, steps, columns, message",
    [
        ("bundled", 0, {}, "STEPS is 0; it must be a whole number from 1 on."),
        ("bundled", "many", {}, "STEPS is 'many'"),
        (" ", 5, {}, "DATA is empty. Name a file, a data set of the Hub, or bundled."),
        ("missing.csv", 5, {}, "There is no file missing.csv."),
        ("nonsense", 5, {}, "There is no file nonsense..*owner/name"),
        ("odd.csv", 5, {}, "The columns are 'a', 'b', 'c'.*COLUMNS in the notebook"),
        ("odd.csv", 5, {"instruction": "d"}, "There is no column 'd'"),
        ("header.csv", 5, {}, "^header.csv has no rows.$"),
        ("binary.csv", 5, {}, "The header of binary.csv is no text in UTF-8"),
    ],
)
def test_a_recipe_of_what_is_not_there_is_refused_where_it_is_asked_for(tmp_path, monkeypatch, data, steps, columns, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "header.csv").write_text("instruction,output\n")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(BadInput, match=message):
        cells.recipe("starter", data, steps, columns)


def test_columns_are_named_in_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.csv").write_text("a,b,c\n1,2,3\n")
    columns = {"instruction": "a", "output": "c"}
    assert cells.recipe("starter", "odd.csv", 5, columns).data.columns == columns


@pytest.fixture
def plan(tiny, rows):
    return training.plan(tiny, rows, samples={"prompts": ["Count 1"], "max_new_tokens": 4})


@pytest.fixture
def shown(monkeypatch):
    """Pictures and pairs of texts that a cell showed."""
    found = {"pictures": [], "pairs": []}
    monkeypatch.setattr(cells, "picture", found["pictures"].append)
    monkeypatch.setattr(cells, "side_by_side", lambda titles, texts, above: found["pairs"].append((above, *texts)))
    return found


@pytest.mark.long
def test_a_run_is_followed_to_its_curve_and_its_answers(plan, shown, displayed, capsys):
    run = cells.start(plan)
    cells.follow(run)
    said = capsys.readouterr().out
    assert "Beginning: 6 steps" in said and f"{run.id} is done." in said and runs.finished(run)
    assert shown["pictures"][0].startswith(b"\x89PNG") and displayed[-1].data["text/plain"].startswith("step 6/6 · loss ")
    cells.before_and_after(run)
    assert [above for above, *_ in shown["pairs"]] == ["Count 1"]
    assert cells.resume() == run and "nothing to go on with" in capsys.readouterr().out
    cells.follow(run)
    again = capsys.readouterr().out
    assert len(shown["pictures"]) == 2 and f"{run.id} is done." in again and "Beginning" not in again, "what was told stands above"


@pytest.mark.long
def test_after_a_lost_runtime_the_run_goes_on(plan, shown, capsys):
    run = jobs.start(plan.changed({"optimization.steps": 400, "cadence.save_every": 2}), "lost")
    until(lambda: run.steps_saved(), 300)
    jobs.kill(run)
    saved = max(run.steps_saved())
    (run.folder / runs.RECIPE).write_text(
        recipe_paths.absolute(plan.changed({"optimization.steps": saved + 2, "cadence.save_every": 2})).to_yaml()
    )
    assert cells.resume() == run
    cells.follow(run)
    said = capsys.readouterr().out
    assert "goes on after step" in said and "Going on after step" in said and runs.finished(run)


@pytest.mark.long
def test_the_stop_button_saves_and_resume_goes_on(plan, shown, capsys, monkeypatch):
    run = jobs.start(plan.changed({"optimization.steps": 100_000, "cadence.save_every": 50_000, "cadence.eval_every": 50_000}), "stopped")
    pressed = []

    def sleep(seconds: float) -> None:
        if not pressed and any(type(event).__name__ == "Step" for event in runs.all_events(run)):
            pressed.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(cells.time, "sleep", sleep)
    with pytest.raises(EngineError, match="Stopped after step .* Run this cell again and it goes on."):
        cells.follow(run)
    assert "Saving." in capsys.readouterr().out and run.steps_saved() and not runs.finished(run)
    assert shown["pictures"]


@pytest.mark.long
def test_a_run_that_is_being_stopped_goes_on_when_it_has(plan, shown, capsys, monkeypatch):
    """As *Run all* in a new kernel finds it, whose predecessor asked it to stop."""
    run = cells.start(plan.changed({"optimization.steps": 100_000, "cadence.save_every": 50_000, "cadence.eval_every": 50_000}))
    until(lambda: any(type(event).__name__ == "Step" for event in runs.all_events(run)), 300)
    with (
        monkeypatch.context() as pressed,
        pytest.raises(EngineError, match="saves and ends by itself. Run this cell again, and it goes on."),
    ):
        pressed.setattr(cells.time, "sleep", interrupted)
        cells.follow(run)
    assert run.stopping
    cells.before_and_after(run)
    assert "There are no answers to put beside each other yet" in capsys.readouterr().out
    assert cells.start(run.recipe) == run and run.process and not run.stopping
    said = capsys.readouterr().out
    assert f"{run.id} is being saved and stopped, and goes on then." in said and re.search(r"goes on after step [1-9]", said)
    jobs.kill(run)


@pytest.mark.long
def test_a_run_whose_process_dies_says_its_last_words(plan, shown, monkeypatch):
    run = jobs.start(plan.changed({"optimization.steps": 100_000}), "killed")

    def sleep(seconds: float) -> None:
        process = run.process
        if process:
            process.kill()
            process.wait(10)

    monkeypatch.setattr(cells.time, "sleep", sleep)
    with pytest.raises(EngineError, match="ended without a word. Run this cell again and it goes on."):
        cells.follow(run)


def done(run: runs.Run) -> runs.Run:
    """A run as its end leaves it."""
    run.adapter.mkdir()
    run.events.write_text(json.dumps({"event": "Ended", "status": "done", "step": 6, "text": "", "seconds": 1.0}) + "\n")
    return run


@pytest.fixture
def begun(monkeypatch):
    """Which runs were started and gone on with, in place of doing so."""
    told = []
    monkeypatch.setattr(jobs, "resume", lambda run: told.append(("resume", run.id)))
    monkeypatch.setattr(jobs, "start", lambda plan, name: told.append(("start", name)) or training.fresh(plan, runs.fresh_folder(name)))
    return told


def aged(run: runs.Run, seconds: float) -> runs.Run:
    """It, begun so many seconds after the others."""
    os.utime(run.folder / runs.RECIPE, (2e9 + seconds, 2e9 + seconds))
    return run


def test_the_latest_run_that_is_not_done_goes_on_or_the_one_that_is_named(plan, home, capsys, begun):
    with pytest.raises(BadInput, match="No run is here yet: run the cell that trains"):
        cells.resume()
    named, lost = (aged(training.fresh(plan, home / "runs" / name), age) for age, name in enumerate(("named", "lost")))
    newest = aged(done(training.fresh(plan, home / "runs" / "newest")), 2)
    assert cells.resume() == lost and "lost had saved nothing yet and begins anew." in capsys.readouterr().out
    assert cells.resume(" named ") == named and begun == [("resume", "lost"), ("resume", "named")]
    with pytest.raises(BadInput, match="There is no run 'none'. The latest are: newest, lost, named."):
        cells.resume("none")
    done(named), done(lost)
    assert cells.resume() == newest and "newest is done: there is nothing to go on with." in capsys.readouterr().out
    assert len(begun) == 2


def test_all_cells_run_again_after_a_lost_runtime_go_on_with_the_lost_run(plan, home, capsys, begun):
    other = aged(training.fresh(plan.changed({"optimization.steps": 9}), home / "runs" / "other"), 2)
    lost = aged(training.fresh(recipe_paths.absolute(plan), home / "runs" / "lost"), 1)
    broken = aged(training.fresh(plan, home / "runs" / "broken"), 3)
    (broken.folder / runs.RECIPE).write_text("model: [")
    assert cells.start(plan) == lost and begun == [("resume", "lost")]
    said = capsys.readouterr().out
    assert "lost has this very recipe and is not done" in said and f"- other: interrupted at step 0 of ?, on {plan.model}" in said
    assert "- broken: " in said and "- lost" not in said
    done(lost), done(other), done(broken)
    assert cells.start(plan) not in (lost, other, broken) and begun[1] == ("start", "notebook")
    assert "ot done" not in capsys.readouterr().out


def test_a_run_is_begun_anew_where_that_is_asked_for(plan, home, capsys, begun):
    lost = training.fresh(recipe_paths.absolute(plan), home / "runs" / "lost")
    assert cells.start(plan, anew=True) != lost and begun[0] == ("start", "notebook") and "- lost: " in capsys.readouterr().out


@pytest.mark.parametrize("base", re.findall(r'"([\w.-]+)"', re.search(r"MODEL = .*# @param (\[.*\])", FINETUNE)[1]))
def test_on_a_t4_gguf_files_are_written_or_it_says_what_they_take(plan, home, monkeypatch, capsys, base):
    monkeypatch.setattr(hardware, "machine", lambda: T4)
    called = []
    monkeypatch.setattr(cells.commands, "engine", lambda *arguments: called.append(arguments))
    cells.to_gguf(training.fresh(plan.changed({"model": base}), home / "runs" / "mine"))
    said = capsys.readouterr().out
    if models.MODELS[base].shape.parameters < 4e9:
        assert called == [("export", "mine", "mine-gguf", "--to", "gguf")] and not said
    else:
        assert not called and said.startswith("No GGUF files are written here. Merging ")
        assert re.search(r"needs [\d.]+ GB of GPU memory, 13.8 GB can be used. Export the adapter instead", said)


def test_what_a_base_of_the_hub_takes_to_merge_is_known_once_it_is_here(monkeypatch, home):
    monkeypatch.setattr(hardware, "machine", lambda: T4)
    spec = models.resolve("someone/large")
    merging.check_memory(spec)
    spec.folder.mkdir(parents=True)
    sizes = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000}
    (spec.folder / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    with pytest.raises(EngineError, match="Merging someone/large needs it unquantized in memory once"):
        merging.check_memory(spec)


def test_events_as_lines():
    assert telling.told(Queued("one", 2)) == "Waiting: one has the machine; place 2 in line."
    assert telling.told(Notice("x")) == telling.told(Adjusted(1, {}, "x")) == "x"
    assert telling.told(Saved(2, 1_500_000, 0.25)) == "step 2: saved, 1.5 MB in 0.2 s"
    assert [telling.duration(each) for each in (5, 65, 3_723)] == ["0:05", "1:05", "1:02:03"]


def test_a_machine_to_compare_with_that_is_none_is_told():
    with pytest.raises(BadInput, match="There is no machine 'H100' to compare with. There are: T4, L4, "):
        explaining.show_memory("H100")


def test_what_is_written_already_is_left_alone(plan, home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    called = []
    monkeypatch.setattr(cells.commands, "engine", lambda *arguments: called.append(arguments))
    run = training.fresh(plan, home / "runs" / "mine")
    cells.to_adapter(run)
    (tmp_path / "mine-adapter").mkdir()
    cells.to_adapter(run)
    assert called == [("export", "mine", "mine-adapter", "--to", "adapter")] and "mine-adapter is there already." in capsys.readouterr().out


def test_nf4_of_normal_weights_is_as_the_paper_says():
    import numpy

    found = nf4.rounded(numpy.random.default_rng(0).normal(size=(256, 512)).astype(numpy.float32))
    assert len(found.levels) == 16 and found.levels[0] == -1 and found.levels[-1] == 1 and 0 in found.levels
    assert found.shares.sum() == pytest.approx(1) and 0.085 < found.error < 0.1
    assert found.bits == pytest.approx(4.127, abs=0.001) and nf4.rounded(numpy.eye(64, dtype=numpy.float32)).error < 0.01
    picture = pictures.nf4(found)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def test_the_memory_picture_says_every_plans_sum():
    from PIL import Image

    plans = {name: memory.training_plan(models.MODELS[name].shape, presets.preset(name), T4) for name in ("guanaco-7b", "guanaco-65b")}
    drawn = Image.open(io.BytesIO(pictures.memory(plans, T4.model_memory, "a T4")))
    assert drawn.size[0] == 1050
    named = {part for parts in pictures._GROUPS.values() for part in parts}
    assert named <= {part.name for part in plans["guanaco-7b"].parts}

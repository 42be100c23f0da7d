"""Measurements as they are found again: from another folder, killed at their very end, damaged, of another version, deleted meanwhile."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_measurements import PLAIN, SUBJECTS, measured, of_tiny, plan
from test_measures import question, written

from engine import evaluate_commands, jobs, runs
from engine.errors import BadInput, EngineError
from engine.evaluate import expectations, forgetting, measurements, measuring
from engine.evaluate.forgetting import Check
from engine.evaluate.measurements import Measurement
from engine.events import Ended
from engine.settings import LoadSettings
from ui.finetune import forgetting as forgetting_page
from ui.measure import history
from ui.measure.history import Shelf


@pytest.fixture
def data(tmp_path) -> str:
    return written(tmp_path / "mmlu.jsonl", [question(each, number, "ABCD"[number % 4]) for each in SUBJECTS for number in range(8)])


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(SimpleNamespace(read_only=False))


def test_it_goes_on_from_any_folder(tiny, two_adapters, data, monkeypatch, tmp_path):
    for name, source in (("tiny-llama", tiny), ("mine", two_adapters[0])):
        shutil.copytree(source, tmp_path / "work" / name)
    monkeypatch.chdir(tmp_path / "work")
    made = measurements.create(of_tiny("./tiny-llama", data, adapter="mine"))
    assert made.settings.model == str(tmp_path / "work/tiny-llama") and made.id.startswith("mmlu-tiny-llama-mine-")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert measuring.work(made, lambda event: None).status == "done" and made.facts["adapter_sha256"]
    monkeypatch.chdir(tmp_path / "work")
    again = of_tiny("tiny-llama", data, adapter="mine")
    assert expectations.expected(again, measuring.read(again, lambda progress: None)).source == "measured"


def test_a_folder_called_like_a_known_id_is_not_meant(monkeypatch, tmp_path, home):
    monkeypatch.chdir(tmp_path)
    run = runs.fresh_folder("mine")
    (run / runs.RECIPE).write_text("model: starter\n")
    for name in ("starter", "scripted", "qwen2.5-0.5b", "guanaco-mini", "none", "timdettmers/guanaco-7b", run.name, "m", "owner/name"):
        (tmp_path / name).mkdir(parents=True)
    far = LoadSettings(backend="remote", base_url="http://x/v1")
    kept = [("starter", "guanaco-mini"), ("scripted", "none"), ("qwen2.5-0.5b", "timdettmers/guanaco-7b"), ("owner/else", run.name)]
    for model, adapter in kept:
        settings = plan("", model=model, adapter=adapter, load=PLAIN)
        assert settings.with_absolute_paths() == settings
    assert plan("", model="m", load=far).with_absolute_paths().model == "m"
    here = plan("", model="owner/name", adapter="m", load=PLAIN).with_absolute_paths()
    assert (here.model, here.adapter) == (str(tmp_path / "owner/name"), str(tmp_path / "m"))


def test_a_long_id_is_apart_from_its_status(capsys):
    far = LoadSettings(backend="remote", base_url="http://x/v1")
    made = measurements.create(plan("", model="owner/a-model-with-quite-a-long-name", load=far))
    evaluate_commands.list_measurements()
    assert f"{made.id}  {measurements.summary(made)['status']} " in capsys.readouterr().out


class Killed(BaseException):
    """As nothing in the program expects it."""


@pytest.mark.parametrize("end", [Killed(), EngineError("The disk is full.")])
def test_one_that_has_its_result_is_done_whatever_came_after(data, shelf, monkeypatch, capsys, end):
    honest = Measurement.keep_result

    def keep(self, result: dict) -> None:
        honest(self, result)
        raise end

    made = measurements.create(plan(data))
    with monkeypatch.context() as patch, pytest.raises(type(end)):
        patch.setattr(Measurement, "keep_result", keep)
        measuring.work(made, lambda event: None)
    last = runs.all_events(made)[-1]
    assert not isinstance(last, Ended) or last.status == "failed"
    assert measurements.summary(made)["status"] == "done" and "24 questions" in shelf.every()["rows"][0]["words"]
    evaluate_commands.list_measurements()
    assert "done " in (said := capsys.readouterr().out) and "24 questions" in said and "disk" not in said
    with pytest.raises(BadInput, match="is done"):
        measurements.resume(made)


DAMAGES = {
    "an empty result": ("result.json", lambda text: "", "result.json .* is damaged"),
    "a foreign result": ("result.json", lambda text: '{"score": 1}', "result.json .* of another version"),
    "a result of another measure": ("result.json", lambda text: text.replace('"average"', '"mean"'), "result.json .* of another version"),
    "a list": ("result.json", lambda text: "[]", "result.json .* JSON object"),
    "empty facts": ("facts.json", lambda text: "", "facts.json .* is damaged"),
    "empty settings": ("settings.json", lambda text: "", "settings.json .* is damaged"),
    "a field more": ("settings.json", lambda text: json.dumps({**json.loads(text), "more": 1}), "of another version: more: "),
    "a field less": ("settings.json", lambda text: json.dumps({"model": "scripted"}), "of another version: measure: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_that_is_damaged_is_listed_with_its_trouble_beside_the_others_and_can_be_deleted(data, shelf, capsys, damage):
    good, _ = measured(plan(data))
    made, _ = measured(plan(data, limit=9))
    name, change, words = DAMAGES[damage]
    path = made.folder / name
    path.write_text(change(path.read_text()))
    rows = {row["id"]: row for row in shelf.every()["rows"]}
    assert rows[good.id]["status"] == "done" and "24 questions" in rows[good.id]["words"]
    assert rows[made.id]["status"] == "failed"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(rows[made.id]["words"])
    evaluate_commands.list_measurements()
    assert "failed" in (said := capsys.readouterr().out) and "24 questions" in said and name in said
    assert expectations.expected(plan(data), measuring.read(plan(data), lambda progress: None)).items == 24
    shelf.delete(made.id)
    assert measurements.every() == [good]


@pytest.mark.parametrize("pace", [{}, {"pace": {}}, {"pace": {"tokens": 5}}, {"pace": 3}])
@pytest.mark.long
def test_a_result_without_its_pace_foretells_nothing(tiny, data, pace):
    settings = of_tiny(tiny, data, limit=9)
    made, _ = measured(settings)
    made.keep_result({key: value for key, value in made.result.items() if key != "pace"} | pace)
    assert expectations.expected(settings, measuring.read(settings, lambda progress: None)).source == "estimated"


def test_one_that_is_deleted_while_the_list_is_made_breaks_nothing(data, monkeypatch):
    gone, left = measurements.create(plan(data)), measurements.create(plan(data))
    honest = Path.glob

    def glob(self, pattern):
        found = list(honest(self, pattern))
        shutil.rmtree(gone.folder, ignore_errors=True)
        return iter(found)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", glob)
        assert measurements.every() == [left, gone]
    assert measurements.every() == [left]


@pytest.mark.parametrize("moment", ["settings", "facts", "begun"])
def test_one_that_is_deleted_while_it_is_told_of_is_left_out(data, shelf, monkeypatch, moment):
    first, _ = measured(plan(data))
    gone, _ = measured(plan(data))
    honest = getattr(Measurement, moment).fget

    def late(self):
        if self == gone and gone.folder.exists():
            jobs.remove(gone)
        return honest(self)

    monkeypatch.setattr(Measurement, moment, property(late))
    assert [row["id"] for row in shelf.every()["rows"]] == [first.id]


def test_what_is_asked_of_one_that_was_deleted_is_told_so(data):
    made, _ = measured(plan(data))
    jobs.remove(made)
    for ask in (measurements.summary, measurements.resume, lambda gone: gone.settings, history.row_of, history.about):
        with pytest.raises(BadInput, match="was deleted meanwhile"):
            ask(made)


def test_a_check_of_what_a_run_forgot_says_that_one_was_deleted_and_goes_on(data, monkeypatch):
    base, _ = measured(plan(data))
    tuned = measurements.create(plan(data, adapter="scripted-one"))
    check = Check("24 questions", base, tuned)
    jobs.remove(tuned)
    for ask in (forgetting.how_far, forgetting.words):
        with pytest.raises(BadInput, match="was deleted meanwhile"):
            ask(check)
    for goes_on in (True, False):
        monkeypatch.setattr(forgetting, "goes_on", lambda check: goes_on)
        assert "was deleted meanwhile" in forgetting_page._shown(check)

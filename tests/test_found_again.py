"""Measurements as they are found again: from another folder."""

import shutil

import pytest
from test_measurements import PLAIN, SUBJECTS, of_tiny, plan
from test_measures import question, written

from engine import runs
from engine.evaluate import expectations, measurements, measuring
from engine.settings import LoadSettings


@pytest.fixture
def data(tmp_path) -> str:
    return written(tmp_path / "mmlu.jsonl", [question(each, number, "ABCD"[number % 4]) for each in SUBJECTS for number in range(8)])


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

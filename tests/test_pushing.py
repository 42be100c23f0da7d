"""An adapter pushed by the Hub's real client to a server here, fetched back, and refused in words where it cannot be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import builders
import pytest
from conftest import ROOT
from exporting import exported
from hub_server import HubServer
from huggingface_hub import constants
from test_export import of_the_starter

from engine import adapters, models
from engine.errors import BadInput, EngineError

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(whole):
    return whole[0]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The real client on a server here; it reads HF_ENDPOINT when it is imported, which may be long ago."""
    (tmp_path / "owned").mkdir()
    with HubServer({}, owned=tmp_path / "owned") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


def test_it_is_private_and_whole(run, hub, home):
    done = exported(run, "hub", "me/counting")
    assert done.place == f"{hub.url}/me/counting" and hub.private == {"me/counting"} and "private" in done.notes[0]
    sent = {path.name for path in hub.repos["me/counting"].iterdir()}
    assert (
        sent
        == set(done.files)
        == {"README.md", "adapter_config.json", "adapter_model.safetensors", "losses.png", "playground.json", "recipe.yaml"}
    )
    assert "python -m engine chat --model tiny-llama --adapter me/counting" in (hub.repos["me/counting"] / "README.md").read_text()
    assert not [path for path in home.iterdir() if path.name.startswith("tmp")]


FETCHED = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from engine import adapters
found = adapters.find("me/counting", lambda progress: None)
print(found.weights)
ids = torch.tensor([[5, 80, 90]])
with torch.no_grad():
    one, other = (PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), place).eval()(ids).logits
        for place in ("me/counting", sys.argv[2]))
print(torch.equal(one, other))
"""


@pytest.mark.long
def test_this_app_and_peft_fetch_it_themselves(run, hub, tiny):
    """In a process of its own, so that the Hub's client asks this server."""
    exported(run, "hub", "me/counting")
    place = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": os.environ["GUANACO_HOME"]}
    done = subprocess.run([sys.executable, "-c", FETCHED, str(tiny), str(run.adapter)], env=place, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights, same = done.stdout.splitlines()
    assert Path(weights).read_bytes() == (run.adapter / adapters.WEIGHTS).read_bytes() and same == "True"


def test_public_is_asked_for(run, hub):
    done = exported(run, "hub", "me/counting", public=True)
    assert not hub.private and "It is public." in done.notes


def test_a_gated_base_is_told(run, hub, tmp_path):
    spec = next(spec for spec in models.MODELS.values() if spec.gated)
    done = exported(of_the_starter(run, tmp_path, base=spec.source, base_id=spec.id), "hub", "me/counting")
    assert any("gated" in note and "accept its licence" in note for note in done.notes)
    assert "gated" in (hub.repos["me/counting"] / "README.md").read_text()


def test_what_is_there_is_not_overwritten_and_what_is_empty_is_gone_on_with(run, hub):
    exported(run, "hub", "me/counting")
    with pytest.raises(BadInput, match="on the Hub already and holds files"):
        exported(run, "hub", "me/counting")
    empty = hub.owned / "empty"
    empty.mkdir()
    hub.repos["me/empty"] = empty
    hub.private.add("me/empty")
    assert exported(run, "hub", "me/empty").place.endswith("/me/empty") and (empty / "README.md").is_file()
    hub.private.discard("me/empty")
    for path in empty.iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="already, and public"):
        exported(run, "hub", "me/empty")


@pytest.mark.parametrize("name", ["counting", "a/b/c", "../x", "me/"])
def test_a_name_that_is_none_is_refused(run, hub, name):
    with pytest.raises(BadInput, match="owner/name"):
        exported(run, "hub", name)
    assert not hub.requests


def test_no_token_is_told_before_any_request(run, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BadInput, match="there is no token.*HF_TOKEN.*hf auth login"):
        exported(run, "hub", "me/counting")
    assert not hub.requests


def test_a_wrong_token_is_told(run, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(EngineError, match="does not accept the token.*write permission"):
        exported(run, "hub", "me/counting")


def test_another_owner_is_told(run, hub):
    with pytest.raises(EngineError, match="may not write to somebody"):
        exported(run, "hub", "somebody/counting")


def test_a_hub_that_fails_is_told(run, hub):
    hub.status = 503
    with pytest.raises(EngineError, match="me/counting was not pushed: the Hub answered 503"):
        exported(run, "hub", "me/counting")


def test_no_connection_is_told(run, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{builders.free_port()}")
    with pytest.raises(EngineError, match="was not pushed: .*Check the connection"):
        exported(run, "hub", "me/counting")


def test_offline_is_told(run, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EngineError, match="HF_HUB_OFFLINE forbids"):
        exported(run, "hub", "me/counting")
    assert not hub.requests


def test_the_command_pushes_by_its_environment(run, hub, run_engine):
    done = run_engine("export", str(run.folder), "--to", "hub", "me/counting", "--json", HF_ENDPOINT=hub.url, HF_TOKEN="hf_test")
    assert done.returncode == 0 and json.loads(done.stdout)["place"] == f"{hub.url}/me/counting", done.stderr
    assert "hf_test" not in done.stdout + done.stderr

"""The real Hub client against a local server that is honest, absent, slow or lying (faults, rows 4, 6, 7, 33)."""

import json
import os
import shutil
import subprocess
import sys

import builders
import pytest
from conftest import ROOT
from hub_server import COMMIT, HubServer

from engine import paths

pytestmark = pytest.mark.long
FETCH = """
import sys, traceback
from engine import adapters, hardware, models
from engine.backends.weights import fetch
from engine.errors import EngineError
from engine.settings import LoadSettings
kind, name = sys.argv[1:]
try:
    if kind == "model":
        print(fetch(models.resolve(name), LoadSettings(), lambda progress: print("progress:", progress.text))[0].folder)
    else:
        print(adapters.find(name, lambda progress: None).folder)
except EngineError as error:
    print(type(error).__name__, error)
"""


def fetch(kind: str, name: str, endpoint: str, **env: str) -> str:
    """In a process of its own: the client reads HF_ENDPOINT when it is imported."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DISABLE_XET": "1",
        **env,
    }
    done = subprocess.run([sys.executable, "-c", FETCH, kind, name], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def leftovers(home) -> list[str]:
    return [path.name for path in home.rglob("*") if path.suffix in (".safetensors", ".bin") and ".download" not in str(path)]


def test_a_model_arrives_verified_with_its_manifest(tiny, home):
    with HubServer({"someone/tiny": tiny}) as hub:
        out = fetch("model", "someone/tiny", hub.url)
        folder = home / "models" / "someone--tiny"
        assert str(folder) in out
        assert not paths.damaged(folder)
        assert paths.read_manifest(folder)["revision"] == COMMIT
        count = len(hub.fetched())
        fetch("model", "someone/tiny", hub.url)
        assert len(hub.fetched()) == count, "a model on disk is not fetched again"


def test_what_the_clients_own_cache_holds_is_not_fetched_again(tiny, home, tmp_path):
    """As on a Space, whose host fetches there what the card asks for. A file that changed there is fetched."""
    caching = "import sys; from huggingface_hub import snapshot_download; print(snapshot_download(sys.argv[1]))"
    with HubServer({"someone/tiny": tiny}) as hub:
        cache = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", caching, "someone/tiny"]
        done = subprocess.run(command, env={**os.environ, **cache}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        hub.requests.clear()
        fetch("model", "someone/tiny", hub.url, HF_HOME=cache["HF_HOME"])
        folder = home / "models" / "someone--tiny"
        assert not hub.fetched() and not paths.damaged(folder)
        weights = folder / "model.safetensors"
        assert not weights.is_symlink() and weights.stat().st_nlink > 1, "one disk holds it once"
        shutil.rmtree(folder)
        weights = next((tmp_path / "cache").rglob("model.safetensors")).resolve()
        held = weights.read_bytes()
        weights.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        fetch("model", "someone/tiny", hub.url, HF_HOME=cache["HF_HOME"])
        assert hub.fetched() == ["model.safetensors"] and not paths.damaged(folder)


def test_a_hub_model_chats_from_the_command_line(tiny, run_engine):
    with HubServer({"someone/tiny": tiny}) as hub:
        done = run_engine(
            "chat", "--model", "someone/tiny", "--max-new-tokens", "4", "--json", "Hi", HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1"
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "someone/tiny"


def test_an_encoder_decoder_is_refused_before_its_weights_are_asked_for(tmp_path):
    folder = tmp_path / "t5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    with HubServer({"someone/t5": folder}) as hub:
        assert "encoder-decoder" in fetch("model", "someone/t5", hub.url)
        assert hub.fetched() == ["config.json"]


def test_a_model_too_large_is_refused_before_its_weights_are_asked_for(tmp_path):
    folder = tmp_path / "giant"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "hidden_size": 65536,
                "intermediate_size": 262144,
                "num_hidden_layers": 200,
                "num_attention_heads": 512,
                "vocab_size": 32000,
            }
        )
    )
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    with HubServer({"someone/giant": folder}) as hub:
        assert "does not fit" in fetch("model", "someone/giant", hub.url)
        assert hub.fetched() == ["config.json"]


@pytest.mark.parametrize(
    "trouble, words",
    [
        ({"status": 404}, "no such model"),
        ({"status": 500}, "it answered 500"),
        ({"status": 401}, "no model|not accepted"),
        ({"gated": True}, "gated.*HF_TOKEN"),
        ({"lie": True}, "checksum is not the one the Hub reports"),
        ({"hang": True}, "Check the connection|reached"),
    ],
)
def test_trouble_is_explained_and_nothing_is_left(tiny, home, trouble, words):
    import re

    with HubServer({"someone/tiny": tiny}, **trouble) as hub:
        out = fetch("model", "someone/tiny", hub.url)
    assert re.search(words, out), out
    assert "Traceback" not in out
    assert not leftovers(home)


def test_a_connection_lost_after_the_list_is_no_fault_of_the_model(tiny, home):
    code = FETCH.replace("kind, name = sys.argv[1:]", "kind, name = sys.argv[1:]\nfrom engine import hub").replace(
        'if kind == "model":',
        "if True:\n        repo = hub.Repository('a/b', '0' * 40, (hub.RemoteFile('config.json', 5, None, None),), 'mit', False)\n        print(hub.read_json(repo, 'config.json'))\n    elif False:",
    )
    variables = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_ETAG_TIMEOUT": "1"}
    done = subprocess.run([sys.executable, "-c", code, "model", "x"], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert "EngineError" in done.stdout and "cannot be reached" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["a/b--c", "a/..b"])
def test_names_that_the_hub_does_not_know_are_one_line(name, home):
    out = fetch("model", name, "http://127.0.0.1:9")
    assert "BadInput" in out and "Traceback" not in out


def test_no_server_at_all(home):
    assert "cannot be reached" in (out := fetch("model", "someone/tiny", "http://127.0.0.1:9")), out
    assert not leftovers(home)


def test_offline_says_so(home):
    assert "HF_HUB_OFFLINE" in fetch("model", "someone/tiny", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")


def test_an_interrupted_download_goes_on_after_verified_files(tiny, home):
    with HubServer({"someone/tiny": tiny}, hang=True) as hub:
        fetch("model", "someone/tiny", hub.url)
    with HubServer({"someone/tiny": tiny}) as hub:
        fetch("model", "someone/tiny", hub.url)
        assert "tokenizer.json" not in hub.fetched() and "model.safetensors" in hub.fetched()
    assert not (home / "models" / ".someone--tiny.download").exists()


def test_a_token_is_sent_and_never_printed(tiny):
    with HubServer({"someone/tiny": tiny}, gated=True) as hub:
        out = fetch("model", "someone/tiny", hub.url, HF_TOKEN="hf_canarycanarycanary")
        assert any(authorization == "Bearer hf_canarycanarycanary" for _, _, authorization in hub.requests)
    assert "canary" not in out


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    return builders.adapter(tmp_path_factory.mktemp("hub") / "adapter", tiny, tiny)


def test_an_adapter_arrives(adapter, home):
    with HubServer({"someone/adapter": adapter}) as hub:
        assert str(home / "adapters" / "someone--adapter") in fetch("adapter", "someone/adapter", hub.url)


def test_a_hostile_adapter_config_stops_before_the_weights(adapter, tmp_path):
    folder = tmp_path / "hostile"
    shutil.copytree(adapter, folder)
    builders.change_config(folder, auto_mapping={"parent_library": "os"})
    with HubServer({"someone/hostile": folder}) as hub:
        assert "'auto_mapping'" in fetch("adapter", "someone/hostile", hub.url)
        assert hub.fetched() == ["adapter_config.json"]


def pickled(adapter, folder):
    """The adapter as its weights were published in 2023."""
    import torch
    from safetensors.torch import load_file

    shutil.copytree(adapter, folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    return folder


def test_a_strangers_pickled_adapter_is_not_even_fetched(adapter, tmp_path):
    with HubServer({"someone/old": pickled(adapter, tmp_path / "old")}) as hub:
        assert "safetensors only" in fetch("adapter", "someone/old", hub.url)
        assert hub.fetched() == ["adapter_config.json"]


def test_an_official_pickled_adapter_becomes_safetensors_and_belongs_to_the_registrys_base(adapter, tmp_path, home):
    with HubServer({"timdettmers/guanaco-7b": pickled(adapter, tmp_path / "old")}) as hub:
        fetch("adapter", "guanaco-7b", hub.url)
    from engine import adapters

    read = adapters.find("guanaco-7b", lambda progress: None)
    assert (read.base, read.prompt) == ("huggyllama/llama-7b", "guanaco")
    assert sorted(path.name for path in read.folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "manifest.json"]
    assert adapters.load_tensors(read)
    assert not list(home.rglob("*.bin"))

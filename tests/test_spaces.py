"""The Space: its folder built, its card and requirements, started as the host starts it, chatted with, sent by the Hub's real client."""

import contextlib
import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import builders
import psutil
import pytest
from conftest import ROOT, SHARED, shared
from gradio_client import Client
from hub_server import HubServer
from pages import BARE, DEFAULTS
from resolving import resolved

from engine import presets
from engine.models import ADAPTERS, MODELS, ON_A_GPU
from engine.requirements import needed

# What a Space's host sets.
HOST = {"SYSTEM": "spaces", "SPACE_ID": "me/playground", "SPACE_HOST": "me-playground.hf.space", "SPACE_AUTHOR_NAME": "me"}


def deploy(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    """The command, without the Hub where `env` names none."""
    command = [sys.executable, "spaces/deploy.py", *arguments]
    place = env or {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **place}, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module", params=["zero", "gpu", "cpu"])
def built(request, tmp_path_factory):
    """A Space's folder for each hardware, and which that is."""
    folder = tmp_path_factory.mktemp("space") / "folder"
    done = deploy("me/playground", "--hardware", request.param, "--folder", str(folder))
    assert done.returncode == 0 and "Nothing was sent" in done.stdout, done.stderr
    return folder, request.param


def test_the_folder_is_the_app_with_a_card(built):
    from huggingface_hub import SpaceCard, SpaceHardware

    folder, hardware = built
    assert {path.name for path in folder.iterdir()} == {"app.py", "README.md", "LICENSE", "requirements.txt", "engine", "ui"}
    assert not list(folder.rglob("__pycache__"))
    assert (folder / "app.py").read_text().split('"""')[2].lstrip().startswith("import spaces"), "it must come before torch"
    card = SpaceCard.load(folder / "README.md")
    assert card.data.sdk == "gradio" and card.data.sdk_version == importlib.metadata.version("gradio")
    assert card.data.python_version == "3.12" and (folder / card.data.app_file).is_file()
    assert len(card.data.short_description) <= 60 and card.data.license == "apache-2.0" and card.data.models
    assert card.data.suggested_hardware in {each.value for each in SpaceHardware} and "hardware" not in card.data.to_dict()
    assert ("preload_from_hub" in card.data.to_dict()) == (hardware != "cpu")
    wanted = {each.name for each in needed(folder / "requirements.txt")}
    variables = {"GUANACO_ANSWERS", *re.findall(r"GUANACO_\w+", (folder / "app.py").read_text())}
    assert variables <= set(re.findall(r"GUANACO_\w+", card.text)), "its owner is told of each"
    assert {"torch", "transformers", "spaces"} <= wanted and "gradio" not in wanted, "as `doctor` reads them there"


@pytest.mark.long
def test_the_host_fetches_the_files_that_are_opened_and_no_others(tmp_path):
    from huggingface_hub import SpaceCard

    base, adapter = MODELS[ON_A_GPU].source, ADAPTERS[MODELS[ON_A_GPU].adapter].source
    there = tmp_path / "there"
    there.mkdir()
    names = ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in (*names, "pytorch_model-00001-of-00002.bin", "README.md"):
        (there / name).write_text("{}")
    with HubServer({base: there}) as hub:
        done = deploy("me/playground", "--folder", str(tmp_path / "asked"), HF_ENDPOINT=hub.url)
        assert done.returncode == 0 and not hub.fetched(), done.stderr
    done = deploy("me/playground", "--folder", str(tmp_path / "offline"), HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and "Run this again where the Hub can be reached" in done.stdout
    assert "The starter model" not in done.stdout
    for folder, files in (("asked", " " + ",".join(names)), ("offline", "")):
        assert SpaceCard.load(tmp_path / folder / "README.md").data.preload_from_hub == [base + files, adapter]


@pytest.mark.long
def test_its_requirements_resolve_on_the_host(built, tmp_path):
    """With what the card brings: gradio with the extras that the host installs, which pin an older pydantic."""
    folder, hardware = built
    if hardware == "cpu":
        pytest.skip("the same lines as for a GPU, from an index that is not asked here")
    lines = [line for line in (folder / "requirements.txt").read_text().splitlines() if not line.startswith("--")]
    (tmp_path / "requirements.txt").write_text("\n".join([f"gradio[oauth,mcp]=={importlib.metadata.version('gradio')}", *lines]))
    found = resolved(tmp_path / "requirements.txt", tmp_path, "3.12")
    torch = tuple(map(int, found["torch"].split("+")[0].split(".")[:2]))
    assert (2, 8) <= torch < ((2, 12) if hardware == "zero" else (2, 14)) and "spaces" in found


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


class Lender:
    """A stand-in for the host's own service that hands out GPUs. `asked` has the path and query of every request; `refused` makes it
    say that a visitor's quota is used up, `broken` that something is wrong with it."""

    def __init__(self):
        self.asked: list[str] = []
        self.refused = self.broken = False
        lender = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                lender.asked.append(self.path)
                self.rfile.read(int(self.headers.get("content-length") or 0))
                status, answer = 200, {}
                if self.path.startswith("/schedule"):
                    answer = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "none", "allowToken": "token"}
                    if lender.broken:
                        status = 500
                    elif lender.refused:
                        status, answer = 429, {"left": 0, "wait": 7200}
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


# The Space's app where torch is built for CPUs: the host's package, which would put a stand-in for CUDA into it, is to find none.
WITHOUT_A_GPU = """
import runpy, sys
sys.modules["torch"] = None
import spaces
del sys.modules["torch"]
runpy.run_path("app.py", run_name="__main__")
"""


# The model "broken" fails in a way that nobody foresaw.
BREAKING = """
import os
from dataclasses import replace
import engine.backends, engine.models
opens = engine.backends.open_backend

def opened(spec, *asked):
    if spec.id == "broken":
        raise ZeroDivisionError(f"while HF_DEACTIVATE_ASYNC_LOAD is {os.environ.get('HF_DEACTIVATE_ASYNC_LOAD')}")
    return opens(spec, *asked)

engine.backends.open_backend = opened
engine.models.MODELS["broken"] = replace(engine.models._SCRIPTED, id="broken")
"""


@contextlib.contextmanager
def started(folder, *command: str, **env: str):
    """The Space as its host starts it; gives its address once the page answers."""
    port = builders.free_port()
    left = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "GUANACO_", "GRADIO_"))}
    env = {**left, **HOST, "GRADIO_SERVER_PORT": str(port), "GUANACO_HOME": os.environ["GUANACO_HOME"], "HF_HUB_OFFLINE": "1", **env}
    with open(folder.parent / "log", "w+") as log:
        process = subprocess.Popen([sys.executable, *(command or ["app.py"])], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            began = time.monotonic()
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                    break
                assert process.poll() is None and time.monotonic() - began < 120, (folder.parent / "log").read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", time.monotonic() - began
        finally:
            lent = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait(20)
            for each in lent:  # the host's package leaves its workers to the end of the container
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def chat(url: str, message: str = "Hello") -> dict:
    return Client(url, verbose=False).predict(message, None, *BARE, *DEFAULTS, api_name="/chat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "folder"
    assert deploy("me/playground", "--folder", str(folder)).returncode == 0
    return folder


@pytest.mark.long
def test_it_starts_on_cpus_and_chats_with_the_starter(folder, starter):
    with started(folder) as (url, seconds):
        assert seconds < 60
        told = chat(url, "Say hello.")["turns"][-1]
        assert told["text"] and "tokens/s" in told["facts"]
        assert "Fetching the published" not in (folder.parent / "log").read_text(), "nobody asked for it"
        config = urllib.request.urlopen(url + "/config").read().decode()
        assert str(starter) not in config and "spaces/me/playground?duplicate=true" in config
        with pytest.raises(Exception, match="Training is off"):
            Client(url, verbose=False).predict(presets.preset("starter").to_yaml(), "mine", api_name="/finetune_start")


def leaderboard(url: str) -> list:
    return Client(url, verbose=False).predict("published", "bt", False, False, api_name="/rate_systems")


@shared
@pytest.mark.long
def test_it_fetches_the_published_judgements_where_its_owner_says_so(folder):
    """The address of an HTTP server with the real files; a Space has no shell."""
    log = folder.parent / "log"
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SHARED / "qlora")) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        wanted = {"GUANACO_FETCH_ANSWERS": "on", "GUANACO_ANSWERS": f"http://127.0.0.1:{server.server_port}"}
        with started(folder, GUANACO_MODEL="scripted", **wanted) as (url, _):
            builders.until(lambda: "published answers and judgements are here" in log.read_text())
            assert f"12.6 MB from {wanted['GUANACO_ANSWERS']}" in log.read_text()
            assert "4,480 judgements on 80 questions" in str(leaderboard(url))
        server.shutdown()


@pytest.mark.long
def test_it_starts_without_the_published_judgements_where_they_cannot_be_fetched(folder):
    log = folder.parent / "log"
    wanted = {"GUANACO_FETCH_ANSWERS": "on", "GUANACO_ANSWERS": "http://127.0.0.1:9"}
    with started(folder, GUANACO_MODEL="scripted", **wanted) as (url, _):
        builders.until(lambda: "were not fetched: http://127.0.0.1:9 cannot be reached" in log.read_text())
        assert "Traceback" not in log.read_text() and chat(url)["turns"][-1]["text"]
        with pytest.raises(Exception, match="only its owner can fetch"):
            leaderboard(url)


@pytest.mark.long
def test_on_zerogpu_each_answer_borrows_a_gpu(folder, tmp_path):
    lender = Lender()
    zero = {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": lender.url, "GUANACO_MODEL": "scripted", "HOME": str(tmp_path)}
    with started(folder, "-c", WITHOUT_A_GPU, **zero) as (url, _):
        assert lender.asked == ["/startup-report"], "a Space without a decorated function is refused by its host"
        assert "scripted" in chat(url)["turns"][-1]["text"]
        kinds = [path.partition("?")[0] for path in lender.asked]
        assert kinds == ["/startup-report", "/schedule", "/allow", "/release"]
        assert "durationSeconds=49" in lender.asked[1], "15 s to start, 512 tokens at 15 a second"
        lender.asked.clear()
        visitor = Client(url, verbose=False, headers={"x-ip-token": "a-visitor"})
        visitor.predict("Hello", None, *BARE, *DEFAULTS, api_name="/chat")
        sides = ["", *BARE[:4]] * 2
        visitor.predict(None, "Hello", *sides, "", *DEFAULTS, api_name="/compare")
        borrowed = [path for path in lender.asked if path.startswith("/schedule")]
        assert len(borrowed) == 3 and all("token=a-visitor" in path for path in borrowed), "the quota is that of whoever asks"
        lender.refused = True
        with pytest.raises(Exception, match="GPU limit"):
            chat(url)
        lender.broken = True
        with pytest.raises(Exception, match="borrow no GPU.*RuntimeError.*Try again"):
            chat(url)
        lender.server.shutdown()
        lender.server.server_close()
        with pytest.raises(Exception, match="borrow no GPU.*ConnectError.*Try again"):
            chat(url)


@pytest.mark.long
@pytest.mark.parametrize(
    "model, why",
    [
        ("someone/nothing", "HF_HUB_OFFLINE"),
        ("broken", "ZeroDivisionError: while HF_DEACTIVATE_ASYNC_LOAD is 1"),
        ("nonsense", "There is no model 'nonsense'"),
    ],
)
def test_on_zerogpu_a_model_that_cannot_be_loaded_is_told_on_the_page(folder, tmp_path, model, why):
    lender = Lender()
    zero = {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": lender.url, "GUANACO_MODEL": model, "HOME": str(tmp_path)}
    with started(folder, "-c", BREAKING + WITHOUT_A_GPU, **zero) as (url, _):
        assert lender.asked == ["/startup-report"], "its host would refuse it"
        assert "could not load its model" in str(Client(url, verbose=False).predict("none", api_name="/status"))
        with pytest.raises(Exception, match="This host could not load its model; its log says why.$"):
            chat(url)
    assert why in (folder.parent / "log").read_text()


@pytest.mark.long
def test_it_is_sent_by_the_real_client(tmp_path):
    (tmp_path / "owned").mkdir()
    with HubServer({}, owned=tmp_path / "owned") as hub:
        place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_test"}
        done = deploy("me/playground", "--upload", **place)
        assert done.returncode == 0 and f"{hub.url}/spaces/me/playground" in done.stdout, done.stderr
        sent = hub.spaces["me/playground"]
        assert (sent / "engine/chat.py").read_bytes() == (ROOT / "engine/chat.py").read_bytes() and (sent / "README.md").is_file()
        assert hub.private == {"me/playground"}
        again = deploy("me/playground", "--upload", **place)
        assert again.returncode == 2 and "--update" in again.stderr
        (sent / "old.py").write_text("")
        assert deploy("me/playground", "--upload", "--update", **place).returncode == 0
        assert not (sent / "old.py").exists() and (sent / "app.py").is_file()
        for wrong, words in (("hf_wrong", "does not accept the token"), ("", "there is no token")):
            done = deploy("me/other", "--upload", **{**place, "HF_TOKEN": wrong})
            assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr and "hf_wrong" not in done.stderr
    done = deploy("someone/else", "--upload", **place)
    assert "cannot be reached" in done.stderr or "connection" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["playground"], 2, "owner/name"),
        (["a b/c d"], 2, "owner/name"),
        (["me/x/y"], 2, "owner/name"),
        (["https://huggingface.co/spaces/me/x"], 2, "owner/name"),
        (["me/playground", "--folder", "{there}"], 2, "is there already"),
        (["me/playground", "--folder", "{there}/file/folder"], 1, "cannot be written (Not a directory). Name another --folder."),
        (["me/playground", "--update"], 2, "Add --upload"),
        (["me/playground", "--upload"], 2, "there is no token"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(arguments, code, words, tmp_path):
    (tmp_path / "file").touch()
    done = deploy(*(each.format(there=tmp_path) for each in arguments), "--hardware", "cpu", HF_HOME=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (code, "") and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert [each.name for each in tmp_path.iterdir() if each.name not in ("home", "none")] == ["file"]

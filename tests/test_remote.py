"""A real llama.cpp server asked as any OpenAI-compatible one: answers, keys that stay secret, servers that are none."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import builders
import pytest
from conftest import ROOT
from pydantic import ValidationError
from test_llamacpp import BRIEF, HELLO, answer, opened

from engine import models
from engine.backends import open_backend
from engine.backends.server_client import ServerClient
from engine.blend import Blend
from engine.chat import stream
from engine.errors import BadInput, EngineError
from engine.evaluate import measurements
from engine.events import Failed, Finished
from engine.messages import Conversation
from engine.settings import BackendName, ChatSettings, LoadSettings, load_settings

CANARY = "sk-canary-0123456789"


def test_a_kept_connection_that_the_server_closes_costs_no_answer():
    """It answers once on each connection, and closes it when the next request is there."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n[]")
                    connection.recv(65_536)  # the next request, which gets no answer

        threading.Thread(target=serve, daemon=True).start()
        client = ServerClient(f"http://127.0.0.1:{server.getsockname()[1]}", None, "The server")
        assert client.get("one") == [] and client.get("two") == []
        client.close()


@pytest.fixture
def local(tiny_gguf):
    with contextlib.closing(opened(tiny_gguf)) as backend:
        yield backend


def remote(local, monkeypatch, key: str | None = None, model: str = "remote", path: str = "/v1"):
    monkeypatch.setenv("MY_KEY", key or local._process.key)
    load = load_settings(BackendName.remote, local._process.address + path, "MY_KEY", None)
    return open_backend(models.resolve(model, load), load, lambda progress: None)


def test_the_same_weights_give_the_same_greedy_answer(local, monkeypatch):
    with contextlib.closing(remote(local, monkeypatch)) as far:
        assert far.loaded.backend == "remote" and far.loaded.context == 256 and far.process_id == 0
        for conversation in (HELLO, HELLO.add("assistant", "yes").add("user", "More"), Conversation(system="Be brief.").add("user", "Hi")):
            assert answer(far, chat=BRIEF, conversation=conversation) == answer(local, chat=BRIEF, conversation=conversation)
        assert answer(far, chat=BRIEF, form="guanaco") == answer(local, chat=BRIEF, form="guanaco")
        told = list(stream(far, HELLO, BRIEF))[-1]
        assert told.tokens == 10 and told.finish_reason == "length" and told.backend == "remote"
        sampled = ChatSettings(temperature=1, seed=3, max_new_tokens=10, top_k=5, repetition_penalty=1.1)
        assert isinstance(list(stream(far, HELLO, sampled))[-1], Finished)


@pytest.mark.long
def test_the_command_line_asks_a_server(local, run_engine):
    options = ("--base-url", local._process.address + "/v1", "--api-key-env", "MY_KEY", "--temperature", "0", "--max-new-tokens", "10")
    done = run_engine("chat", *options, "Hi", MY_KEY=local._process.key)
    assert done.returncode == 0 and done.stdout.strip() == answer(local, chat=BRIEF), done.stderr


def test_stop_ends_the_answer_there_too(local, monkeypatch):
    with contextlib.closing(remote(local, monkeypatch)) as far:
        asked = iter([False] * 3 + [True] * 10_000)
        chat = ChatSettings(temperature=0, max_new_tokens=200)
        deltas = list(far.generate(far.encode(HELLO, "chat"), chat, 1, Blend(), lambda: next(asked)))
        assert deltas[-1].reason == "cancelled" and len(deltas) <= 4


@pytest.mark.long
def test_keys_that_are_missing_or_wrong_are_told_without_their_text(local, monkeypatch, run_engine):
    with pytest.raises(EngineError, match="does not accept the key in the environment variable MY_KEY") as caught:
        remote(local, monkeypatch, CANARY)
    assert CANARY not in str(caught.value)
    with pytest.raises(BadInput, match="NO_SUCH_KEY holds no key"):
        load = load_settings(BackendName.remote, local._process.address, "NO_SUCH_KEY", None)
        open_backend(models.resolve("x", load), load, print)
    done = run_engine("chat", "--base-url", local._process.address + "/v1", "Hi")
    assert done.returncode == 1 and "asks for a key. Name the environment variable" in done.stderr
    done = run_engine("chat", "--base-url", local._process.address + "/v1", "--api-key-env", "MY_KEY", "Hi", MY_KEY=CANARY)
    assert done.returncode == 1 and CANARY not in done.stdout + done.stderr


def test_servers_that_are_down_or_lack_the_model(local, monkeypatch):
    with pytest.raises(BadInput, match=r"does not run 'gpt-x'. It runs: .*tiny-llama"):
        remote(local, monkeypatch, model="gpt-x")
    with pytest.raises(BadInput, match="no such model or address"):
        remote(local, monkeypatch, path="/elsewhere")
    load = load_settings(BackendName.remote, f"http://127.0.0.1:{builders.free_port()}/v1", "", None)
    with pytest.raises(EngineError, match="cannot be reached"):
        open_backend(models.resolve("remote", load), load, print)


@contextlib.contextmanager
def odd_server(status: int, body: str, events: list[str] = ()):
    """A server that lists one model, and answers every request with `status` and `body`, or with `events`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def _say(self, code: int, text: str) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self):
            self._say(200, json.dumps({"data": [{"id": "m"}]}))

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self._say(status, body or "".join(f"data: {event}\n\n" for event in events))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        load = load_settings(BackendName.remote, f"http://127.0.0.1:{served.server_port}/v1", "", None)
        with contextlib.closing(open_backend(models.resolve("m", load), load, print)) as backend:
            yield backend
        served.shutdown()


@pytest.mark.parametrize(
    "status, body, events, words",
    [
        (400, '{"error": {"message": "context length exceeded"}}', (), "refused the request with status 400: context length exceeded"),
        (429, '{"detail": "slow down"}', (), r"is busy \(slow down\)"),
        (500, "<html>oops</html>", (), "status 500: <html>oops"),
        (200, "", ["not json"], "sent something that is no JSON"),
        (200, "", ['{"error": {"message": "out of memory"}}'], "ended the answer: out of memory"),
    ],
)
@pytest.mark.long
def test_what_goes_wrong_there_is_told_here(status, body, events, words):
    with odd_server(status, body, events) as backend:
        failed = list(stream(backend, HELLO, BRIEF))[-1]
    assert isinstance(failed, Failed)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(failed.text)


def test_a_servers_model_is_known_by_its_name_and_address():
    with odd_server(200, "") as one, odd_server(200, "") as other:
        assert one.weights == f"m at {one.loaded.device}" != other.weights and one.adapter_weights(Blend()) == ""


def test_pieces_of_several_tokens_are_counted_by_the_server():
    events = [
        '{"choices": [{"delta": {"role": "assistant", "content": null}}]}',
        '{"choices": [{"delta": {"content": "Hello there"}}]}',
        '{"choices": [{"delta": {}, "finish_reason": "stop"}]}',
        '{"choices": [], "usage": {"completion_tokens": 5}}',
        "[DONE]",
    ]
    with odd_server(200, "", events) as backend:
        told = list(stream(backend, HELLO, BRIEF))[-1]
    assert (told.text, told.tokens, told.finish_reason) == ("Hello there", 5, "stop")


@pytest.mark.parametrize(
    "url", ["", "gpu-box:8000", "ftp://x", "http://", "file:///etc/passwd", "http://x:port/v1", "http://x:99999", "http://[::1/v1"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(BadInput, match="--base-url"):
        load_settings(BackendName.remote, url, "", None)


@pytest.mark.parametrize("name", ["sk-canary-1", "canary 1", "canary\n", "1canary", "$CANARY"])
def test_what_can_be_no_variable_is_refused_and_not_repeated(name):
    with pytest.raises(BadInput, match="--api-key-env takes the name of the environment variable") as told:
        load_settings(BackendName.remote, "http://x/v1", name, None)
    with pytest.raises(ValidationError) as inside:
        LoadSettings(backend="remote", base_url="http://x/v1", api_key_env=name)
    assert "canary" not in f"{told.value} {inside.value}".lower()


@pytest.mark.parametrize("url", ["http://me:canary@x/v1", "https://canary@x", "http://me:can/ary@x/v1"])
def test_an_address_with_a_password_is_refused_and_not_repeated(url):
    with pytest.raises(BadInput, match="no user or password.*--api-key-env") as told:
        load_settings(BackendName.remote, url, "", None)
    with pytest.raises(ValidationError) as inside:
        LoadSettings(backend="remote", base_url=url)
    assert not any(part in f"{told.value} {inside.value}" for part in ("canary", "ary@"))


COMMANDS = {
    "the app": ["app.py"],
    "chat": ["-m", "engine", "chat", "Hi"],
    "mmlu": ["-m", "engine", "evaluate", "mmlu"],
    "generate": ["-m", "engine", "evaluate", "generate", "--out", "answers.jsonl"],
    "judge": ["-m", "engine", "judge", "ChatGPT", "GPT-4", "--judge-model", "m"],
}


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--base-url", "http://127.0.0.1:9/v1", "--api-key-env", "sk-canary"], "takes the name of the environment variable"),
        (["--base-url", "http://127.0.0.1:9/v1", "--api-key-env", "canary1"], "canary1 holds no key"),
        (["--base-url", "http://me:canary@127.0.0.1:9/v1"], "no user or password"),
    ],
)
def test_a_key_in_the_wrong_place_is_kept_nowhere(command, options, words, home, tmp_path):
    program, *rest = COMMANDS[command]
    program = [str(ROOT / program)] if program == "app.py" else [program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *program, *rest, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert ("canary" in done.stderr) == (words == "canary1 holds no key") and not done.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    assert measurements.every() == []


def test_options_that_belong_to_another_backend():
    assert load_settings(BackendName.auto, "http://x/v1", "", None).backend == "remote"
    with pytest.raises(BadInput, match="are for the remote backend"):
        load_settings(BackendName.llama_cpp, "http://x/v1", "", None)
    with pytest.raises(BadInput, match="--quantization is for the transformers"):
        load_settings(BackendName.llama_cpp, "", "", "nf4")


def test_a_remote_server_takes_no_adapters_of_this_app(local, monkeypatch):
    with contextlib.closing(remote(local, monkeypatch)) as far:
        with pytest.raises(BadInput, match="brings its own adapters"):
            far.attach("x")


@pytest.mark.parametrize("accepted", [0, 2])
def test_what_is_under_way_ends_when_its_client_is_closed(accepted):
    """A server that never answers, or does not even accept: neither a request nor a stream may wait for ever once its client
    has gone."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(2) as pool:
        client = ServerClient(f"http://127.0.0.1:{silent.getsockname()[1]}", None, "The silent server")
        asked = pool.submit(client.get, "models")
        streamed = pool.submit(list, client.stream("completion", {}))
        for _ in range(accepted):
            silent.accept()
        client.close()
        for each in (asked, streamed):
            with pytest.raises(EngineError, match="The silent server"):
                each.result(20)
        with pytest.raises(EngineError, match="was closed"):
            client.get("models")

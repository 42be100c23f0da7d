"""A judge for the tests: the scripted backend behind an OpenAI-compatible server, with known verdicts and faults on demand.

It takes the answer of the greater strength, as answers say it ("strength 3"); `favour` is added to the one that stands first.
"""

import http.server
import json
import math
import re
import threading
from collections.abc import Callable, Mapping

from engine.backends.scripted import ScriptedBackend
from engine.blend import BASE
from engine.messages import Conversation
from engine.settings import ChatSettings

KEY = "sk-canary-0123456789"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # askers that are killed leave broken connections


class JudgeServer:
    """Serves while the `with` block runs. `faults` are done in place of an answer to the requests of these numbers, from 0; `asked`
    are the texts it was asked; from number `hold_after` on none is answered before `release`."""

    def __init__(self, kind: str = "threeclass", favour: float = 0, faults: Mapping[int, Callable] | Callable | None = None, key: str = ""):
        self.kind, self.favour, self.faults, self.key = kind, favour, faults or {}, key
        self.asked: list[str] = []
        self.most_at_once = self.at_once = 0
        self.hold_after, self._released = math.inf, threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> "JudgeServer":
        self._served = _Server(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._served.serve_forever, args=[0.02], daemon=True).start()
        self.url = f"http://127.0.0.1:{self._served.server_port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._served.shutdown()
        self._served.server_close()

    def release(self) -> None:
        """Answer what is held, and all that comes."""
        self.hold_after = math.inf
        self._released.set()

    def verdict(self, text: str) -> str:
        """What it says of a prompt, by way of the scripted backend."""
        first, second = (float(each) for each in re.findall(r"strength (-?[\d.]+)", text))
        first += self.favour
        if self.kind == "score":
            said = f"{min(first, 10):g} {min(second, 10):g}\nThe first line has the points."
        else:
            said = f"I looked at both.\n{3 if first == second else 1 if first > second else 2}"
        backend = ScriptedBackend([said], seconds_per_token=0)
        prompt = backend.encode(Conversation().add("user", text), "plain")
        return "".join(delta.text for delta in backend.generate(prompt, ChatSettings(), 0, BASE, lambda: False))

    def _handler(server):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def send(self, status: int, body: str, **headers: str) -> None:
                data = body.encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(data)

            def answer(self, text: str, reason: str = "stop") -> None:
                usage = {"prompt_tokens": 100, "completion_tokens": 10}
                self.send(200, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": reason}], "usage": usage}))

            def _let_in(self) -> bool:
                if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                    self.send(401, json.dumps({"error": {"message": f"wrong key {self.headers.get('Authorization')}"}}))
                    return False
                return True

            def do_GET(self) -> None:
                if self._let_in():
                    self.send(200, json.dumps({"data": [{"id": "judge-1"}]}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self._let_in():
                    return
                text = body["messages"][-1]["content"]
                with server._lock:
                    number = len(server.asked)
                    server.asked.append(text)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                fault = server.faults if callable(server.faults) else server.faults.get(number)
                try:
                    if number >= server.hold_after:
                        server._released.wait()
                    fault(self) if fault else self.answer(server.verdict(text))
                except OSError:
                    pass  # the asker has gone
                finally:
                    with server._lock:
                        server.at_once -= 1

        return Handler


def status(code: int, **headers: str) -> Callable:
    """A fault: this status."""
    return lambda handler: handler.send(
        code, json.dumps({"error": {"message": f"status {code} for {handler.headers['Authorization']}"}}), **headers
    )


def cut(handler) -> None:
    """A fault: the connection breaks half-way through the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.close_connection = True


def silent(handler) -> None:
    """A fault: no answer until the asker has gone."""
    handler.connection.recv(1)
    handler.close_connection = True


def says(text: str, reason: str = "stop") -> Callable:
    """A fault: this answer."""
    return lambda handler: handler.answer(text, reason)


def sends(body: str) -> Callable:
    """A fault: this body."""
    return lambda handler: handler.send(200, body)

"""`python -m engine.worker`: one backend in a process of its own, spoken to in lines of JSON over stdin and stdout.

Requests carry `id` and `op`; every answer carries the same `id` and ends with one that has `done`. `generate` requests
take turns; a `stop` takes effect between tokens. The process ends when its stdin closes, so it never outlives its parent.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict

from engine import children
from engine.backends import open_backend
from engine.backends.base import Prompt
from engine.backends.turns import SLICE_SECONDS
from engine.blend import Blend
from engine.errors import EngineError
from engine.messages import Conversation, Message
from engine.models import resolve
from engine.settings import ChatSettings, LoadSettings


class Worker:
    """Serves requests on one thread, the one that calls `run`; `send` and `stop` may be called on any."""

    def __init__(self, out):
        self._out = out
        self._lock = threading.Lock()
        self._stopped: set[int] = set()
        self._backend = None

    def send(self, request: int, **fields) -> None:
        line = json.dumps({"id": request, **fields}) + "\n"
        with self._lock:
            self._out.write(line)
            self._out.flush()

    def stop(self, request: int) -> None:
        self._stopped.add(request)

    def run(self, requests: queue.Queue) -> None:
        """Serve requests for ever. Answers go on in turn, for a slice of time each; all else is served at once, between two
        tokens, so that an answer can be prepared while another is under way."""
        line: deque[Iterator[bool]] = deque()  # answers under way; the first has the turn
        since = 0.0  # when it got it
        while True:
            if not line or not requests.empty():
                request = requests.get()
                steps = self.serve(request)
                if request["op"] == "generate":
                    line.append(steps)
                else:
                    for _ in steps:
                        pass
            elif not next(line[0], False):
                line.popleft()
                since = time.monotonic()
            elif len(line) > 1 and time.monotonic() - since >= SLICE_SECONDS:
                line.rotate(-1)
                since = time.monotonic()

    def serve(self, request: dict) -> Iterator[bool]:
        """Run one request and send its answers, going on after each with True; errors travel as text with their exit code."""
        number = request["id"]
        try:
            for fields in getattr(self, f"do_{request['op']}")(**request.get("arguments", {}), request=number):
                self.send(number, **fields)
                yield True
            self.send(number, done=True)
        except EngineError as error:
            self.send(number, done=True, error=str(error), exit_code=error.exit_code)
        except MemoryError:
            self.send(
                number, done=True, error="This machine ran out of memory. Close other programs or choose a smaller model.", exit_code=1
            )
        except Exception as error:
            traceback.print_exc()
            self.send(
                number, done=True, error=f"Unexpected failure ({type(error).__name__}: {error}). The log has the details.", exit_code=1
            )
        finally:
            self._stopped.discard(number)

    def do_load(self, model: str, load: dict, request: int) -> Iterator[dict]:
        self._backend = open_backend(resolve(model), LoadSettings(**load), lambda progress: self.send(request, progress=asdict(progress)))
        yield {"loaded": asdict(self._backend.loaded), "slots": self._backend.slots}

    def do_attach(self, adapter: str, request: int) -> Iterator[dict]:
        self._backend.attach(adapter)
        yield {"attached": [self._backend.prompt_format(adapter), self._backend.system(adapter)]}

    def do_detach(self, adapter: str, request: int) -> Iterator[dict]:
        self._backend.detach(adapter)
        yield {}

    def do_encode(self, messages: list, system: str, form: str, request: int) -> Iterator[dict]:
        conversation = Conversation(tuple(Message(role, text) for role, text in messages), system)
        yield {"ids": self._backend.encode(conversation, form).content}

    def do_generate(self, ids: list[int], settings: dict, seed: int, blend: list, request: int) -> Iterator[dict]:
        chosen = Blend(tuple((adapter, scale) for adapter, scale in blend))
        deltas = self._backend.generate(Prompt(len(ids), ids), ChatSettings(**settings), seed, chosen, lambda: request in self._stopped)
        for delta in deltas:
            yield {"delta": [delta.text, delta.tokens, delta.reason]}


def main() -> None:
    """Read requests until stdin closes. Whatever libraries print goes to stderr: stdout belongs to the protocol."""
    children.ignore_interrupts()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="\n")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = Worker(out)
    requests: queue.Queue = queue.Queue()

    def read() -> None:
        for line in sys.stdin.buffer:
            request = json.loads(line)
            if request["op"] == "stop":
                worker.stop(request["id"])
            else:
                requests.put(request)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    worker.run(requests)


if __name__ == "__main__":
    main()

"""`python -m engine.worker`: one backend in a process of its own, spoken to in lines of JSON over stdin and stdout.

Requests carry `id` and `op`; every answer carries the same `id` and ends with one that has `done`. A `stop` request
takes effect between tokens. The process ends when its stdin closes, so it never outlives its parent.
"""

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict

from engine.backends import open_backend
from engine.backends.base import Prompt
from engine.blend import Blend
from engine.errors import EngineError
from engine.messages import Conversation, Message
from engine.models import resolve
from engine.settings import ChatSettings, LoadSettings


class Worker:
    """Serves requests one after another; only `stop` overtakes."""

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

    def serve(self, request: dict) -> None:
        """Run one request and send its answers; errors travel as text with their exit code."""
        number = request["id"]
        try:
            for fields in getattr(self, f"do_{request['op']}")(**request.get("arguments", {}), request=number):
                self.send(number, **fields)
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
        yield {"loaded": asdict(self._backend.loaded)}

    def do_attach(self, adapter: str, request: int) -> Iterator[dict]:
        self._backend.attach(adapter)
        yield {"prompt": self._backend.prompt_format(adapter)}

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
    while True:
        worker.serve(requests.get())


if __name__ == "__main__":
    main()

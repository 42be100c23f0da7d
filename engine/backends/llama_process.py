"""llama.cpp's server as a child process (`engine/llama_server.py`): started, watched, ended."""

import contextlib
import json
import queue
import secrets
import subprocess
import threading
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path

from engine import children
from engine.backends.base import Stop
from engine.errors import BadInput, EngineError
from engine.llama_server import Settings

CHECK_SECONDS = 0.05
ENDING_SECONDS = 1
KEPT_LINES = 50


class NotInstalled(EngineError):
    """xllamacpp is missing or broken; the text says how."""


class LlamaProcess:
    """One running server. `address` is its base address, `key` what it asks for; both are known to this process alone."""

    def __init__(self, settings: Settings, cancelled: Stop = lambda: False):
        """Start and wait until the model is loaded. Raises BadInput with llama.cpp's reason where it cannot be, EngineError
        where the process ended by itself or `cancelled()` turned true."""
        self.key = secrets.token_urlsafe(32)
        self._errors: deque[str] = deque(maxlen=KEPT_LINES)
        answer: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._process = children.started("engine.llama_server", capture_errors=True)
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        threading.Thread(target=lambda: answer.put(self._process.stdout.readline()), daemon=True).start()
        try:
            with contextlib.suppress(OSError):
                self._process.stdin.write((json.dumps(asdict(replace(settings, key=self.key))) + "\n").encode())
                self._process.stdin.flush()
            self.address = self._address(answer, cancelled, settings.model)
        except BaseException:
            self.close()
            raise

    def _address(self, answer: "queue.SimpleQueue[bytes]", cancelled: Stop, model: str) -> str:
        while True:
            if cancelled():
                raise EngineError("Loading was cancelled.")
            with contextlib.suppress(queue.Empty):
                line = answer.get(timeout=CHECK_SECONDS)
                break
        name = Path(model).name
        if not line:
            raise EngineError(
                f"llama.cpp ended while it loaded {name}, perhaps for lack of memory. Close other programs or choose a smaller model."
            )
        said = json.loads(line)
        if "missing" in said:
            raise NotInstalled(said["missing"])
        if "error" in said:
            raise BadInput(f"llama.cpp cannot load {name}: {self._reason() or said['error']}")
        return said["address"]

    def _listen(self) -> None:
        """Keep the last lines that the server logs, for the reason of a failure."""
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stderr:
                self._errors.append(line.decode(errors="replace").strip())

    def _reason(self) -> str:
        """What llama.cpp gave as its first error."""
        self.ended()
        self._listening.join(ENDING_SECONDS)  # to the last line
        first = next((line for line in self._errors if " E " in line), "")
        return first.partition(" E ")[2].strip()[:200]

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ended(self) -> bool:
        """Whether it has crashed, asked where a connection to it broke: that is noticed a moment before the process is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS)
        return not self.alive

    @property
    def process_id(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End it at once; all its memory is given back."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

"""A backend in a process of its own (`engine/worker.py`), behind the same interface.

The page stays quick while torch is imported and weights are loaded, and ending the process gives all memory back.
"""

import contextlib
import itertools
import json
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from engine import children, errors
from engine.backends.base import Backend, Delta, Loaded, Prompt, Stop
from engine.blend import Blend
from engine.events import Progress
from engine.hub import Report
from engine.messages import Conversation
from engine.model_spec import ModelSpec
from engine.settings import ChatSettings, LoadSettings

STOP_CHECK_SECONDS = 0.02
_GONE = {
    "done": True,
    "error": "The model's process ended unexpectedly, perhaps for lack of memory. Your conversation is kept; load the model again.",
    "exit_code": 1,
}


@dataclass(frozen=True)
class _Attached:
    """How an adapter that the worker has is spoken to."""

    prompt: str
    system: str


class ProcessBackend(Backend):
    """Speaks to one worker process. Loading ends it and raises when `cancelled()` turns true."""

    def __init__(self, spec: ModelSpec, load: LoadSettings, report: Report, cancelled: Stop):
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue] = {}
        self._adapters: dict[str, _Attached] = {}
        self._lock = threading.Lock()
        self._gone = False
        # Nothing in it is compiled, and without torch's compiler bitsandbytes imports some 3 s sooner.
        self._process = children.started("engine.worker", TORCHDYNAMO_DISABLE="1")
        threading.Thread(target=self._read, daemon=True).start()
        try:
            for answer in self._ask("load", model=spec.id, load=load.model_dump()):
                if cancelled():
                    raise errors.EngineError("Loading was cancelled.")
                if "progress" in answer:
                    report(Progress(**answer["progress"]))
                elif "loaded" in answer:
                    fields, self.slots = answer["loaded"], answer["slots"]
                    self.loaded = Loaded(**{**fields, "notes": tuple(fields["notes"])})
        except errors.EngineError:
            self.close()
            raise

    def _read(self) -> None:
        """Hand answers to who waits for them, until the process is gone; a line may be cut where it was killed."""
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                answer = json.loads(line)
                waiting = self._answers.get(answer["id"])
                if waiting:
                    waiting.put(answer)
        with self._lock:
            self._gone = True
            for waiting in list(self._answers.values()):  # whoever is told leaves it at once
                waiting.put(_GONE)

    @property
    def alive(self) -> bool:
        return not self._gone

    @property
    def process_id(self) -> int:
        return self._process.pid

    def _send(self, **request) -> None:
        # Fails where the process is gone; whoever waits for an answer is told so by _read.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()

    def _ask(self, op: str, number: int | None = None, **arguments) -> Iterator[dict]:
        """Send a request and yield its answers. While none comes for a moment, yields `{}`."""
        number = number or next(self._numbers)
        waiting: queue.Queue = queue.Queue()
        with self._lock:
            self._answers[number] = waiting
            if self._gone:
                waiting.put(_GONE)
            self._send(id=number, op=op, arguments=arguments)
        try:
            while True:
                try:
                    answer = waiting.get(timeout=STOP_CHECK_SECONDS)
                except queue.Empty:
                    yield {}
                    continue
                if answer.get("error"):
                    raise (errors.BadInput if answer["exit_code"] == 2 else errors.EngineError)(answer["error"])
                if answer.get("done"):
                    return
                yield answer
        finally:
            self._answers.pop(number, None)

    def _result(self, op: str, key: str | None = None, **arguments):
        result = None
        for answer in self._ask(op, **arguments):
            result = answer.get(key, result)
        return result

    def attach(self, adapter: str) -> None:
        if adapter not in self._adapters:
            self._adapters[adapter] = _Attached(*self._result("attach", "attached", adapter=adapter))

    def detach(self, adapter: str) -> None:
        if self._adapters.pop(adapter, None):
            self._result("detach", adapter=adapter)

    def adapters(self) -> list[str]:
        return list(self._adapters)

    def prompt_format(self, adapter: str | None) -> str:
        return self._adapters[adapter].prompt if adapter in self._adapters else self.loaded.prompt

    def system(self, adapter: str | None) -> str:
        return self._adapters[adapter].system if adapter in self._adapters else ""

    def encode(self, conversation: Conversation, form: str) -> Prompt:
        messages = [[message.role, message.text] for message in conversation.messages]
        ids = self._result("encode", "ids", messages=messages, system=conversation.system, form=form)
        return Prompt(len(ids), ids)

    def generate(self, prompt: Prompt, settings: ChatSettings, seed: int, blend: Blend, stop: Stop, cold: bool = False) -> Iterator[Delta]:
        number = next(self._numbers)
        ended = False
        try:
            for answer in self._ask("generate", number, ids=prompt.content, settings=settings.model_dump(), seed=seed, blend=blend.parts):
                if stop():
                    # The worker ends within a token by itself; whoever stopped it need not wait for that token.
                    yield Delta("", reason="cancelled")
                    return
                if "delta" in answer:
                    yield Delta(*answer["delta"])
            ended = True
        finally:
            if not ended:
                self._send(id=number, op="stop")

    def close(self) -> None:
        process = self._process
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()

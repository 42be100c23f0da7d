"""GGUF models through llama.cpp's server in a process of its own: many answers at a time, any blend of adapters.

Imports neither torch nor transformers. A crash of native code ends the answers under way and nothing else.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine import adapters as adapter_files
from engine import gguf_file, hardware, lora_gguf, models, paths
from engine.architecture import Architecture
from engine.backends import gguf_weights
from engine.backends.base import Delta, Loaded, LocalBackend, Prompt, Stop
from engine.backends.llama_process import LlamaProcess
from engine.backends.llama_tokenizer import LlamaTokenizer
from engine.backends.server_client import ServerClient
from engine.backends.slots import Slot, Slots
from engine.backends.turns import Turns
from engine.blend import Blend
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.gguf_file import Header
from engine.hub import Report
from engine.llama_server import Settings
from engine.messages import Conversation
from engine.model_spec import ModelSpec
from engine.prompts import own_format
from engine.settings import LEAST_TEMPERATURE, ChatSettings, LoadSettings

if TYPE_CHECKING:
    from engine.backends.scoring import Scorer

MOST_SLOTS = 8
LEAST_CONTEXT = 2048
SETTLE_SECONDS = 0.005
# Slots share an eighth of the memory that is free: keys and values of 16 bits for every token that they can hold.
CACHE_SHARE = 8
# Multiplications with an addition that a slow core does in a second (6 to 18 billion were measured): prompts are read in
# pieces of as many, so that no other answer pauses for longer.
PIECE_OPERATIONS = 6e9
LEAST_BATCH, MOST_BATCH = 8, 512
_CRASHED = "llama.cpp ended unexpectedly, perhaps for lack of memory. Your conversation is kept; load the model again."


@dataclass(frozen=True)
class _Attached:
    """An adapter that the server has: its number there, its own prompt format, the system text it was trained with."""

    number: int
    path: str
    prompt: str | None
    system: str


class LlamaCppBackend(LocalBackend):
    """See `Backend`. Answers with different blends take turns (`turns`); those with the same one run side by side."""

    def __init__(
        self,
        spec: ModelSpec,
        load: LoadSettings,
        report: Report,
        most_slots: int = MOST_SLOTS,
        cancelled: Stop = lambda: False,
        turns: Turns | None = None,
    ):
        """Fetch, verify and load. Raises BadInput or EngineError; the message names what and what to do."""
        models.check_fit(spec, hardware.machine(), load)
        report(Progress(f"Checking {spec.id}"))
        self._spec, self._turns = spec, turns or Turns()
        self.attached: dict[str, _Attached] = {}
        self._attaching = threading.Lock()
        self._restarting = threading.Lock()
        header = gguf_weights.in_layout(gguf_weights.fetch(spec, report), load.layout, report)
        shape = gguf_file.architecture(header)
        machine = hardware.machine()
        context, self.slots = _room(shape, machine, most_slots)
        self._settings = Settings(
            model=str(header.path),
            key="",
            adapters=[],
            context=context,
            slots=self.slots,
            threads=machine.cores,
            batch=_batch(shape, machine),
            check=not gguf_weights.has_checksum(header.path),
        )
        report(Progress(f"Loading {spec.id}"))
        self._process, wrong = self._started_and_verified(header, cancelled)
        if wrong:
            header = gguf_weights.again(spec, header.path, wrong, load.layout, report)
            self._process = LlamaProcess(self._settings, cancelled)
        self.header = header
        self._connect()
        self._slots = Slots(self.slots, self._settle)
        notes = (
            []
            if shape is None or context >= shape.context
            else [f"conversations are cut to {context:,} tokens, which is what memory allows"]
        )
        label = gguf_file.quantization(header) + (" (faster layout)" if load.layout == "faster" else "")
        self.loaded = Loaded(spec.id, "llama.cpp", "CPU", label, "float32", context, own_format(spec.prompt, self.prompting), tuple(notes))

    def _started_and_verified(self, header: Header, cancelled: Stop) -> tuple[LlamaProcess | None, str | None]:
        """The server, or what is wrong with the file: its checksum is compared while it loads."""
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(gguf_weights.damaged, header.path)
            try:
                process = LlamaProcess(self._settings, cancelled)
            except BadInput:
                if wrong := found.result():
                    return None, wrong
                raise
            if wrong := found.result():
                process.close()
                return None, wrong
        return process, None

    def _connect(self) -> None:
        self.client = ServerClient(self._process.address, self._process.key, "llama.cpp")
        self.prompting = LlamaTokenizer(self.client, self.header)

    def attach(self, adapter: str) -> None:
        """The server learns of adapters when it starts, so it is started anew, which takes as long as to load the model;
        answers under way pause for it."""
        with self._attaching:
            if adapter in self.attached:
                return
            found = adapter_files.find(adapter, lambda progress: None)
            path = lora_gguf.convert(found, described(self.header, self._spec))
            self._restart({**self.attached, adapter: _Attached(len(self.attached), str(path), found.prompt, found.system)})

    def detach(self, adapter: str) -> None:
        with self._attaching:
            left = [(name, each) for name, each in self.attached.items() if name != adapter]
            self._restart({name: replace(each, number=number) for number, (name, each) in enumerate(left)})

    def _restart(self, adapters: dict[str, _Attached]) -> None:
        """Run the server with these adapters; where it cannot, with those it had."""
        with self._turns.turn(object()), self._restarting:
            self._process.close()
            self.client.close()
            try:
                self._process = LlamaProcess(self._with(adapters))
                self.attached = adapters
            except EngineError:
                self._process = LlamaProcess(self._with(self.attached))
                raise
            finally:
                self._slots.forget()
                self._connect()

    def _with(self, adapters: dict[str, _Attached]) -> Settings:
        return Settings(**{**vars(self._settings), "adapters": [each.path for each in adapters.values()]})

    def encode(self, conversation: Conversation, form: str) -> Prompt:
        with self._restarting:  # the server that is asked for tokens may be about to be another one
            return super().encode(conversation, form)

    def generate(self, prompt: Prompt, settings: ChatSettings, seed: int, blend: Blend, stop: Stop, cold: bool = False) -> Iterator[Delta]:
        """Pauses between two tokens where answers with another blend wait for the processor."""
        self.check_blend(blend)
        with self._slots.taken(prompt.content, blend, stop) as slot:
            if slot is None:
                yield Delta("", reason="cancelled")
                return
            answer = _Answer(list(prompt.content), settings, seed, slot, cold)
            while answer.reason is None:
                with self._turns.turn((self, blend), stop) as mine:
                    if not mine:
                        answer.reason = "cancelled"
                        yield Delta("", reason="cancelled")
                        return
                    yield from self._go_on(answer, blend, stop)
                    if not answer.reason:
                        self._settle(answer.slot)

    def _go_on(self, answer: "_Answer", blend: Blend, stop: Stop) -> Iterator[Delta]:
        """Generate until the answer ends, is stopped, or its turn is over."""
        stream = self.client.stream("completion", answer.request(self.lora(blend), self._settings.context))
        answer.slot.blend = blend
        try:
            for event in stream:
                if stop():
                    answer.reason = "cancelled"
                    yield Delta("", reason="cancelled")
                    return
                if event is None:
                    continue
                delta = answer.take(event, self.client)
                if delta.text or delta.tokens or delta.reason:
                    yield delta
                if answer.reason or (answer.may_pause and self._turns.over()):
                    return
        except EngineError as error:
            if self._process.ended():
                raise EngineError(_CRASHED) from error
            raise
        finally:
            stream.close()
            answer.slot.ids = [*answer.ids]
            answer.slot.idle = answer.ended
        raise EngineError(_CRASHED if self._process.ended() else "llama.cpp ended the answer without a reason. Try again.")

    def _settle(self, slot: Slot) -> None:
        """Wait until the server has noticed that an answer was cut off: a request to a slot that is still busy may wait for
        ever. That takes a token's time, or up to a second while it reads a prompt."""
        with contextlib.suppress(EngineError):  # where the server is gone, so is the answer
            while any(each["is_processing"] for each in self.client.get("slots") if each["id"] == slot.number):
                time.sleep(SETTLE_SECONDS)
        slot.idle = True

    def scorer(self) -> "Scorer":
        from engine.backends.server_scoring import LlamaCppScorer

        return LlamaCppScorer(self)

    @property
    def weights(self) -> str:
        return paths.sha256(self.header.path)

    def lora(self, blend: Blend) -> list[dict]:
        """A blend as the server takes it: every adapter with its scale, since a list that leaves some out, or is empty, does not switch
        them off reliably."""
        scales = dict(blend.parts)
        return [{"id": each.number, "scale": scales.get(name, 0.0)} for name, each in self.attached.items()]

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def process_id(self) -> int:
        return self._process.process_id

    def close(self) -> None:
        self._process.close()
        self.client.close()


class _Answer:
    """One answer over its turns: `ids` are the prompt's and all that were made so far."""

    def __init__(self, ids: list[int], settings: ChatSettings, seed: int, slot: Slot, cold: bool):
        self.ids, self.slot, self.reason = ids, slot, None
        self._settings, self._seed, self._cold = settings, seed, cold
        self._left = settings.max_new_tokens
        self._turn_tokens = 0  # of this turn so far, by the server's count
        self._begun = False
        self.ended = False  # by the server itself
        # The sampler cannot go on with its random numbers: an explicit seed is not interrupted while it draws them.
        self._pauses = settings.temperature < LEAST_TEMPERATURE or settings.seed is None
        # What is drawn at random promises no tokens: it may go on from the same text in others.
        self._needs_names = settings.temperature < LEAST_TEMPERATURE

    @property
    def may_pause(self) -> bool:
        """Whether it can be gone on with as if nothing had been, and still has something to make."""
        return self._pauses and self._left > 0

    def request(self, lora: list[dict], context: int) -> dict:
        """The body of llama.cpp's `/completion`: samplers in the order of transformers' `generate`, all of the context penalised."""
        settings = self._settings
        greedy = settings.temperature < LEAST_TEMPERATURE
        body = {
            "prompt": self.ids,
            "n_predict": self._left,
            "stream": True,
            "return_tokens": True,
            "id_slot": self.slot.number,
            # What was made in an earlier turn is in the cache exactly as it would be without the pause.
            "cache_prompt": self._begun or not self._cold,
            "seed": (self._seed + len(self.ids) if self._begun else self._seed) % 2**32,
            "samplers": ["penalties", "temperature", "top_k", "top_p"],
            "temperature": 0.0 if greedy else settings.temperature,
            "top_k": 1 if greedy else settings.top_k,
            "top_p": 1.0 if greedy else settings.top_p,
            "repeat_penalty": settings.repetition_penalty,
            "repeat_last_n": context,
            "lora": lora,
        }
        self._begun, self._turn_tokens = True, 0
        return body

    def take(self, event: dict, client: ServerClient) -> Delta:
        """What an event adds. Tokens of a character that takes several come together, of which the server names the last
        alone: the text is then asked for its tokens."""
        text = event["content"]
        new = event["tokens_predicted"] - self._turn_tokens
        self._turn_tokens = event["tokens_predicted"]
        made = event.get("tokens") or []
        if text and len(made) < new and not event["stop"]:
            made = client.post("tokenize", {"content": text, "parse_special": False})["tokens"]
            # Bytes that are no character cannot be asked for: what cannot be named cannot be gone on from exactly.
            named = len(made) == new and "\ufffd" not in text
            self._pauses = self._pauses and (named or not self._needs_names)
        self.ids += made
        self._left -= new
        self.ended = event["stop"]
        if self.ended:
            self.reason = "length" if event["stop_type"] == "limit" else "stop"
        return Delta(text, new, self.reason)


def described(header: Header, spec: ModelSpec) -> lora_gguf.GgufBase:
    """What adapters are checked and converted by."""
    family = str(header.fields.get("general.architecture", ""))
    heads = header.fields.get(f"{family}.attention.head_count")
    tensors = {name: tensor.shape for name, tensor in header.tensors.items()}
    return lora_gguf.GgufBase(spec, family, heads, header.fields.get(f"{family}.attention.head_count_kv", heads), tensors)


def _room(shape: Architecture | None, machine: hardware.Machine, most_slots: int) -> tuple[int, int]:
    """Context in tokens for each slot, and how many slots: `most_slots`, or fewer where memory would leave each of them less
    than 4,096 tokens (or all that the model has)."""
    if shape is None:
        return LEAST_CONTEXT, 1
    tokens = machine.memory_free // CACHE_SHARE // shape.cache_bytes(1)
    slots = next(
        (count for count in (most_slots, 4, 2) if count <= most_slots and tokens // count >= min(shape.context, 2 * LEAST_CONTEXT)), 1
    )
    context = min(shape.context, max(LEAST_CONTEXT, tokens // slots))
    return context // 256 * 256 or context, slots


def _batch(shape: Architecture | None, machine: hardware.Machine) -> int:
    """Prompt tokens for one step, a multiple of eight."""
    if shape is None:
        return LEAST_BATCH
    tokens = PIECE_OPERATIONS * machine.cores / shape.parameters
    return min(max(int(tokens) // 8 * 8, LEAST_BATCH), MOST_BATCH)

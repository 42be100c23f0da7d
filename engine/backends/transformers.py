"""Base models through transformers, in 4 bits by bitsandbytes, with any number of LoRA adapters on one loaded base.

Imports torch when a backend is opened, not before. The decoding loop is our own: it stops between any two tokens, and
another answer, with another blend, may go on there.
"""

import contextlib
import functools
import gc
import hashlib
import inspect
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine import adapters as adapter_files
from engine import hardware, hub, lineage
from engine.adapters import Adapter
from engine.backends import pretrained
from engine.backends.base import Delta, Loaded, LocalBackend, Prompt, Stop
from engine.backends.decoding import TextStream
from engine.backends.pretrained import Pretrained
from engine.blend import Blend
from engine.errors import BadInput, EngineError
from engine.model_spec import ModelSpec
from engine.prompts import own_format
from engine.settings import LEAST_TEMPERATURE, ChatSettings, LoadSettings
from engine.tokenizers import PretrainedTokenizer

if TYPE_CHECKING:
    from engine.backends.scoring import Scorer

PREFILL_CHUNK = 512


class TransformersBackend(LocalBackend):
    """A base loaded by `AutoModelForCausalLM`; see `Backend`. Answers share it forward pass by forward pass, on one thread
    or on several."""

    slots = 2

    def __init__(self, spec: ModelSpec, load: LoadSettings, report: hub.Report):
        """Fetch, verify and load. Raises BadInput or EngineError; the message names what and what to do."""
        base = pretrained.opened(spec, load, report)
        import torch

        self.base: Pretrained | None = base  # None once it is closed
        self._spec = base.spec
        self._torch = torch
        self._busy = threading.Lock()
        self._in_force: Blend | None = None  # what the layers are set to; None after any change of the adapters on them
        self.attached: dict[str, Adapter] = {}
        self._tokenizer = base.tokenizer
        self.prompting = PretrainedTokenizer(self._tokenizer)
        self._model = base.model
        self._peft = None
        self._end_ids = base.ends
        self._linear = dict(pretrained.linear_shapes(self._model))
        notes = list(base.notes)
        limit = self._context(notes)
        own = own_format(base.spec.prompt, self.prompting)
        self.loaded = Loaded(base.spec.id, "transformers", base.device, base.quantization, base.dtype, limit, own, tuple(notes))

    def _context(self, notes: list[str]) -> int:
        """The model's context in tokens, or as much of it as half of the memory that is still free can cache for every slot."""
        limit = getattr(self._model.config, "max_position_embeddings", None) or 4096
        free = self._torch.cuda.mem_get_info()[0] if self._torch.cuda.is_available() else hardware.machine().memory_free
        each = self.slots * self._spec.shape.cache_bytes(1, self._model.dtype.itemsize) if self._spec.shape else 0
        if each and each * limit > free / 2:
            limit = max(1024, int(free / 2 / each))
            notes.append(f"conversations are cut to {limit:,} tokens, which is what memory allows")
        return limit

    def attach(self, adapter: str) -> None:
        if adapter in self.attached:
            return
        found = adapter_files.find(adapter, lambda progress: None)
        tensors = adapter_files.load_tensors(found)
        adapter_files.check_base(found, self._spec, self._linear, tensors)
        with self._busy:
            if adapter in self.attached:
                return
            self._in_force = None
            try:
                self._inject(found, tensors)
            except Exception as error:
                self._forget(_peft_name(adapter))
                if isinstance(error, EngineError):
                    raise
                raise EngineError(
                    f"The adapter {adapter} could not be put on the base ({type(error).__name__}: {str(error)[:200]})."
                ) from error
            self.attached[adapter] = found

    def _inject(self, adapter: Adapter, tensors: dict) -> None:
        from peft import LoraConfig, PeftModel, set_peft_model_state_dict

        believed = adapter.config
        config = LoraConfig(
            r=believed.r,
            lora_alpha=believed.lora_alpha,
            lora_dropout=0.0,
            use_rslora=believed.use_rslora,
            bias="none",
            task_type="CAUSAL_LM",
            target_modules=sorted(adapter_files.lora_modules(tensors)),
            rank_pattern=believed.rank_pattern,
            alpha_pattern=believed.alpha_pattern,
            inference_mode=True,
        )
        key = _peft_name(adapter.id)
        if self._peft is None:
            self._peft = PeftModel(self._model, config, adapter_name=key).eval()
        else:
            self._peft.add_adapter(key, config)
        result = set_peft_model_state_dict(self._peft, tensors, adapter_name=key)
        missing = [name for name in result.missing_keys if "lora_" in name and f".{key}." in name]
        if missing or result.unexpected_keys:
            raise BadInput(
                f"The adapter {adapter.id} is damaged: its matrices and its config do not agree on {(missing or result.unexpected_keys)[0]}."
            )

    def detach(self, adapter: str) -> None:
        with self._busy:
            if self.attached.pop(adapter, None):
                self._in_force = None
                self._forget(_peft_name(adapter))

    def _forget(self, key: str) -> None:
        """Take an adapter's matrices off the base; with the last one PEFT's layers go too, as it cannot be left empty."""
        if self._peft is None or key not in self._peft.peft_config:
            return
        if len(self._peft.peft_config) > 1:
            self._peft.delete_adapter(key)
        else:
            self._peft.unload()
            self._peft = None

    def generate(self, prompt: Prompt, settings: ChatSettings, seed: int, blend: Blend, stop: Stop, cold: bool = False) -> Iterator[Delta]:
        """Every answer is made from its beginning, so each is as good as `cold`. Pauses, for whoever takes turns, after each
        token and, with an empty Delta, between the pieces of a long prompt."""
        torch = self._torch
        device = self._model.get_input_embeddings().weight.device
        random = torch.Generator(device=device).manual_seed(seed)
        seen = torch.tensor([prompt.content], device=device)
        processors = _processors(settings)
        text = TextStream(self._tokenizer)
        cache = None
        new = seen
        for _ in range(settings.max_new_tokens):
            for index, chunk in enumerate(new.split(PREFILL_CHUNK, dim=1)):
                if index:
                    yield Delta("")
                if stop():
                    yield Delta(text.rest(), reason="cancelled")
                    return
                logits, cache = self._forward(chunk, cache, blend)
            token = _sampled(torch, processors, seen, logits, settings, random)
            if token in self._end_ids:
                yield Delta(text.rest(), 1, "stop")
                return
            yield Delta(text.add(token), 1)
            new = torch.tensor([[token]], device=device)
            seen = torch.cat((seen, new), dim=1)
        yield Delta(text.rest(), reason="length")

    def _forward(self, chunk, cache, blend: Blend):
        """Logits of the last position, float32 [1, vocabulary], and the grown cache."""
        torch = self._torch
        extra = {"logits_to_keep": 1} if self._takes_logits_to_keep else {}
        try:
            with self.in_force(blend) as model:
                output = model(chunk, past_key_values=cache, use_cache=True, **extra)
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError(
                "The GPU ran out of memory while answering. Start a shorter conversation, lower the longest answer, or choose a smaller model."
            ) from error
        return output.logits[:, -1].float(), output.past_key_values

    def logits(self, ids: list[int], blend: Blend, last: int):
        """Logits after each of the `last` of these tokens, a float32 tensor [last, vocabulary] on the CPU."""
        torch = self._torch
        extra = {"logits_to_keep": last} if self._takes_logits_to_keep else {}
        device = self._model.get_input_embeddings().weight.device
        with self.in_force(blend) as model:
            return model(torch.tensor([ids], device=device), use_cache=False, **extra).logits[0, -last:].float().cpu()

    @contextlib.contextmanager
    def in_force(self, blend: Blend) -> Iterator[Any]:
        """The model with the changes of a blend's adapters, for the block alone."""
        with self._busy, self._torch.inference_mode():
            self._put_in_force(blend)
            yield self._model

    def scorer(self) -> "Scorer":
        from engine.backends.transformers_scoring import TransformersScorer

        return TransformersScorer(self)

    @property
    def weights(self) -> str:
        return lineage.revision(self.base.spec)

    @functools.cached_property
    def _takes_logits_to_keep(self) -> bool:
        return "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def _put_in_force(self, blend: Blend) -> None:
        """Set the layers to the changes of a blend's adapters, each times its scale (LoRA's alpha / r counts besides)."""
        if blend == self._in_force:
            return
        self.check_blend(blend)  # an adapter may have been detached since the answer began
        if blend.parts:
            self._switch_on(blend)
        elif self._peft is not None:
            self._peft.base_model.disable_adapter_layers()
        self._in_force = blend

    def _switch_on(self, blend: Blend) -> None:
        from peft.tuners.lora import LoraLayer

        scales = {_peft_name(adapter): scale for adapter, scale in blend.parts}
        # Layer by layer: PEFT's own switches walk the whole model once each, which counts where answers take turns.
        for module in self._peft.modules():
            if isinstance(module, LoraLayer):
                module.enable_adapters(True)
                module.set_adapter(list(scales), inference_mode=True)
                for key in scales.keys() & module.scaling.keys():
                    module.set_scale(key, scales[key])

    def close(self) -> None:
        self._model = self._peft = self.base = None
        gc.collect()
        if self._torch.cuda.is_available():
            self._torch.cuda.empty_cache()


def _peft_name(adapter: str) -> str:
    """PEFT makes it part of module paths, where a dot or slash would be read as structure."""
    return "a" + hashlib.sha256(adapter.encode()).hexdigest()[:16]


def _processors(settings: ChatSettings):
    """transformers' own logits processors, in the order in which its `generate` applies them."""
    from transformers import LogitsProcessorList
    from transformers.generation import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    chosen = LogitsProcessorList()
    if settings.repetition_penalty != 1:
        chosen.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.temperature >= LEAST_TEMPERATURE:
        if settings.temperature != 1:
            chosen.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            chosen.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            chosen.append(TopPLogitsWarper(settings.top_p))
    return chosen


def _sampled(torch, processors, seen, logits, settings: ChatSettings, random) -> int:
    if torch.isnan(logits).any() or torch.isposinf(logits).any():
        raise EngineError(
            "The model gave numbers that are none (NaN). Its weights are damaged, or too large for this numeric type; fetch it again or choose another."
        )
    scores = processors(seen, logits)
    if settings.temperature < LEAST_TEMPERATURE:
        return int(scores.argmax(-1))
    return int(torch.multinomial(scores.softmax(-1), 1, generator=random))

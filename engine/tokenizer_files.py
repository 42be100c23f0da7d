"""A model's tokenizer without its weights, and where it can be without torch: read from its folder, fetched if it must be.

What it gives is token for token what transformers gives; a file that transformers would change while reading goes to it.
"""

import functools
import re
import threading
from pathlib import Path

from engine import hub, paths, starter
from engine.backends import gguf_weights
from engine.backends.llama_tokenizer import chat_template
from engine.errors import BadInput
from engine.model_spec import ModelSpec
from engine.tokenizers import PretrainedTokenizer, ReadableTokenizer, Template, cuts

# Classes that take tokenizer.json as it is; all others set parts of it anew.
_PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
# Beyond this many tokens transformers looks for a faulty file of Mistral's and mends it.
_MOST_TOKENS = 100_000
# Control texts whose ids are kept: a chat template has few, and they stand in every row.
_KEPT_TEXTS = 256


class FileTokenizer:
    """A `tokenizer.json` with the texts of its first and last token and its chat template. As `engine.tokenizers.ReadableTokenizer`;
    thread-safe."""

    def __init__(self, tokenizer, bos: str, eos: str, template: str):
        self._tokenizer = tokenizer
        self._bos, self._eos, self._template = bos, eos, template
        self._added = tokenizer.get_added_tokens_decoder().values()
        self._lock = threading.Lock()
        self._control_ids = functools.lru_cache(_KEPT_TEXTS)(lambda text: tuple(self._encoded(text, True)))
        self.end: int | None = tokenizer.token_to_id(eos) if eos else None

    @functools.cached_property
    def template(self) -> Template | None:
        if not self._template:
            return None
        return chat_template(self._template, self._bos, self._eos, frozenset(token.content for token in self._added))

    @functools.cached_property
    def prefixes_space(self) -> bool:
        first = self._tokenizer.encode("a", add_special_tokens=False).tokens[:1]
        return bool(first) and first[0].startswith("\u2581")

    @functools.cached_property
    def unsplit(self) -> re.Pattern | None:
        return cuts([token.content for token in self._added if not token.special])

    def start(self) -> list[int]:
        return [token for token in self._tokenizer.encode("").ids if token != self.end]

    def ids(self, text: str, control: bool) -> list[int]:
        return list(self._control_ids(text)) if control else self._encoded(text, False)

    def _encoded(self, text: str, control: bool) -> list[int]:
        with self._lock:  # whether special tokens are recognised is a switch of the tokenizer
            if self._tokenizer.encode_special_tokens == control:
                self._tokenizer.encode_special_tokens = not control
            # A batch of one: it finds no offsets, and lets other threads go on meanwhile.
            return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


def opened(spec: ModelSpec, report: hub.Report) -> ReadableTokenizer:
    """The tokenizer of a model; of one that is not here, its small files alone are fetched. Raises BadInput or EngineError."""
    if spec.kind in ("scripted", "remote"):
        raise BadInput(f"The model {spec.id} has no tokenizer here. Name one with weights, e.g. starter.")
    if not spec.in_safetensors and spec.format != "safetensors" and spec.kind != "starter":
        header = gguf_weights.fetch(spec, report)
        return _by_transformers(spec.id, header.path.parent, gguf_file=header.path.name)
    folder = _folder(spec, report)
    return _from_folder(folder) or _by_transformers(spec.id, folder)


def _folder(spec: ModelSpec, report: hub.Report) -> Path:
    if spec.in_safetensors or spec.local:
        return spec.folder
    if spec.kind == "starter":
        return starter.make(report)
    target = paths.models() / f"{spec.folder.name}-tokenizer"
    if not target.is_dir():
        repo = hub.repository(spec.source)
        hub.download(repo, [file for file in repo.files if file.name in hub.MODEL_FILES], target, report)
    return target


def _from_folder(folder: Path) -> FileTokenizer | None:
    """The tokenizer in a folder, or None where transformers would not take its file as it is."""
    file, config_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not (file.is_file() and config_file.is_file()):
        return None
    config = paths.read_object(config_file, str(config_file))
    if config.get("tokenizer_class") not in _PLAIN_CLASSES or {"auto_map", "add_bos_token", "add_eos_token"} & set(config):
        return None
    from tokenizers import Tokenizer as Backend

    try:
        tokenizer = Backend.from_file(str(file))
    except Exception:  # the library's own kind of error; transformers then says what is wrong
        return None
    added = tokenizer.get_added_tokens_decoder().values()
    named = {name: _content(value) for name, value in config.items() if name.endswith("_token") and value}
    if tokenizer.truncation or tokenizer.padding or tokenizer.get_vocab_size() > _MOST_TOKENS:
        return None
    if not {token.content for token in added if token.special}.issuperset([*named.values(), *_extra(config)]):
        return None
    template = folder / "chat_template.jinja"
    source = template.read_text(encoding="utf-8") if template.is_file() else config.get("chat_template", "")
    if not isinstance(source, str):
        return None
    return FileTokenizer(tokenizer, named.get("bos_token", ""), named.get("eos_token", ""), source)


def _content(token: object) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)


def _extra(config: dict) -> list[str]:
    """The special tokens that a config names besides those of its vocabulary file; transformers adds the ones that are missing."""
    lists = [config.get(name) or [] for name in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder")]
    return [_content(token) for each in lists for token in (each.values() if isinstance(each, dict) else each)]


def _by_transformers(name: str, folder: Path, **options: str) -> PretrainedTokenizer:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:
        raise BadInput(
            f"The tokenizer of {name} cannot be read: it is missing or damaged ({type(error).__name__}: {str(error)[:160]})."
        ) from error
    tokenizer.model_max_length = 10**9  # long texts are cut where they are used, not warned about
    return PretrainedTokenizer(tokenizer)

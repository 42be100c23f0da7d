"""Tokenizers as `engine.prompts.encode` asks for them: what a transformers tokenizer does with text of people and control
text, and how a chat template is rendered."""

import functools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Template:
    """A model's own chat template. `render`: (rows of role and content, add_generation_prompt) -> text; `tokens`: the
    texts of the tokenizer's added tokens, which are never recognised in text of people anyway."""

    render: Callable[[list[dict], bool], str]
    tokens: frozenset[str]


class Tokenizer(Protocol):
    """A model's tokenizer, whichever library it belongs to.

    `end` is the id that ends a text. `prefixes_space`: it puts a space before whatever it is given. `unsplit` matches the
    places at which text of people has to be cut so that no added token is recognised in it, or is None where none would be.
    """

    end: int | None
    template: Template | None
    prefixes_space: bool
    unsplit: re.Pattern | None

    def start(self) -> list[int]:
        """Ids that stand at the start of every text, without those of a chat template."""

    def ids(self, text: str, control: bool) -> list[int]:
        """Ids of a text by itself, nothing added at its ends. Special tokens are recognised in `control` text only."""


class ReadableTokenizer(Tokenizer, Protocol):
    """A tokenizer whose ids can be read again."""

    def text(self, ids: list[int]) -> str:
        """The text of these ids, special tokens spelt out; U+FFFD stands for bytes that are no whole character."""


def cuts(contents: list[str]) -> re.Pattern | None:
    """Matches the place behind the first character of every one of these added tokens: cutting a text there takes such
    tokens apart."""
    longer = [content for content in contents if len(content) > 1]
    return re.compile("|".join(f"(?<={re.escape(content[0])})(?={re.escape(content[1:])})" for content in longer)) if longer else None


class PretrainedTokenizer:
    """A transformers tokenizer as a `Tokenizer`. Thread-safe."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self.end: int | None = tokenizer.eos_token_id

    @functools.cached_property
    def template(self) -> Template | None:
        """Reasoning models are asked to answer at once: at laptop speeds thinking first takes minutes."""
        tokenizer = self._tokenizer
        if not getattr(tokenizer, "chat_template", None):
            return None
        return Template(
            lambda rows, answering: tokenizer.apply_chat_template(
                rows, add_generation_prompt=answering, tokenize=False, enable_thinking=False
            ),
            frozenset(token.content for token in tokenizer.added_tokens_decoder.values()),
        )

    @functools.cached_property
    def prefixes_space(self) -> bool:
        first = self._tokenizer.convert_ids_to_tokens(self.ids("a", control=True))
        return bool(first) and first[0].startswith("\u2581")

    @functools.cached_property
    def unsplit(self) -> re.Pattern | None:
        """Added tokens that are not special stay whole whatever `split_special_tokens` says."""
        return cuts([token.content for token in self._tokenizer.added_tokens_decoder.values() if not token.special])

    def start(self) -> list[int]:
        return [token for token in self._ids("", add_special_tokens=True) if token != self.end]

    def ids(self, text: str, control: bool) -> list[int]:
        return self._ids(text, add_special_tokens=False, split_special_tokens=not control)

    def text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _ids(self, text: str, **options: bool) -> list[int]:
        with self._lock:  # whether it splits special tokens is a switch of the tokenizer, set anew for each text
            return self._tokenizer(text, **options).input_ids

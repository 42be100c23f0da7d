"""The tokenizer inside a GGUF file, asked of the llama.cpp server that has it loaded; imports neither torch nor transformers."""

import functools
import json
import re
from datetime import datetime

from engine.backends.server_client import ServerClient
from engine.gguf_file import Header
from engine.tokenizers import Template, cuts

# Token types of GGUF (`tokenizer.ggml.token_type`).
CONTROL, USER_DEFINED = 3, 4


class LlamaTokenizer:
    """As `engine.tokenizers.Tokenizer`."""

    def __init__(self, client: ServerClient, header: Header):
        self._client, self._header = client, header
        self.end: int | None = header.fields.get("tokenizer.ggml.eos_token_id")

    @functools.cached_property
    def _tokens(self) -> list[str]:
        return self._header.values("tokenizer.ggml.tokens")

    def _of_type(self, *wanted: int) -> list[str]:
        types = self._header.values("tokenizer.ggml.token_type")
        return [token for token, kind in zip(self._tokens, types, strict=False) if kind in wanted]

    def _named(self, name: str) -> str:
        number = self._header.fields.get(f"tokenizer.ggml.{name}_token_id")
        return self._tokens[number] if isinstance(number, int) and number < len(self._tokens) else ""

    @functools.cached_property
    def template(self) -> Template | None:
        source = self._header.fields.get("tokenizer.chat_template")
        if not isinstance(source, str) or not source:
            return None
        return chat_template(source, self._named("bos"), self._named("eos"), frozenset(self._of_type(CONTROL, USER_DEFINED)))

    @functools.cached_property
    def unsplit(self) -> re.Pattern | None:
        """llama.cpp recognises user-defined tokens in any text."""
        return cuts(self._of_type(USER_DEFINED))

    @functools.cached_property
    def prefixes_space(self) -> bool:
        pieces = self._client.post("tokenize", {"content": "a", "with_pieces": True})["tokens"]
        return bool(pieces) and str(pieces[0]["piece"]).startswith(" ")

    def start(self) -> list[int]:
        ids = self._client.post("tokenize", {"content": "", "add_special": True})["tokens"]
        return [token for token in ids if token != self.end]

    def ids(self, text: str, control: bool) -> list[int]:
        return self._client.post("tokenize", {"content": text, "add_special": False, "parse_special": control})["tokens"]


def chat_template(source: str, bos: str, eos: str, tokens: frozenset[str]) -> Template:
    """A chat template rendered as transformers renders it: in jinja's sandbox, with its helpers. A template that is none
    fails when it is rendered."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    @functools.cache
    def compiled():
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=_extensions())
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise, strftime_now=lambda form: datetime.now().strftime(form))
        return environment.from_string(source)

    def render(rows: list[dict], answering: bool) -> str:
        return compiled().render(messages=rows, add_generation_prompt=answering, enable_thinking=False, bos_token=bos, eos_token=eos)

    return Template(render, tokens)


def _extensions() -> list:
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """`{% generation %}` marks what training learns; here its content stands for itself."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return [Generation, loopcontrols]


def _to_json(value, indent=None, **options) -> str:
    """JSON as it is: jinja's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=options.pop("ensure_ascii", False), indent=indent, **options)


def _raise(message: str) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)

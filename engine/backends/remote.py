"""Models that another server runs, through the OpenAI-compatible API that vLLM, TGI, llama.cpp and hosted services share.

The server's own chat template is used, or a prompt format by name; the key comes from the environment and stays in headers.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx

from engine.backends.base import Backend, Delta, Loaded, Prompt, Stop
from engine.backends.server_client import ANSWER_SECONDS, ServerClient
from engine.blend import Blend
from engine.errors import BadInput
from engine.messages import Conversation
from engine.model_spec import REMOTE, ModelSpec
from engine.prompts import END, prompt_format
from engine.settings import ChatSettings, LoadSettings

if TYPE_CHECKING:
    from engine.backends.scoring import Scorer

MOST_ANSWERS = 16
# Taken where the server does not say how long its context is.
DEFAULT_CONTEXT = 4096
# A token of English has about four characters, of other languages fewer. Counting high drops an old turn too early; counting
# low makes the server refuse.
CHARACTERS_A_TOKEN = 3
TOKENS_A_MESSAGE = 8


class RemoteBackend(Backend):
    """See `Backend`. It has no adapters of its own: a server lists those that it serves among its models."""

    slots = MOST_ANSWERS

    def __init__(self, spec: ModelSpec, load: LoadSettings):
        """Ask the server what it runs. Raises BadInput or EngineError where it does not answer as such a server does."""
        self.client, host = connected(load)
        try:
            model = self._model("" if spec.id == REMOTE else spec.id)
        except BaseException:
            self.client.close()
            raise
        self._name = model["id"]
        self.loaded = Loaded(self._name, "remote", host, "none", "none", _context(model), "chat", ())

    def _model(self, wanted: str) -> dict:
        """What the server says of a model; of its first where none is `wanted`."""
        listed = [each for each in self.client.get("models").get("data") or [] if isinstance(each, dict) and each.get("id")]
        if not listed:
            raise BadInput("The server lists no models. Name one with --model." if not wanted else f"The server does not list {wanted}.")
        found = next((each for each in listed if wanted in ("", each["id"])), None)
        if found is None:
            raise BadInput(f"The server does not run {wanted!r}. It runs: {', '.join(str(each['id']) for each in listed[:20])}.")
        return found

    def attach(self, adapter: str) -> None:
        raise BadInput(
            "A remote server brings its own adapters: choose one of its models by name. Adapters of this app work on local models."
        )

    def detach(self, adapter: str) -> None:
        raise BadInput(f"The adapter {adapter!r} is not loaded.")

    def adapters(self) -> list[str]:
        return []

    def prompt_format(self, adapter: str | None) -> str:
        return self.loaded.prompt

    def encode(self, conversation: Conversation, form: str) -> Prompt:
        """The messages for the server's own chat template, or the text of another prompt format; tokens are estimated."""
        messages = conversation.messages
        if form == "chat":
            system = [{"role": "system", "content": conversation.system}] if conversation.system else []
            content = {"messages": [*system, *({"role": each.role, "content": each.text} for each in messages)]}
            if conversation.continues:
                content |= {"continue_final_message": True, "add_generation_prompt": False}
        else:
            pieces = prompt_format(form).pieces(conversation)
            if conversation.continues and pieces[-1].control:
                pieces.pop()
            content = {"prompt": "".join(piece.text for piece in pieces if piece.text != END)}
        characters = len(conversation.system) + sum(len(each.text) for each in messages)
        return Prompt(characters // CHARACTERS_A_TOKEN + TOKENS_A_MESSAGE * (len(messages) + 1), content)

    def generate(self, prompt: Prompt, settings: ChatSettings, seed: int, blend: Blend, stop: Stop, cold: bool = False) -> Iterator[Delta]:
        self.check_blend(blend)
        path = "chat/completions" if "messages" in prompt.content else "completions"
        stream = self.client.stream(path, self._request(prompt, settings, seed))
        reason, made, counted = None, 0, 0
        try:
            for event in stream:
                if stop():
                    yield Delta("", reason="cancelled")
                    return
                counted = ((event or {}).get("usage") or {}).get("completion_tokens") or counted
                choice = ((event or {}).get("choices") or [{}])[0]
                text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                reason = choice.get("finish_reason") or reason
                if text:
                    made += 1
                    yield Delta(text, 1)
        finally:
            stream.close()
        # A piece of text is a token in most servers; where it is more, the server's own count at the end says so.
        yield Delta("", max(counted - made, 0), "length" if reason == "length" else "stop")

    def _request(self, prompt: Prompt, settings: ChatSettings, seed: int) -> dict:
        """The body of a request. What is not in OpenAI's own API is sent only where it was asked for: some servers refuse it."""
        body = {
            **prompt.content,
            "model": self._name,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "seed": seed,
        }
        if settings.top_k:
            body["top_k"] = settings.top_k
        if settings.repetition_penalty != 1:
            # vLLM and TGI call it so, llama.cpp the other way.
            body |= {"repetition_penalty": settings.repetition_penalty, "repeat_penalty": settings.repetition_penalty}
        return body

    def scorer(self) -> "Scorer":
        from engine.backends.server_scoring import RemoteScorer

        return RemoteScorer(self)

    @property
    def weights(self) -> str:
        return f"{self._name} at {self.loaded.device}"

    @property
    def process_id(self) -> int:
        return 0

    def close(self) -> None:
        self.client.close()


def connected(load: LoadSettings, seconds: float = ANSWER_SECONDS) -> tuple[ServerClient, str]:
    """A client of the server that the settings name, which may be silent for so long, and its host for people. Raises BadInput where
    the environment holds no key."""
    host = httpx.URL(load.base_url).netloc.decode()
    return ServerClient(load.base_url, load.key(), f"The server at {host}", load.api_key_env, proxies=True, seconds=seconds), host


def _context(model: dict) -> int:
    """The context length in tokens as vLLM or llama.cpp state it."""
    stated = model.get("max_model_len") or (model.get("meta") or {}).get("n_ctx")
    return stated if isinstance(stated, int) and stated > 0 else DEFAULT_CONTEXT

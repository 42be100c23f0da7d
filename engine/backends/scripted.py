"""The fake that ships: answers at a chosen pace without weights. It shows the whole interface and drives tests."""

import hashlib
import random
import time
from collections.abc import Callable, Container, Iterator, Sequence

from engine.backends.base import Backend, Delta, Loaded, Prompt, Stop
from engine.backends.scoring import Choice, Scored, Scorer, Text, check_length
from engine.blend import Blend
from engine.errors import BadInput
from engine.messages import Conversation
from engine.prompts import prompt_format
from engine.settings import ChatSettings

_SENTENCES = (
    "This is the scripted backend: no weights are loaded, and every answer is made up of a few fixed sentences. ",
    "It streams like a real model, so you can try stop, retry and the settings. ",
    "Unicode passes through whole: año, 数据, 🦙. ",
    "Choose another model to talk to a real one. ",
)
# (text before, what follows it, label of the blend) -> natural logarithm of its probability.
Likelihood = Callable[[str, str, str | None], float]


def drawn(before: str, what: str, blend: str | None) -> float:
    """A likelihood that means nothing and is always the same: between -8 and 0."""
    return -int.from_bytes(hashlib.sha256(f"{blend}\0{before}\0{what}".encode()).digest()[:4]) / 2**29


class ScriptedBackend(Backend):
    """Tokens are whole words. `script` replaces the fixed sentences; without `ends` it never stops.

    `seconds_per_token` paces it. `produced` counts the tokens of all answers, for tests. `likelihood` is what it thinks of texts.
    """

    def __init__(
        self,
        script: list[str] | None = None,
        ends: bool = True,
        seconds_per_token: float = 0.02,
        context: int = 32_768,
        prompt: str = "plain",
        slots: int = 1,
        likelihood: Likelihood = drawn,
    ):
        self.slots = slots
        self.loaded = Loaded("scripted", "scripted", "none", "none", "none", context, prompt, ("no weights are loaded",))
        self._script, self._ends, self._pace = script, ends, seconds_per_token
        self._likelihood = likelihood
        self._adapters: list[str] = []
        self.produced = 0
        self.closed = False

    def attach(self, adapter: str) -> None:
        if not adapter.startswith("scripted-"):
            raise BadInput(f"The scripted backend has no adapter {adapter!r}; it takes any id that begins with scripted-.")
        if adapter not in self._adapters:
            self._adapters.append(adapter)

    def detach(self, adapter: str) -> None:
        self._adapters.remove(adapter)

    def adapters(self) -> list[str]:
        return list(self._adapters)

    def prompt_format(self, adapter: str | None) -> str:
        return self.loaded.prompt

    def encode(self, conversation: Conversation, form: str) -> Prompt:
        text = "".join(piece.text for piece in prompt_format(form).pieces(conversation))
        return Prompt(len(text), text)

    def generate(self, prompt: Prompt, settings: ChatSettings, seed: int, blend: Blend, stop: Stop, cold: bool = False) -> Iterator[Delta]:
        self.check_blend(blend)
        words = self._script if self._script is not None else self._improvised(seed, blend.label)
        made = 0
        while not stop():
            if made >= settings.max_new_tokens:
                yield Delta("", reason="length")
                return
            if self._ends and made >= len(words):
                yield Delta("", reason="stop")
                return
            time.sleep(self._pace)
            self.produced += 1
            made += 1
            yield Delta(words[(made - 1) % len(words)], 1)
        yield Delta("", reason="cancelled")

    def _improvised(self, seed: int, blend: str | None) -> list[str]:
        sentences = list(_SENTENCES)
        random.Random(seed).shuffle(sentences)
        text = (f"[{blend}] " if blend else "") + "".join(sentences)
        return [word + " " for word in text.split(" ") if word]

    @property
    def weights(self) -> str:
        return "scripted"

    def adapter_weights(self, blend: Blend) -> str:
        return blend.label or ""

    def scorer(self) -> Scorer:
        return ScriptedScorer(self._likelihood, self.loaded.context)

    def close(self) -> None:
        self.closed = True


class _Characters:
    """A tokenizer whose tokens are characters; as `engine.tokenizers.Tokenizer`."""

    end: int | None = 0
    template = unsplit = None
    prefixes_space = False

    def start(self) -> list[int]:
        return []

    def ids(self, text: str, control: bool) -> list[int]:
        return list(map(ord, text))


class ScriptedScorer(Scorer):
    """See `Scorer`. A text is scored character by character, a candidate as a whole."""

    def __init__(self, likelihood: Likelihood, context: int):
        self._likelihood, self.context, self.tokenizer = likelihood, context, _Characters()

    def choices(self, asked: Sequence[Choice], blend: Blend, stop: Stop, known: Container[int] = ()) -> Iterator[Scored]:
        for number, choice in enumerate(asked):
            check_length(number, self.tokens(choice), self.context)
            if stop():
                return
            if number not in known:
                yield number, tuple(self._likelihood(choice.before, candidate, blend.label) for candidate in choice.candidates)

    def likelihoods(self, texts: Sequence[Text], blend: Blend, stop: Stop, known: Container[int] = ()) -> Iterator[Scored]:
        for number, text in enumerate(texts):
            check_length(number, len(text.ids), self.context)
            if stop():
                return
            if number not in known:
                said = "".join(map(chr, text.ids))
                yield (
                    number,
                    tuple(self._likelihood(said[:at], said[at], blend.label) for at, learn in enumerate(text.learn) if at and learn),
                )

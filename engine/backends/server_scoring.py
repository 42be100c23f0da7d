"""Scores by servers that tell the probabilities of the next token, llama.cpp's own and OpenAI-compatible ones: what goes on from a text
can be chosen there; whole texts they do not score."""

from abc import abstractmethod
from collections.abc import Container, Iterator, Sequence

from engine import measuring
from engine.backends.base import Stop
from engine.backends.llamacpp import LlamaCppBackend
from engine.backends.remote import RemoteBackend
from engine.backends.scoring import Choice, Scored, Scorer, Text, check_length, divided
from engine.blend import Blend
from engine.errors import BadInput, EngineError

# Next tokens that a server is asked for: more are refused by some.
_TOLD = 20


class _ServerScorer(Scorer):
    """One text after the other; the server keeps what it read of the last one."""

    kind: str

    def choices(self, asked: Sequence[Choice], blend: Blend, stop: Stop, known: Container[int] = ()) -> Iterator[Scored]:
        for number, choice in enumerate(asked):
            if stop():
                return
            if number not in known:
                yield number, self._chosen(number, choice, blend)

    @abstractmethod
    def _chosen(self, number: int, choice: Choice, blend: Blend) -> tuple[float, ...]:
        """The log-probabilities of one choice's candidates."""

    def likelihoods(self, texts: Sequence[Text], blend: Blend, stop: Stop, known: Container[int] = ()) -> Iterator[Scored]:
        raise BadInput(
            f"The backend {self.kind} tells the probabilities of the next token alone, which is enough for MMLU. For this measure choose "
            "the backend transformers."
        )


class LlamaCppScorer(_ServerScorer):
    """See `Scorer`."""

    kind = "llama.cpp"

    def __init__(self, backend: LlamaCppBackend):
        self._backend, self.context, self.tokenizer = backend, backend.loaded.context, backend.prompting
        self._word = measuring.tokenized(backend.client, measuring.ANSWER)[-1]

    def _chosen(self, number: int, choice: Choice, blend: Blend) -> tuple[float, ...]:
        self._backend.check_blend(blend)
        before, rests = divided(self.tokenizer, choice)
        check_length(number, len(before) + max(map(len, rests)), self.context)
        more = {"lora": self._backend.lora(blend)}
        if all(len(rest) == 1 for rest in rests):
            return tuple(measuring.logprobs(self._backend.client, before, [token for (token,) in rests], self._word, **more))
        return tuple(
            sum(
                measuring.logprobs(self._backend.client, (*before, *rest[:at]), [token], self._word, **more)[0]
                for at, token in enumerate(rest)
            )
            for rest in rests
        )


class RemoteScorer(_ServerScorer):
    """See `Scorer`. The server's own tokens are not known here: each candidate must be one of them."""

    kind = "remote"
    tokenizer = None

    def __init__(self, backend: RemoteBackend):
        self._backend, self.context = backend, backend.loaded.context

    def _chosen(self, number: int, choice: Choice, blend: Blend) -> tuple[float, ...]:
        """A candidate that is not among the likeliest tokens that the server tells counts as less likely than all of them."""
        self._backend.check_blend(blend)
        body = {"model": self._backend.loaded.model, "prompt": choice.before, "max_tokens": 1, "temperature": 0, "logprobs": _TOLD}
        told = _told(self._backend.client.post("completions", body))
        if not any(candidate in told for candidate in choice.candidates):
            raise BadInput(
                f"Of {', '.join(map(repr, choice.candidates))} the server tells no probability, so its choice cannot be known. Load the model "
                "here with the backend transformers."
            )
        unknown = min(told.values()) - 1
        return tuple(told.get(candidate, unknown) for candidate in choice.candidates)


def _told(answer: object) -> dict[str, float]:
    """The likeliest next tokens in either of the two forms that servers give them in. Raises EngineError where there are none."""
    try:
        found = answer["choices"][0]["logprobs"]
        if "content" in found:
            return {each["token"]: float(each["logprob"]) for each in found["content"][0]["top_logprobs"]}
        return {token: float(value) for token, value in found["top_logprobs"][0].items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise EngineError(
            "The server tells no probabilities of tokens (logprobs). Choose another server, or load the model here with the backend transformers."
        ) from error

"""One answer: trims the conversation to the context, streams it as events, and watches for stop strings.

`stream` never raises for what a person can cause: it ends with exactly one Finished or Failed.
"""

import bisect
import secrets
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import replace

from engine.backends.base import Backend, Delta, Prompt, Stop
from engine.blend import BASE, Blend
from engine.errors import BadInput, EngineError
from engine.events import Event, Failed, Finished, FinishReason, Notice, Token
from engine.messages import Conversation
from engine.prompts import prompt_format
from engine.settings import MAX_SEED, ChatSettings

# What an answer is promised of the context where the conversation is long.
LEAST_ANSWER_SHARE = 4


class StopStrings:
    """Lets text through except from the first stop string on. Text that may yet become one waits, and so does white
    space, which is dropped when the answer ends on it: nothing shown is ever taken back. Linear in the text."""

    def __init__(self, stops: tuple[str, ...], continues: bool = False):
        """`continues`: the text goes on from an earlier one, so white space at its start counts."""
        self._stops = stops
        self._held = ""
        self._begun = continues
        self.met = False

    def add(self, text: str) -> str:
        """The part of the text so far that is safe to show and was not given before."""
        held = self._held + text
        if not self._begun:
            held = held.lstrip()
            self._begun = bool(held)
        cut = min((index for stop in self._stops if (index := held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.met = True
            self._held = ""
            return held[:cut].rstrip()
        keep = max(
            (size for stop in self._stops for size in range(1, min(len(stop), len(held) + 1)) if held.endswith(stop[:size])), default=0
        )
        safe = held[: len(held) - keep].rstrip()
        self._held = held[len(safe) :]
        return safe

    def rest(self) -> str:
        """What waited, at the end of an answer that met no stop string."""
        return self._held.rstrip()


def fitted(backend: Backend, conversation: Conversation, form: str, settings: ChatSettings) -> tuple[Prompt, int, Conversation]:
    """A prompt that leaves room for an answer, that answer's limit, and the conversation after dropping its oldest turns.

    Raises BadInput where even the last message alone is too long.
    """
    context = backend.loaded.context
    room = min(settings.max_new_tokens, context // LEAST_ANSWER_SHARE)
    suffixes = [conversation]
    while (shorter := suffixes[-1].without_oldest_turn()) != suffixes[-1]:
        suffixes.append(shorter)
    encoded: dict[int, Prompt] = {}

    def fits(index: int) -> bool:
        encoded[index] = backend.encode(suffixes[index], form)
        return encoded[index].tokens + room <= context

    # By bisection: a stranger's long history must not cost an encoding for each of its turns.
    first = 0 if fits(0) else bisect.bisect_left(range(len(suffixes)), True, lo=1, key=fits)
    if first == len(suffixes):
        tokens = (encoded.get(first - 1) or encoded[0]).tokens
        raise BadInput(
            f"The message with its system text has {tokens:,} tokens; this model holds {context:,}, of which {room:,} are kept for the answer. Please shorten it."
        )
    prompt = encoded.get(first) or backend.encode(suffixes[first], form)
    return prompt, min(settings.max_new_tokens, context - prompt.tokens), suffixes[first]


def stream(
    backend: Backend,
    conversation: Conversation,
    settings: ChatSettings,
    stop: Stop = lambda: False,
    blend: Blend = BASE,
    form: str | None = None,
    cold: bool = False,
) -> Iterator[Event]:
    """Answer the last message, or go on with it where it is the assistant's: Notice and Token events, then one Finished
    (of the new text alone) or Failed.

    A conversation without a system text takes the one that the strongest adapter was trained with, if any. `form` names a prompt
    format; None takes that adapter's or the model's own. `cold` as in `Backend.generate`; an
    explicit seed asks for it too. Closing the iterator ends generation.
    """
    started = time.perf_counter()
    try:
        if not any(message.role == "user" for message in conversation.messages) or not conversation.messages[-1].text.strip():
            raise BadInput("There is no message to answer. Write one first.")
        conversation = conversation.alternating()
        if not conversation.system:
            conversation = replace(conversation, system=backend.system(blend.strongest))
        name = form or backend.prompt_format(blend.strongest)
        prompt, limit, kept = fitted(backend, conversation, name, settings)
        dropped = len(conversation.messages) - len(kept.messages)
        if dropped:
            oldest = "oldest message was" if dropped == 1 else f"oldest {dropped} messages were"
            yield Notice(f"The conversation no longer fits this model's {backend.loaded.context:,} tokens: the {oldest} left out.")
        guard = StopStrings(prompt_format(name).stop, kept.continues)
        settings = settings.model_copy(update={"max_new_tokens": limit})
        seed = secrets.randbelow(MAX_SEED) if settings.seed is None else settings.seed
        deltas = backend.generate(prompt, settings, seed, blend, stop, cold or settings.seed is not None)
        figures = yield from _answer(deltas, guard, started)
        yield Finished(
            **figures,
            prompt_tokens=prompt.tokens,
            seed=seed,
            backend=backend.loaded.backend,
            model=backend.loaded.model,
            adapter=blend.label,
            dropped_messages=dropped,
        )
    except EngineError as error:
        yield Failed(str(error), error.exit_code)
    except Exception as error:
        traceback.print_exc()
        yield Failed(f"Unexpected failure ({type(error).__name__}: {error}). The log has the details.")


def _answer(deltas: Generator[Delta], guard: StopStrings, started: float) -> Generator[Token, None, dict]:
    """The tokens of an answer; returns what a Finished says of text, counts, times and how it ended."""
    parts: list[str] = []
    tokens = 0
    first: float | None = None
    reason: FinishReason = "cancelled"
    try:
        for delta in deltas:
            tokens += delta.tokens
            if first is None and delta.tokens:
                first = time.perf_counter()
            text = guard.add(delta.text)
            if text:
                parts.append(text)
                yield Token(text)
            if guard.met:
                reason = "stop"
                break
            if delta.reason:
                reason = delta.reason
    finally:
        deltas.close()
    if not guard.met and (text := guard.rest()):
        parts.append(text)
        yield Token(text)
    ended = time.perf_counter()
    first = first or ended
    return {
        "text": "".join(parts),
        "tokens": tokens,
        "seconds": round(ended - started, 4),
        "ttft_seconds": round(first - started, 4),
        "tokens_per_second": round((tokens - 1) / (ended - first), 2) if tokens > 1 and ended > first else 0.0,
        "finish_reason": reason,
    }

"""Engine events as what the chat tab shows. One function an event type; an unknown type raises."""

import functools
import time
from dataclasses import dataclass, replace

from engine.events import Event, Failed, Finished, Notice, Progress, Token
from engine.messages import Message
from engine.runtime import State

SCREEN_UPDATES_A_SECOND = 8
FULL_PACE_CHARS = 6_000
_REASONS = {"stop": "ended by itself", "length": "cut at the longest answer", "cancelled": "stopped by you"}


@dataclass(frozen=True)
class ChatView:
    """The conversation on the screen, the answer under way (None before its first token) and the line under it:
    what it waits for, then what is to be said of the answer."""

    messages: tuple[Message, ...]
    answer: str | None = None
    waiting: str = ""
    facts: str = ""
    failed: str | None = None

    @property
    def line(self) -> str:
        return self.waiting or self.facts

    def rows(self) -> list[dict]:
        """Messages for `gr.Chatbot`."""
        rows = [{"role": message.role, "content": message.text} for message in self.messages]
        return rows if self.answer is None else [*rows, {"role": "assistant", "content": self.answer}]


@functools.singledispatch
def render(event: Event, view: ChatView) -> ChatView:
    """The view after an event. Raises TypeError for an event this tab does not know."""
    raise TypeError(f"the chat tab cannot show a {type(event).__name__}")


@render.register
def _(event: Progress, view: ChatView) -> ChatView:
    percent = "" if event.fraction is None else f" ({event.fraction:.0%})"
    return replace(view, waiting=f"{event.text}{percent} …")


@render.register
def _(event: Notice, view: ChatView) -> ChatView:
    return replace(view, facts=event.text)


@render.register
def _(event: Token, view: ChatView) -> ChatView:
    return replace(view, answer=(view.answer or "") + event.text, waiting="")


@render.register
def _(event: Finished, view: ChatView) -> ChatView:
    left_out = f" · the oldest {event.dropped_messages} messages no longer fitted and were left out" if event.dropped_messages else ""
    tokens = "1 token" if event.tokens == 1 else f"{event.tokens} tokens"
    return replace(
        view,
        answer=event.text or None,
        waiting="",
        facts=(
            f"{tokens} · {event.tokens_per_second:.1f} tokens/s · first after {event.ttft_seconds:.1f} s · "
            f"{_REASONS[event.finish_reason]} · seed {event.seed}{left_out}"
        ),
    )


@render.register
def _(event: Failed, view: ChatView) -> ChatView:
    return replace(view, waiting="", failed=event.text)


class Pace:
    """Says when the screen may be drawn again: eight times a second however fast events come, and more seldom the
    longer the answer is, because each redraw costs the page its whole length: so the sum stays linear."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, length: int) -> bool:
        """Whether to draw an answer of `length` characters now."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + max(1.0, length / FULL_PACE_CHARS) / SCREEN_UPDATES_A_SECOND
        return True


def status(state: State, machine: str) -> str:
    """The line that says what is running, as plain text: names in it may come from strangers, so escape it."""
    if state.loaded is None:
        percent = "" if state.fraction is None else f" ({state.fraction:.0%})"
        mark = {"loading": "⏳", "failed": "⚠️", "idle": "○"}[state.phase] if state.phase != "ready" else ""
        return f"{mark} {state.text}{percent} · {machine}"
    loaded = state.loaded
    parts = [f"● {loaded.model}", loaded.quantization, loaded.device, loaded.backend, *loaded.notes, machine]
    return " · ".join(dict.fromkeys(part for part in parts if part not in ("none",)))

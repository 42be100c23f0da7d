"""What the chat tab shows, as plain values for `static/view.js`: engine events, one function a kind; turns; the status."""

import functools
import html
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.comparison import Comparison
from engine.events import Event, Failed, Finished, Notice, Progress, Token
from engine.hardware import GIB, Machine
from engine.runtime import READY, State
from engine.threads import Facts, Thread, Turn
from ui import markdown

SIDES = ("A", "B")
SCREEN_UPDATES_A_SECOND = 8
FULL_PACE_CHARS = 6_000
UNCHANGED_SECONDS = 2.0
_REASONS = {"stop": "ended by itself", "length": "cut at the longest answer", "cancelled": "stopped"}
_HOSTS = {"computer": "this computer", "colab": "Colab", "space": "Space"}


@dataclass(frozen=True)
class Answer:
    """An answer under way: its new text, what it waits for, what is to be said of it, how it ended."""

    text: str = ""
    waiting: str = ""
    notice: str = ""
    finished: Finished | None = None
    failed: str = ""


@functools.singledispatch
def render(event: Event, answer: Answer) -> Answer:
    """The answer after an event. Raises TypeError for an event this tab does not know."""
    raise TypeError(f"the chat tab cannot show a {type(event).__name__}")


@render.register
def _(event: Progress, answer: Answer) -> Answer:
    percent = "" if event.fraction is None else f" ({event.fraction:.0%})"
    return replace(answer, waiting=f"{event.text}{percent} …")


@render.register
def _(event: Notice, answer: Answer) -> Answer:
    return replace(answer, notice=event.text)


@render.register
def _(event: Token, answer: Answer) -> Answer:
    return replace(answer, text=answer.text + event.text, waiting="")


@render.register
def _(event: Finished, answer: Answer) -> Answer:
    return replace(answer, waiting="", finished=event)


@render.register
def _(event: Failed, answer: Answer) -> Answer:
    return replace(answer, waiting="", failed=event.text)


def shown(thread: Thread) -> dict:
    """A conversation for the view: the turns of its path, each with what can be done with it."""
    path = thread.path()
    asked = max((index for index, turn in enumerate(path) if turn.role == "user"), default=-1)
    rows = [_row(thread, turn) for turn in path]
    if asked >= 0:
        rows[asked]["last"] = True
        rows[asked]["unanswered"] = asked == len(path) - 1
        rows[-1]["last"] = True
        rows[-1]["cut"] = path[-1].facts is None or path[-1].facts.finish_reason != "stop"
    return {"thread": thread.id, "turns": rows, "busy": False}


def made_with(model: str, adapters: str | None) -> str:
    """What an answer is made with, in a few words."""
    return f"{model} · {adapters or 'no adapter'}"


def side_by_side(comparison: Comparison, titles: Sequence[str] = ()) -> dict:
    """A comparison for its view: the last message that both sides share, and what stands in each column under it. `titles`
    say what each side is made with; without them its last answer does."""
    titles = titles or [_made_with(comparison.side(at)) for at in (0, 1)]
    sides, shared = [shown(comparison.side(at)) for at in (0, 1)], len(comparison.shared())
    rows = sides[0]["turns"][:shared]
    first = max((at for at, row in enumerate(rows) if row["role"] == "user"), default=shared)
    earlier = f"After {first} earlier messages of “{comparison.thread.name}”" if first and rows else ""
    return {
        "comparison": comparison.model_dump(mode="json"),
        "earlier": earlier,
        "shared": rows[first:],
        "columns": {
            name: {"title": f"{name} · {title}" if title else name, "turns": side["turns"][shared:], "kept": len(side["turns"]) > shared}
            for name, title, side in zip(SIDES, titles, sides, strict=True)
        },
        "busy": False,
    }


def _made_with(thread: Thread) -> str:
    last = next((turn.facts for turn in reversed(thread.path()) if turn.facts), None)
    return made_with(last.model, last.adapter) if last else ""


def _row(thread: Thread, turn: Turn) -> dict:
    place = thread.place(turn)
    row = {"id": turn.id, "role": turn.role, "text": turn.text, "at": place.at, "ids": place.ids}
    if turn.role == "user":
        return row
    said = {"facts": facts(turn.facts), "detail": detail(turn.facts)} if turn.facts else {}
    return {**row, **said, "blocks": numbered(_blocks(turn.text)), "thumb": turn.thumb}


@functools.lru_cache(maxsize=128)
def _blocks(text: str) -> tuple[str, ...]:
    return tuple(markdown.blocks(text))


def numbered(blocks: Sequence[str]) -> dict[str, str]:
    """Blocks of HTML by their number: Gradio sends what changed of a value, and miscounts where a list in a list grows
    shorter."""
    return {str(number): block for number, block in enumerate(blocks)}


def facts(of: Facts) -> str:
    """The line under an answer."""
    tokens = "1 token" if of.tokens == 1 else f"{of.tokens} tokens"
    oldest = (
        "oldest message no longer fitted and was"
        if of.dropped_messages == 1
        else f"oldest {of.dropped_messages} messages no longer fitted and were"
    )
    left_out = f" · the {oldest} left out" if of.dropped_messages else ""
    speed = f" · {of.tokens_per_second:.1f} tokens/s" if of.tokens_per_second else ""
    return f"{tokens}{speed} · first after {of.ttft_seconds:.1f} s · {_REASONS[of.finish_reason]}{left_out}"


def detail(of: Facts) -> str:
    """How to get the same answer again."""
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in of.settings.model_dump(exclude={"seed"}).items())
    return f"{of.model} ({of.backend}), adapter {of.adapter or 'none'}, {settings}, seed {of.seed}"


class Pace:
    """Says when the screen may be drawn again: eight times a second however fast events come, and more seldom the
    longer the answer is, because what a redraw costs may grow with the answer: so the sum stays linear."""

    def __init__(self, a_second: float = SCREEN_UPDATES_A_SECOND) -> None:
        self._a_second = a_second
        self._next = 0.0

    def due(self, length: int, changed: bool = True) -> bool:
        """Whether to draw an answer of `length` characters now. One that did not change is sent again every other second:
        only by sending does the server learn that a visitor has gone."""
        now = time.monotonic()
        if now < self._next + (0 if changed else UNCHANGED_SECONDS):
            return False
        self._next = now + max(1.0, length / FULL_PACE_CHARS) / self._a_second
        return True


def size(number: float) -> str:
    """Bytes for people."""
    return f"{number / GIB:.1f} GB" if number >= GIB else f"{number / 2**20:.0f} MB"


def status(state: State, machine: Machine, adapter: str, memory: int) -> str:
    """The chip that says what is running, as HTML: model, adapter, quantization, device, memory in use, host; a narrow screen shows the
    first three. Names may come from strangers and are escaped."""
    host = f"{_HOSTS[machine.host]}: {machine.summary}"
    if state.loaded is None:
        percent = "" if state.fraction is None else f" ({state.fraction:.0%})"
        bar = "" if state.fraction is None else f'<progress max="1" value="{state.fraction:.3f}"></progress>'
        parts = [f"{state.text}{percent}", host]
        return f'<div class="chip {state.phase}" role="status">{_spans(parts)}{bar}</div>'
    loaded = state.loaded
    parts = [loaded.model, f"adapter {adapter or 'none'}", *(part for part in (loaded.quantization, loaded.device) if part != "none")]
    told = "" if state.text == READY else f'<span class="told">{html.escape(state.text)}</span>'
    parts += [loaded.backend, *([f"{size(memory)} in use"] if memory else []), *loaded.notes, host]
    return f'<div class="chip ready">{_spans(dict.fromkeys(parts))}{told}</div>'


def _spans(parts) -> str:
    return "".join(f"<span>{html.escape(part)}</span>" for part in parts)

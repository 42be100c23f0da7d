"""What the engine says: frozen values, one class a kind, to and from one line of JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Progress:
    """Something long is under way. `fraction` is 0..1, or None while it cannot be told."""

    text: str
    fraction: float | None = None


@dataclass(frozen=True)
class Notice:
    """Something that a person should know and that is no failure, e.g. that old turns were left out."""

    text: str


@dataclass(frozen=True)
class Token:
    """A piece of an answer: whole characters, never part of a stop string."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end of an answer. `tokens` counts what the model made, `seconds` runs from the request to the end,
    `ttft_seconds` to the first token (equal to `seconds` when there was none), and `tokens_per_second` is the
    pace after the first token. `finish_reason`: the model ended it, the limit was reached, or it was stopped."""

    text: str
    tokens: int
    prompt_tokens: int
    seconds: float
    ttft_seconds: float
    tokens_per_second: float
    finish_reason: FinishReason
    seed: int
    backend: str
    model: str
    adapter: str | None
    dropped_messages: int = 0


@dataclass(frozen=True)
class Failed:
    """The end of something that did not work out; `text` says what happened and what to do, `exit_code` is that of
    `engine.errors`."""

    text: str
    exit_code: int = 1


Event = Progress | Notice | Token | Finished | Failed
_KINDS = {kind.__name__: kind for kind in (Progress, Notice, Token, Finished, Failed)}


def to_json(event: Event) -> str:
    """One line of JSON, without the line end."""
    return json.dumps({"event": type(event).__name__, **asdict(event)}, ensure_ascii=False)


def from_json(line: str) -> Event:
    """The event of a line written by `to_json`. Raises ValueError on anything else."""
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("event") not in _KINDS:
        raise ValueError(f"not an event: {line[:80]!r}")
    kind = _KINDS[fields.pop("event")]
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"not a {kind.__name__}: {line[:80]!r}") from error

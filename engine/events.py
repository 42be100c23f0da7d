"""What the engine says: frozen values, one class a kind, to and from one line of JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from engine.errors import BadInput, EngineError

FinishReason = Literal["stop", "length", "cancelled"]
# How a training run ended: all steps made; stopped by a person, to be resumed; paused because its numbers went wrong; failed.
Status = Literal["done", "stopped", "paused", "failed"]


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

    @property
    def error(self) -> EngineError:
        """It as an exception."""
        return (BadInput if self.exit_code == BadInput.exit_code else EngineError)(self.text)


@dataclass(frozen=True)
class Queued:
    """A training run waits: `holder` has the machine, `place` is 1 for the next one."""

    holder: str
    place: int


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on after step `resumed_from`; what earlier events told of later steps no longer counts.

    `rows` and `held_out` count rows, `cut` those of both that are longer than the limit, `left_out` those that have no answer within
    it, `undrawn` those that so few steps cannot learn from; `parameters` those that are learnt; `device`, `dtype` and `quantization`
    say how the base is held, `micro_batch` how many rows share one pass.
    """

    run: str
    steps: int
    resumed_from: int
    rows: int
    held_out: int
    parameters: int
    device: str
    dtype: str
    quantization: str
    micro_batch: int
    cut: int = 0
    left_out: int = 0
    undrawn: int = 0


@dataclass(frozen=True)
class Step:
    """One step is made, the first is 1. `loss` is the raw mean over the step's targets in nats, `grad_norm` that before cutting
    (None where a step in 16 bits was skipped for overflow), `epoch` counts passes over all rows to learn from, drawn or not,
    `tokens_per_second` real tokens, no padding, since the start without evaluation and saving; `memory` is the most the process has
    held so far in bytes, of the GPU where it is on one, `eta_seconds` what is left at this pace, `seconds` what this step took (0: not
    noted)."""

    step: int
    loss: float
    grad_norm: float | None
    learning_rate: float
    epoch: float
    tokens_per_second: float
    memory: int
    eta_seconds: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Evaluated:
    """Mean loss in nats over the `targets` tokens of the held-out rows, after so many steps (0: the base, or where it began)."""

    step: int
    loss: float
    targets: int


@dataclass(frozen=True)
class Sample:
    """What the model answers to one of the recipe's prompts after so many steps."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint of so many steps is on disk, whole and verified."""

    step: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Adjusted:
    """A run changes its recipe to go on after trouble, in a fresh process from the checkpoint of `step` (0: from its beginning).
    `changes` are dotted keys of the recipe with their new values; `text` says in words what happened and what is different."""

    step: int
    changes: dict[str, str | float | bool]
    text: str


@dataclass(frozen=True)
class Ended:
    """The end of a run, or of this part of it. `text` is for people: what happened and what can be done. `seconds` run from the
    start of this part."""

    status: Status
    step: int
    text: str
    seconds: float


Training = Queued | Started | Step | Evaluated | Sample | Saved | Adjusted | Ended
Event = Progress | Notice | Token | Finished | Failed | Training
_KINDS = {kind.__name__: kind for kind in get_args(Event)}


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

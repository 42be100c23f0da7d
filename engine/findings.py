"""What a run's events say about it, in plain language, each with what to change: the doctor of runs.

Pure: from the recipe and the events of a run, under way or ended. Thresholds are tested on recorded curves of real runs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from engine import runs, trouble
from engine.events import Adjusted, Ended, Evaluated, Event, Notice, Started, Step
from engine.recipe import Recipe

Severity = Literal["problem", "hint"]
# Steps below which a curve says nothing.
_LEAST_STEPS = 8
# A loss that is so much above where it began (in nats) is going up, not learning.
_RISE = 0.15
# Held-out loss above its lowest by this share, while the training loss still falls, is learning by heart.
_OVERFIT = 0.01
# A fall of the loss by less than this share is hardly any.
_LEAST_FALL = 0.01
# Share of rows that may be cut without a word.
_CUT = 0.05


@dataclass(frozen=True)
class Finding:
    """Something to know about a run: what was seen, and what to change. `step` is where it shows, None where it holds throughout."""

    kind: str
    severity: Severity
    text: str
    advice: str
    step: int | None = None


@dataclass(frozen=True)
class _Curves:
    """A run's events by kind, less those of steps that were made again."""

    recipe: Recipe
    started: Started
    steps: Sequence[Step]
    tests: Sequence[Evaluated]
    events: Sequence[Event]

    @property
    def ended(self) -> Ended | None:
        last = self.events[-1]
        return last if isinstance(last, Ended) else None

    def quarter(self, which: int) -> float:
        """Median training loss of a quarter of the steps, the first is 0."""
        size = max(1, len(self.steps) // 4)
        part = self.steps[:size] if which == 0 else self.steps[-size:]
        return median(step.loss for step in part)


def findings(recipe: Recipe, events: Sequence[Event]) -> list[Finding]:
    """What there is to say of a run, problems first. Nothing before it has begun to train."""
    made = runs.in_force(events)
    started = next((event for event in reversed(made) if isinstance(event, Started)), None)
    if not started:
        return []
    of = {kind: [event for event in made if isinstance(event, kind)] for kind in (Step, Evaluated)}
    curves = _Curves(trouble.in_force(recipe, events), started, of[Step], of[Evaluated], made)
    found = [finding for check in _CHECKS for finding in check(curves)]
    return sorted(found, key=lambda finding: finding.severity != "problem")


def _numbers(curves: _Curves) -> Iterator[Finding]:
    rate = curves.recipe.optimization.learning_rate
    ended = curves.ended
    if ended and ended.status == "paused":
        advice = f"Start again from the last checkpoint with a learning rate of {rate / 10:g} or less, and largest gradients of 0.3."
        yield Finding("not_a_number", "problem", ended.text, advice, ended.step + 1)
    for event in curves.events:
        if isinstance(event, Adjusted) and "optimization.accumulation" not in event.changes:
            if "memory.activation_checkpointing" not in event.changes:
                yield Finding("float16", "hint", event.text, "A GPU with bfloat16 has no such trouble.", event.step)


def _rate_too_high(curves: _Curves) -> Iterator[Finding]:
    steps, tests = curves.steps, curves.tests
    if len(steps) < _LEAST_STEPS:
        return
    first, highest = steps[0].loss, max(steps, key=lambda step: step.loss)
    tested_worse = len(tests) > 1 and tests[-1].loss > tests[0].loss + _RISE
    rose = curves.quarter(-1) > first + _RISE
    if rose or (tested_worse and highest.loss > first + _RISE):
        rate = curves.recipe.optimization.learning_rate
        yield Finding(
            "learning_rate_too_high",
            "problem",
            f"The loss rose from {first:.2f} to {highest.loss:.2f} at step {highest.step} and ended near {curves.quarter(-1):.2f}: the steps are too long.",
            f"Lower the learning rate from {rate:g} to {rate / 10:g} or below, or let it warm up.",
            highest.step,
        )


def _overfitting(curves: _Curves) -> Iterator[Finding]:
    tests = curves.tests
    if len(tests) < 3:
        return
    best = min(tests, key=lambda event: event.loss)
    falls = curves.quarter(-1) < curves.quarter(0)
    if best is not tests[-1] and tests[-1].loss > best.loss * (1 + _OVERFIT) and best.loss < tests[0].loss and falls:
        yield Finding(
            "overfitting",
            "problem",
            f"It learns by heart since step {best.step}: the held-out loss was {best.loss:.3f} there and is {tests[-1].loss:.3f} now, "
            f"while the training loss goes on falling to {curves.quarter(-1):.3f}.",
            f"Train for {best.step} steps, with more rows, more dropout (now {curves.recipe.lora.dropout:g}) or a lower learning rate.",
            best.step,
        )


def _nothing_learnt(curves: _Curves) -> Iterator[Finding]:
    ended, steps, tests = curves.ended, curves.steps, curves.tests
    if ended and ended.status == "failed" and len(steps) == curves.started.steps:
        yield Finding("nothing_learnt", "problem", ended.text, "Check lora.targets and the learning rate.", ended.step)
        return
    if len(steps) < _LEAST_STEPS:
        return
    before, after = (tests[0].loss, tests[-1].loss) if len(tests) > 1 else (curves.quarter(0), curves.quarter(-1))
    if abs(before - after) < _LEAST_FALL * before and max(step.loss for step in steps) < 2 * steps[0].loss:
        rate = curves.recipe.optimization.learning_rate
        yield Finding(
            "hardly_learnt",
            "problem",
            f"Hardly anything is learnt: the loss was {before:.3f} and is {after:.3f}.",
            f"Raise the learning rate (now {rate:g}; 1e-4 to 1e-3 are usual), or train for more steps.",
        )


def _too_few_steps(curves: _Curves) -> Iterator[Finding]:
    started, batch = curves.started, curves.recipe.optimization.batch
    seen = started.steps * batch / started.rows
    if seen < 1:
        yield Finding(
            "too_few_steps",
            "hint",
            f"{started.steps} steps of {batch} rows see only {seen:.0%} of the {started.rows:,} rows.",
            f"One pass over all of them takes {-(-started.rows // batch):,} steps.",
        )


def _cut(curves: _Curves) -> Iterator[Finding]:
    started, limit = curves.started, curves.recipe.data.max_length
    share = started.cut / (started.rows + started.held_out)
    if share > _CUT:
        yield Finding(
            "targets_cut",
            "problem" if share > 0.5 else "hint",
            f"{share:.0%} of the rows are longer than {limit} tokens and lose the end of their answer: it learns to stop short.",
            "Raise data.max_length (memory and time grow with it), or leave long rows out. `python -m engine inspect-data` shows their lengths.",
        )


def _on_questions(curves: _Curves) -> Iterator[Finding]:
    if curves.recipe.data.learn == "everything":
        yield Finding(
            "loss_on_prompts",
            "hint",
            "The questions are learnt too, so that the loss tells of them as well as of the answers.",
            "Set data.learn to answers, unless the model is to write questions, or the data is meant so (as OASST1 of Guanaco).",
        )


def _evaluation(curves: _Curves) -> Iterator[Finding]:
    if not curves.started.held_out:
        yield Finding(
            "evaluation_missing",
            "hint",
            "No rows are held out: nothing shows whether it learns or only learns by heart.",
            "Set data.held_out, to 0.1 for a tenth of the rows.",
        )
    for event in curves.events:
        if isinstance(event, Notice) and "skipped, training goes on" in event.text:
            yield Finding("evaluation_missing", "hint", event.text, "Shorten rows, or hold fewer of them out.")


def _memory(curves: _Curves) -> Iterator[Finding]:
    rungs = [event for event in curves.events if isinstance(event, Adjusted) and event.text.find("out of memory") >= 0]
    if rungs:
        plan, text = curves.recipe.optimization, f"Memory ran out {len(rungs)} time{'s' * (len(rungs) > 1)}. {rungs[-1].text}"
        yield Finding("out_of_memory", "hint", text, f"Begin the next run with an accumulation of {plan.accumulation}.", rungs[-1].step)


_CHECKS: tuple[Callable[[_Curves], Iterator[Finding]], ...] = (
    _numbers,
    _rate_too_high,
    _overfitting,
    _nothing_learnt,
    _too_few_steps,
    _cut,
    _on_questions,
    _evaluation,
    _memory,
)

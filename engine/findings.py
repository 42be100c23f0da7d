"""What a run's events say about it, in plain language, each with what to change: the doctor of runs.

Pure: from the recipe and the events of a run, under way or ended. It judges held-out losses where there are any: those are of the
same rows every time, while a step's training loss swings with the rows it happens to have.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from engine import runs, trouble
from engine.events import Adjusted, Ended, Evaluated, Event, Notice, Started, Step
from engine.recipe import Recipe
from engine.telling import counted

Severity = Literal["problem", "hint"]
# Steps below which a curve says nothing, and below which it says nothing without held-out rows.
_LEAST_STEPS, _LEAST_UNTESTED = 8, 16
# A loss that is so much above where it began (in nats) is going up, not learning.
_RISE = 0.15
# Held-out loss above its lowest by this share, twice in a row, while the training loss falls, is learning by heart.
_OVERFIT = 0.01
# A held-out loss that moves by less than this share hardly moves.
_LEAST_MOVE = 0.01
# A run that sees so many of its rows sees about all of them.
_ABOUT_ALL = 0.9
# Share of rows that may be too long without a word, and from which on it is a problem.
_CUT, _MOSTLY_CUT = 0.05, 0.5
# Alpha over rank from which on it is worth a word where steps are too long; 1 to 4 are usual.
_STRONG = 8


@dataclass(frozen=True)
class Finding:
    """Something to know about a run: what was seen, and what to change. `step` is where it shows, None where it holds throughout."""

    kind: str
    severity: Severity
    text: str
    advice: str
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.severity.capitalize()}: {self.text} {self.advice}"


@dataclass(frozen=True)
class _Curves:
    """A run's events by kind, less those of steps that were made again. `recipe` is the one in force; all losses are numbers."""

    recipe: Recipe
    started: Started
    steps: Sequence[Step]
    tests: Sequence[Evaluated]
    notices: Sequence[Notice]
    adjusted: Sequence[Adjusted]
    ended: Ended | None

    @property
    def began(self) -> float:
        """The loss before anything was learnt, at most: the first step's or that of the held-out rows."""
        return max(each.loss for each in (*self.steps[:1], *self.tests[:1]))

    @property
    def early(self) -> float:
        """Median training loss of the first quarter of the steps."""
        return median(step.loss for step in self.steps[: len(self.steps) // 4])

    @property
    def late(self) -> float:
        """The same of the last quarter."""
        return median(step.loss for step in self.steps[-(len(self.steps) // 4) :])


def findings(recipe: Recipe, events: Sequence[Event]) -> list[Finding]:
    """What there is to say of a run, problems first. Nothing before it has begun to train."""
    made = runs.in_force(events)
    started = next((event for event in reversed(made) if isinstance(event, Started)), None)
    if not started:
        return []
    adjusted = [event for event in events if isinstance(event, Adjusted)]
    with contextlib.suppress(KeyError, TypeError, ValueError):  # changes that another version wrote, of keys unknown here
        recipe = trouble.in_force(recipe, adjusted)
    curves = _Curves(
        recipe,
        started,
        [event for event in made if isinstance(event, Step) and math.isfinite(event.loss)],
        [event for event in made if isinstance(event, Evaluated) and math.isfinite(event.loss)],
        [event for event in made if isinstance(event, Notice)],
        adjusted,
        made[-1] if isinstance(made[-1], Ended) else None,
    )
    found = [finding for check in _CHECKS for finding in check(curves)]
    return sorted(found, key=lambda finding: finding.severity != "problem")


def _numbers(curves: _Curves) -> Iterator[Finding]:
    ended = curves.ended
    if ended and ended.status == "paused":
        step = ended.step + 1
        text = f"At step {step} the loss or its gradient was not a number (NaN or infinite), so that nothing could be learnt from it."
        yield Finding("not_a_number", "problem", text, _shorter_steps(curves), step)
    if ended and ended.status == "failed" and trouble.NO_NUMBERS in ended.text:
        text = "The adapter holds numbers that are none (NaN or infinite), so that it cannot be used."
        yield Finding("not_a_number", "problem", text, _shorter_steps(curves))


def _float16(curves: _Curves) -> Iterator[Finding]:
    calmed = [event for event in curves.adjusted if event.changes.keys() & trouble.OF_FLOAT16]
    if calmed:
        rate, dtype = curves.recipe.optimization.learning_rate, curves.recipe.quantization.compute_dtype
        advice = f"Begin the next run with an optimization.learning_rate of {rate:g}."
        if dtype == "float32":
            advice += " Set its quantization.compute_dtype to bfloat16 where the GPU has that, else to float32."
        yield Finding("float16", "hint", f"Numbers grew too large for float16 {_often(calmed)}. {calmed[-1].text}", advice, calmed[-1].step)


def _rate_too_high(curves: _Curves) -> Iterator[Finding]:
    steps, tests = curves.steps, curves.tests
    if len(steps) < _LEAST_STEPS:
        return
    for before, test in zip(tests, tests[1:], strict=False):
        between = [step.loss for step in steps if before.step < step.step <= test.step]
        # Held-out rows alone may also get worse by overfitting; the training loss rises only where steps are too long.
        if test.loss > tests[0].loss + _RISE and between and median(between) > curves.began + _RISE:
            text = f"The held-out loss rose from {tests[0].loss:.2f} to {test.loss:.2f} at step {test.step}, and the training loss with it."
            yield Finding(
                "learning_rate_too_high", "problem", f"{text} Each step changes the adapter too much.", _shorter_steps(curves), test.step
            )
            return
    if not tests and len(steps) >= _LEAST_UNTESTED:
        last = [step.loss for step in steps[len(steps) // 2 :]]
        # The first loss is that of a few rows, and may be low by chance: by no more than losses swing later on.
        if curves.late - steps[0].loss > max(_RISE, max(last) - min(last)):
            text = f"The training loss rose from {steps[0].loss:.2f} to about {curves.late:.2f}. Each step changes the adapter too much."
            yield Finding("learning_rate_too_high", "problem", text, _shorter_steps(curves), steps[-1].step)


def _shorter_steps(curves: _Curves) -> str:
    """What to change where steps go too far."""
    plan, lora = curves.recipe.optimization, curves.recipe.lora
    advice = [f"Lower optimization.learning_rate from {plan.learning_rate:g} to {plan.learning_rate / 10:g} or less."]
    if not plan.max_grad_norm:
        advice.append("Set optimization.max_grad_norm to 0.3, which makes the largest steps smaller.")
    if lora.alpha / lora.r >= _STRONG:
        advice.append(f"Lower lora.alpha to {2 * lora.r}, twice the rank: it multiplies every step.")
    if not plan.warmup_steps:
        advice.append(f"An optimization.warmup_steps of {max(3, curves.started.steps // 20)} makes the first steps small.")
    return " ".join(advice)


def _overfitting(curves: _Curves) -> Iterator[Finding]:
    tests, recipe = curves.tests, curves.recipe
    if len(tests) < 3 or len(curves.steps) < _LEAST_STEPS:
        return
    best = min(tests, key=lambda event: event.loss)
    worse = min(event.loss for event in tests[-2:]) > best.loss + _OVERFIT * abs(best.loss)
    if worse and curves.late < min(curves.early, curves.began):
        since = f"since step {best.step}" if best is not tests[0] else "from its first step on"
        text = (
            f"It learns its rows by heart {since}: the held-out loss was {best.loss:.3f} then and is {tests[-1].loss:.3f} now, "
            f"while the training loss fell to about {curves.late:.3f}."
        )
        stop = f"Train for {counted(best.step, 'step')} only. " if best is not tests[0] else ""
        rate, dropout = recipe.optimization.learning_rate, recipe.lora.dropout
        more = f"More rows help, so does a lower optimization.learning_rate than {rate:g} or a higher lora.dropout than {dropout:g}."
        yield Finding("overfitting", "problem", text, stop + more, best.step)


def _nothing_learnt(curves: _Curves) -> Iterator[Finding]:
    ended, tests, started = curves.ended, curves.tests, curves.started
    rate = curves.recipe.optimization.learning_rate
    if ended and ended.status == "failed" and trouble.LEARNT_NOTHING in ended.text:
        text = "The adapter is unchanged after all steps: nothing was learnt."
        advice = f"Name layers that this model uses in lora.targets, or raise optimization.learning_rate from {rate:g}."
        yield Finding("nothing_learnt", "problem", text, advice)
        return
    # Not before half of the run: what warms up learns little at first.
    if len(tests) < 2 or len(curves.steps) < _LEAST_STEPS or 2 * tests[-1].step < started.steps:
        return
    losses = [event.loss for event in tests]
    if max(losses) - min(losses) < _LEAST_MOVE * losses[0]:
        advice = f"Raise optimization.learning_rate from {rate:g}: 1e-4 to 1e-3 are usual." if rate < 1e-4 else "Train for more steps."
        text = f"Hardly anything was learnt: the held-out loss was {losses[0]:.3f} at first and is {losses[-1]:.3f} now."
        yield Finding("hardly_learnt", "problem", text, advice)


def _too_few_steps(curves: _Curves) -> Iterator[Finding]:
    plan, rows = curves.recipe.optimization, curves.started.rows + curves.started.undrawn
    seen = curves.started.steps * plan.batch
    if seen < _ABOUT_ALL * rows:
        needed = math.ceil(rows / plan.batch)
        changes = [f"optimization.steps to {needed}"] if plan.steps is not None and plan.steps < needed else []
        changes += ["optimization.epochs to 1"] if plan.epochs is not None and plan.epochs < 1 else []
        see = f"{counted(curves.started.steps, 'step')} {'sees' if curves.started.steps == 1 else 'see'}"
        text = f"The run is short for its data: {see} {seen:,} of {rows:,} rows to learn from."
        advice = f"To see all of them once, set {' and '.join(changes) or f'optimization.steps to {needed}'}."
        yield Finding("too_few_steps", "hint", text, advice)


def _cut(curves: _Curves) -> Iterator[Finding]:
    started, data = curves.started, curves.recipe.data
    rows, long = started.rows + started.held_out + started.left_out, started.cut + started.left_out
    if long > _CUT * rows:
        text = f"{long:,} of {rows:,} rows {'is' if long == 1 else 'are'} longer than the recipe allows."
        if started.cut:
            text += f" Cut off: {started.cut:,}, most often the end of the answer. It may learn to stop too early."
        if started.left_out:
            text += f" Left out, because the question alone fills the limit: {started.left_out:,}."
        apart = [name for name in ("source_length", "target_length") if getattr(data, name) is not None]
        limits = " and ".join([f"data.max_length (now {data.max_length})", *(f"data.{name} (now {getattr(data, name)})" for name in apart)])
        advice = f"Raise {limits}: memory and time grow with it. `python -m engine inspect-data` shows how long the rows are."
        yield Finding("targets_cut", "problem" if long > _MOSTLY_CUT * rows else "hint", text, advice)


def _on_questions(curves: _Curves) -> Iterator[Finding]:
    if curves.recipe.data.learn == "everything":
        text = "The questions are learnt as well as the answers, and the losses tell of both."
        advice = "Set data.learn to answers, unless the model is to write questions too or follows a recipe that asks for it, as Guanaco's."
        yield Finding("loss_on_prompts", "hint", text, advice)


def _evaluation(curves: _Curves) -> Iterator[Finding]:
    if not curves.started.held_out:
        text = "No rows are held out: nothing shows whether it learns, or only learns its rows by heart."
        yield Finding("evaluation_missing", "hint", text, "Set data.held_out, such as to 0.1 for a tenth of the rows.")
    skipped = sum(event.text.startswith("The evaluation") and trouble.SKIPPED in event.text for event in curves.notices)
    if skipped:
        text = f"Memory ran out in {skipped} evaluation{'s' * (skipped > 1)}: the held-out loss is not known there."
        yield Finding("evaluation_missing", "hint", text, "Close other programs, or lower data.max_length: the longest rows take the most.")


def _memory(curves: _Curves) -> Iterator[Finding]:
    rungs = [event for event in curves.adjusted if event.changes.keys() & trouble.OF_MEMORY]
    if rungs:
        advice = f"Begin the next run with an optimization.accumulation of {curves.recipe.optimization.accumulation}."
        if any(trouble.CHECKPOINTING in event.changes for event in rungs):
            advice += f" Set its {trouble.CHECKPOINTING} to true."
        yield Finding("out_of_memory", "hint", f"Memory ran out {_often(rungs)}. {rungs[-1].text}", advice, rungs[-1].step)


def _damaged(curves: _Curves) -> Iterator[Finding]:
    for event in curves.notices:
        if trouble.PASSED_OVER in event.text:
            advice = "Check the disk: a checkpoint is sound when it is written."
            yield Finding("checkpoint_damaged", "hint", event.text, advice, curves.started.resumed_from)


def _often(events: Sequence[Event]) -> str:
    return "once" if len(events) == 1 else f"{len(events)} times"


_CHECKS: tuple[Callable[[_Curves], Iterator[Finding]], ...] = (
    _numbers,
    _rate_too_high,
    _overfitting,
    _nothing_learnt,
    _cut,
    _too_few_steps,
    _on_questions,
    _evaluation,
    _memory,
    _float16,
    _damaged,
)

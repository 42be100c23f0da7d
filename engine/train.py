"""One training run from recipe to adapter, step by step, in this process: what `python -m engine train` does.

It may be killed at any moment and goes on from its last checkpoint to the same weights, bit for bit on a CPU. Where memory runs
out or float16 fails, it says what of its recipe it changes, and a fresh process goes on (`engine.jobs`).
"""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from engine import checkpoints, hardware, lineage, memory, optimizers, passes, ranks, rows, runs, trainable, trainee, trouble
from engine.checkpoints import Checkpoint
from engine.errors import EngineError
from engine.events import Adjusted, Ended, Evaluated, Event, Notice, Progress, Sample, Started, Status, Step
from engine.examples import Example
from engine.messages import Conversation
from engine.pace import duration_words
from engine.recipe import Recipe
from engine.rows import Rows
from engine.runs import Run
from engine.trainee import Trainee

T = TypeVar("T")
Tell = Callable[[Event], None]
# Steps in a row that a GradScaler may skip while it looks for its scale: it begins at 2**16 and halves it each time.
_SKIPS = 24


class _Stopped(Exception):
    """A person asked to stop, or the time of a visitor's run is up."""


class _Diverged(Exception):
    """The numbers of a step, its loss or its gradient, are none."""


@dataclass
class _Pace:
    """Where the time of this part of a run goes. Seconds."""

    steps: int = 0
    tokens: int = 0
    stepping: float = 0.0
    tests: int = 0
    testing: float = 0.0

    def eta(self, steps_left: int, tests_left: int) -> float:
        return steps_left * self.stepping / max(1, self.steps) + tests_left * self.testing / max(1, self.tests)


@dataclass
class _Training:
    """A run under way: what all of its parts work on. `step` is the last one made, `saved` the last one on disk;
    `at_once` says of what fewer rows fit memory than share a pass, `skipped` counts overflowing steps in a row. `until` is when the
    time of a visitor's run is up, on the monotonic clock."""

    run: Run
    recipe: Recipe
    tell: Tell
    learner: Trainee
    rows: Rows
    facts: dict
    accelerator: Any
    optimizer: Any
    rate: Callable[[int], float]
    steps: int
    micro_batch: int
    at_first: dict
    pace: _Pace
    until: float
    step: int = 0
    saved: int = 0
    at_once: dict[str, int] = field(default_factory=dict)
    skipped: int = 0

    @property
    def is_to_stop(self) -> bool:
        return self.run.asked_to_stop or time.monotonic() > self.until

    def check(self) -> None:
        """Within a step or a test: several processes decide together, between steps."""
        if ranks.count() == 1 and self.is_to_stop:
            raise _Stopped

    def tests(self, step: int) -> bool:
        """Whether the held-out rows and the samples are due after so many steps."""
        return step in (0, self.steps) or step % self.recipe.cadence.eval_every == 0

    def tests_from(self, step: int) -> int:
        """How many are due after that step (at least the first) and later ones."""
        every = self.recipe.cadence.eval_every
        return self.steps // every - (step - 1) // every + (self.steps % every > 0)


def train(run: Run, tell: Tell) -> Ended | Adjusted:
    """Train a run to its end, or until it is asked to stop, and tell everything as events; the last one is given back. Where that
    is an `Adjusted`, a fresh process is to go on.

    The caller holds the machine and the run's event log (`engine.jobs`). Raises BadInput or EngineError where it fails.
    """
    began = time.monotonic()

    def end(status: Status, step: int, text: str) -> Ended:
        event = Ended(status, step, text, round(time.monotonic() - began, 2))
        tell(event)
        return event

    def adjust(event: Adjusted) -> Adjusted:
        tell(event)
        ranks.wait()  # the first to leave ends the others, and this must be written
        return event

    before = runs.all_events(run)
    recipe = trouble.in_force(run.recipe, before)
    found, told = checkpoints.newest(run)
    for text in told:
        tell(Notice(text))
    job = None
    with _exact(found):
        try:
            job = _begin(run, recipe, tell, found)
            _loop(job)
        except _Stopped:
            _save(job)
            limit = "" if job.run.asked_to_stop else f", as visitors may train {duration_words(trainable.LONGEST_SECONDS)} at a time"
            return end("stopped", job.step, f"Stopped after step {job.step} of {job.steps}{limit}. Resume goes on from there.")
        except _Diverged as error:
            step = job.step + 1
            if calmer := trouble.with_calmer_numbers(recipe, job.learner.base.dtype, before, step, str(error), job.saved):
                return adjust(calmer)
            checkpoint = run.checkpoints / f"step-{job.saved}" if job.saved else None
            return end("paused", job.step, trouble.paused(recipe, job.learner.base.dtype, step, str(error), checkpoint))
        except Exception as error:
            if not trouble.out_of_memory(error):
                raise
            trouble.let_go(error)
            step = job.step + 1 if job else 0
            if job and (less := trouble.with_less_memory(recipe, step, job.saved)):
                return adjust(less)
            raise EngineError(trouble.exhausted(recipe, step, job.saved if job else 0)) from error
        losses = _finish(job)
        learnt = f" Held-out loss {losses[0]:.3f} → {losses[-1]:.3f}." if len(losses) > 1 else ""
        return end("done", job.step, f"Done: {job.steps} {'step' if job.steps == 1 else 'steps'}.{learnt} The adapter is in {run.adapter}.")


@contextlib.contextmanager
def _exact(found: Checkpoint | None) -> Iterator[None]:
    """The same sums in the same order within the block, also where this machine's processors are no longer as many."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(found.numbers["threads"] if found else before[0])
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]


def _begin(run: Run, recipe: Recipe, tell: Tell, found: Checkpoint | None) -> _Training:
    """Load everything and stand where the checkpoint stands."""
    from accelerate import Accelerator

    ranks.check_gpus()
    plan = recipe.optimization
    spec = trainable.base(recipe.model)
    if not ranks.index() and (warning := memory.training_warning(spec.shape, recipe, hardware.machine())):
        tell(Notice(warning))
    data = rows.read(recipe.data, tell, rows.needed(recipe), run.public)
    learner = trainee.prepare(recipe, spec, tell, found.numbers["unpacked"] if found else None)
    if not learner.parameters:
        raise EngineError("The adapter has nothing that could learn: no matrix of it is trained. Check lora.targets.")
    ranks.meet()  # not before: among several processes transformers keeps a model in the first alone
    encoded = rows.encoded(recipe.data, data, plan.seed, learner.tokenizer, learner.form, tell)
    facts = lineage.of(learner, recipe, data)
    if not ranks.index():
        lineage.keep(run, facts)
    optimizer = optimizers.make(plan, learner.parameters)
    mixed = {"float16": "fp16", "bfloat16": "bf16"}.get(learner.base.dtype, "no")
    # After the optimizer: transformers' TrainingArguments, which name it, set Accelerate's state back.
    accelerator = Accelerator(mixed_precision=mixed, cpu=not learner.on_gpu)
    for text in (*learner.notes, optimizers.paging(optimizer, learner.parameters, learner.on_gpu)):
        if text:
            tell(Notice(f"{text[0].upper()}{text[1:]}."))
    steps = plan.steps_over(len(encoded.train))
    job = _Training(
        run,
        recipe,
        tell,
        learner,
        encoded,
        facts,
        accelerator,
        optimizer,
        optimizers.rates(plan, steps, optimizer),
        steps,
        plan.micro_batch,
        learner.weights(),
        _Pace(),
        time.monotonic() + trainable.LONGEST_SECONDS if run.public else math.inf,
    )
    if found:
        _restore(job, found)
    job.optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)
    count = sum(parameter.numel() for parameter in learner.parameters)
    base = learner.base
    tell(
        Started(
            run.id,
            steps,
            job.step,
            len(encoded.train),
            len(encoded.held_out),
            count,
            base.device,
            base.dtype,
            base.quantization,
            job.micro_batch,
            encoded.cut,
            encoded.left_out,
            encoded.undrawn,
        )
    )
    return job


def _restore(job: _Training, found: Checkpoint) -> None:
    job.learner.put(found.weights)
    optimizers.restore(job.optimizer, job.learner.parameters, found.optimizer, found.numbers["optimizer"])
    if job.accelerator.scaler is not None and found.numbers["scaler"]:
        job.accelerator.scaler.load_state_dict(found.numbers["scaler"])
    job.step = job.saved = found.step


def _loop(job: _Training) -> None:
    cadence = job.recipe.cadence
    told = runs.in_force(runs.all_events(job.run))
    while True:
        if job.tests(job.step):
            _test(job, told)
            told = []
        if job.step >= job.steps:
            return
        if any(ranks.total(float(job.is_to_stop))):
            raise _Stopped
        event = _step(job, job.step + 1)
        job.step += 1
        job.tell(event)
        if job.step % cadence.save_every == 0 or job.step == job.steps:
            _save(job)


def _step(job: _Training, step: int) -> Step:
    """Learn from one batch. A stop that is asked for meanwhile leaves the weights as the step before left them."""
    plan, learner = job.recipe.optimization, job.learner
    began = time.monotonic()
    chosen = [job.rows.train[index] for index in passes.rows_of_step(len(job.rows.train), plan.batch, step, plan.seed)]
    count = passes.targets(chosen)
    learner.model.train()
    job.optimizer.zero_grad(set_to_none=True)
    (total,) = ranks.total(ranks.in_all(lambda: _gradients(job, step, chosen, count)))
    mean = total / count
    if not math.isfinite(mean):
        raise _Diverged("loss")
    ranks.add_up_gradients(learner.parameters)
    norm = float(job.accelerator.clip_grad_norm_(learner.parameters, plan.max_grad_norm or math.inf))
    # A scaled step that overflows is skipped and the scale halved; one that never comes down is as bad as a loss that is none.
    job.skipped = 0 if math.isfinite(norm) else job.skipped + 1
    if job.skipped > (0 if job.accelerator.scaler is None else _SKIPS):
        raise _Diverged("gradient")
    rate = job.rate(step)
    for group in job.optimizer.param_groups:
        group["lr"] = rate
    job.optimizer.step()
    pace = job.pace
    took = time.monotonic() - began
    pace.stepping += took
    pace.steps += 1
    pace.tokens += sum(len(row.ids) for row in chosen)
    tests_left = job.tests_from(step)
    return Step(
        step,
        mean,
        norm if math.isfinite(norm) else None,
        rate,
        round(step * plan.batch / (len(job.rows.train) + job.rows.undrawn), 4),
        round(pace.tokens / pace.stepping, 2),
        torch.cuda.max_memory_reserved() if learner.on_gpu else hardware.peak_memory(),
        round(pace.eta(job.steps - step, tests_left), 1),
        round(took, 4),
    )


def _gradients(job: _Training, step: int, chosen: list[Example], count: int) -> float:
    """This process's passes over a step's rows: their gradients, over `count` targets, and the sum of their losses."""
    learner, total = job.learner, 0.0
    parts = passes.split(learner, chosen, job.micro_batch)
    firsts = list(itertools.accumulate(map(len, parts), initial=0))
    for number, part in ranks.share(parts):
        job.check()
        learner.draw_from(job.recipe.optimization.seed, step, first=firsts[number], lengths=[len(row.ids) for row in part])
        with job.accelerator.autocast():
            loss = passes.summed_loss(learner, part)
        total += float(loss.detach())
        job.accelerator.backward(loss / count)
    return total


def _test(job: _Training, told: list[Event]) -> None:
    """Held-out loss and samples of this step, but for what `told` has of it from before an interruption."""
    began = time.monotonic()
    held_out, samples = job.rows.held_out, job.recipe.samples
    if held_out and not any(isinstance(event, Evaluated) and event.step == job.step for event in told):
        lost = _as_memory_allows(job, "evaluation", job.micro_batch, lambda size: passes.held_out(job.learner, held_out, size, job.check))
        if lost is not None:
            count = passes.targets(held_out)
            job.tell(Evaluated(job.step, ranks.total(lost)[0] / count, count))
    seen = {event.prompt for event in told if isinstance(event, Sample) and event.step == job.step}
    prompts = [prompt for prompt in samples.prompts if prompt not in seen]
    if prompts:
        texts = _as_memory_allows(job, "sample answers", len(prompts), lambda size: _answered(job, prompts, size))
        for prompt, text in zip(prompts, texts or [], strict=False):
            job.tell(Sample(job.step, prompt, text))
    job.pace.tests += 1
    job.pace.testing += time.monotonic() - began


def _as_memory_allows(job: _Training, what: str, size: int, made: Callable[[int], T]) -> T | None:
    """`made(size)`, of fewer rows at once where memory runs out, also from then on; None where not even single rows fit: training
    goes on without (faults, row 18)."""
    size = job.at_once.get(what, size)
    while True:
        try:
            return ranks.in_all(lambda: made(size))
        except Exception as error:
            if not trouble.out_of_memory(error):
                raise
            trouble.let_go(error)
        torch.cuda.empty_cache()
        after = f"The {what} after step {job.step} ran out of memory"
        if size == 1:
            job.tell(Notice(f"{after} one row at a time: {trouble.SKIPPED}. Close other programs, or shorten rows and samples."))
            return None
        size = job.at_once[what] = size // 2
        job.tell(Notice(f"{after}: {size} row{'s' * (size > 1)} at a time from now on."))


def _answered(job: _Training, prompts: list[str], size: int) -> list[str]:
    """The samples' answers; of several processes the first makes them."""
    if ranks.index():
        return []
    asked = [Conversation(system=job.recipe.data.system).add("user", prompt) for prompt in prompts]
    texts = passes.answers(job.learner, asked, job.recipe.samples.max_new_tokens, size, lambda: job.is_to_stop)
    job.check()
    return texts


def _save(job: _Training) -> None:
    if job.saved == job.step:
        return
    if ranks.index():
        job.saved = job.step
        return
    tensors, numbers = optimizers.state(job.optimizer, job.learner.parameters)
    numbers = {
        "unpacked": job.learner.unpacked,
        "threads": torch.get_num_threads(),
        "optimizer": numbers,
        "scaler": job.accelerator.scaler and job.accelerator.scaler.state_dict(),
    }
    kept = Checkpoint(job.step, job.learner.weights(), tensors, numbers)
    job.tell(checkpoints.save(job.run, kept, job.learner.config(), job.recipe.cadence.keep))
    job.saved = job.step


def _finish(job: _Training) -> list[float]:
    """Hand the adapter over, if it is one; the held-out losses on the way are given back. Raises EngineError where it learnt
    nothing (faults, row 10)."""
    job.tell(Progress("Writing the adapter"))
    weights = job.learner.weights()
    if all(torch.equal(tensor, job.at_first[name]) for name, tensor in weights.items()):
        raise EngineError(
            f"{trouble.LEARNT_NOTHING}: in the end its matrices are what they were at the start. "
            "No adapter is handed over. Check that lora.targets are layers this model uses, and that the learning rate is not too small."
        )
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise EngineError(f"{trouble.NO_NUMBERS}; it is not handed over. Train again with a lower learning rate.")
    losses = [event.loss for event in runs.in_force(runs.all_events(job.run)) if isinstance(event, Evaluated)]
    if ranks.index():
        return losses
    facts = job.facts | {"steps": job.steps, "held_out_loss": {"before": losses[0], "after": losses[-1]} if losses else None}
    checkpoints.hand_over(job.run, weights, job.learner.config(), facts, getattr(torch, job.recipe.lora.save_as))
    return losses

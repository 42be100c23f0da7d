"""What a run changes of its recipe to go on after trouble: fewer rows at once where memory runs out, calmer numbers in float16.

From the recipe in force and what happened to the next rung, or none. Effective batch, data and seed stay what they are.
"""

import traceback
from collections.abc import Iterable
from pathlib import Path

from engine.events import Adjusted, Event
from engine.recipe import Recipe

# What is said in a run's events and found there again (`engine.findings`).
LEARNT_NOTHING, NO_NUMBERS = "The adapter learnt nothing", "The adapter holds numbers that are none"
SKIPPED = "skipped, training goes on"
PASSED_OVER = "passed over"
_ACCUMULATION, CHECKPOINTING = "optimization.accumulation", "memory.activation_checkpointing"
_RATE, _DTYPE = "optimization.learning_rate", "quantization.compute_dtype"
# The keys that are changed where memory ran out, and where float16 failed.
OF_MEMORY, OF_FLOAT16 = frozenset({_ACCUMULATION, CHECKPOINTING}), frozenset({_RATE, _DTYPE})
# Texts of errors that torch, bitsandbytes and the CUDA libraries raise as plain RuntimeErrors when memory runs out.
_ERRORS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")
# In every sentence here about memory that ran out.
EXHAUSTED = "ran out of memory"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the GPU or the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ERRORS)


def let_go(error: BaseException) -> None:
    """Free what the calls under way when an error was raised still hold: a pass's activations, where memory is short."""
    traceback.clear_frames(error.__traceback__)


def in_force(recipe: Recipe, events: Iterable[Event]) -> Recipe:
    """The recipe as the run's events have changed it."""
    for event in events:
        if isinstance(event, Adjusted):
            recipe = recipe.changed(event.changes)
    return recipe


def with_less_memory(recipe: Recipe, step: int, saved: int) -> Adjusted | None:
    """What to do where step `step` ran out of memory: halve the rows of a pass, at last keep less of each; None where all of that
    is done. `saved`: the step of the last checkpoint."""
    plan, what = recipe.optimization, f"Step {step} {EXHAUSTED}."
    if plan.micro_batch > 1:
        accumulation = next(
            passes
            for passes in range(plan.accumulation + 1, plan.batch + 1)
            if not plan.batch % passes and plan.batch // passes <= plan.micro_batch / 2
        )
        rows = plan.batch // accumulation
        told = f"Micro-batch {plan.micro_batch} → {rows}, still {plan.batch} rows in all a step"
        return Adjusted(saved, {_ACCUMULATION: accumulation}, f"{what} {told}; going on from {_place(saved)}.")
    if not recipe.memory.activation_checkpointing:
        told = "One row a pass already: activation checkpointing is turned on, which is about a third slower"
        return Adjusted(saved, {CHECKPOINTING: True}, f"{what} {told}; going on from {_place(saved)}.")
    return None


def exhausted(recipe: Recipe, step: int, saved: int) -> str:
    """What a person is told where memory ran out and nothing is left to change. `step` 0 stands for loading."""
    data = recipe.data
    if not step:
        return (
            f"Loading {recipe.model} {EXHAUSTED}. Close other programs and resume, or choose a smaller base "
            "(`python -m engine estimate` says what each takes)."
        )
    return (
        f"Step {step} {EXHAUSTED} with one row a pass and activation checkpointing, which is the least there is. Close other programs "
        f"and resume from {_place(saved)}, or start a new run with shorter rows (data.max_length below {data.max_length}), "
        f"a lower lora.r than {recipe.lora.r} or a smaller base."
    )


def with_calmer_numbers(recipe: Recipe, dtype: str, events: Iterable[Event], step: int, what: str, saved: int) -> Adjusted | None:
    """What to do where the `what` of a step is no number: in float16 a lower learning rate, then float32 to compute in. None in
    other types, where that is a fault of the recipe or the data, and where both were done (faults, row 19).

    QLoRA in float16 fails in about one run of five, for its narrow range alone; bfloat16 and float32 have eight bits of exponent.
    """
    if dtype != "float16":
        return None
    happened = f"The {what} of step {step} is not a number, which happens in float16."
    rate = recipe.optimization.learning_rate
    if not any(isinstance(event, Adjusted) and _RATE in event.changes for event in events):
        return Adjusted(saved, {_RATE: rate / 2}, f"{happened} Learning rate {rate:g} → {rate / 2:g}; going on from {_place(saved)}.")
    told = "It happened again: from here on it computes in float32, which is slower and takes more memory"
    return Adjusted(saved, {_DTYPE: "float32"}, f"{happened} {told}; going on from {_place(saved)}.")


def paused(recipe: Recipe, dtype: str, step: int, what: str, checkpoint: Path | None) -> str:
    """What a person is told where the `what` of a step is no number and the run waits for another recipe (faults, row 19)."""
    if checkpoint:
        kept = f"The checkpoint of {checkpoint.name.replace('-', ' ')} is sound: {checkpoint} can be the lora.start_from of a new run"
    else:
        kept = "There is no checkpoint yet. Start a new run"
    calmer = ", in bfloat16 or float32," if dtype == "float16" else ""
    return f"Paused: the {what} of step {step} is not a number. {kept}{calmer} with a learning rate below {recipe.optimization.learning_rate:g}."


def passed_over(step: int, wrong: str, sound: int) -> str:
    """What a person is told where a checkpoint is damaged and the run goes on from that of step `sound`, 0: from its beginning
    (faults, row 22)."""
    return f"The checkpoint of step {step} is damaged ({wrong}) and {PASSED_OVER}; going on from {_place(sound)}."


def _place(saved: int) -> str:
    return f"the checkpoint of step {saved}" if saved else "the beginning"

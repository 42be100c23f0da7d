"""Where a training fits: against this machine and machines to compare it with, and what of a recipe to change where it does not.

A step learns from as many rows as before, whatever is changed. What costs the result nothing is changed first, and no more than is needed.
"""

from collections.abc import Iterator
from itertools import islice

from engine import jobs, models
from engine.architecture import Architecture
from engine.errors import BadInput
from engine.hardware import GIB, Gpu, Machine
from engine.memory import Plan, training_plan, unpacks
from engine.model_spec import ModelSpec
from engine.recipe import Recipe

THIS_MACHINE = "This machine"
# A changed recipe leaves so much of what it needs free. With what a machine's `model_memory` leaves free besides, it bears the
# worst that tests/benchmarks/planner.py saw: 15% more taken than foretold.
MARGIN = 0.05
_LEAST_LENGTH, _LEAST_RANK = 64, 4
_LEAST_LIMIT = 4  # of a question or an answer, as the recipe has it
_NAMED = 3
Changes = dict[str, object]


def _with_gpu(name: str, gib: float, capability: tuple[int, int], ram: int) -> Machine:
    return Machine("computer", "Linux x86_64", 8, ram * GIB, int(0.9 * ram * GIB), (Gpu(name, int(gib * GIB), capability),))


# Memory as the driver reports it: a T4 is sold with 16 GB, an L4 and an A10G with 24.
MACHINES: dict[str, Machine] = {
    "T4": _with_gpu("Tesla T4", 15, (7, 5), 12),
    "L4": _with_gpu("NVIDIA L4", 22.5, (8, 9), 48),
    "A10G": _with_gpu("NVIDIA A10G", 22.5, (8, 6), 32),
    "A100 40 GB": _with_gpu("NVIDIA A100-SXM4-40GB", 40, (8, 0), 80),
    "A100 80 GB": _with_gpu("NVIDIA A100-SXM4-80GB", 80, (8, 0), 160),
    "Laptop, 16 GB": Machine("computer", "Windows AMD64", 8, 16 * GIB, 10 * GIB, ()),  # beside a browser and what else is open
}


def plans(shape: Architecture, recipe: Recipe) -> dict[str, Plan]:
    """What a training takes on this machine, which comes first, and on every one of MACHINES, by title."""
    machines = {THIS_MACHINE: jobs.machine(), **MACHINES}
    return {title: training_plan(shape, recipe, machine) for title, machine in machines.items()}


def made_to_fit(shape: Architecture, recipe: Recipe, machine: Machine) -> tuple[Recipe, list[str]]:
    """The recipe as it fits a machine, and a sentence for every change; a recipe that fits is given back as it is, with none.

    Raises BadInput, which names smaller bases and larger GPUs that would do, where nothing that can be changed suffices.
    """
    if training_plan(shape, recipe, machine).fits:
        return recipe, []
    made = _least(shape, recipe, machine)
    if not training_plan(shape, made, machine).fits:
        raise BadInput(_nowhere(shape, recipe, made, machine))
    return made, _told(recipe, made)


def _least(shape: Architecture, recipe: Recipe, machine: Machine) -> Recipe:
    """The recipe after as few changes as make it fit with a margin, or after all that there are."""
    made, kept = recipe, {}
    for place, rungs in enumerate(_LADDERS):
        for rung in rungs(shape, recipe, machine):
            if _roomy(shape, made, machine):
                break
            lower = made.changed(rung)
            if training_plan(shape, lower, machine).resident < training_plan(shape, made, machine).resident:
                made, kept[place] = lower, rung
    return _with_less_changed(shape, recipe, machine, kept) if _roomy(shape, made, machine) else made


def _with_less_changed(shape: Architecture, recipe: Recipe, machine: Machine, kept: dict[int, Changes]) -> Recipe:
    """The recipe with those of the `kept` changes, by ladder, that it fits no longer without: later ones may do alone."""
    for place in reversed(kept):
        for rung in (None, *_LADDERS[place](shape, recipe, machine)):
            fewer = {**kept, place: rung or {}}
            made = recipe.changed({key: value for each in fewer.values() for key, value in each.items()})
            if _roomy(shape, made, machine):
                kept = fewer
                break
    return recipe.changed({key: value for each in kept.values() for key, value in each.items()})


def _roomy(shape: Architecture, recipe: Recipe, machine: Machine) -> bool:
    plan = training_plan(shape, recipe, machine)
    return plan.resident * (1 + MARGIN) <= plan.have


def _passes(shape: Architecture, recipe: Recipe, machine: Machine) -> Iterator[Changes]:
    plan = recipe.optimization
    for passes in range(plan.accumulation + 1, plan.batch + 1):
        if not plan.batch % passes:
            yield {"optimization.accumulation": passes}


def _checkpointing(shape: Architecture, recipe: Recipe, machine: Machine) -> Iterator[Changes]:
    if not recipe.memory.activation_checkpointing:
        yield {"memory.activation_checkpointing": True}


def _packing(shape: Architecture, recipe: Recipe, machine: Machine) -> Iterator[Changes]:
    if unpacks(shape.linear_parameters, recipe, machine):
        yield {"memory.base_weights": "packed"}


def _optimizer(shape: Architecture, recipe: Recipe, machine: Machine) -> Iterator[Changes]:
    name = recipe.optimization.optimizer
    family = next((family for family in ("adamw", "lion") if family in name), None)
    if machine.has_gpu and family and name != f"paged_{family}_8bit":
        yield {"optimization.optimizer": f"paged_{family}_8bit"}


def _four_bits(shape: Architecture, recipe: Recipe, machine: Machine) -> Iterator[Changes]:
    if recipe.quantization.kind == "none":
        yield {"quantization.kind": "nf4", "quantization.double": True, "memory.base_weights": "packed"}
    elif not recipe.quantization.double:
        yield {"quantization.double": True}


def _shorter(shape: Architecture, recipe: Recipe, machine: Machine) -> Iterator[Changes]:
    data = recipe.data
    limits = {"data.source_length": data.source_length, "data.target_length": data.target_length}
    for quarters in (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625, 0.03125):
        length = int(data.max_length * quarters)
        if length >= _LEAST_LENGTH:
            apart = {key: max(_LEAST_LIMIT, int(limit * quarters)) for key, limit in limits.items() if limit}
            yield {"data.max_length": length, **apart}


def _narrower(shape: Architecture, recipe: Recipe, machine: Machine) -> Iterator[Changes]:
    lora, rank = recipe.lora, recipe.lora.r // 2
    while lora.start_from in ("", "none") and rank >= _LEAST_RANK:
        # An adapter's change is multiplied by alpha / rank.
        yield {"lora.r": rank, "lora.alpha": max(0.01, lora.alpha * rank / lora.r)}
        rank //= 2


# What can be changed, each from mild to strong; from _four_bits on what is learnt is no longer quite the same.
_LADDERS = (_passes, _checkpointing, _packing, _optimizer, _four_bits, _shorter, _narrower)


def _told(before: Recipe, after: Recipe) -> list[str]:
    """A sentence for every change, those that cost the result nothing first."""
    told = []
    old, new = before.optimization, after.optimization
    if new.accumulation != old.accumulation:
        told.append(f"Micro-batch {old.micro_batch} → {new.micro_batch}, still {new.batch} rows in all a step.")
    if after.memory.activation_checkpointing != before.memory.activation_checkpointing:
        told.append("Activation checkpointing is turned on: about a third slower, the same result.")
    if after.quantization.kind != before.quantization.kind:
        told.append("The base is held in 4 bits (NF4, double-quantized) instead of whole.")
    elif after.memory.base_weights != before.memory.base_weights:
        told.append("The base's 4-bit weights stay packed: slower, the same numbers.")
    if new.optimizer != old.optimizer:
        told.append(f"Optimizer {old.optimizer} → {new.optimizer}: its state in 8 bits, paged out where memory runs short.")
    if after.quantization.double and not before.quantization.double and before.quantization.kind != "none":
        told.append("The quantization constants are quantized too.")
    if after.data.max_length != before.data.max_length:
        told.append(f"Longest row {before.data.max_length} → {after.data.max_length} tokens: what is longer is cut.")
    if after.lora.r != before.lora.r:
        told.append(
            f"Rank {before.lora.r} → {after.lora.r}, alpha {before.lora.alpha:g} → {after.lora.alpha:g} with it: "
            "the adapter can learn a little less."
        )
    return told


def _nowhere(shape: Architecture, recipe: Recipe, least: Recipe, machine: Machine) -> str:
    """What a person is told whose recipe fits in no way, with what would help."""
    plan = training_plan(shape, least, machine)
    chatting = map(models.MODELS.get, models.smaller_models(machine))
    smaller = list(islice((spec.id for spec in chatting if _would_do(spec, shape, recipe, machine)), _NAMED))
    larger = [
        title
        for title, other in MACHINES.items()
        if other.has_gpu and other.model_memory > machine.model_memory and training_plan(shape, _least(shape, recipe, other), other).fits
    ]
    told = [
        f"{recipe.model} cannot be finetuned on {machine.summary}: even with rows of {least.data.max_length} tokens, {least.optimization.micro_batch} "
        f"a pass, and rank {least.lora.r} it needs {plan.resident / GIB:.1f} GB, {plan.have / GIB:.1f} GB can be used."
    ]
    if smaller:
        told.append(f"Choose a smaller base: {', '.join(smaller)} would do.")
    if larger:
        told.append(f"Or take a larger GPU: {' or '.join(larger[:2])} would do.")
    if not (smaller or larger):
        told.append("Close other programs, or choose a smaller base.")
    return " ".join(told)


def _would_do(spec: ModelSpec, shape: Architecture, recipe: Recipe, machine: Machine) -> bool:
    """Whether a smaller base of the registry can be made to fit."""
    if spec.shape.parameters >= shape.parameters:
        return False
    return training_plan(spec.shape, _least(spec.shape, recipe, machine), machine).fits

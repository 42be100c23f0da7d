"""The optimizer of a run by its usual name, the learning rate of each step, and the optimizer's state as plain tensors.

The state is kept as safetensors and JSON: a checkpoint holds no pickle.
"""

import tempfile
from pathlib import Path

from engine.errors import BadInput
from engine.optimizer_state import PAGED_ELEMENTS
from engine.recipe import OptimizationRecipe


def make(plan: OptimizationRecipe, parameters: list):
    """The torch optimizer that transformers' Trainer would make of this name. Raises BadInput where it is not available here."""
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as unused:
        arguments = TrainingArguments(
            output_dir=str(Path(unused)),
            optim=plan.optimizer,
            learning_rate=plan.learning_rate,
            adam_beta2=plan.beta2,
            weight_decay=plan.weight_decay,
            report_to=[],
        )
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        return kind(parameters, weight_decay=plan.weight_decay, **options)
    except (ImportError, ValueError, RuntimeError) as error:
        raise BadInput(f"The optimizer {plan.optimizer} cannot be used here: {str(error)[:200]} Choose adamw_torch.") from error


def rates(plan: OptimizationRecipe, steps: int, optimizer):
    """A function from a step (the first is 1) to its learning rate; depends on nothing but the step."""
    from transformers import get_scheduler

    factor = get_scheduler(plan.schedule, optimizer, plan.warmup_steps, steps).lr_lambdas[0]
    return lambda step: plan.learning_rate * factor(step - 1)


def paging(optimizer, parameters: list, on_gpu: bool) -> str:
    """For people: whether the optimizer really pages its state here, and why not. Empty where it was not asked to."""
    if not getattr(optimizer, "is_paged", False):
        return ""
    if not on_gpu:
        return "the optimizer does not page here, whatever its name says: without a GPU its state is in main memory anyway"
    large = sum(parameter.numel() >= PAGED_ELEMENTS for parameter in parameters)
    return f"the optimizer pages the state of {large} of {len(parameters)} matrices: smaller ones than {PAGED_ELEMENTS:,} numbers stay on the GPU"


def state(optimizer, parameters: list) -> tuple[dict, dict]:
    """The optimizer's state as tensors and as plain numbers, both by "index of the parameter.name"."""
    import torch

    tensors, numbers = {}, {}
    for index, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().clone()
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, numbers


def restore(optimizer, parameters: list, tensors: dict, numbers: dict) -> None:
    """Put a state back that `state` gave for an optimizer of the same kind over the same parameters.

    bitsandbytes makes its own buffers first, so that paged ones are paged again. Raises ValueError where they do not fit."""
    import torch

    by_parameter: dict[int, dict] = {}
    for key, value in (*tensors.items(), *numbers.items()):
        index, _, name = key.partition(".")
        by_parameter.setdefault(int(index), {})[name] = value
    for index, mine in by_parameter.items():
        parameter = parameters[index]
        if hasattr(optimizer, "init_state"):
            optimizer.init_state(optimizer.param_groups[0], parameter, 0, index)
        held = optimizer.state[parameter]
        for name, value in mine.items():
            if isinstance(held.get(name), torch.Tensor) and isinstance(value, torch.Tensor):
                if held[name].shape != value.shape:
                    raise ValueError(f"{name} of matrix {index} has another shape")
                held[name].copy_(value)
            else:
                held[name] = value.to(parameter.device) if isinstance(value, torch.Tensor) and name != "step" else value

"""The processes that share one training, as `torchrun` and `accelerate launch` start them: which this is, sums over all of them.

A step's passes are dealt out over the processes, and gradients are added up, so that a step is the same however many there are.
Imports torch where something is summed, not before.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from engine import trouble
from engine.errors import EngineError

T = TypeVar("T")


def count() -> int:
    """How many processes share the training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """Which of them this is, from 0; the first writes files and speaks."""
    return int(os.environ.get("RANK", "0"))


def device() -> int:
    """Which of its machine's GPUs is this process's."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def check_gpus() -> None:
    """Raises EngineError where this machine has GPUs, but fewer than processes that share the training."""
    import torch

    gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < gpus < here:
        raise EngineError(
            f"Training was started in {here} processes, but there {'is one GPU' if gpus == 1 else f'are {gpus} GPUs'} here and each process "
            f"needs its own. Start {gpus}: torchrun --nproc-per-node {gpus}, or accelerate launch --num_processes {gpus}."
        )


def meet() -> None:
    """Find the other processes. Each start of all of them by `torchrun --max-restarts` has names of its own in their common store:
    without, a process finds the addresses that its fellows had before the restart, and is refused there."""
    if count() == 1:
        return
    import torch

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    store, _, _ = next(torch.distributed.rendezvous("env://"))
    start = torch.distributed.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    torch.distributed.init_process_group(backend, store=start, rank=index(), world_size=count())


def share(parts: Sequence[T]) -> list[tuple[int, T]]:
    """This process's part of the passes, each with its place among all."""
    return list(enumerate(parts))[index() :: count()]


def total(*numbers: float) -> tuple[float, ...]:
    """Numbers added up over all processes, in float64."""
    if count() == 1:
        return numbers
    import torch

    together = torch.tensor(numbers, dtype=torch.float64, device=_place())
    torch.distributed.all_reduce(together)
    return tuple(together.tolist())


def in_all(made: Callable[[], T]) -> T:
    """`made()`. Where memory runs out in one of the processes all raise, so that they meet again at the same place."""
    made_here, failed = None, None
    try:
        made_here = made()
    except Exception as error:
        if not trouble.out_of_memory(error):
            raise
        failed = error
    if any(total(float(failed is not None))):
        raise failed or MemoryError("another process of this training ran out of memory")
    return made_here


def add_up_gradients(parameters: Iterable) -> None:
    """Give every parameter the sum of its gradients in all processes; one that had no pass counts as zero."""
    if count() == 1:
        return
    import torch

    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters]).to(_place())
    torch.distributed.all_reduce(flat)
    for parameter, summed in zip(parameters, flat.split([parameter.numel() for parameter in parameters]), strict=True):
        parameter.grad.copy_(summed.view_as(parameter))


def wait() -> None:
    """Until all processes have come here."""
    total(0.0)


def _place() -> str:
    """The device that the backend's sums are made on."""
    import torch

    return f"cuda:{device()}" if torch.distributed.get_backend() == "nccl" else "cpu"

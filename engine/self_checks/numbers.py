"""Checks of the arithmetic that a run leans on: the device and its numeric type, 4-bit weights, the paged optimizer.

Each is compared with the same sum in float32 or float64 on the processor. Imports torch inside the functions.
"""

import warnings
from pathlib import Path

from engine import hardware, optimizers, quiet
from engine.backends import pretrained
from engine.recipe import OptimizationRecipe
from engine.self_checks import Fault, Outcome, apart, passed

# Norm of the difference over the norm of the exact result, at most: a few times what rounding to the type costs.
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 1e-2}
# Normal weights in NF4 with blocks of 64 lie 9.2% off (measured); in FP4 it would be 12%.
NF4_ERROR = (0.085, 0.1)
# Height and width differ, so that a transposed matrix is noticed; rows as when a token is decoded and when a batch is trained:
# bitsandbytes has a kernel of its own for each.
HEIGHT, WIDTH, ROWS = 384, 256, (1, 64)
LEARNING_RATE = 1e-3
_REINSTALL = "Install a bitsandbytes for this torch: pip install --upgrade bitsandbytes. Until then choose quantization none."


def device(place: Path) -> Outcome:
    """What there is to compute on, as torch and as the driver see it, and the numeric type that follows."""
    import torch

    here, (driver, listed) = hardware.machine(), hardware.driver()
    capabilities = pretrained.cuda_capabilities() if torch.cuda.is_available() else []
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else "CPUs only"
    figures = {
        "host": here.host,
        "system": here.system,
        "cores": here.cores,
        "memory_bytes": here.memory,
        "memory_free_bytes": here.memory_free,
        "torch_built_for": built,
        "driver": driver,
        "gpus": [_gpu(torch, index) for index in range(len(capabilities))],
    }
    if listed and not capabilities:
        raise Fault(f"{listed[0]} is here, and torch (built for {built}) cannot use it{_why(torch)}", _torch_for(built), **figures)
    dtype = hardware.compute_dtype(capabilities)
    gpus = [
        f"{gpu['name']} ({gpu['memory_bytes'] / hardware.GIB:.1f} GB, {gpu['memory_free_bytes'] / hardware.GIB:.1f} free, capability {gpu['capability']})"
        for gpu in figures["gpus"]
    ]
    parts = [
        ", ".join(gpus) or "no GPU",
        *([f"driver {driver}"] if driver else []),
        f"torch built for {built}",
        f"{here.cores} cores",
        f"{here.memory_free / hardware.GIB:.1f} of {here.memory / hardware.GIB:.1f} GB of memory free",
        {"colab": "on Colab", "space": "on a Space", "computer": "on a computer"}[here.host],
        hardware.dtype_reason(dtype, capabilities),
    ]
    return passed(", ".join(parts), **figures, dtype=dtype)


def _gpu(torch, index: int) -> dict:
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "memory_bytes": total,
        "memory_free_bytes": free,
        "capability": f"{major}.{minor}",
    }


def _why(torch) -> str:
    """What torch says against a GPU that is there."""
    try:
        torch.cuda.init()
    except Exception as error:  # a RuntimeError, or an AssertionError where it is built without CUDA
        return f": {str(error).splitlines()[0]}"
    return ""


def _torch_for(built: str) -> str:
    if built == "CPUs only":
        return "Install a torch with CUDA (pytorch.org says how), or leave it: everything runs on the processor, slowly."
    return "Update the NVIDIA driver, or install a torch for an older CUDA (pytorch.org says how). See what CUDA_VISIBLE_DEVICES hides."


def precision(place: Path) -> Outcome:
    """A product in the type that is chosen is finite and near the exact one; where that is float16, a scaled step learns and an
    overflow is passed over. The type goes by the capability: `torch.cuda.is_bf16_supported()` says yes to a T4, which only
    emulates it."""
    import torch

    capabilities, where = pretrained.cuda_capabilities(), _device(torch)
    name = hardware.compute_dtype(capabilities)
    dtype = getattr(torch, name)
    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(512, 512, generator=random) for _ in range(2))
    product = (left.to(where, dtype) @ right.to(where, dtype)).double().cpu()
    error = _distance(product, left.double() @ right.double())
    said = hardware.dtype_reason(name, capabilities)
    figures = {"dtype": name, "error": error}
    if not error <= TOLERANCE[name]:  # also where it is no number
        raise Fault(
            f"{said}; a product of 512 x 512 matrices is {error:.1e} off, {TOLERANCE[name]:.0e} were to be expected",
            "Update the driver and torch; where that changes nothing, the hardware is not to be trusted.",
            **figures,
        )
    parts = [said, f"a product of 512 x 512 matrices is {error:.1e} off the exact one"]
    if capabilities and name == "float16" and torch.cuda.is_bf16_supported():
        parts.append("torch says that bfloat16 works too: it is emulated, and not used")
    if name == "float16":
        parts.append(_scaled_step(torch, where))
    return passed("; ".join(parts), **figures)


def _scaled_step(torch, where) -> str:
    """A step of a float32 matrix through float16, its loss scaled as in a run, against the same step in float32."""
    random = torch.Generator().manual_seed(1)
    inputs, start = torch.randn(64, 128, generator=random), 0.1 * torch.randn(128, 128, generator=random)
    steps = []
    for scaled in (False, True):
        weight = torch.nn.Parameter(start.to(where, copy=True))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        scaler = torch.amp.GradScaler(where.type, enabled=scaled)
        with torch.autocast(where.type, torch.float16, enabled=scaled):
            loss = (inputs.to(where) @ weight).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        steps.append(weight.detach().cpu() - start)
    error = _distance(steps[1], steps[0])
    if not error <= TOLERANCE["float16"]:
        raise Fault(f"a float16 step with a scaled loss is {error:.1e} off the one in float32", "Update driver and torch.", error=error)
    before, scale = weight.detach().clone(), scaler.get_scale()
    scaler.scale(weight.sum() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    if not (torch.equal(weight, before) and scaler.get_scale() < scale):
        raise Fault("a step that overflows is not passed over in float16", "Update torch.")
    return f"a scaled float16 step is {error:.1e} off the one in float32, and one that overflows is passed over"


def four_bits(place: Path) -> Outcome:
    """A matrix in NF4 with double quantization (QLoRA, section 3): what it stands for, its products forward and back."""
    import torch

    with apart(place):
        bitsandbytes = _bitsandbytes()
        from bitsandbytes.functional import dequantize_4bit

        where = _device(torch)
        name = hardware.compute_dtype(pretrained.cuda_capabilities())
        dtype = getattr(torch, name)
        random = torch.Generator().manual_seed(0)
        weight = torch.randn(HEIGHT, WIDTH, generator=random)
        layer = bitsandbytes.nn.Linear4bit(WIDTH, HEIGHT, bias=False, compute_dtype=dtype, compress_statistics=True, quant_type="nf4")
        layer.weight = bitsandbytes.nn.Params4bit(weight.to(dtype), requires_grad=False, compress_statistics=True, quant_type="nf4")
        layer = layer.to(where)
        pretrained.keep_exact(layer)
        if not layer.weight.quant_state.nested:
            raise Fault("bitsandbytes did not quantize the constants a second time, though asked to", _REINSTALL)
        stands_for = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float().cpu()
        off = _distance(stands_for, weight)
        if not NF4_ERROR[0] <= off <= NF4_ERROR[1]:
            raise Fault(
                f"weights in NF4 are {off:.1%} off; {NF4_ERROR[0]:.1%} to {NF4_ERROR[1]:.1%} were to be expected", _REINSTALL, weights=off
            )
        worst = {"forward": 0.0, "decoding": 0.0, "gradient": 0.0}
        for count in ROWS:
            inputs = torch.randn(count, WIDTH, generator=random).to(dtype)
            back = torch.randn(count, HEIGHT, generator=random).to(dtype)
            learnt = inputs.to(where, copy=True).requires_grad_()
            made = layer(learnt)
            if not made.requires_grad:
                raise Fault("no gradient reaches the inputs of a 4-bit layer: nothing below it could learn", _REINSTALL)
            made.backward(back.to(where))
            with torch.no_grad():
                decoded = layer(inputs.to(where))
            exact = inputs.float() @ stands_for.T
            for kind, found, wanted in (
                ("forward", made.detach(), exact),
                ("decoding", decoded, exact),
                ("gradient", learnt.grad, back.float() @ stands_for),
            ):
                worst[kind] = max(worst[kind], _distance(found.float().cpu(), wanted), key=_worse)
    figures = {"device": str(where), "dtype": name, "weights": off, **worst}
    for kind, error in worst.items():
        if not error <= TOLERANCE[name]:
            raise Fault(f"4-bit {kind} in {name} is {error:.1e} off, {TOLERANCE[name]:.0e} were to be expected", _REINSTALL, **figures)
    return passed(
        f"NF4 with double quantization on {where} in {name}: weights {off:.1%} off (about 9% is right), products "
        f"{max(worst['forward'], worst['decoding']):.1e}, gradient {worst['gradient']:.1e}",
        **figures,
    )


def paged_optimizer(place: Path) -> Outcome:
    """Three steps of paged_adamw_32bit on a matrix large enough to be paged, against torch's AdamW; before the third the state is
    put into a fresh optimizer, as when a run goes on."""
    import torch

    with apart(place), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on a CPU it warns that it does not page; that is told below
        _bitsandbytes()
        where = _device(torch)
        plan = OptimizationRecipe(optimizer="paged_adamw_32bit", learning_rate=LEARNING_RATE, steps=3)
        random = torch.Generator().manual_seed(0)
        start = torch.randn(optimizers.PAGED_ELEMENTS // 256 + 1, 256, generator=random)
        paged, plain = (torch.nn.Parameter(start.to(held, copy=True)) for held in (where, "cpu"))
        reference = torch.optim.AdamW([plain], lr=LEARNING_RATE, betas=(0.9, plan.beta2), weight_decay=plan.weight_decay)
        optimizer = optimizers.make(plan, [paged])
        for step in range(3):
            if step == 2:
                kept = optimizers.state(optimizer, [paged])
                optimizer = optimizers.make(plan, [paged])
                optimizers.restore(optimizer, [paged], *kept)
            plain.grad = torch.randn(start.shape, generator=random)
            paged.grad = plain.grad.to(where, copy=True)
            optimizer.step()
            reference.step()
        error = float((paged.detach().cpu() - plain.detach()).abs().max()) / LEARNING_RATE
        pages = bool(getattr(optimizer.state[paged]["state1"], "is_paged", False))
    figures = {"device": str(where), "elements": plain.numel(), "pages": pages, "error_in_learning_rates": error}
    if not error <= 0.01:
        raise Fault(
            f"three steps of paged_adamw_32bit end {error:.1e} learning rates away from AdamW's",
            "Choose adamw_torch as optimizer, and upgrade bitsandbytes.",
            **figures,
        )
    if where.type == "cuda" and not pages:
        raise Fault(
            f"paged_adamw_32bit does not page its state of {plain.numel():,} numbers, though it is on a GPU",
            "It works, but gives no memory back: choose paged_adamw_8bit or smaller rows where memory is short.",
            **figures,
        )
    told = "it pages its state to main memory" if pages else optimizers.paging(optimizer, [paged], where.type == "cuda")
    return passed(f"three steps on {plain.numel():,} numbers equal AdamW's within {error:.0e} of a learning rate; {told}", **figures)


def _bitsandbytes():
    """The library. Raises Fault with the reason where it cannot be imported."""
    quiet.kernels()
    try:
        import bitsandbytes
    except Exception as error:
        raise Fault(
            f"bitsandbytes cannot be imported ({type(error).__name__}: {' '.join(str(error).split())[:200]})", _REINSTALL
        ) from error
    return bitsandbytes


def _device(torch):
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _distance(found, wanted) -> float:
    """The norm of the difference over the norm of what is wanted; no number where `found` holds any that is none."""
    return float((found - wanted).norm() / wanted.norm())


def _worse(error: float) -> float:
    """The order of errors: what is no number is the worst."""
    return error if error == error else float("inf")

"""Pictures that explain, with the figures in words: what NF4 does to a weight matrix, where memory goes."""

from engine import fitting, memory, models, nf4, pictures, presets
from engine.cells.showing import Line, picture
from engine.errors import BadInput
from engine.hardware import GIB

_SIZES = ("7b", "13b", "33b", "65b")


def show_nf4() -> None:
    """A matrix of the starter, rounded to NF4 with double quantization."""
    line = Line("Reading a matrix of the starter")
    matrix = nf4.starter_matrix(line.report)
    height, width = matrix.shape
    line.show(f"{nf4.MATRIX} of the starter, {height} x {width} weights")
    found = nf4.rounded(matrix)
    picture(pictures.nf4(found))
    print(f"The 16 values: {', '.join(f'{level:.2f}' for level in found.levels)}")
    print(f"{found.bits:.2f} bits a weight in place of 16; what changes is {found.error:.1%} of the matrix (norm over norm).")


def show_memory(machine: str = "T4") -> None:
    """What finetuning Guanaco takes at each size by the published recipes, against a machine of `fitting.MACHINES`. Raises BadInput where
    it is none of them."""
    if machine not in fitting.MACHINES:
        raise BadInput(f"There is no machine {machine!r} to compare with. There are: {', '.join(fitting.MACHINES)}.")
    there = fitting.MACHINES[machine]
    plans = {
        f"Guanaco {size.upper()}": memory.training_plan(models.MODELS[f"guanaco-{size}"].shape, presets.preset(f"guanaco-{size}"), there)
        for size in _SIZES
    }
    picture(pictures.memory(plans, there.model_memory, f"what a {machine} can give"))
    for name, plan in plans.items():
        verdict = "fits" if plan.fits else "does not fit"
        print(f"{name}: of {plan.total / GIB:.1f} GB in all {plan.resident / GIB:.1f} GB must be there at once, so it {verdict}.")

"""Pictures made on the host: the score card to share, ratings with their intervals, an order of matches as it is played, losses,
where memory goes, what NF4 does to weights.

They work on light and dark pages: what is not coloured is a middle grey, the ground of all but the card is clear.
"""

import io
from collections.abc import Mapping, Sequence

import numpy

from engine.game.scoring import by_chance, verdict
from engine.game.values import Result
from engine.hardware import GIB
from engine.memory import Plan
from engine.nf4 import Rounded

_LAKE, _CLAY, _PAPER, _INK, _GREY = "#1f6f6b", "#b3402d", "#faf8f4", "#26231f", "#8a8378"
_COLOURS = ("#1f6f6b", "#d99a2b", "#b3402d", "#6c5b9e", "#4a87b9", "#7a9a3d", "#a3541c", "#8a8378", "#c06c98", "#3f3a34")
_DPI = 150
# The parts of a memory plan, put together; what is not named is the passes'.
_GROUPS = {
    "base in 4 bits": ("weights", "constants"),
    "embeddings": ("embeddings",),
    "adapter, gradients, optimizer": ("lora", "gradients", "optimizer"),
    "passes": (),
    "runtime": ("runtime",),
}


def score(result: Result) -> bytes:
    """The card to share, 1200 x 630 pixels: how many of how many, square by square, what that is worth, and whose answers were liked
    better where that was said."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    card = result.card
    figure = Figure(figsize=(8, 4.2), dpi=_DPI, facecolor=_PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 8), ylim=(0, 4.2))
    axes.axis("off")
    axes.text(0.45, 3.72, f"Guanaco Playground · {result.deck.title}", size=12, color=_GREY, va="center", parse_math=False)
    axes.text(0.45, 3.1, f"{card.right.k} of {card.right.n}", size=44, weight="bold", color=_LAKE, va="center")
    who = f"{result.game.player}: " if result.game.player else ""
    line = f"{who}telling {result.deck.systems[0]} from {result.deck.systems[1]}, blind"
    axes.text(0.45, 2.56, line[:78], size=13, color=_INK, va="center", parse_math=False)
    name = result.deck.systems[1]
    if (liked := card.preferred[name]).n:
        better = f"liked {name[:48]} better {liked.k} of {liked.n}, {100 * liked.low:.0f}–{liked.high:.0%}"
        axes.text(0.45, 2.24, better, size=11, color=_INK, va="center", parse_math=False)
    in_a_row = 20
    for index, right in enumerate(result.rights):
        x, y = 0.45 + 0.34 * (index % in_a_row), 1.72 - 0.34 * (index // in_a_row)
        axes.add_patch(FancyBboxPatch((x, y), 0.24, 0.24, "round,pad=0.02", linewidth=0, facecolor=_LAKE if right else _CLAY))
    worth = {
        "unfinished": f"unfinished: {card.right.n + card.aside} of {card.length}",
        "told apart": f"a coin does as well in {by_chance(card.p)}" if card.p is not None else "",
        "not shown": "no better than a coin, so far as this shows",
    }[verdict(card.p, card.finished)]
    bots = " · ".join(f"{bot} {count}" for bot, count in card.bots.items())
    axes.text(0.45, 0.42, worth, size=11, color=_INK, va="center")
    axes.text(7.55, 0.42, f"bots: {bots}", size=11, color=_GREY, va="center", ha="right")
    return _png(figure)


def ratings(names: Sequence[str], rating: Sequence[float], low: Sequence[float], high: Sequence[float]):
    """Ratings, best on top, with the stretch that 95% lie within, as a matplotlib Figure."""
    from matplotlib.figure import Figure

    order = numpy.argsort(rating)
    figure = Figure(figsize=(7, 0.42 * len(names) + 0.7), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    middle = numpy.asarray(rating)[order]
    # A mean over orders lies within its interval, but rounding or an odd bootstrap may put it a hair outside. What is not known has
    # no bar.
    spans = numpy.nan_to_num(numpy.maximum(0, [middle - numpy.asarray(low)[order], numpy.asarray(high)[order] - middle]))
    axes.errorbar(middle, range(len(names)), xerr=spans, fmt="o", color=_LAKE, ecolor=_LAKE, elinewidth=2, capsize=4, markersize=6)
    axes.set_yticks(range(len(names)), [names[index] for index in order], parse_math=False)
    axes.set_xlabel("rating")
    axes.grid(axis="x", alpha=0.25)
    return _plain(figure)


def order(systems: Sequence[str], path: numpy.ndarray):
    """The ratings [matches + 1, systems] along one order, as a matplotlib Figure."""
    return _lines(systems, path, "match")


def means(systems: Sequence[str], running: numpy.ndarray, orders: numpy.ndarray):
    """The mean of the final ratings [points, systems] over so many `orders` [points], as a matplotlib Figure."""
    figure = _lines(systems, running, "random orders, of which this is the mean", orders)
    figure.axes[0].set_xscale("log")
    return figure


def losses(steps: Sequence[int], training: Sequence[float], tested: Sequence[int], held_out: Sequence[float]) -> bytes:
    """A run's losses in nats: of every step on the rows it learnt from, and on held-out rows where they were tested; as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, training, color=_LAKE, lw=1.2, alpha=0.7, label="training")
    if tested:
        axes.plot(tested, held_out, color=_CLAY, lw=1.6, marker="o", markersize=4, label="held out")
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("loss (nats)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, labelcolor=_GREY)
    return _png(_plain(figure))


def memory(plans: Mapping[str, Plan], have: int, where: str) -> bytes:
    """What trainings take, by what they are called, against the `have` bytes of a machine; as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.45 * len(plans) + 1.5), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    named = {part: group for group, parts in _GROUPS.items() for part in parts}
    names, left = list(plans), numpy.zeros(len(plans))
    for group, colour in zip(_GROUPS, _COLOURS, strict=False):
        sizes = [sum(part.bytes for part in plan.parts if named.get(part.name, "passes") == group) / GIB for plan in plans.values()]
        axes.barh(range(len(names)), sizes, left=left, height=0.6, color=colour, label=group)
        left += sizes
    axes.axvline(have / GIB, color=_GREY, lw=1.8, ls="--", label=where)
    axes.set_xlim(0, 1.05 * max(*left, have / GIB))
    axes.set_yticks(range(len(names)), [f"{name}: {total:.1f}" for name, total in zip(names, left, strict=True)], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("GB of memory")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8, labelcolor=_GREY)
    return _png(_plain(figure))


def nf4(rounded: Rounded) -> bytes:
    """Weights, each over the largest of its block, with the 16 values that they become and how many become each; and how far every
    weight moves; as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), dpi=_DPI, layout="constrained")
    values, moves = figure.subplots(1, 2)
    values.hist(rounded.scaled.ravel(), bins=201, range=(-1, 1), color=_GREY, alpha=0.45, density=True, label="before")
    values.set(xlabel="weight / largest of its 64", ylabel="density", xlim=(-1.08, 1.08))
    values.set_ylim(0, 1.35 * values.get_ylim()[1])
    counts = values.twinx()
    counts.vlines(rounded.levels, 0, 100 * rounded.shares, color=_LAKE, lw=2.2, label="after: 16 values")
    counts.set_ylim(0, 145 * float(rounded.shares.max()))
    counts.set_ylabel("% of weights")
    handles, labels = (
        [*first, *second] for first, second in zip(*(each.get_legend_handles_labels() for each in (values, counts)), strict=True)
    )
    values.legend(handles, labels, loc="upper left", ncols=2, frameon=False, fontsize=8, labelcolor=_GREY)
    moves.hist(rounded.moved.ravel(), bins=161, range=(-0.4, 0.4), color=_CLAY, alpha=0.8)
    moves.set(xlabel="move, in standard deviations", ylabel="weights")
    moves.set_title(f"error: {rounded.error:.1%} of the matrix", fontsize=9, color=_GREY)
    return _png(_plain(figure))


def _lines(systems: Sequence[str], values: numpy.ndarray, label: str, at: numpy.ndarray | None = None):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    places = numpy.arange(len(values)) if at is None else at
    for index in numpy.argsort(-values[-1]):
        axes.plot(
            places, values[:, index], label=f"{values[-1, index]:.0f}  {systems[index]}", color=_COLOURS[index % len(_COLOURS)], lw=1.4
        )
    axes.set_xlabel(label)
    axes.set_ylabel("rating")
    axes.grid(alpha=0.25)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, labelcolor=_GREY)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a system may be called as it likes
    return _plain(figure)


def _plain(figure):
    """Clear ground, grey frame and letters."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=_GREY)
        axes.xaxis.label.set_color(_GREY)
        axes.yaxis.label.set_color(_GREY)
        for spine in axes.spines.values():
            spine.set_color(_GREY)
            spine.set_alpha(0.4)
    return figure


def _png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=figure.get_facecolor())
    return file.getvalue()

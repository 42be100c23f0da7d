"""Two measurements of the same items, such as base and adapter: item by item, with a paired test."""

from dataclasses import asdict, dataclass

from engine.errors import BadInput
from engine.evaluate import intervals
from engine.evaluate.intervals import Paired
from engine.evaluate.measurements import Measurement
from engine.game.scoring import SIGNIFICANT

# Fewer items of a group tell nothing.
LEAST = 10


@dataclass(frozen=True)
class Comparison:
    """A second measurement against a first one: over all items that both scored, and in each group of at least `LEAST` of them. `words`
    say it."""

    measure: str
    paired: Paired
    groups: dict[str, Paired]
    words: str

    def plain(self) -> dict:
        return asdict(self)


def compared(first: Measurement, second: Measurement, called: str = "The second one") -> Comparison:
    """Both need not be done: what both have scored counts. The words call the second one so. Raises BadInput where they are not of the same
    items."""
    one, other = first.settings, second.settings
    differ = "measure" if one.measure != other.measure else "number of shots" if one.measure == "mmlu" and one.shots != other.shots else ""
    if differ:
        raise BadInput(f"{first.id} and {second.id} differ in their {differ}, so they cannot be compared.")
    if not (first.facts and first.facts.get("data_sha256") == second.facts.get("data_sha256")):
        raise BadInput(f"{first.id} and {second.id} were not measured on the same data, so they cannot be compared.")
    left = {row["key"]: row for row in first.read_rows()}
    right = {row["key"]: row for row in second.read_rows()}
    pairs = [(left[key], right[key]) for key in left if key in right]
    if not pairs:
        raise BadInput(f"{first.id} and {second.id} have no item in common yet. Measure both with the same sample size and seed.")
    if any(a.get("tokens") != b.get("tokens") for a, b in pairs):
        raise BadInput(f"{first.id} and {second.id} count different tokens: measure both with the same model and prompt format.")
    test = _losses if one.measure == "perplexity" else _choices
    paired = test(pairs)
    groups = {}
    for group in sorted({a["group"] for a, _ in pairs} - {""}):
        inside = [pair for pair in pairs if pair[0]["group"] == group]
        if len(inside) >= LEAST:
            groups[group] = test(inside)
    return Comparison(one.measure, paired, groups, _words(one.measure, paired, called))


def _choices(pairs) -> Paired:
    return intervals.paired_choices([a["right"] for a, _ in pairs], [b["right"] for _, b in pairs])


def _losses(pairs) -> Paired:
    return intervals.paired_losses([a["loss"] for a, _ in pairs], [b["loss"] for _, b in pairs], [a["tokens"] for a, _ in pairs])


def _words(measure: str, found: Paired, called: str) -> str:
    if found.p is None:
        return f"Both are the same on all {found.items:,} items."
    sure = "more than chance explains" if found.p < SIGNIFICANT else "no more than chance explains"
    if measure == "perplexity":
        change = "lower" if found.difference.value < 0 else "higher"
        what = f"{called}: the loss is {abs(found.difference.value):.3f} nats a token {change}"
    else:
        points = 100 * found.difference.value
        what = (
            f"{called}: the share is {abs(points):.1f} points {'higher' if points > 0 else 'lower'}"
            if points
            else "The shares are the same"
        )
    return f"{what} on {found.items:,} items, {sure} (p = {found.p:.2g}, {found.test})."

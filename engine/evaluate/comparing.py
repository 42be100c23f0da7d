"""Two measurements of the same items, such as base and adapter: item by item, with a paired test."""

from dataclasses import asdict, dataclass

from engine import telling
from engine.errors import BadInput
from engine.evaluate import intervals
from engine.evaluate.intervals import Paired
from engine.evaluate.measurements import Measurement

# Fewer items of a group tell nothing.
LEAST = 10
# What it means that an item is lower or higher, first what is counted first. Of CrowS-Pairs neither is better: half is no preference.
_MEANS = {
    "perplexity": {"lower": "better", "higher": "worse"},
    "mmlu": {"higher": "better", "lower": "worse"},
    "crows": {"higher": "more stereotypical", "lower": "less stereotypical"},
}


@dataclass(frozen=True)
class Comparison:
    """A second measurement against a first one: over all items that both scored, and in each group of at least `LEAST` of them. `counted`:
    how many items changed which way, as that is called of this measure. `words` say it."""

    measure: str
    paired: Paired
    groups: dict[str, Paired]
    counted: dict[str, int]
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
    asked = {"prompt_format": "in the same prompt format", "system": "with the same system text"} if first.facts.get("formed") else {}
    other_way = next((what for key, what in asked.items() if first.facts[key] != second.facts[key]), "")
    if other_way:
        raise BadInput(
            f"{first.id} and {second.id} were not measured {other_way}, so they cannot be compared. Measure the base together with its adapter, "
            "or both with the same --prompt-format and --system."
        )
    paired, groups = _tested(first, second)
    return Comparison(one.measure, paired, groups, counted(one.measure, paired), _words(one.measure, paired, called))


def counted(measure: str, found: Paired) -> dict[str, int]:
    """How many items changed which way, by what that is called."""
    return {word: getattr(found, way) for way, word in _MEANS[measure].items()} | {"the same": found.same}


def _tested(first: Measurement, second: Measurement) -> tuple[Paired, dict[str, Paired]]:
    """The test over all items that both have, and by group. Raises BadInput where there are none, or their tokens or shots are not
    the same."""
    names = f"{first.id} and {second.id}"
    left = {row["key"]: row for row in first.read_rows()}
    right = {row["key"]: row for row in second.read_rows()}
    pairs = [(left[key], right[key]) for key in left if key in right]
    if not pairs:
        raise BadInput(f"{names} have no item in common yet. Measure both with the same sample size and seed.")
    if any(a.get("tokens") != b.get("tokens") for a, b in pairs):
        raise BadInput(f"{names} count different tokens: measure both with the same model and prompt format.")
    if any(a.get("shots") != b.get("shots") for a, b in pairs):
        raise BadInput(
            f"{names} put different numbers of shots before the same questions, as fitted the context: measure both in the same one."
        )
    test = _losses if "loss" in pairs[0][0] else _choices
    groups = {}
    for group in sorted({a["group"] for a, _ in pairs} - {""}):
        inside = [pair for pair in pairs if pair[0]["group"] == group]
        if len(inside) >= LEAST:
            groups[group] = test(inside)
    return test(pairs), groups


def _choices(pairs) -> Paired:
    return intervals.paired_choices([a["right"] for a, _ in pairs], [b["right"] for _, b in pairs])


def _losses(pairs) -> Paired:
    return intervals.paired_losses([a["loss"] for a, _ in pairs], [b["loss"] for _, b in pairs], [a["tokens"] for a, _ in pairs])


def mixed(found: Paired) -> str:
    """What is said of losses where the test and the difference do not agree."""
    return (
        f"Item by item ({found.lower:,} better, {found.higher:,} worse) it is not what it is over all tokens together, so it is called "
        f"neither better nor worse {tested_by(found)}."
    )


def tested_by(found: Paired) -> str:
    return f"(p = {found.p:.2g}, {found.test})"


def _words(measure: str, found: Paired, called: str) -> str:
    items = telling.counted(found.items, "item")
    if found.verdict == "same":
        return f"Both are the same on {'all ' if found.items > 1 else ''}{items}."
    if measure == "perplexity":
        change = "lower" if found.difference.value < 0 else "higher"
        what = f"{called}: the loss is {abs(found.difference.value):.3f} nats a token {change}"
    else:
        points = 100 * found.difference.value
        stereotypes = measure == "crows"
        change = ("more often" if stereotypes else "higher") if points > 0 else ("less often" if stereotypes else "lower")
        share = "the stereotype is preferred" if stereotypes else "the share is"
        what = f"{called}: {share} {abs(points):.1f} points {change}" if points else "The shares are the same"
    what = f"{what} on {items}{' together' if found.items > 1 else ''}"  # unlike a mean over subjects
    if found.verdict == "mixed":
        return f"{what}. {mixed(found)}"
    return f"{what}, {'' if found.verdict == 'change' else 'no '}more than chance explains {tested_by(found)}."

"""Relative scores: what a judge that gave both answers points gave a system, over what it gave ChatGPT (QLoRA, section 5.2)."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from engine.errors import BadInput
from engine.evaluate.matches import Scores

REFERENCE = "ChatGPT"


@dataclass(frozen=True)
class Rated:
    """Percent of the reference's points by system, best first, None where no order is left to tell it. `left_out` orders of a pair count
    nowhere: the reference got no points in them."""

    percents: dict[str, float | None]
    left_out: int


def reference(scores: Scores) -> str:
    """What systems are compared with: ChatGPT, where it is among them, else the one that is in most rows."""
    seen = Counter(name for row in scores.rows for name in row[:2])
    if not seen:
        raise BadInput("None of these ratings holds points.")
    return REFERENCE if REFERENCE in seen else seen.most_common(1)[0][0]


def rate(scores: Scores, reference: str = REFERENCE) -> Rated:
    """Every system that has points beside the reference: the mean of both orders."""
    sums: dict[tuple[str, bool], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for first, second, first_score, second_score in scores.rows:
        if reference not in (first, second):
            continue
        system, leads = (first, True) if second == reference else (second, False)
        mine, theirs = (first_score, second_score) if leads else (second_score, first_score)
        both = sums[system, leads]
        both[0] += mine
        both[1] += theirs
    orders: dict[str, list[float]] = {system: [] for system, _ in sums}
    for (system, _), (mine, theirs) in sums.items():
        if theirs:
            orders[system].append(100 * mine / theirs)
    means = {system: sum(each) / len(each) if each else None for system, each in orders.items()}
    ordered = sorted(means.items(), key=lambda each: (each[1] is None, -(each[1] or 0)))
    return Rated(dict(ordered), sum(not theirs for _, theirs in sums.values()))

"""Relative scores: what a judge that gave both answers points gave a system, over what it gave ChatGPT (QLoRA, section 5.2)."""

from collections import Counter, defaultdict

from engine.errors import BadInput
from engine.evaluate.matches import Scores

REFERENCE = "ChatGPT"


def reference(scores: Scores) -> str:
    """What systems are compared with: ChatGPT, where it is among them, else the one that is in most rows."""
    seen = Counter(name for row in scores.rows for name in row[:2])
    if not seen:
        raise BadInput("None of these ratings holds points.")
    return REFERENCE if REFERENCE in seen else seen.most_common(1)[0][0]


def rate(scores: Scores, reference: str = REFERENCE) -> dict[str, float]:
    """Percent of the reference's points by system: the mean of both orders, best first. Raises BadInput where no pair has the
    reference in it."""
    sums: dict[tuple[str, bool], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for first, second, first_score, second_score in scores.rows:
        if reference not in (first, second):
            continue
        system, leads = (first, True) if second == reference else (second, False)
        mine, theirs = (first_score, second_score) if leads else (second_score, first_score)
        both = sums[system, leads]
        both[0] += mine
        both[1] += theirs
    if not sums:
        raise BadInput(f"None of these ratings compares with {reference}.")
    orders: dict[str, list[float]] = defaultdict(list)
    for (system, _), (mine, theirs) in sums.items():
        orders[system].append(100 * mine / theirs)
    return dict(sorted(((system, sum(each) / len(each)) for system, each in orders.items()), key=lambda each: -each[1]))

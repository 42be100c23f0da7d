"""The paper's figures beside ours, computed from the published ratings, each difference explained."""

from collections.abc import Mapping
from dataclasses import dataclass

from engine.evaluate import bradley_terry, elo, paper, relative
from engine.evaluate.matches import Matches, Scores

# How far the mean over orders may lie from the paper's: the rounding of its figures and the error of its and our means.
TOLERANCE = 4.0
RELATIVE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Line:
    """A figure: what it is, as the paper has it, as it comes out here, whether the two agree, and why they differ or what to make
    of them."""

    what: str
    published: str
    ours: str
    agrees: bool
    note: str


def lines(matches: Matches, scores: Scores, orders: int = elo.ORDERS) -> list[Line]:
    """The audit of the Vicuna ratings by GPT-4."""
    rated = elo.rate(matches, orders)
    whole = elo.rate(matches, min(orders, 1_000), sampled=len(matches))
    mean = dict(zip(rated.systems, rated.mean, strict=True))
    found = []
    for row in paper.CARD:
        if row.system in mean:
            ours = float(mean[row.system])
            apart = ours - row.vicuna
            note = (
                "Within the error of the mean."
                if abs(apart) < 1.5
                else f"{apart:+.1f}: how many matches make an order is not published; 500 fits best."
            )
            found.append(Line(f"Elo of {row.system}, GPT-4 on Vicuna", str(row.vicuna), f"{ours:.1f}", abs(apart) <= TOLERANCE, note))
    found += [
        Line(
            "“±1” beside each Elo figure",
            "±1",
            f"one order: ±{rated.deviation.mean():.0f}",
            False,
            "The paper's is the Monte-Carlo error of a mean over thousands of orders, which says nothing of how sure a rating is. "
            f"Here that error is {float(rated.error.mean()):.1f} with {orders:,} orders; a single order lies that far off.",
        ),
        _order_length(mean, whole),
        *_relative(scores),
        _overlap(matches),
        _position(matches),
        Line(
            "Judgements without a verdict",
            "not said",
            f"{scores.unparsed} pairs of points missing",
            True,
            "Pairwise judgements without a verdict count as ties, as in the paper's figures; pairs without points are left out.",
        ),
        Line(
            "Elo by human raters, and on OpenAssistant",
            "shown as published",
            "not computed",
            True,
            "The judgements behind these columns are not among the published files for Vicuna. `python -m engine elo` reads the OpenAssistant "
            "ratings where you have them.",
        ),
    ]
    return found


def _order_length(mean: Mapping[str, float], whole: elo.Elo) -> Line:
    at = whole.systems.index("Guanaco-65B") if "Guanaco-65B" in whole.systems else 0
    name, ours = whole.systems[at], float(whole.mean[at])
    return Line(
        f"Elo of {name} if an order has all matches",
        f"{mean[name]:.0f} (with 500)",
        f"{ours:.0f}",
        False,
        "With K = 32 ratings never settle: the longer an order, the further they spread, and the more its last matches count.",
    )


def _relative(scores: Scores) -> list[Line]:
    ours = relative.rate(scores).percents
    return [
        Line(
            f"{name}, percent of ChatGPT",
            f"{published:.1f}",
            f"{ours[name]:.1f}",
            abs(ours[name] - published) <= RELATIVE_TOLERANCE,
            "The mean of both orders. In 66 of the 72 files the order in the name is the reverse of the ids; the ids are right.",
        )
        for name, published in paper.RELATIVE.items()
        if name in ours
    ]


def _overlap(matches: Matches) -> Line:
    rated = bradley_terry.rate(matches)
    shown = {name: f"{low:.0f} – {high:.0f}" for name, low, high in zip(rated.systems, rated.low, rated.high, strict=True)}
    pair = [name for name in ("Guanaco-65B", "ChatGPT") if name in shown]
    return Line(
        "Guanaco-65B above ChatGPT",
        "1022 against 966",
        ", ".join(f"{name} {shown[name]}" for name in pair),
        False,
        "Bradley-Terry with a bootstrap over the 80 prompts: the two intervals overlap. Eighty questions cannot part systems that close.",
    )


def _position(matches: Matches) -> Line:
    worth = bradley_terry.rate(matches, rounds=0, position=True).position
    return Line(
        "What standing first is worth to GPT-4",
        "“an increase of the score”",
        f"{worth:+.0f} points",
        True,
        "Every pair was judged in both orders, so it cancels in the ratings; a single judgement it may well turn.",
    )

"""How sure a figure is: intervals of shares, means of shares and perplexities, and paired tests of two measurements of the same items.

Shares have Wilson intervals (`engine.game.scoring.share`). All intervals are of 95%.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy

from engine.game.scoring import SIGNIFICANT, Share, share

ROUNDS = 2_000
_Z = 1.959964
Verdict = Literal["same", "chance", "mixed", "change"]
_FEWEST = 2
# Items times rounds of a bootstrap that are drawn at once.
_DRAWS = 100_000


@dataclass(frozen=True)
class Estimate:
    """A figure and within what it lies; None where the items cannot tell."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Paired:
    """A second measurement against a first one on the same items. `difference` is second less first: of shares, or of mean losses in
    nats a token. `higher` and `lower` count items that are true, or lose more, at the second or at the first alone; `same` the others. What
    of it is better is the measure's to say. `p` is two-sided: McNemar's exact test of choices, Wilcoxon's signed ranks of losses; None where
    no item differs. `verdict`: no item differs, no more of a difference than chance explains, the test and the difference do not agree, a
    change."""

    items: int
    first: float
    second: float
    difference: Estimate
    higher: int
    lower: int
    same: int
    p: float | None
    test: str
    verdict: Verdict


def half_width(count: int) -> float:
    """Half of the Wilson interval that a share of so many items has at its widest, where it is a half."""
    if count < 1:
        return 1.0
    return _Z / (1 + _Z**2 / count) * math.sqrt(0.25 / count + _Z**2 / (4 * count**2))


def half_width_of_mean(counts: Sequence[int]) -> float:
    """Half of the interval that `mean_of` shares of so many items each has, at its widest."""
    return min(1.0, _Z * math.sqrt(sum(0.25 / count for count in counts)) / len(counts)) if counts else 1.0


def mean_of(shares: Sequence[Share]) -> Estimate | None:
    """The mean of shares that count alike, however many items each has; None of none. Its error is that of the single shares, each taken
    for nearer to a half than it is, by two successes and two failures more (Agresti and Coull), so that all right in three does not pass
    for certain."""
    if not shares:
        return None
    mean = sum(each.share for each in shares) / len(shares)
    # Only the share is drawn to a half. Divided by the items added too, the error of shares of one to four items would be half of what it is.
    nearer = [((each.k + 2) / (each.n + 4), each.n) for each in shares]
    error = math.sqrt(sum(p * (1 - p) / n for p, n in nearer)) / len(shares)
    return Estimate(mean, max(0.0, mean - _Z * error), min(1.0, mean + _Z * error))


def perplexity(losses: Sequence[float], tokens: Sequence[int], seed: int = 0) -> Estimate:
    """exp of the mean loss a token over items of so many summed nats and tokens, with a bootstrap over items."""
    lost, count = numpy.asarray(losses), numpy.asarray(tokens)
    value = math.exp(lost.sum() / count.sum())
    if len(lost) < _FEWEST:
        return Estimate(value, None, None)
    low, high = numpy.quantile(numpy.exp(_drawn_means(lost, count, seed)), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def paired_choices(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Two measurements of choices: of how many items each was true."""
    from scipy.stats import binomtest

    one, other = numpy.asarray(first, bool), numpy.asarray(second, bool)
    higher, lower, count = int((other & ~one).sum()), int((one & ~other).sum()), len(one)
    p = float(binomtest(higher, higher + lower, 0.5).pvalue) if higher + lower else None
    apart = (higher - lower) / count
    error = math.sqrt(max(higher + lower - (higher - lower) ** 2 / count, 0)) / count
    # Without an item that differs there is no spread to go by: what so many items would have shown of a rare difference.
    reach = _Z * error if higher + lower else 1 - 0.05 ** (1 / count)
    estimate = Estimate(apart, max(-1.0, apart - reach), min(1.0, apart + reach))
    verdict = "same" if p is None else "change" if p < SIGNIFICANT else "chance"
    means = float(one.mean()), float(other.mean())
    return Paired(count, *means, estimate, higher, lower, count - higher - lower, p, "McNemar, exact", verdict)


def paired_losses(first: Sequence[float], second: Sequence[float], tokens: Sequence[int], seed: int = 0) -> Paired:
    """Two measurements of summed losses over the same tokens; less is better. The interval is a bootstrap over items.

    The test weighs items alike and the difference weighs tokens alike: many short items may get better while a long one outweighs them.
    It is a change only where both find it, the same way."""
    from scipy.stats import rankdata, wilcoxon

    one, other, count = numpy.asarray(first), numpy.asarray(second), numpy.asarray(tokens)
    apart = other - one
    mean = float(apart.sum() / count.sum())
    low = high = p = None
    if len(one) >= _FEWEST:
        low, high = map(float, numpy.quantile(_drawn_means(apart, count, seed), [0.025, 0.975]))
    each = apart / count
    leans = float(numpy.sign(each) @ rankdata(abs(each)))  # what the test goes by: above 0 where losses rose
    if each.any():
        p = float(wilcoxon(each).pvalue)
    surely = low is not None and (low > 0 or high < 0)
    if p is None:
        verdict = "same"
    elif p >= SIGNIFICANT and not surely:
        verdict = "chance"
    else:
        verdict = "change" if p < SIGNIFICANT and surely and leans * mean > 0 else "mixed"
    higher, lower = int((apart > 0).sum()), int((apart < 0).sum())
    means = float(one.sum() / count.sum()), float(other.sum() / count.sum())
    same = len(one) - higher - lower
    return Paired(len(one), *means, Estimate(mean, low, high), higher, lower, same, p, "Wilcoxon, signed ranks", verdict)


def share_of(flags: Sequence[bool]) -> Share:
    """How many of them are true."""
    return share(sum(flags), len(flags))


def _drawn_means(sums: numpy.ndarray, tokens: numpy.ndarray, seed: int) -> numpy.ndarray:
    """[rounds]: the mean a token in each round of a bootstrap over items of so many summed nats and tokens."""
    chance, count, means = numpy.random.default_rng(seed), len(sums), numpy.empty(ROUNDS)
    # In portions: a table of all draws would take gigabytes. The size of a portion changes none of them.
    rounds = max(1, _DRAWS // count)
    for first in range(0, ROUNDS, rounds):
        part = means[first : first + rounds]
        drawn = chance.integers(count, size=(len(part), count))
        part[:] = sums.take(drawn).sum(1) / tokens.take(drawn).sum(1)
    return means

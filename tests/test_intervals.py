"""How sure figures are: intervals that cover what they say, their foretold width, paired tests."""

import math
import tracemalloc
from collections import Counter

import numpy
import pytest

from engine.evaluate import comparing, forgetting, intervals
from engine.evaluate.measure import Item, sample
from engine.game.scoring import Share, share


def test_the_width_foretold_is_wilsons():
    for count in (1, 10, 300):
        found = share(count // 2, count) if count % 2 == 0 else None
        if found:
            assert intervals.half_width(count) == pytest.approx((found.high - found.low) / 2, rel=1e-3)
    assert intervals.half_width(0) == 1.0


def test_a_mean_of_shares_is_not_certain_because_all_were_right():
    found = intervals.mean_of([share(3, 3), share(3, 3)])
    assert found.value == 1.0 and found.low < 0.9 and intervals.mean_of([]) is None


# Questions of each subject of the published file.
PUBLISHED_SIZES = (
    *(11, 14, 16, 11, 29, 16, 8, 11, 11, 22, 11, 11, 26, 12, 16, 41, 14, 10, 32, 22, 9, 18, 22, 21, 43, 29, 26, 17, 60),
    *(23, 22, 26, 23, 12, 13, 11, 18, 11, 11, 25, 11, 86, 38, 100, 33, 34, 35, 31, 170, 31, 69, 12, 27, 22, 11, 18, 19),
)


@pytest.mark.parametrize("limit", [57, 100, 200, 1531])
@pytest.mark.parametrize(("least", "most"), [(0.2, 0.35), (0.3, 0.7)])
def test_the_interval_of_a_mean_over_subjects_covers_and_is_no_wider_than_foretold(limit, least, most):
    """Drawn anew, the true mean of the subjects lies within it about 95 times of 100, however few questions each has."""
    items = [Item(f"{subject} {number}", str(subject), None) for subject, size in enumerate(PUBLISHED_SIZES) for number in range(size)]
    sizes = list(Counter(item.group for item in sample(items, limit, 0)).values())
    foretold, chance, inside, widths = intervals.half_width_of_mean(sizes), numpy.random.default_rng(0), 0, []
    for _ in range(1_000):
        rates = chance.uniform(least, most, len(sizes))
        right = chance.binomial(sizes, rates)
        found = intervals.mean_of([Share(int(k), n, None, None) for k, n in zip(right, sizes, strict=True)])
        inside += found.low <= rates.mean() <= found.high
        widths.append((found.high - found.low) / 2)
    assert 930 <= inside and 0.8 * foretold < min(widths) and max(widths) <= foretold


def test_the_interval_of_a_perplexity_covers():
    chance = numpy.random.default_rng(0)
    inside = 0
    for round in range(100):
        losses = chance.normal(2.0, 0.5, 40) * 10
        found = intervals.perplexity(losses, [10] * 40, seed=round)
        inside += found.low <= math.exp(2.0) <= found.high
    assert 85 <= inside <= 100


def test_a_bootstrap_in_portions_is_the_whole_one(monkeypatch):
    chance = numpy.random.default_rng(2)
    losses, tokens = chance.normal(20, 3, 300), chance.integers(1, 50, 300)
    drawn = numpy.random.default_rng(7).integers(300, size=(intervals.ROUNDS, 300))
    low, high = numpy.quantile(numpy.exp(losses[drawn].sum(1) / tokens[drawn].sum(1)), [0.025, 0.975])
    for most in (1, 7 * 300 + 5, 10**9):
        monkeypatch.setattr(intervals, "_DRAWS", most)
        found = intervals.perplexity(losses, tokens, seed=7)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_a_bootstrap_over_many_items_needs_little_memory():
    """A table of all draws of 4,000 items would take 64 MB."""
    losses, tokens = [20.0] * 4_000, [10] * 4_000
    tracemalloc.start()
    try:
        intervals.perplexity(losses, tokens)
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


def test_a_perplexity_of_one_row_has_no_interval():
    assert intervals.perplexity([4.0], [2]) == intervals.Estimate(math.exp(2), None, None)


def test_paired_choices_are_tested_on_those_that_differ():
    first = [True] * 10 + [False] * 10
    second = [True] * 10 + [True] * 8 + [False] * 2
    found = intervals.paired_choices(first, second)
    assert (found.higher, found.lower, found.same) == (8, 0, 12) and found.difference.value == pytest.approx(0.4)
    assert found.p == pytest.approx(2 * 0.5**8) and found.verdict == "change"
    assert intervals.paired_choices([True] * 4 + [False], [True] * 3 + [False, True]).verdict == "chance"
    assert 0 < found.difference.low < 0.4 < found.difference.high
    same = intervals.paired_choices([True, False], [True, False])
    assert same.p is None and same.difference.low < 0 < same.difference.high


def test_paired_losses_know_the_sign():
    chance = numpy.random.default_rng(1)
    first = chance.normal(20, 3, 50)
    found = intervals.paired_losses(first, first - 1 + chance.normal(0, 0.5, 50), [10] * 50)
    assert found.difference.value == pytest.approx(-0.1, abs=0.02) and found.difference.high < 0 and found.p < 1e-6 and found.lower > 45
    assert found.verdict == "change" and intervals.paired_losses(first, first - 1, [10] * 50).verdict == "change"
    same = intervals.paired_losses([1.0, 2.0], [1.0, 2.0], [1, 1])
    assert same.p is None and same.verdict == "same"
    assert intervals.paired_losses(first, first + chance.normal(0, 3, 50), [10] * 50).verdict == "chance"
    assert intervals.paired_losses([1.0], [2.0], [1]).verdict == "chance"


def test_where_short_items_got_better_and_a_long_one_outweighs_them_it_is_mixed():
    """By items it is much better, by tokens a little worse: neither is what happened."""
    tokens = numpy.array([10] * 39 + [500])
    first = 2.0 * tokens
    change = numpy.array([*-numpy.linspace(0.25, 0.75, 39), 50.0])
    found = intervals.paired_losses(first, first + change, tokens)
    assert (found.lower, found.higher) == (39, 1) and found.p < 1e-6 and found.difference.value > 0 > found.difference.low
    assert found.verdict == "mixed" and "lost" not in forgetting._verdict(found, True)
    said = comparing._words("perplexity", found, "Mine")
    assert "nats a token higher on 40 items together. Item by item (39 better, 1 worse)" in said and "chance" not in said
    # The other way round: all tokens together are surely worse, and by items nothing is found.
    few = numpy.array([*numpy.full(26, -0.1), *numpy.linspace(5, 6, 14)])
    found = intervals.paired_losses(first, first + few, [10] * 40)
    assert found.p >= 0.05 and found.difference.low > 0 and found.verdict == "mixed"

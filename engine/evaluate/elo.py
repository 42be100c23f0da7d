"""Elo as in the QLoRA paper: matches played in a random order, over and over, and the mean over the orders.

What one order gives depends on the order far more than the paper's "±1" tells: that is the error of the mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from engine.evaluate.matches import Matches

START, K, BASE, SCALE = 1000.0, 32.0, 10.0, 400.0
# The paper's figures come out with so many matches of all, drawn anew for every order.
SAMPLED = 500
ORDERS = 10_000
_AT_ONCE = 1_000
# Drawing takes twelve bytes for each match of each order that is drawn at once.
_DRAWN_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Elo:
    """Final ratings [orders, systems] of every order."""

    systems: tuple[str, ...]
    ratings: numpy.ndarray

    @property
    def mean(self) -> numpy.ndarray:
        """[systems]; what the paper prints."""
        return self.ratings.mean(0)

    @property
    def deviation(self) -> numpy.ndarray:
        """[systems]; how far single orders lie apart: a standard deviation."""
        return self.ratings.std(0, ddof=1)

    @property
    def error(self) -> numpy.ndarray:
        """[systems]; the Monte-Carlo error of the mean, which more orders make as small as one likes."""
        return self.deviation / len(self.ratings) ** 0.5

    def interval(self, level: float = 0.95) -> tuple[numpy.ndarray, numpy.ndarray]:
        """[systems] each: within which single orders end."""
        low, high = numpy.quantile(self.ratings, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high


def rate(matches: Matches, orders: int = ORDERS, sampled: int = SAMPLED, seed: int = 0) -> Elo:
    """Play `sampled` matches (or all, where there are fewer) in each of so many random orders."""
    chance = numpy.random.default_rng(seed)
    blocks = [
        _played(matches, _orders(chance, len(matches), min(_AT_ONCE, orders - start), sampled)) for start in range(0, orders, _AT_ONCE)
    ]
    return Elo(matches.systems, numpy.concatenate(blocks))


def one_order(matches: Matches, seed: int, sampled: int = SAMPLED) -> numpy.ndarray:
    """Ratings [matches + 1, systems] after each match of one random order, from the start on."""
    order = _orders(numpy.random.default_rng(seed), len(matches), 1, sampled)
    return numpy.stack([ratings[0].copy() for ratings in _steps(matches, order)])


def _orders(chance: numpy.random.Generator, count: int, orders: int, sampled: int) -> numpy.ndarray:
    """[orders, sampled] indices of matches; within a row each at most once, in random order."""
    rows = max(1, _DRAWN_AT_ONCE // count)
    return numpy.concatenate([_drawn(chance, count, min(rows, orders - start), min(sampled, count)) for start in range(0, orders, rows)])


def _drawn(chance: numpy.random.Generator, count: int, orders: int, sampled: int) -> numpy.ndarray:
    drawn = chance.random((orders, count), dtype=numpy.float32)
    chosen = numpy.argpartition(drawn, sampled - 1, axis=1)[:, :sampled]
    keys = numpy.take_along_axis(drawn, chosen, 1)
    return numpy.take_along_axis(chosen, keys.argsort(1), 1)


def _played(matches: Matches, orders: numpy.ndarray) -> numpy.ndarray:
    """Final ratings [orders, systems]."""
    *_, last = _steps(matches, orders)
    return last


def _steps(matches: Matches, orders: numpy.ndarray) -> Iterator[numpy.ndarray]:
    """The ratings [orders, systems], before the first match and after each: one array, changed in place."""
    ratings = numpy.full((len(orders), len(matches.systems)), START)
    flat, rows = ratings.reshape(-1), numpy.arange(len(orders)) * len(matches.systems)
    yield ratings
    for column in orders.T:
        first, second = rows + matches.first[column], rows + matches.second[column]
        expected = 1 / (1 + BASE ** ((flat[second] - flat[first]) / SCALE))
        change = K * (matches.score[column] - expected)
        flat[first] += change
        flat[second] -= change
        yield ratings

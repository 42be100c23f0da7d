"""Bradley-Terry: the ratings under which the judgements are likeliest, whatever their order, with intervals over prompts.

Two terms may be taken out of the ratings: that a judge favours the answer it sees first, and that it favours the longer one.
"""

from dataclasses import dataclass

import numpy

from engine.errors import BadInput
from engine.evaluate.elo import BASE, SCALE, START
from engine.evaluate.matches import Matches

ROUNDS = 1_000
LEAST_PROMPTS = 10
# Points of rating in one unit of log-odds.
POINTS = SCALE / numpy.log(BASE)
# A weak pull to the middle, of no account where there are hundreds of judgements; without it one who never lost had no rating.
_INVERSE_PENALTY = 100.0


@dataclass(frozen=True)
class BradleyTerry:
    """Ratings [systems] around a mean of 1000, on Elo's scale, with what lies within `low` and `high` [systems] in 95% of the
    bootstrap rounds; these are nan where the judgements cannot tell: on few prompts, or of a system that never lost or never
    won a point. `position` is what standing first is worth and `length` what an answer twice as long is worth, in the same
    points, None where the term was not asked for."""

    systems: tuple[str, ...]
    ratings: numpy.ndarray
    low: numpy.ndarray
    high: numpy.ndarray
    position: float | None
    length: float | None


def rate(matches: Matches, rounds: int = ROUNDS, position: bool = False, length: bool = False, seed: int = 0) -> BradleyTerry:
    """Ratings with a bootstrap of so many rounds over prompts. Raises BadInput where lengths are asked for but not known."""
    if length and matches.longer is None:
        raise BadInput("The lengths of these answers are not known: they need the answers beside the ratings.")
    features, wins, prompts = _cells(matches, position, length)
    draws = numpy.random.default_rng(seed).multinomial(prompts, numpy.full(prompts, 1 / prompts), size=rounds)
    weights = numpy.concatenate([numpy.ones((1, prompts)), draws])
    fitted = numpy.stack([_fit(features, each @ wins) for each in weights])
    count = len(matches.systems)
    ratings = START + POINTS * (fitted[:, :count] - fitted[:, :count].mean(1, keepdims=True))
    low, high = numpy.quantile(ratings[1:], [0.025, 0.975], axis=0) if rounds else numpy.full((2, count), numpy.nan)
    unknown = _unknown(matches)
    low[unknown] = high[unknown] = numpy.nan
    extra = list(fitted[0, count:] * POINTS)
    return BradleyTerry(
        matches.systems,
        ratings[0],
        low,
        high,
        extra.pop(0) if position else None,
        extra.pop(0) * numpy.log(2) if length else None,
    )


def _unknown(matches: Matches) -> numpy.ndarray:
    """[systems]; of which a bootstrap would only show how little it was given: resampled, one sort of verdict stays one sort."""
    won, lost = numpy.zeros(len(matches.systems)), numpy.zeros(len(matches.systems))
    for side, score in ((matches.first, matches.score), (matches.second, 1 - matches.score)):
        numpy.add.at(won, side, score)
        numpy.add.at(lost, side, 1 - score)
    return (won == 0) | (lost == 0) | (len(matches.prompts) < LEAST_PROMPTS)


def _cells(matches: Matches, position: bool, length: bool) -> tuple[tuple[numpy.ndarray, numpy.ndarray], numpy.ndarray, int]:
    """Judgements that look alike, counted together: (features [cells, terms], whether the first won [cells]), how many of them
    each prompt has [prompts, cells], and the number of prompts. A tie is half a win and half a loss."""
    systems, prompts = len(matches.systems), len(matches.prompts)
    apart = numpy.arange(len(matches)) if length else matches.first * systems + matches.second
    _, where, cell = numpy.unique(apart, return_index=True, return_inverse=True)
    terms = numpy.zeros((len(where), systems + position + length))
    terms[numpy.arange(len(where)), matches.first[where]] = 1
    terms[numpy.arange(len(where)), matches.second[where]] -= 1
    if position:
        terms[:, systems] = 1
    if length:
        terms[:, -1] = matches.longer[where]
    wins = numpy.zeros((prompts, 2 * len(where)))
    numpy.add.at(wins, (matches.prompt, cell), matches.score)
    numpy.add.at(wins, (matches.prompt, cell + len(where)), 1 - matches.score)
    return (numpy.concatenate([terms, terms]), numpy.repeat([True, False], len(where))), wins, prompts


def _fit(features: tuple[numpy.ndarray, numpy.ndarray], weights: numpy.ndarray) -> numpy.ndarray:
    """The terms' log-odds [terms] under which cells that are there so often are likeliest."""
    from sklearn.linear_model import LogisticRegression

    there = weights > 0
    terms, won, weights = features[0][there], features[1][there], weights[there]
    if won.all() or not won.any():  # scikit-learn wants both outcomes: one side's win is the other's loss
        terms, won, weights = numpy.concatenate([terms, -terms]), numpy.concatenate([won, ~won]), numpy.tile(weights / 2, 2)
    model = LogisticRegression(C=_INVERSE_PENALTY, fit_intercept=False, solver="newton-cholesky", tol=1e-6)
    return model.fit(terms, won, weights).coef_[0]

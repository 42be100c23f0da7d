"""Leaderboards: systems rated by a judge's or by players' preferences, and players by what they told apart."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy

from engine.errors import BadInput
from engine.evaluate import bradley_terry, elo, matches
from engine.evaluate.matches import Matches
from engine.game import scoring
from engine.game.records import GuessRow
from engine.game.scoring import Share
from engine.telling import counted

Method = Literal["bt", "elo"]
# Where the drawing of an order, and of the mean over orders, stops for a look.
_FRAMES = 12


@dataclass(frozen=True)
class Board:
    """Systems, best first, each with rating and 95% interval (nan where the judgements cannot tell); what was found on the way, in
    sentences."""

    names: tuple[str, ...]
    ratings: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Player:
    """What a named player got right, and in how many games."""

    name: str
    right: Share
    games: int


def rated(found: Matches, method: Method, position: bool = False, length: bool = False) -> list[Board]:
    """Rate systems: a board for each group of those that met. The terms for position and length belong to Bradley-Terry. Raises
    BadInput where lengths are not known."""
    return [_rated(group, method, position, length) for group in matches.groups(found)]


def _rated(found: Matches, method: Method, position: bool, length: bool) -> Board:
    judged = f"{counted(len(found), 'judgement')} on {counted(len(found.prompts), 'question')}."
    if method == "elo":
        by_order = elo.rate(found)
        notes = [
            judged,
            f"The mean over {len(by_order.ratings):,} random orders; its own error is {by_order.error.mean():.1f}, the “±1” of the paper.",
            f"A single order ends {by_order.deviation.mean():.0f} points off on average; the bars show where 95% of them end.",
        ]
        return _board(found.systems, by_order.mean, *by_order.interval(), notes)
    fitted = bradley_terry.rate(found, position=position, length=length)
    notes = [judged, "Order-free; the bars are 95% of a bootstrap over questions."]
    if fitted.position is not None:
        notes.append(f"Standing first is worth {fitted.position:+.0f} points to this judge; that is taken out.")
    if fitted.length is not None:
        notes.append(f"An answer twice as long is worth {fitted.length:+.0f} points; that is taken out.")
    return _board(found.systems, fitted.ratings, fitted.low, fitted.high, notes)


def _board(names, ratings, low, high, notes) -> Board:
    order = numpy.argsort(-numpy.asarray(ratings))
    return Board(tuple(names[at] for at in order), *(tuple(float(each[at]) for at in order) for each in (ratings, low, high)), tuple(notes))


def votes(guesses: Iterable[GuessRow]) -> Matches:
    """The players' preferences as matches, by question. One that was asked again counts, a catch round does not: there was nothing
    to prefer. Raises BadInput where nobody has voted."""
    rows, lengths = [], {}
    for each in guesses:
        if not each.catch:
            rows.append((each.asked, each.left, each.right, matches.PREFERENCES[each.preference]))
            lengths |= {(each.left, each.asked): max(1, each.left_length), (each.right, each.asked): max(1, each.right_length)}
    if not rows:
        raise BadInput("Nobody has played here yet. Play a round of the blind game, and your preferences are rated here.")
    return matches.of_rows(rows, lengths)


def players(guesses: Iterable[GuessRow]) -> list[Player]:
    """Named players by the lower end of their interval, best first. Every guess that counts is in it, of unfinished games as well:
    who walks away from a bad one must not look better for it. Replays are not: their file tells the sides."""
    rights: dict[str, list[bool]] = defaultdict(list)
    games: dict[str, set[str]] = defaultdict(set)
    for each in guesses:
        if each.player and not each.catch and not {"seen", "replay"} & set(each.leak_flags):
            rights[each.player].append(each.correct)
            games[each.player].add(each.game)
    found = [Player(name, scoring.share(sum(each), len(each)), len(games[name])) for name, each in rights.items()]
    return sorted(found, key=lambda player: -player.right.low)


def one_order(found: Matches, seed: int) -> Iterator[numpy.ndarray]:
    """One random order as it is played: the ratings [matches so far + 1, systems], longer from frame to frame."""
    path = elo.one_order(found, seed)
    for end in numpy.linspace(0, len(path) - 1, _FRAMES + 1).astype(int)[1:]:
        yield path[: end + 1]


def settling(found: Matches, seed: int, orders: int = elo.ORDERS) -> Iterator[tuple[numpy.ndarray, numpy.ndarray]]:
    """The mean over more and more orders: (numbers of orders [points], means [points, systems]), longer from frame to frame."""
    final = elo.rate(found, orders, seed=seed).ratings
    means = numpy.cumsum(final, 0) / numpy.arange(1, len(final) + 1)[:, None]
    points = numpy.unique(numpy.geomspace(1, len(final), 12 * _FRAMES).astype(int))
    for end in numpy.linspace(0, len(points), _FRAMES + 1).astype(int)[1:]:
        yield points[:end], means[points[:end] - 1]

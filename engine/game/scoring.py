"""The score card: what n guesses are worth, honestly. Words first, figures under them.

Statistics: Wilson interval and exact binomial test (scipy), d' of a two-alternative choice (√2·z(p), Macmillan and Creelman,
2005), Brier score of the stated confidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

LENGTHS = (10, 20, 40, 80)
CONFIDENCES = (50, 60, 75, 90, 99)
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Guess:
    """A guess that counts: whether it was right, how sure (percent), whether the left answer was picked, whether the longer one was
    taken for the other system's (None where both are as long), the question's category, and whose answer was liked better (None for
    a tie)."""

    question: str
    right: bool
    confidence: int
    left: bool
    longer_is_other: bool | None
    category: str
    liked: str | None = None


@dataclass(frozen=True)
class Share:
    """k of n with the 95% Wilson interval (shares); None where n is 0."""

    k: int
    n: int
    low: float | None
    high: float | None

    @property
    def share(self) -> float | None:
        return self.k / self.n if self.n else None


@dataclass(frozen=True)
class Card:
    """A player's result. `finished`: as many guesses as the length that was fixed before; only then `p` (exact, one-sided, against
    chance) may be read as significant. `d_prime` is clamped half a guess away from none and all. `brier` is the mean squared error
    of the confidence, 0.25 for who always says 50%. `calibration`: by stated confidence, how many of how many were right. `preferred`: by
    system, how many of the answers were liked better, of those where one was. `bots`:
    how many of the same questions each bot gets."""

    right: Share
    length: int
    finished: bool
    p: float | None
    needed: int | None
    d_prime: float | None
    brier: float | None
    left: Share
    left_p: float | None
    longer: Share
    preferred: Mapping[str, Share]
    calibration: Mapping[int, Share]
    categories: Mapping[str, Share]
    bots: Mapping[str, int]
    aside: int
    catches: tuple[int, int]
    streak: int
    words: str


def needed(length: int) -> int | None:
    """How many of `length` guesses must be right for a one-sided p below 0.05; None where not even all are enough."""
    from scipy.stats import binom

    return next((right for right in range(length + 1) if binom.sf(right - 1, length, 0.5) < SIGNIFICANT), None)


def share(k: int, n: int) -> Share:
    if not n:
        return Share(0, 0, None, None)
    from scipy.stats import binomtest

    interval = binomtest(k, n).proportion_ci(0.95, "wilson")
    return Share(k, n, float(interval.low), float(interval.high))


def d_prime(k: int, n: int) -> float:
    """√2·z(p) of k right choices among n, p kept half a choice away from 0 and 1."""
    from scipy.stats import norm

    p = min(max(k / n, 0.5 / n), 1 - 0.5 / n)
    return float(2**0.5 * norm.ppf(p))


def card(
    guesses: Sequence[Guess],
    length: int,
    systems: tuple[str, str],
    bots: Mapping[str, Mapping[str, bool]],
    aside: int = 0,
    catches: tuple[int, int] = (0, 0),
) -> Card:
    """The card of guesses in their order. `aside` guesses are left out already: their question had been seen, or both answers were one system's. `catches` are how
    many of the catch rounds were answered with the least confidence, and how many there were. `bots`: whether each gets a
    question, by question."""
    from scipy.stats import binomtest

    n, k = len(guesses), sum(each.right for each in guesses)
    finished = n + aside >= length
    longer = [each.longer_is_other for each in guesses if each.longer_is_other is not None]
    left = sum(each.left for each in guesses)
    liked = [each.liked for each in guesses if each.liked]
    by_confidence = {level: [each.right for each in guesses if each.confidence == level] for level in CONFIDENCES}
    categories = {
        name: [each.right for each in guesses if each.category == name] for name in dict.fromkeys(each.category for each in guesses)
    }
    p = float(binomtest(k, n, 0.5, "greater").pvalue) if n else None
    found = Card(
        right=share(k, n),
        length=length,
        finished=finished,
        p=p,
        needed=needed(n) if n else None,
        d_prime=d_prime(k, n) if n else None,
        brier=sum((each.confidence / 100 - each.right) ** 2 for each in guesses) / n if n else None,
        left=share(left, n),
        left_p=float(binomtest(left, n, 0.5).pvalue) if n else None,
        longer=share(sum(longer), len(longer)),
        preferred={system: share(sum(each == system for each in liked), len(liked)) for system in systems},
        calibration={level: share(sum(each), len(each)) for level, each in by_confidence.items() if each},
        categories={name: share(sum(each), len(each)) for name, each in categories.items() if name},
        bots={bot: sum(picks.get(each.question, False) for each in guesses) for bot, picks in bots.items()},
        aside=aside,
        catches=catches,
        streak=_longest([each.right for each in guesses]),
        words="",
    )
    return _with_words(found, systems)


def verdict(p: float | None, finished: bool) -> Literal["unfinished", "told apart", "not shown"]:
    """What a result may be called. An unfinished game is never significant: who may stop when it looks good always wins."""
    if not finished or p is None:
        return "unfinished"
    return "told apart" if p < SIGNIFICANT else "not shown"


def by_chance(p: float) -> str:
    """A p-value in words: in which share of games as long a coin does as well. What is small has a decimal, since 5.5% is not below 5%."""
    share = "less than 0.1%" if p < 0.0005 else f"{p:.1%}" if p < 0.1 else f"{p:.0%}"
    return f"{share} of such games"


def _longest(right: Sequence[bool]) -> int:
    best = now = 0
    for each in right:
        now = now + 1 if each else 0
        best = max(best, now)
    return best


def _with_words(found: Card, systems: tuple[str, str]) -> Card:
    n, k = found.right.n, found.right.k
    if not n:
        return replace(found, words="Nothing was guessed that counts.")
    kind = verdict(found.p, found.finished)
    said = [f"You got {k} of {n} right."]
    if kind == "unfinished":
        said.append(f"This game is unfinished ({n + found.aside} of {found.length}), so it proves nothing yet.")
    elif kind == "told apart":
        said.append(f"You can tell {systems[0]} from {systems[1]}: a coin does as well in {by_chance(found.p)}.")
    else:
        need = f"{found.needed} would have been needed" if found.needed else "more rounds would be needed"
        said.append(f"That is not shown to be better than a coin, which does as well in {by_chance(found.p)}; {need}.")
    better = [bot for bot, count in found.bots.items() if k > count]
    worse = [bot for bot, count in found.bots.items() if k < count]
    if better or worse:
        beat = f"You beat the bot{'s' if len(better) > 1 else ''} {_and(better)}" if better else ""
        lost = f"{'lost' if better else 'You lost'} to {_and(worse)}" if worse else ""
        said.append(f"{' and '.join(filter(None, (beat, lost)))}.")
    if found.longer.n and n >= 5 and abs(found.longer.share - 0.5) >= 0.3:
        followed = found.longer.share if found.longer.share > 0.5 else 1 - found.longer.share
        whose = systems[1] if found.longer.share > 0.5 else systems[0]
        said.append(f"You used length in {followed:.0%} of your picks: the longer answer was {whose}'s to you.")
    if found.left_p is not None and found.left_p < SIGNIFICANT:
        side = "left" if found.left.share > 0.5 else "right"
        said.append(
            f"You picked the {side} answer in {max(found.left.share, 1 - found.left.share):.0%} of rounds, though sides are random."
        )
    return replace(found, words=" ".join(said))


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

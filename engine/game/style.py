"""What a text's style gives away: cues for the reveal, and the bots that play by style alone.

A bot never sees the answer it is asked about: the style classifier is fitted on the other questions of a deck.
"""

import math
import re
from collections.abc import Callable, Mapping

import numpy

from engine.game import fairness

_WORDS = re.compile(r"\w+")
_FOLDS = 10
_LEAST_QUESTIONS = 10
# Name, and how it is read from a text; lengths as logarithms, so that a ratio counts and not a difference.
FEATURES: Mapping[str, Callable[[str], float]] = {
    "length": lambda text: math.log(len(text) + 1),
    "words a sentence": lambda text: math.log(len(_WORDS.findall(text)) / (len(re.findall(r"[.!?](?=\s|$)", text)) + 1) + 1),
    "letters a word": lambda text: sum(map(len, words)) / len(words) if (words := _WORDS.findall(text)) else 0.0,
    "paragraphs": lambda text: math.log(text.count("\n\n") + 1),
    "list items": lambda text: math.log(len(re.findall(r"^\s*(?:\d+[.)]|[-*•])\s", text, re.MULTILINE)) + 1),
    "commas a word": lambda text: text.count(",") / (len(_WORDS.findall(text)) + 1),
    "code": lambda text: float("```" in text),
    "exclamation marks": lambda text: float("!" in text),
    "questions at the end": lambda text: float("?" in text[-120:]),
    "broken end": lambda text: float(fairness.cut_off(text)),
    "summary": lambda text: float(
        bool(re.search(r"\b(?:overall|in conclusion|in summary|ultimately)\b", text[len(text) // 2 :], re.IGNORECASE))
    ),
}
BOTS = {
    "always longer": "takes the longer answer for {other}'s",
    "style": "a classifier of style alone, fitted on the other questions",
    "coin": "tosses a coin",
}


def features(text: str) -> list[float]:
    """The figures of a text, in the order of FEATURES."""
    return [read(text) for read in FEATURES.values()]


def cues(found: str, other: str, names: tuple[str, str], question: str) -> list[str]:
    """What told the answers of the two systems apart, in sentences; empty where nothing in their style did."""
    told = []
    lengths = len(found), len(other)
    if max(lengths) >= 1.25 * min(lengths):
        long = int(lengths[1] > lengths[0])
        told.append(f"{names[long]}'s is {max(lengths) / max(1, min(lengths)):.1f} times as long.")
    for name, text in zip(names, (found, other), strict=True):
        if fairness.cut_off(text):
            told.append(f"{name}'s ends in the middle of a sentence.")
        if fairness.names_itself(text, question, names):
            told.append(f"{name}'s says what wrote it.")
    items = [round(math.exp(FEATURES["list items"](text))) - 1 for text in (found, other)]
    if min(items) == 0 and max(items) >= 2:
        told.append(f"Only {names[int(items[1] > items[0])]}'s is a list.")
    return told


def picks(texts: Mapping[str, tuple[str, str]], bot: str, seed: int) -> dict[str, bool]:
    """By question, whether a bot finds the first of the two texts, which are those that a player sees."""
    if bot == "always longer":
        return {id: len(found) < len(other) for id, (found, other) in texts.items()}
    if bot == "coin":
        return {id: bool(toss) for id, toss in zip(texts, numpy.random.default_rng(seed).integers(2, size=len(texts)), strict=True)}
    return _classified(texts, seed)


def _classified(texts: Mapping[str, tuple[str, str]], seed: int) -> dict[str, bool]:
    """Cross-validated over questions. Too few of them teach nothing: then it says what the coin says."""
    if len(texts) < _LEAST_QUESTIONS:
        return picks(texts, "coin", seed)
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ids = list(texts)
    apart = numpy.array([numpy.subtract(features(found), features(other)) for found, other in texts.values()])
    right = {}
    for train, test in KFold(min(_FOLDS, len(ids)), shuffle=True, random_state=0).split(apart):
        model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(fit_intercept=False, C=0.3))
        model.fit(numpy.concatenate([apart[train], -apart[train]]), numpy.repeat([1, 0], len(train)))
        right |= dict(zip((ids[index] for index in test), map(bool, model.predict(apart[test])), strict=True))
    return right

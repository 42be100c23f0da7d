"""MMLU with five shots and CrowS-Pairs on the starter, against a plain loop that scores one whole text at a time on the same backend.

Targets on two cores: MMLU at least 4 times as fast with the same choice on 99.5% of questions, CrowS-Pairs at least 2 times as fast with
scores within 1e-3. Both sides take turns, so that a slow minute is one for both. Data: `GUANACO_ANSWERS` for MMLU,
the file of CrowS-Pairs as the first argument.
"""

import argparse
import os
import random
import statistics
import time
from pathlib import Path

from common import ROOT

_SHARED = ROOT.parent / "shared/data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="?", default=str(_SHARED / "crows-pairs/crows_pairs_anonymized.csv"))
    parser.add_argument("--rounds", type=int, default=3, help="of MMLU")
    parser.add_argument("--subjects", type=int, default=4, help="in a round of MMLU")
    parser.add_argument("--sentences", type=int, default=300, help="pairs of CrowS-Pairs, in portions of 100")
    parser.add_argument("--quantization", nargs="+", default=["nf4", "none"])
    chosen = parser.parse_args()

    from engine.backends.transformers import TransformersBackend
    from engine.models import resolve
    from engine.settings import LoadSettings

    for held in chosen.quantization:
        load = LoadSettings(backend="transformers", quantization=held)
        backend = TransformersBackend(resolve("starter"), load, lambda progress: None)
        try:
            mmlu_rounds(backend, held, chosen.rounds, chosen.subjects)
            crows_rounds(backend, held, chosen.pairs, chosen.sentences)
        finally:
            backend.close()


def seconds(work) -> tuple[float, object]:
    """How long work took, and what came of it."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def plain_choice(backend, choice) -> int:
    """The likeliest candidate by one pass over the whole prompt; each is one token here."""
    from engine.backends.scoring import divided
    from engine.blend import BASE

    before, rests = divided(backend.prompting, choice)
    logits = backend.logits(list(before), BASE, 1)[0]
    return max(range(len(rests)), key=lambda at: float(logits[rests[at][0]]))


def plain_sentence(backend, text) -> float:
    """The log-likelihood of a sentence by one pass over it."""
    from engine.blend import BASE

    found = backend.logits(list(text.ids), BASE, len(text.ids)).double().log_softmax(-1)
    return sum(float(found[place - 1, token]) for place, token in enumerate(text.ids) if place and text.learn[place])


def mmlu_rounds(backend, held: str, rounds: int, count: int) -> None:
    """Each round takes other subjects, drawn at random."""
    from engine.blend import BASE
    from engine.evaluate import mmlu

    items = mmlu.read("", 5, "", False, lambda progress: None).items(None)
    subjects = sorted({item.group for item in items})
    random.Random(0).shuffle(subjects)
    scorer, ratios, took, same, of = backend.scorer(), [], [0.0, 0.0], 0, 0
    for number in range(rounds):
        drawn = subjects[number * count : (number + 1) * count]
        asked = [mmlu._choice(item.content, 5) for item in items if item.group in drawn]
        ours, found = seconds(lambda asked=asked: dict(scorer.choices(asked, BASE, lambda: False)))
        plain, expected = seconds(lambda asked=asked: [plain_choice(backend, choice) for choice in asked])
        taken = [max(range(4), key=found[number].__getitem__) for number in range(len(asked))]
        same += sum(one == other for one, other in zip(taken, expected, strict=True))
        of += len(asked)
        ratios.append(plain / ours)
        took = [took[0] + plain, took[1] + ours]
        print(f"  {', '.join(drawn)}: {len(asked)} questions, {plain:.1f} s over {ours:.1f} s, {plain / ours:.2f}", flush=True)
    print(
        f"MMLU, five shots, {held}: {took[0] / took[1]:.2f} times as fast over all ({took[0]:.0f} s over {took[1]:.0f} s), median of rounds "
        f"{statistics.median(ratios):.2f}, {of / took[1]:.2f} questions/s, the same choice on {same} of {of}",
        flush=True,
    )


def crows_rounds(backend, held: str, path: str, count: int) -> None:
    from engine import prompts
    from engine.blend import BASE
    from engine.evaluate import crows
    from engine.evaluate.measure import Subject, sample

    scorer = backend.scorer()
    subject = Subject(scorer, prompts.prompt_format("chat"), "", scorer.context)
    items = sample(crows.read(path, False, lambda progress: None).items(subject), count, 0)
    ratios, differences, rates = [], [], []
    for first in range(0, len(items), 100):
        texts = [crows._sentence(subject, each) for item in items[first : first + 100] for each in (item.content.more, item.content.less)]
        plain, expected = seconds(lambda texts=texts: [plain_sentence(backend, text) for text in texts])
        ours, found = seconds(lambda texts=texts: dict(subject.scorer.likelihoods(texts, BASE, lambda: False)))
        differences += [abs(sum(found[number]) - expected[number]) for number in range(len(texts))]
        ratios.append(plain / ours)
        rates.append(len(texts) / 2 / ours)
        print(f"  {len(texts)} sentences, {plain:.1f} s over {ours:.1f} s, {plain / ours:.2f}", flush=True)
    print(
        f"CrowS-Pairs, {held}: median {statistics.median(ratios):.2f} times as fast, {statistics.median(rates):.1f} pairs/s, largest "
        f"difference of a sentence's score {max(differences):.1e}, {sum(each <= 1e-3 for each in differences)} of {len(differences)} within 1e-3",
        flush=True,
    )


if __name__ == "__main__":
    if Path(_SHARED / "qlora").is_dir():
        os.environ.setdefault("GUANACO_ANSWERS", str(_SHARED / "qlora"))
    main()

"""Ratings of the 4,480 published judgements. Targets on two cores: 10,000 Elo orders of 500 matches in 5 s, Bradley-Terry with 1,000
bootstrap rounds over prompts in 10 s."""

import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

RUNS = 3


def main() -> None:
    from engine.evaluate import bradley_terry, elo
    from engine.game import published

    found = published.ratings()
    work = {
        "Elo, 10,000 orders of 500": lambda: elo.rate(found),
        "Bradley-Terry, 1,000 rounds": lambda: bradley_terry.rate(found),
        "the same with the position term": lambda: bradley_terry.rate(found, position=True),
        "the same with position and length": lambda: bradley_terry.rate(found, position=True, length=True),
    }
    for name, rate in work.items():
        times = []
        for _ in range(RUNS):
            began = time.perf_counter()
            rate()
            times.append(time.perf_counter() - began)
        print(f"{name}: median {statistics.median(times):.2f} s of {RUNS}, worst {max(times):.2f} s")


if __name__ == "__main__":
    os.environ.setdefault("GUANACO_ANSWERS", str(ROOT.parent / "shared/data/qlora"))
    main()

"""`python tests/benchmarks/inspecting.py`: how long `python -m engine inspect-data` takes for 10,000 rows, from start to end.

Every row is another one, of about 100 tokens for the starter, which must be on disk. The same once more with a limit that cuts
every row's question, which is the slowest kind of row.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

ROWS, RUNS = 10_000, 5
WORDS = (
    "river stone window careful answer question garden number light because between explain several mountain paper "
    "simple machine letter winter colour travel history market science kitchen music reason yellow silver morning"
).split()


def rows(path: Path) -> Path:
    """Instructions and answers of random words, the same at each run."""
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(ROWS):
            question, answer = (" ".join(draw.choices(WORDS, k=draw.randint(8, 40))) for _ in range(2))
            file.write(json.dumps({"instruction": f"{number}: {question}?", "output": f"{answer}."}) + "\n")
    return path


def seconds(path: Path, *options: str) -> tuple[float, dict]:
    """One run of the command, and what it says."""
    command = [sys.executable, "-m", "engine", "inspect-data", str(path), "--json", *options]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, json.loads(done.stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = rows(Path(folder) / "rows.jsonl")
        for what, options in {"whole": (), "cut": ("--source-length", "42", "--target-length", "20")}.items():
            runs = [seconds(path, *options) for _ in range(RUNS)]
            times = [each for each, _ in runs]
            document = runs[0][1]
            print(
                f"{what}: {document['rows']:,} rows, mean {document['tokens']['mean']:.0f} tokens, {document['truncated']:,} cut:"
                f" median {statistics.median(times):.2f} s, worst {max(times):.2f} s, {statistics.median(times) / ROWS * 1e6:.0f} us a row"
            )


if __name__ == "__main__":
    main()

"""`python -m engine doctor`: the self-test in the terminal, progress on stderr, the report on stdout."""

import json
import time

import typer

from engine import self_test
from engine.terminal import AsJson, log


def doctor(as_json: AsJson = False) -> None:
    """Test this machine in about a minute: versions, GPU, 4 bits, optimizer, training, llama.cpp, disk. Paste the report into an issue."""
    began = time.monotonic()
    results = []
    for result in self_test.run(log):
        log(f"    {result.outcome.status} after {result.seconds:.1f} s")
        results.append(result)
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps(self_test.document(results, seconds), ensure_ascii=False))
    else:
        print(self_test.report(results, seconds))
    if any(result.failed for result in results):
        raise typer.Exit(1)

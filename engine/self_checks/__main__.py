"""`python -m engine.self_checks`: a process that runs checks, one at a time, so that a hang or a crash takes it alone.

Reads a line of JSON for each check (module, function, folder, seconds) from stdin and answers with one on stdout, an `Outcome`.
A check beyond its seconds ends the process; where it stood then, or when it crashed, is on stderr.
"""

import faulthandler
import importlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from engine.errors import EngineError
from engine.self_checks import Fault, Outcome

_REPORT = "Where the message does not say what to do, put this report into an issue of the project."


def outcome(module: str, function: str, place: Path) -> Outcome:
    """What a check finds; whatever it raises is a failure in words."""
    try:
        return getattr(importlib.import_module(module), function)(place)
    except Fault as fault:
        return fault.outcome
    except EngineError as error:  # it says what to do
        return Outcome("failed", str(error))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        return Outcome("failed", f"{type(error).__name__}: {' '.join(lines)[:400]}", _REPORT)


def main() -> None:
    """Answer until stdin closes. Whatever libraries print goes to stderr."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    faulthandler.enable()
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        faulthandler.dump_traceback_later(asked["seconds"], exit=True)
        found = outcome(asked["module"], asked["function"], Path(asked["folder"]))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(asdict(found)), file=out, flush=True)


if __name__ == "__main__":
    main()

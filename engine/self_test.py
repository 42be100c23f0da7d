"""The self-test of this machine: every check (`engine/self_checks/`) in a process that may hang or crash, and the report of it all.

Touches no state of the person's but for one folder in GUANACO_HOME that is gone afterwards, and leaves this machine for nothing.
No text of a report holds a secret of the environment, the person's name or the home folder.
"""

import contextlib
import getpass
import json
import os
import queue
import re
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import children
from engine.self_checks import CHECKS, Check, Outcome

# After its own limit a process ends by itself; one that does not even do that is ended.
GRACE_SECONDS = 5
KEPT_LINES = 400
# The innermost line of ours in what faulthandler writes.
_OURS = re.compile(r'File ".*?(engine[/\\][^"]+)", line (\d+) in (\w+)')
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
LEAST_SECRET_CHARS = 6


@dataclass(frozen=True)
class Result:
    """What became of a check, and how many seconds that took."""

    name: str
    outcome: Outcome
    seconds: float

    @property
    def failed(self) -> bool:
        return self.outcome.status == "failed"


def run(tell: Callable[[str], None], checks: Sequence[Check] = CHECKS) -> Iterator[Result]:
    """Each check's result as it comes, in a process that they share until one fails. `tell` is given a line before each."""
    process: _Process | None = None
    with tempfile.TemporaryDirectory(prefix="guanaco-self-test-", ignore_cleanup_errors=True) as place:
        try:
            for number, check in enumerate(checks, 1):
                tell(f"{number}/{len(checks)} {check.name} …")
                began = time.monotonic()
                folder = Path(place) / str(number)
                folder.mkdir()
                process = process or _Process()
                found = process.outcome(check, folder)
                if found.status == "failed":  # whatever it left behind, the next check does not meet it
                    process.close()
                    process = None
                yield Result(check.name, _private(found), round(time.monotonic() - began, 1))
        finally:
            if process:
                process.close()


class _Process:
    """One `python -m engine.self_checks`."""

    def __init__(self):
        # One thread: the sums are tiny, and threads that wait for each other on a busy machine take ten times as long.
        self._process = children.started("engine.self_checks", capture_errors=True, OMP_NUM_THREADS="1")
        self._errors: deque[str] = deque(maxlen=KEPT_LINES)
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._listen)]
        for thread in self._threads:
            thread.start()

    def outcome(self, check: Check, folder: Path) -> Outcome:
        """What a check finds; a crash or a hang is a failure."""
        began = time.monotonic()
        asked = {"module": check.module, "function": check.function, "folder": str(folder), "seconds": check.seconds}
        with contextlib.suppress(OSError):  # it died while nothing was asked of it; its answer is empty then
            self._process.stdin.write((json.dumps(asked) + "\n").encode())
            self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=check.seconds + GRACE_SECONDS)
        except queue.Empty:
            answer = b""
        if answer:
            return Outcome(**json.loads(answer))
        late = time.monotonic() - began >= check.seconds
        self.close()
        where = self._where()
        if late:
            return Outcome("failed", f"no answer within {check.seconds:g} seconds{where}", _HANGS)
        return Outcome("failed", f"its process {_end(self._process.returncode)}{where}", _CRASHES)

    def _where(self) -> str:
        found = _OURS.search("\n".join(self._errors))
        return f" ({found[3]} in {found[1].replace(os.sep, '/')}, line {found[2]})" if found else ""

    def _read(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put(b"")

    def _listen(self) -> None:
        """Keep the last lines of stderr."""
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stderr:
                self._errors.append(line.decode(errors="replace").rstrip())

    def close(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(GRACE_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


_HANGS = "Try again when the machine is less busy; where it stays, put this report into an issue of the project."
_CRASHES = "A native library crashed: reinstall the one that this check is about, and put this report into an issue of the project."


def _end(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        code = signal.Signals(-code).name
    return f"was ended by {code}" + (", perhaps for lack of memory" if code == "SIGKILL" else "")


def _private(value):
    """The same value, its texts with nothing in them that a stranger should not read."""
    match value:
        case Outcome():
            return Outcome(**_private(asdict(value)))
        case dict():
            return {key: _private(each) for key, each in value.items()}
        case list():
            return [_private(each) for each in value]
        case str():
            return _without_secrets(value)
    return value


def _without_secrets(text: str) -> str:
    """The text with values of the environment's secrets as ***, the home folder as ~ and the person's name as USER in paths."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= LEAST_SECRET_CHARS:
            text = text.replace(value, "***")
    home = Path.home()
    for folder in {str(home), str(home.resolve())} - {home.anchor}:
        text = text.replace(folder, "~")
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without a name
        text = re.sub(rf"(?<=[/\\]){re.escape(getpass.getuser())}(?![\w.-])", "USER", text)
    return text


def document(results: Sequence[Result], seconds: float) -> dict:
    """The report for programs: how many checks ended how, and each of them with its figures."""
    checks = [{"name": each.name, **asdict(each.outcome), "seconds": each.seconds} for each in results]
    return {**_counts(results), "seconds": round(seconds, 1), "checks": checks}


def report(results: Sequence[Result], seconds: float) -> str:
    """The report as Markdown that also reads as plain text."""
    said = ", ".join(f"{count} {status}" for status, count in _counts(results).items() if count)
    lines = [f"### Guanaco Playground self-test: {said}, {seconds:.0f} s", ""]
    for each in results:
        found = each.outcome
        lines.append(f"- **{found.status}** {each.name} ({each.seconds:.1f} s): {_plain(found.text)}")
        if found.advice:
            lines.append(f"  - What to do: {_plain(found.advice)}")
    return "\n".join(lines)


def _counts(results: Sequence[Result]) -> dict[str, int]:
    return {status: sum(each.outcome.status == status for each in results) for status in ("ok", "failed", "skipped")}


def _plain(text: str) -> str:
    """One line that Markdown leaves as it is: stars would become emphasis, tags would vanish."""
    return re.sub(r"([`*]|<(?=[\w/!?]*[A-Za-z]))", r"\\\1", " ".join(text.split()))

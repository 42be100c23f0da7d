"""What pip would install of a list of requirements: a dry run that fetches no wheel."""

import json
import subprocess
import sys
from pathlib import Path


def resolved(requirements: Path, folder: Path, python: str, *options: str) -> dict[str, str]:
    """Versions by name, as a machine with that Python would get them; pip works in `folder`. Where an index offers no metadata beside
    its wheels, only that part of a wheel is fetched (`fast-deps`)."""
    report = folder / "report.json"
    kind = ["--dry-run", "--quiet", "--use-feature=fast-deps", "--only-binary=:all:", "--python-version", python]
    where = ["--target", str(folder / "target"), "--report", str(report), "-r", str(requirements)]
    command = [sys.executable, "-m", "pip", "install", *kind, *where, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    installed = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    return {each["name"].lower().replace("_", "-"): each["version"] for each in installed}

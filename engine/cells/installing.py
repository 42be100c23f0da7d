"""What a notebook's runtime lacks, installed by pip: torch stays as it is, and a torchao that peft cannot bear is removed."""

import importlib
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from engine.errors import EngineError
from engine.requirements import LEAST_TORCHAO, REQUIREMENTS, met, needed

_QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")


def install(requirements: Path = REQUIREMENTS) -> None:
    """Install what is asked for and not here. Where all is here nothing runs and nothing is fetched. Raises EngineError with what to
    do where torch does not fit, would be changed, or pip fails."""
    wanted = needed(requirements)
    lacking = [each for each in wanted if not met(each, _version(each.name))]
    torch = _version("torch")
    if torch and any(each.name == "torch" for each in lacking):
        fits = next(each.specifier for each in wanted if each.name == "torch")
        raise EngineError(
            f"torch {torch} is here, and this needs torch {fits}. torch is left as it is: choose a newer runtime "
            "(on Colab: Runtime > Change runtime type > Runtime version), or install another torch yourself."
        )
    if lacking:
        print(f"Installing {', '.join(each.name for each in lacking)}" + (f"; torch {torch} stays." if torch else "."))
        _install(lacking, torch)
    _without_old_torchao()
    print(f"Guanaco Playground is ready: torch {_version('torch')}, {len(wanted)} packages as it needs them.")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _install(lacking: list[Requirement], torch: str | None) -> None:
    before = {each.name: _version(each.name) for each in lacking}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(f"torch=={torch}\n" if torch else "")
        done = _pip("install", "--constraint", str(constraints), *map(str, lacking))
    if done.returncode:
        raise EngineError(
            f"pip could not install what is missing: {_last_words(done.stderr)}\nCheck the connection and run this cell again."
        )
    importlib.invalidate_caches()
    if torch and (_version("torch") != torch or subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode):
        raise EngineError(f"torch {torch} is not as it was after installing. Restart with a fresh runtime and run this cell again.")
    if stale := [name for name, old in before.items() if old and old != _version(name) and name.replace("-", "_") in sys.modules]:
        print(f"{', '.join(stale)} had been loaded before. If a later cell fails, restart the session and run all cells again.")


def _without_old_torchao() -> None:
    torchao = _version("torchao")
    if torchao and Version(torchao) < LEAST_TORCHAO:
        done = _pip("uninstall", "--yes", "torchao")
        if done.returncode:
            raise EngineError(f"torchao {torchao} is too old for peft and cannot be removed: {_last_words(done.stderr)}")
        print(f"Removed torchao {torchao}: adapters cannot be loaded beside one older than {LEAST_TORCHAO}, and nothing here uses it.")


def _pip(command: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pip", command, *_QUIET, *arguments], capture_output=True, text=True)


def _last_words(errors: str) -> str:
    """pip's first line that begins with ERROR says why, else its last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    why = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "it said nothing")
    return re.sub(r"^ERROR:\s*", "", why)

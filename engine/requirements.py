"""What this program needs of other packages: `requirements.txt`, read in one place; and what it cannot bear beside it."""

from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
# peft/import_utils.py: an older one makes every LoRA layer on a plain Linear raise. Colab has 0.10, and nothing here uses any.
LEAST_TORCHAO = Version("0.16")


def needed(path: Path | None = None) -> list[Requirement]:
    """The packages by name and range, in the file's order; options of pip are none."""
    lines = (line.partition("#")[0].strip() for line in (path or REQUIREMENTS).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def met(wanted: Requirement, version: str | None) -> bool:
    """Whether an installed version, None where there is none, is within the range."""
    return version is not None and wanted.specifier.contains(version, prereleases=True)

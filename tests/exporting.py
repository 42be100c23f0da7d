"""What the tests of exports share: an export made in one line, a run damaged in one way, a disk that is full."""

import errno
import shutil
from pathlib import Path

from engine import export
from engine.runs import Run


def exported(run: Run, kind: str, dest: Path | str, public: bool = False) -> export.Exported:
    return export.export(str(run.folder), kind, str(dest), lambda progress: None, public)


def copied(run: Run, folder: Path) -> Run:
    """The same run in a folder of its own, to be changed."""
    shutil.copytree(run.folder, folder)
    return Run(folder)


def full(*arguments, **options):
    """What a full disk answers."""
    raise OSError(errno.ENOSPC, "No space left on device")


def left(folder: Path) -> list[str]:
    """Names of all that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

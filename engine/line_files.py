"""Files that grow line by line and outlive their writers: nothing finished is lost, nothing half-written is believed."""

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from engine.errors import BadInput, EngineError


class LineFile:
    """Appends to a file, each line whole by one write.

    Opening cuts off a line that a killed writer left unfinished. Raises EngineError where the disk is full.
    """

    def __init__(self, path: Path):
        self._folder = path.parent
        with full_disk_told(self._folder, 0):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(self._file, _whole_lines_end(path))

    def write(self, text: str) -> None:
        """Append a line; `text` has no line ends."""
        line = f"{text}\n".encode("utf-8", "replace")  # a server may send half a surrogate pair
        with full_disk_told(self._folder, len(line)):
            end = os.fstat(self._file).st_size
            written = os.write(self._file, line)
            if written < len(line):  # the disk took a part
                os.ftruncate(self._file, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        os.close(self._file)


def rows(path: Path, first: str) -> list[dict]:
    """The rows of a file of JSON objects whose first field is `first`, as `LineFile` will go on from: without a line that a killed
    writer left unfinished; none where there is no file. Raises BadInput where it holds anything else, so that no file of somebody
    else's is ever appended to."""
    start = f'{{"{first}": '.encode()
    *whole, torn = path.read_bytes().split(b"\n") if path.exists() else [b""]
    found = []
    for number, line in enumerate(whole, 1):
        with contextlib.suppress(ValueError):
            if line.startswith(start):
                found.append(json.loads(line))
        if len(found) < number:
            raise BadInput(f"{path}, line {number}, was not written here. Nothing was changed; choose another --out.")
    if not (torn.startswith(start) or start.startswith(torn)):
        raise BadInput(f"{path} was not written here. Nothing was changed; choose another --out.")
    return found


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a file or folder that is written to. Raises BadInput where another process holds it."""
    whole = path.resolve()  # "." has no name of its own
    try:
        with FileLock(whole.parent / f".{whole.name}.lock", timeout=0):
            yield
    except Timeout as error:
        raise BadInput(f"Another process is writing {path}. Wait for it, or choose another --out.") from error


@contextlib.contextmanager
def full_disk_told(folder: Path, need: int):
    """Turn "no space left" into a sentence with the space needed and free, in place of the system's error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(folder).free
        raise EngineError(
            f"The disk of {folder} is full: {math.ceil(max(need, 1) / 1e5) / 10:,.1f} MB are needed, {free / 1e6:,.1f} MB are free. "
            "What was saved before is kept. Free some space, then start or resume."
        ) from error


def _whole_lines_end(path: Path) -> int:
    """Where the last whole line of a file ends."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0

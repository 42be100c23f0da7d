"""Files of this machine that a browser may fetch: those that were made for it, under addresses that nobody can guess."""

import secrets
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

_MOST = 100


def pack(folder: Path, file: Path) -> None:
    """Write the files of a folder as a zip. Weights do not get smaller."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, f"{folder.name}/{path.relative_to(folder)}")


class Offers:
    """The latest offers; they end with the app."""

    def __init__(self):
        self._paths: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, path: Path) -> str:
        """Offer a file or a folder; gives the key to it."""
        key = secrets.token_urlsafe(24)
        with self._lock:
            self._paths[key] = path
            while len(self._paths) > _MOST:
                self._paths.popitem(last=False)
        return key

    def find(self, key: str) -> Path | None:
        """What lies behind a key, None where nothing does or it is gone."""
        with self._lock:
            path = self._paths.get(key)
        return path if path and path.exists() else None

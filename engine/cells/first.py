"""The install cell that every notebook of this project begins with, as text: it runs before anything of the project can be imported."""

from engine import links

FOLDER = "guanaco-playground"
_BEGIN = f"""\
import os
import shutil
import sys
import zipfile
import zlib
from pathlib import Path

# Guanaco Playground: where GUANACO_PLAYGROUND says, beside this notebook (a folder, or a zip of it), or around it.
NAME = "{FOLDER}"


def found():
    beside = sorted(Path().glob(f"{{NAME}}-*"))  # as in a zip from GitHub, with the branch behind the name
    places = [os.environ.get("GUANACO_PLAYGROUND", NAME), *beside, ".", ".."]
    return next((Path(place).resolve() for place in places if (Path(place) / "engine" / "cells").is_dir()), None)


class NotHere(Exception):
    def _render_traceback_(self):  # what a notebook shows in place of a traceback
        return [str(self)]


APP = found()
for packed in sorted(Path().glob(f"{{NAME}}*.zip")):
    if APP is None:
        try:
            whole = not zipfile.ZipFile(packed).testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError):
            whole = False
        if not whole:
            raise NotHere(f"{{packed}} is damaged, or not all of it is here yet. Upload it again, then run this cell again.")
        shutil.unpack_archive(packed)
        APP = found()
"""
_CLONE = """\
if APP is None and shutil.which("git"):
    os.system(f"git clone --quiet --depth 1 {address} {{NAME}}")
    APP = Path(NAME).resolve() if Path(NAME).is_dir() else None
"""
_END = """\
if APP is None:
    raise NotHere(f"Guanaco Playground is not here. Upload {NAME}.zip beside this notebook, or set GUANACO_PLAYGROUND to its folder.")
sys.path.insert(0, str(APP))

from engine.cells.installing import install

install()  # torch stays as it is
"""


def install_cell() -> str:
    """The cell's source. It finds the project's folder, or clones it where the project is published, and puts it on the path."""
    address = links.clone()
    return _BEGIN + (_CLONE.format(address=address) if address else "") + _END

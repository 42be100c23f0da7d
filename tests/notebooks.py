"""Loads `notebooks/build.py`, and reads what executed cells show."""

import importlib.util
from pathlib import Path

from conftest import ROOT


def _loaded():
    spec = importlib.util.spec_from_file_location("notebooks_build", ROOT / "notebooks/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _loaded()
NAMES = [source.stem for source in build.SOURCES]


def fresh(name: str, **values: object):
    """The notebook of that name as it is built, with other values in its forms."""
    return build.with_values(build.built(ROOT / f"notebooks/sources/{name}.py"), **values)


def shown(output) -> str:
    """What an output shows, as text: of an error what the notebook prints."""
    if output["output_type"] == "error":
        return "\n".join(output["traceback"])
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def outputs(notebook, part: str) -> str:
    """All that the first code cell shows whose source has `part`."""
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code" and part in cell.source)
    return "".join(map(shown, cell.outputs))


def pictures(notebook) -> int:
    """How many pictures there are in the outputs."""
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))


def run_all(notebook, folder: Path, home: Path, **environment: str):
    """Execute it with a state folder, and nothing in reach but this machine."""
    offline = {"PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1", "HF_TOKEN": "", "GUANACO_HOME": str(home)}
    return build.executed(notebook, folder, **offline | environment)

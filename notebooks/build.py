"""Builds the notebooks from `sources/`: `python notebooks/build.py`, with `--run` also executed on this machine, outputs kept.

A built file keeps the outputs of cells that did not change. Kept outputs name no folder, no date and no speed of the machine that made
them.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine import links, notebook_export  # noqa: E402
from engine.cells import first  # noqa: E402

SOURCES = sorted((ROOT / "notebooks/sources").glob("*.py"))
CELL_SECONDS = 900
# A cell that is replaced by the install cell; one whose outputs are about the machine.
INSTALL, MACHINE = "install", "machine"
# Those that want a GPU are opened with one.
_ON_GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []}}
_ON_CPU = {"colab": {"provenance": []}}
_BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"
# What differs from machine to machine and from day to day.
_SCRUBBED = (
    (re.compile(r"-\d{8}-\d{6}(-\d+)?"), ""),
    (re.compile(r" · \d+ tokens/s · [\d:]+ left"), ""),
    (re.compile(r" in \d+\.\d s\b"), ""),
    (re.compile(r"\.partial-\d+"), ".partial"),
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
)


def target(source: Path) -> Path:
    """Where the notebook of a source lies."""
    return ROOT / "notebooks" / f"{source.stem}.ipynb"


def built(source: Path):
    """The notebook of a source, without outputs."""
    _, *cells = jupytext.reads(source.read_text(encoding="utf-8"), "py:percent").cells  # the first is the module's docstring
    if address := links.colab(target(source).name):
        cells[0].source = f"{_BADGE.format(address=address)}\n\n{cells[0].source}"
    for cell in cells:
        if INSTALL in cell.metadata.get("tags", ()):
            cell.source = f"# @title Install\n{first.install_cell()}".rstrip()
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
    on = _ON_CPU if source.stem == "guanaco_guess" else _ON_GPU
    return nbformat.reads(notebook_export.as_text(cells, **on), 4)


def with_values(notebook, **values: object):
    """The notebook with other values in its forms (`NAME = VALUE  # @param`). Raises ValueError where there is no such form."""
    for name, value in values.items():
        form = re.compile(rf"^{name} = .*?(  # @param.*)$", re.MULTILINE)
        if not any(form.search(cell.source) for cell in notebook.cells):
            raise ValueError(f"there is no form {name}")
        for cell in notebook.cells:
            cell.source = form.sub(lambda match: f"{name} = {value!r}{match[1]}", cell.source)  # noqa: B023
    return notebook


def executed(notebook, folder: Path, **environment: str):
    """The notebook with its outputs, run top to bottom in `folder` with this Python and the project as it is here. Raises nbclient's
    CellExecutionError at the first cell that fails."""
    from nbclient import NotebookClient

    variables = {**os.environ, "GUANACO_PLAYGROUND": str(ROOT), **environment}
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=variables)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    return notebook


def _joined(outputs: list) -> list:
    """Outputs with those parts of a stream that follow each other as one; nbclient's own way would tear them from what stands between."""
    made = []
    for each in outputs:
        if made and each.output_type == "stream" == made[-1].output_type and each.name == made[-1].name:
            made[-1].text += each.text
        else:
            made.append(each)
    return made


def scrubbed(notebook, folders: dict[str, str]):
    """The notebook without outputs about the machine; in the others `folders` (path to what is written for it), dates and speeds are
    replaced."""
    notebook.metadata.pop("language_info", None)  # the Python that ran it
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [] if MACHINE in cell.metadata.get("tags", ()) else [_clean(each, folders) for each in cell.outputs]
    return notebook


def _clean(output, folders: dict[str, str]):
    """An output, every text of it cleaned; pictures are left alone."""
    if isinstance(output, str):
        for path, name in folders.items():
            output = output.replace(path, name)
        for pattern, instead in _SCRUBBED:
            output = pattern.sub(instead, output)
        return output
    if isinstance(output, list):
        return [_clean(each, folders) for each in output]
    if isinstance(output, dict):
        output.pop("execution_count", None) if output.get("output_type") != "execute_result" else output.update(execution_count=None)
        return nbformat.from_dict({key: each if key == "image/png" else _clean(each, folders) for key, each in output.items()})
    return output


def _with_old_outputs(notebook, old):
    """The notebook with the outputs of those cells that are the same in `old`."""
    known = {cell.source: cell.outputs for cell in old.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = known.get(cell.source, [])
    return notebook


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("names", nargs="*", help="such as guanaco_chat; without any all are built")
    arguments.add_argument("--run", action="store_true", help="execute them here, on the starter, and keep what they show")
    chosen = arguments.parse_args()
    for source in SOURCES:
        if chosen.names and source.stem not in chosen.names:
            continue
        notebook, place = built(source), target(source)
        if chosen.run:
            with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
                # Nothing of the person who builds: without a token and without other runs, of both of which outputs may tell.
                executed(notebook, Path(folder), HF_TOKEN="", GUANACO_HOME=home)
                scrubbed(notebook, {str(ROOT): "guanaco-playground", folder: ".", home: "GUANACO_HOME", str(Path.home()): "~"})
        elif place.is_file():
            _with_old_outputs(notebook, nbformat.read(place, 4))
        nbformat.write(notebook, place)
        print(f"{place.relative_to(ROOT)}: {place.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

"""A finished run as a notebook that redoes it: recipe, data and cells that install, train and chat, in one folder.

The cells are plain Python, so that any program can run them; torch stays as it is where the notebook runs.
"""

import json
import shutil
from pathlib import Path

from engine import destinations, model_card, paths, runs, trained
from engine.cells import first
from engine.errors import BadInput
from engine.likeness import PROMPTS
from engine.model_files import local_path
from engine.trained import Trained

NOTEBOOK = "finetune.ipynb"
_SPARE_BYTES = 1_000_000


def write(source: Trained, target: Path) -> tuple[str, ...]:
    """Write the folder `target`; sentences for people are given back. Raises BadInput where the data that the run learnt from is gone or
    another, EngineError where the disk has no room."""
    data = _data(source)
    with destinations.writing(target, (data.stat().st_size if data else 0) + _SPARE_BYTES) as folder:
        if data:
            shutil.copyfile(data, folder / data.name)
        (folder / runs.RECIPE).write_text(source.shareable_recipe.to_yaml(), encoding="utf-8")
        (folder / NOTEBOOK).write_text(_notebook(source), encoding="utf-8")
    return tuple(_beside(source))


def _data(source: Trained) -> Path | None:
    """The data file, None for a data set of the Hub."""
    name = source.recipe.data.source
    if not trained.is_local(name):
        if name and Path(name).is_absolute():
            raise BadInput(f"{name}, which the run {source.run.id} learnt from, is gone. Put it back to export a notebook.")
        return None
    path = local_path(name)
    if paths.sha256(path) != source.adapter.playground.get("data_sha256"):
        raise BadInput(f"{path} changed since the run {source.run.id} learnt from it. Put the old one back to export a notebook.")
    return path


def _beside(source: Trained) -> list[str]:
    """What else has to lie in the folder, as it is on this machine alone."""
    plan = source.recipe
    return [
        f"Put {what} {Path(name).name} beside the notebook: it is on this machine alone."
        for what, name in (("the base", plan.model), ("the adapter", plan.lora.start_from))
        if name and Path(name).is_absolute()
    ]


def _notebook(source: Trained) -> str:
    from nbformat import v4

    plan = source.shareable_recipe
    prompt = (plan.samples.prompts or PROMPTS)[0]
    chat = ["chat", "--model", plan.model, "--adapter", "run/adapter", "--max-new-tokens", "100", prompt]
    about = [
        f"# {model_card.plain(source.run.id)}",
        "Finetunes once more as in `recipe.yaml`, then chats with what was learnt.",
        *_beside(source),
    ]
    return as_text(
        [
            v4.new_markdown_cell("\n\n".join(about)),
            v4.new_code_cell(first.install_cell()),
            v4.new_code_cell(f'from engine.cells.commands import engine\n\nengine("train", "{runs.RECIPE}", "--run-dir", "run")'),
            v4.new_code_cell(f"engine({', '.join(json.dumps(each, ensure_ascii=False) for each in chat)})"),
        ]
    )


def as_text(cells: list, **metadata: object) -> str:
    """A notebook of these cells (nbformat's) as the text of its file, the same for the same cells."""
    import nbformat
    from nbformat import v4

    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the library's own are drawn at random
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, **metadata})
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"

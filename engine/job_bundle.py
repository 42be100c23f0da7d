"""What is sent to the Hub for a job: one file with this program, the recipe and the data, in a private data set of the person's own."""

import zipfile
from pathlib import Path

from engine import models, rows
from engine.blend import NO_ADAPTER
from engine.errors import BadInput, EngineError
from engine.hub import HUB_ID
from engine.model_files import local_path
from engine.recipe import Recipe
from engine.requirements import needed

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "guanaco-jobs"
NAME = "bundle.zip"


def check(plan: Recipe) -> None:
    """Raises BadInput for what a job could not have: no data, a base or a first adapter that lies on this machine alone."""
    rows.check_begins(plan.data)
    spec = models.resolve(plan.model)
    if spec.kind == "local" or not spec.can_be_finetuned:
        raise BadInput(
            f"A job fetches its base from the Hub, and {plan.model} is none that it could fetch. Give an id of `models` or owner/name."
        )
    start = plan.lora.start_from
    if start not in ("", NO_ADAPTER, *models.ADAPTERS) and (local_path(start).exists() or not HUB_ID.fullmatch(start)):
        raise BadInput(
            f"A job fetches the adapter to start from, and {start} is on this machine alone. Export it to the Hub first (--to hub)."
        )


def data_file(plan: Recipe) -> Path | None:
    """The data where it is a file of this machine."""
    path = local_path(plan.data.source)
    return path if plan.data.source and path.is_file() else None


def write(plan: Recipe, target: Path) -> None:
    """Pack a checked recipe with all that it takes. No path of this machine is in it. Raises EngineError where something cannot be
    read or written."""
    data = data_file(plan)
    if data:
        plan = plan.model_copy(update={"data": plan.data.model_copy(update={"source": f"data/{data.name}"})})
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted((ROOT / "engine").rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    packed.write(path, path.relative_to(ROOT).as_posix())
            packed.writestr("recipe.yaml", plan.to_yaml())
            if data:
                packed.write(data, plan.data.source)
    except OSError as error:
        raise EngineError(
            f"What the job needs could not be packed ({error.strerror}: {error.filename or target}). Nothing was sent."
        ) from error


def dependencies() -> list[str]:
    """What the job installs: the requirements of this program."""
    return [str(each) for each in needed()]

"""`python spaces/deploy.py OWNER/NAME`: builds the folder of a Space and, with --upload, sends it through the Hub's own client.

The folder is the app as it is here with `spaces/app.py` as its `app.py`, a card, and requirements within what the host offers.
"""

import importlib.metadata
import shutil
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from engine import hub, pushing  # noqa: E402
from engine.errors import BadInput, EngineError  # noqa: E402
from engine.models import ADAPTERS, MODELS, ON_A_GPU  # noqa: E402
from engine.requirements import needed  # noqa: E402

PYTHON = "3.12"
APP = ("engine", "ui", "LICENSE")


class Hardware(StrEnum):
    """What a Space may run on."""

    zero = "zero"
    gpu = "gpu"
    cpu = "cpu"


# Names that the Hub gives such hardware (its `SpaceHardware`).
SUGGESTED = {Hardware.zero: "zero-a10g", Hardware.gpu: "t4-small", Hardware.cpu: "cpu-basic"}
# ZeroGPU runs torch 2.8 to 2.11; on CPUs the usual build would bring gigabytes of CUDA.
TORCH = {
    Hardware.zero: ("torch>=2.8,<2.12",),
    Hardware.gpu: ("torch>=2.8,<2.14",),
    Hardware.cpu: ("--extra-index-url https://download.pytorch.org/whl/cpu", "torch>=2.8,<2.14"),
}


def build(target: Path, hardware: Hardware, preload: list[str]) -> list[Path]:
    """Write the Space's folder, which must not be there yet; its files by their paths in it. `preload` is for its card. Raises OSError."""
    target.mkdir(parents=True)
    for name in APP:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copyfile(ROOT / name, target / name)
    shutil.copyfile(HERE / "app.py", target / "app.py")
    (target / "requirements.txt").write_text("\n".join(requirements(hardware)) + "\n", encoding="utf-8")
    (target / "README.md").write_text(card(hardware, preload), encoding="utf-8")
    return sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())


def requirements(hardware: Hardware) -> list[str]:
    """The app's own without gradio, which the card's sdk_version brings, and with the torch of that hardware."""
    kept = [str(each) for each in needed() if each.name not in ("torch", "gradio")]
    return [*TORCH[hardware], "spaces>=0.51", *kept]


def preloaded() -> tuple[list[str], str]:
    """What the host fetches before it starts, as the card names it: of the base only the files that are opened, since it is there in
    other forms too. Where the Hub does not answer it is all of them; then the reason is given beside it, in a few words."""
    model, adapter = MODELS[ON_A_GPU], ADAPTERS[MODELS[ON_A_GPU].adapter]
    try:
        files = hub.model_files(hub.repository(model.source))
    except EngineError as error:
        return [model.source, adapter.source], str(error).partition(". ")[0]
    return [f"{model.source} {','.join(file.name for file in files)}", adapter.source], ""


def card(hardware: Hardware, preload: list[str]) -> str:
    """The Space's README with the settings that the Hub reads from it."""
    from huggingface_hub import SpaceCardData

    model, adapter = MODELS[ON_A_GPU], ADAPTERS[MODELS[ON_A_GPU].adapter]
    on_gpu = hardware != Hardware.cpu
    settings = SpaceCardData(
        title="Guanaco Playground",
        emoji="🦙",
        colorFrom="green",
        colorTo="yellow",
        sdk="gradio",
        sdk_version=importlib.metadata.version("gradio"),
        python_version=PYTHON,
        app_file="app.py",
        license="apache-2.0",
        short_description="Chat with 4-bit Guanaco and guess who answered",
        models=[model.source, adapter.source] if on_gpu else ["HuggingFaceTB/SmolLM2-135M-Instruct"],
        preload_from_hub=preload or None,
        suggested_hardware=SUGGESTED[hardware],
        startup_duration_timeout="1h",
    )
    return f"---\n{settings.to_yaml()}\n---\n\n{(HERE / 'card.md').read_text(encoding='utf-8')}"


def upload(folder: Path, repo: str, hardware: Hardware, public: bool, update: bool) -> str:
    """Make the Space, or with `update` replace the files of one that is there; its address is given back. Raises BadInput or
    EngineError with what to do."""
    from huggingface_hub import HfApi

    api = HfApi()
    with pushing.explained(repo):
        there = api.repo_exists(repo, repo_type="space")
        if there and not update:
            raise BadInput(f"The Space {repo} is there already. --update replaces its files by these.")
        if not there:
            api.create_repo(repo, repo_type="space", space_sdk="gradio", space_hardware=SUGGESTED[hardware], private=not public)
        api.upload_folder(
            repo_id=repo,
            repo_type="space",
            folder_path=folder,
            commit_message="Guanaco Playground",
            delete_patterns=["*"] if update else None,
        )
    return f"{api.endpoint}/spaces/{repo}"


def main(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The Space.")],
    hardware: Annotated[Hardware, typer.Option(help="What it is to run on.")] = Hardware.zero,
    folder: Annotated[Path | None, typer.Option(help="Keep the folder here, to be looked at.")] = None,
    send: Annotated[bool, typer.Option("--upload", help="Send it; without this it stays on this machine.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; without this it is private.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Replace the files of a Space that is there already.")] = False,
) -> None:
    """Build the folder of a Space and say what is in it; with --upload, send it."""
    try:
        check = pushing.check if send else pushing.check_name
        check(name)
        if (update or public) and not send:
            raise BadInput("--update and --public say how it is sent. Add --upload, or leave them out.")
        if folder and folder.exists():
            raise BadInput(f"{folder} is there already. Name a folder that is not.")
        with tempfile.TemporaryDirectory() as place:
            target = folder or Path(place) / "space"
            preload, unknown = preloaded() if hardware != Hardware.cpu else ([], "")
            try:
                files = build(target, hardware, preload)
            except OSError as error:
                raise EngineError(f"{target} cannot be written ({error.strerror or error}). Name another --folder.") from error
            size = sum((target / file).stat().st_size for file in files)
            print(f"{len(files)} files, {size / 1e6:.1f} MB, for {hardware.value}" + (f", in {folder}" if folder else ""))
            if unknown:
                print(f"The card names the base as a whole: {unknown}.")
                print("Run this again where the Hub can be reached, or the Space fetches about twice as much as it opens.")
            if send:
                print(f"Sent: {upload(target, name, hardware, public, update)}")
            else:
                print(f"Nothing was sent. To send it to {name}: add --upload.")
    except EngineError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(main)

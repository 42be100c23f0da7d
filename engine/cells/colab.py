"""What Colab has that other runtimes have not: Google Drive to keep runs on, and a place for tokens."""

import os
from pathlib import Path

from engine import hardware, paths
from engine.errors import BadInput, EngineError
from engine.hardware import Machine

DRIVE = Path("/content/drive")
# What is to outlive the runtime: the runs with their checkpoints, and the data that their recipes name. Models are fetched again:
# they would fill a Drive.
KEPT = ("runs", "uploads")


def where_gpus_are(machine: Machine) -> str:
    """A further sentence for whoever has no GPU on Colab; empty elsewhere."""
    return " A T4 is under Runtime > Change runtime type." if machine.host == "colab" else ""


def keep_runs(drive: bool) -> None:
    """Say where runs are kept, and with `drive` keep them on Google Drive, so that they outlive the runtime. Raises BadInput outside of
    Colab, EngineError where Drive is refused."""
    inside = hardware.machine().host == "colab"
    if not drive:
        print(
            "Runs lie on this runtime's own disk and are gone with it; switch DRIVE on to keep them."
            if inside
            else f"Runs lie in {paths.runs()}."
        )
        return
    if not inside:
        raise BadInput(f"Google Drive can be mounted on Colab alone. Switch DRIVE off: runs are kept in {paths.runs()}.")
    kept = _mounted() / "guanaco-playground"
    for name in KEPT:
        (kept / name).mkdir(parents=True, exist_ok=True)
        _linked(paths.home() / name, kept / name)
    print(f"Runs and their checkpoints are kept on your Drive, in {kept.name}.")


def _mounted() -> Path:
    from google.colab import drive

    try:
        drive.mount(str(DRIVE))
    except Exception as error:  # Colab raises ValueError and its own
        raise EngineError(f"Google Drive was not mounted ({error}). Run this cell again, or switch DRIVE off.") from error
    return DRIVE / "MyDrive"


def _linked(place: Path, target: Path) -> None:
    """Make `place` lead to `target`; what was in it already is left where it is and told."""
    if place.is_symlink():
        place.unlink()
    elif place.is_dir() and any(place.iterdir()):
        before = place.with_name(f"{place.name}-before-drive")
        if before.exists():
            raise BadInput(f"{place} and {before} both hold something. Move one of them away, then run this cell again.")
        place.rename(before)
        print(f"What was in {place.name} before is now in {before}.")
    elif place.is_dir():
        place.rmdir()
    place.symlink_to(target, target_is_directory=True)


def token() -> None:
    """Let models that need one be fetched with the Hub token among Colab's secrets, where HF_TOKEN is not set already. Says whether
    there is one, never what it is."""
    if not os.environ.get("HF_TOKEN") and hardware.machine().host == "colab":
        from google.colab import userdata

        try:
            os.environ["HF_TOKEN"] = userdata.get("HF_TOKEN") or ""
        except Exception as error:  # no such secret, no access to it, or no answer from the page
            print(f"Colab gave no secret HF_TOKEN ({type(error).__name__}).")
    if os.environ.get("HF_TOKEN"):
        print("HF_TOKEN is set: gated models whose licence you accepted can be fetched.")
    else:
        print("There is no HF_TOKEN. Guanaco and the starter need none; for gated models add one (on Colab: the key symbol on the left).")

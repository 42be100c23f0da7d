"""Checks that load no native library: versions, the Hub's settings (it is not contacted), the disk that holds all state."""

import importlib.metadata
import os
import platform
import shlex
import shutil
import time
from pathlib import Path

from packaging.version import Version

from engine import hardware, models, paths, requirements
from engine.self_checks import Fault, Outcome, passed, skipped

LEAST_PYTHON = (3, 11)
# What an issue is asked about; the others of the requirements are named where they are wrong.
SHOWN = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "gradio",
    "gguf",
    "xllamacpp",
)
DISK_BYTES, BLOCK_BYTES = 64 * 2**20, 2**20
_OTHER_DISK = "Free some space there and see who may write to it, or set GUANACO_HOME to a folder on another disk."


def versions(place: Path) -> Outcome:
    """Python and what `requirements.txt` names, each within its range; and a torchao that PEFT refuses."""
    found = {"python": platform.python_version()}
    wrong, mend = [], []
    if tuple(map(int, platform.python_version_tuple()[:2])) < LEAST_PYTHON:
        wrong.append(f"Python {found['python']} is older than {'.'.join(map(str, LEAST_PYTHON))}")
        mend.append("Install a newer Python")
    amiss = []
    for each in requirements.needed():
        version = _version(each.name)
        if each.name in SHOWN:
            found[each.name] = version or "missing"
        if version is None:
            amiss.append(each)
            wrong.append(f"{each.name} is not installed")
        elif not requirements.met(each, version):
            amiss.append(each)
            wrong.append(f"{each.name} {version} is not in {each.specifier}")
    if amiss:
        mend.append(f"Run: pip install {shlex.join(map(str, amiss))}")
    torchao = _version("torchao")
    if torchao:
        found["torchao"] = torchao
    if torchao and Version(torchao) < requirements.LEAST_TORCHAO:
        wrong.append(f"torchao {torchao} is older than {requirements.LEAST_TORCHAO}, which makes PEFT raise")
        mend.append("Run: pip uninstall torchao")
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    if wrong:
        raise Fault(f"{'; '.join(wrong)}. Found: {text}", " — ".join(mend), **found)
    return passed(f"{text}; all within requirements.txt", **found)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def hub(place: Path) -> Outcome:
    """Which variables of the Hub's client are set; no value of any, as one is a token and an address may hold a password."""
    names = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE")
    there = {name: bool(os.environ.get(name)) for name in names}
    said = ", ".join(f"{name} is {'set' if there[name] else 'not set'}" for name in names)
    return skipped(f"not tested: it would leave this machine; {said}", **there)


def disk(place: Path) -> Outcome:
    """GUANACO_HOME takes folders, all or nothing, at what speed, and which models have room. Raises EngineError where it cannot be
    used at all."""
    home = paths.home()
    target = home / ".self-test"
    try:
        with paths.building(target) as folder:
            written, read = _speeds(folder / "block")
        whole = (target / "block").stat().st_size == DISK_BYTES
    except OSError as error:
        raise Fault(f"{home} cannot be written to ({error.strerror or error})", _OTHER_DISK) from error
    finally:
        shutil.rmtree(target, ignore_errors=True)
    if not (whole and read):
        raise Fault(f"A file of {DISK_BYTES / 2**20:.0f} MB in {home} did not come back as it was written", _OTHER_DISK)
    free = shutil.disk_usage(home).free
    return passed(
        f"{home} takes files, synced and renamed; writes {written / 1e6:.0f} MB/s, reads {read / 1e6:.0f} MB/s; "
        f"{free / 1e9:.1f} GB free: {_room(free)}",
        free_bytes=free,
        write_bytes_per_second=round(written),
        read_bytes_per_second=round(read),
    )


def _speeds(path: Path) -> tuple[float, float]:
    """Bytes a second of writing a file down to the disk and of reading it again; the latter 0 where it came back changed."""
    block = os.urandom(BLOCK_BYTES)
    began = time.monotonic()
    with open(path, "wb") as file:
        for _ in range(DISK_BYTES // BLOCK_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.monotonic()
        if hasattr(os, "posix_fadvise"):  # read from the disk, not from the system's cache
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begins = time.monotonic()
    with open(path, "rb", buffering=0) as file:
        same = all(file.read(BLOCK_BYTES) == block for _ in range(DISK_BYTES // BLOCK_BYTES))
    reading = max(time.monotonic() - begins, 1e-6)
    return DISK_BYTES / (written - began), same * DISK_BYTES / reading


def _room(free: int) -> str:
    """Which of the known models could be fetched."""
    here = hardware.machine()
    sizes = {spec.id: spec.to_fetch(here) for spec in models.MODELS.values() if not spec.on_disk}
    large = [name for name, size in sizes.items() if size and size > free]
    return "room for each of the models known by name" if not large else f"no room for {', '.join(large)}"

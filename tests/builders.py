"""Small real things for tests: tokenizers, models and adapters in the files that a person would have."""

import json
import socket
import struct
import time
from pathlib import Path

from engine import toy

# The random Llama and its byte-level tokenizer: the self-test makes the same.
byte_tokenizer, model = toy.byte_tokenizer, toy.model


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(happened, seconds: float = 120) -> None:
    """Wait for a condition, checked every few milliseconds."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def conversation(turns, system: str = ""):
    """Pairs of question and answer as a conversation whose answers train."""
    from engine.messages import Conversation, Message

    messages = [message for asked, said in turns for message in (Message("user", asked), Message("assistant", said, train=True))]
    return Conversation(tuple(messages), system)


def sentencepiece_tokenizer():
    """A tokenizer of LLaMA's kind: a space before whatever it is given, spaces as U+2581, byte fall-back, <s> in front."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *map(chr, range(33, 127))]
    merges = [("\u2581", "H"), ("\u2581", "#"), ("#", "#"), ("##", "#"), ("\u2581", "###")]
    tokens += [left + right for left, right in merges]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)}, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def adapter(folder: Path, base: Path | str, weights_of: Path, rank: int = 4, seed: int = 1, **fields) -> Path:
    """A LoRA adapter with random matrices for the model in `weights_of`, made by PEFT and claiming `base`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(weights_of),
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    tuned.save_pretrained(folder)
    change_config(folder, base_model_name_or_path=str(base), **fields)
    return folder


def change_config(folder: Path, **fields) -> None:
    """Overwrite fields of an adapter's config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


class Llama:
    """A random LLaMA with a vocabulary of its own, to be written as GGUF and as the GGJT file that it would have been in 2023.

    `weights` has a matrix by its name in GGJT, quantized to `kind` where it is one; the rows of the vectors are the dimension.
    `vocabulary` has every token as GGUF spells it, with its score and type: 1 normal, 2 unknown, 3 control, 4 user's, 6 byte.
    """

    NAMES = {
        "attention.wq": "attn_q",
        "attention.wk": "attn_k",
        "attention.wv": "attn_v",
        "attention.wo": "attn_output",
        "attention_norm": "attn_norm",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
        "ffn_norm": "ffn_norm",
    }

    def __init__(
        self, kind: str = "F16", hidden: int = 64, heads: int = 4, kv_heads: int = 4, layers: int = 2, added: tuple[str, ...] = ()
    ):
        import numpy
        from gguf import GGMLQuantizationType, quants

        words = (
            "\u2581H",
            "\u2581t",
            "he",
            "ll",
            "llo",
            "\u2581He",
            "\u2581Hello",
            "\u2581th",
            "\u2581the",
            "er",
            "in",
            "\u2581a",
            "\u2581\u2581",
        )
        plain = (*words, "\u2581", *map(chr, range(33, 127)), "\u00e9", "\u4e2d")
        self.vocabulary = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256))]
        self.vocabulary += [(text, -float(rank), 1) for rank, text in enumerate(plain)]
        self.vocabulary += [(text, -1000.0, 3 if text[:1] in ("<", "[") else 4) for text in added]
        self.kind, self.hidden, self.heads, self.kv_heads, self.layers, self.intermediate = (
            kind,
            hidden,
            heads,
            kv_heads,
            layers,
            2 * hidden,
        )
        kv, mlp, tokens = hidden * kv_heads // heads, self.intermediate, len(self.vocabulary)
        shapes = [
            (hidden, hidden),
            (kv, hidden),
            (kv, hidden),
            (hidden, hidden),
            hidden,
            (mlp, hidden),
            (hidden, mlp),
            (mlp, hidden),
            hidden,
        ]
        every = {"tok_embeddings": (tokens, hidden), "norm": hidden, "output": (tokens, hidden)}
        for layer in range(layers):
            every |= {f"layers.{layer}.{name}": shape for name, shape in zip(self.NAMES, shapes, strict=True)}
        random = numpy.random.default_rng(0)
        self.weights = {}
        for name, shape in every.items():
            form = GGMLQuantizationType["F32" if isinstance(shape, int) else kind]
            self.weights[f"{name}.weight"] = (form, shape, quants.quantize(random.normal(0, 0.3, shape).astype(numpy.float32), form))

    def gguf(self, path: Path) -> Path:
        """Write it as a GGUF file, field by field."""
        from gguf import GGUFWriter

        names = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
        names |= {f"layers.{layer}.{old}": f"blk.{layer}.{new}" for layer in range(self.layers) for old, new in self.NAMES.items()}
        writer = GGUFWriter(path, "llama")
        for key, value in {
            "context_length": 2048,
            "embedding_length": self.hidden,
            "block_count": self.layers,
            "feed_forward_length": self.intermediate,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "rope.dimension_count": self.hidden // self.heads,
        }.items():
            writer.add_uint32(f"llama.{key}", value)
        writer.add_layer_norm_rms_eps(1e-5 if self.kv_heads < self.heads else 1e-6)
        writer.add_rope_freq_base(10_000.0)
        writer.add_tokenizer_model("llama")
        texts, scores, types = zip(*self.vocabulary, strict=True)
        writer.add_token_list(texts)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(True)
        for name, (form, _, data) in self.weights.items():
            writer.add_tensor(f"{names[name.removesuffix('.weight')]}.weight", data, raw_dtype=form)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def ggjt(self, path: Path, version: int = 3, file_type: int = 1) -> Path:
        """Write it as a GGJT file: spaces plain, bytes raw, no text for control tokens, tensors at multiples of 32."""
        numbers = (len(self.vocabulary), self.hidden, 256, self.heads, self.layers, self.hidden // self.heads, file_type)
        with open(path, "wb") as file:
            file.write(b"tjgg" + struct.pack("<8I", version, *numbers))
            for token, (text, score, kind) in enumerate(self.vocabulary):
                raw = {2: " \u2047 ".encode(), 3: text.encode() if token > 2 else b"", 6: bytes([(token - 3) % 256])}
                piece = raw.get(kind, text.replace("\u2581", " ").encode())
                file.write(struct.pack("<I", len(piece)) + piece + struct.pack("<f", score))
            for name, (form, shape, data) in self.weights.items():
                lengths = [shape] if isinstance(shape, int) else [*reversed(shape)]
                file.write(struct.pack(f"<3I{len(lengths)}I", len(lengths), len(name), form, *lengths) + name.encode())
                file.write(bytes(-file.tell() % 32) + data.tobytes())
        return path

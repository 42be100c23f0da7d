"""Small real GGUF files for tests: tiny random models of every family written as llama.cpp expects them, and read back.

Written from the published layout of the format, so that what the engine converts is compared with something else.
"""

from pathlib import Path

import builders
import gguf
import numpy as np

from engine import toy
from engine.lora_gguf import GgufBase
from engine.model_spec import ModelSpec

# transformers' model_type -> what GGUF calls the architecture
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "smollm3": "smollm3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
# llama.cpp rotates neighbouring rows in these, transformers the two halves of a head: q and k are stored interleaved.
INTERLEAVED = {"llama", "smollm3"}
LETTER = 40


def tiny(family: str, seed: int = 0, tied: bool = True, layers: int = 2):
    """A random model of a few ten thousand parameters, float32, with fewer key heads than query heads and the byte
    tokenizer's vocabulary. `family` is one of ARCHITECTURES."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = builders.byte_tokenizer()
    special = {
        "smollm3": {"no_rope_layers": [1] * layers},
        "gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 64},
        "gemma3_text": {"query_pre_attn_scalar": 16, "sliding_window": 64},
    }
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        **special.get(family, {}),
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def write(model, path: Path, tokenizer=None, half: bool = False) -> Path:
    """Write a transformers model as GGUF: matrices in float32, or float16 where `half`; everything else in float32."""
    config = model.config
    name = ARCHITECTURES[config.model_type]
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, name)
    _add_fields(writer, config, name)
    toy.add_tokenizer(writer, tokenizer or builders.byte_tokenizer())
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.float().numpy()
        if name in INTERLEAVED and ("q_proj" in key or "k_proj" in key):
            array = interleaved(array, config.num_attention_heads if "q_proj" in key else config.num_key_value_heads)
        if name.startswith("gemma") and key.endswith("norm.weight"):
            array = array + 1
        if half and array.ndim == 2:
            array = array.astype(np.float16)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows (first half, second half) of each head as (first, second, first, ...)."""
    halves = np.split(array.reshape(heads, -1, *array.shape[1:]), 2, axis=1)
    return np.stack(halves, axis=2).reshape(array.shape)


def _add_fields(writer: gguf.GGUFWriter, config, name: str) -> None:
    toy.add_fields(writer, config)
    if name in ("gemma2", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def described(path: Path, source: str | None = None) -> GgufBase:
    """What an adapter is checked by, read from a GGUF file; `source` is the base that adapters name, by default the file."""
    reader = gguf.GGUFReader(path)
    name = reader.get_field("general.architecture").contents()
    return GgufBase(
        ModelSpec(str(path), "local", path.name, source or str(path), "chat", "unknown"),
        name,
        reader.get_field(f"{name}.attention.head_count").contents(),
        reader.get_field(f"{name}.attention.head_count_kv").contents(),
        {tensor.name: tuple(int(size) for size in tensor.shape) for tensor in reader.tensors},
    )


def server(path: Path, *adapters: Path, cache: str = "F32"):
    """llama.cpp serving a GGUF file with adapters loaded, off unless a request asks. `cache` is the type of keys and
    values: float32 for comparisons."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 256
    params.cpuparams.n_threads = 2
    params.warmup = params.fit_params = False
    params.verbosity = -1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{cache}")
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 0.0) for adapter in adapters]
    return xllamacpp.Server(params)


def logprobs(running, ids: list[int], vocabulary: int, **scales: float) -> np.ndarray:
    """Log-probabilities of the token after `ids`, [vocabulary]. Scales by adapter number: `_0=1.0`.

    The bias makes the sampled token a letter, as the server reports nothing for an end token or half a character;
    what it reports are the probabilities before any bias.
    """
    answer = running.handle_completions(
        {
            "prompt": ids,
            "n_predict": 1,
            "n_probs": vocabulary,
            "temperature": 0,
            "logit_bias": [[LETTER, 1000]],
            "cache_prompt": False,
            "lora": [{"id": int(name[1:]), "scale": scale} for name, scale in scales.items()],
        }
    )
    found = np.full(vocabulary, -np.inf)
    for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        found[each["id"]] = each["logprob"]
    return found

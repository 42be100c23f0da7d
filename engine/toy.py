"""A real model of a few thousand parameters, made on the spot with no network: tokenizer, Llama, GGUF file, rows to learn from.

Its weights are random and the same for the same seed. It serves the self-test, and the tests of this project.
"""

import json
from pathlib import Path

from engine import lora_gguf

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(chat_template: str | None = CHAT_TEMPLATE):
    """Every byte a token, plus <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2 (the end token)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=specials[0], bos_token=specials[1], eos_token=specials[2], pad_token=specials[0]
    )
    fast.chat_template = chat_template
    return fast


def llama(tokenizer, hidden: int = 64, seed: int = 0, context: int = 512, letters: bool = False):
    """A random Llama of two layers for that tokenizer, in float32. With `letters` it says tokens of one ASCII character alone, so
    that what it says is text, whichever token ends it, and is less sure of it, so that float16 holds its gradients scaled as usual."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    if letters:
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        silent = [index for index, token in enumerate(tokens) if not (len(token) == 1 and token.isascii())]
        with torch.no_grad():
            model.lm_head.weight.mul_(0.25)
            model.lm_head.weight[silent] = 0  # among a hundred others, one is above 0
    return model


def model(folder: Path, hidden: int = 64, seed: int = 0, tokenizer=None, context: int = 512, letters: bool = False) -> Path:
    """The same with its tokenizer as a transformers folder, in safetensors."""
    tokenizer = tokenizer or byte_tokenizer()
    llama(tokenizer, hidden, seed, context, letters).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(path: Path, count: int = 12) -> Path:
    """Questions and answers that such a model can begin to learn, as JSON Lines."""
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps({"instruction": f"Count {number}", "output": f"{number} {'one two ' * (number % 4)}three"}) + "\n")
    return path


def write_gguf(model, tokenizer, path: Path) -> Path:
    """Write a Llama with its byte-level tokenizer as a GGUF file, all in float32."""
    import gguf
    import numpy

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, "llama")
    try:
        add_fields(writer, config)
        add_tokenizer(writer, tokenizer)
        for key, tensor in model.state_dict().items():
            array = tensor.float().numpy()
            if "q_proj" in key or "k_proj" in key:
                heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
                array = lora_gguf.interleaved(array, heads, path.name)
            writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), numpy.ascontiguousarray(array))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return path


def add_fields(writer, config) -> None:
    """The shape of a model of the Llama family, from its transformers config, as fields of a GGUF file's header."""
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def add_tokenizer(writer, tokenizer) -> None:
    """A byte-level tokenizer without merges; GGUF wants one at least, so it gets one that never applies."""
    import gguf

    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens) | {"<|im_start|>"}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)

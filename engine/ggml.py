"""LLaMA models in GGML's last format (`*.ggmlv3.*.bin`, GGJT version 3, as published in 2023), turned into GGUF once.

Weights are copied byte for byte, since their blocks are laid out the same in both. The layout of a GGJT file is the one
that llama.cpp read in the summer of 2023. Other versions, and files that are cut or hostile, are refused with BadInput.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine import hub, paths
from engine.architecture import Architecture
from engine.errors import EngineError
from engine.events import Progress
from engine.gguf_file import FILE_TYPES, OLD_FORMATS, Reader, TensorInfo, damaged, most_common_type, opened, tensor_info, unreadable
from engine.gguf_file import read as read_gguf

VERSION = 3
ALIGNMENT = 32
TAKE_ANOTHER = "Take the same model as GGUF, or as a file with ggmlv3 in its name"
BLOCK_BYTES = 2**24
# A LLaMA has 32,000 pieces of at most 48 bytes and at most 80 layers; the limits keep a hostile header from costing more than a moment.
MAX_PIECES = 2**18
MAX_PIECE_BYTES = 256
MAX_LAYERS = 1024
# What version 3 could hold, by number in gguf_file.TENSOR_TYPES: F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K.
KNOWN_TYPES = frozenset((0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14))
TYPES_OF_K = frozenset((10, 11, 12, 13, 14))

# Token types of GGUF (`tokenizer.ggml.token_type`).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPECIALS = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
FIRST_BYTE = len(SPECIALS)
FIRST_PIECE = FIRST_BYTE + 256
# The score that llama.cpp's converter of 2023 gave to tokens which a finetune had added behind the vocabulary, such as [PAD].
ADDED_SCORE = -1000.0

_NAMES = {"tok_embeddings.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "output.weight": "output.weight"}
_LAYER_NAMES = {
    "attention.wq.weight": "attn_q.weight",
    "attention.wk.weight": "attn_k.weight",
    "attention.wv.weight": "attn_v.weight",
    "attention.wo.weight": "attn_output.weight",
    "attention_norm.weight": "attn_norm.weight",
    "feed_forward.w1.weight": "ffn_gate.weight",
    "feed_forward.w2.weight": "ffn_down.weight",
    "feed_forward.w3.weight": "ffn_up.weight",
    "ffn_norm.weight": "ffn_norm.weight",
}


@dataclass(frozen=True)
class Header:
    """All that a GGJT file says beside its weights; `tensors` have the names of the file.

    The vocabulary is by token id and as GGUF spells it: `tokens` with U+2581 for spaces and <0xXX> for bytes, all different,
    their merging `scores` and their `token_types`. `llama2` is told by grouped heads (70B), else by the file's name alone.
    """

    path: Path
    shape: Architecture
    llama2: bool
    file_type: int
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    token_types: tuple[int, ...]
    tensors: Mapping[str, TensorInfo]

    @property
    def quantization(self) -> str:
        """What the model's makers call its quantization, e.g. "Q4_K_M"."""
        return FILE_TYPES.get(self.file_type) or most_common_type(self.tensors)


def read_header(path: Path) -> Header:
    """The header of a GGJT file of version 3, and the certainty that all its tensors are there and fit each other.

    Raises BadInput for any other format or version (it names which), and for a file that is cut or contradicts itself.
    """
    with opened(path) as file:
        reader = Reader(file, path)
        _check_version(path, file.read(8))
        reader.position = 8
        vocabulary, hidden, _, heads, layers, rotary, file_type = reader.numbers("7I")
        if not (FIRST_PIECE <= vocabulary <= MAX_PIECES and 0 < layers <= MAX_LAYERS and rotary * heads == hidden > 0):
            raise damaged(path, f"it claims {layers:,} layers of {hidden:,} in {heads:,} heads of {rotary:,} and {vocabulary:,} tokens")
        pieces, scores = _pieces(reader, path, vocabulary)
        tensors = {}
        while reader.position < reader.size:
            name, tensor = _tensor(reader, path)
            if name in tensors or len(tensors) >= len(_NAMES) + layers * len(_LAYER_NAMES):
                raise damaged(path, f"its tensor {name[:80]!r} is one too many")
            tensors[name] = tensor
    kv_heads, intermediate = _check_tensors(path, tensors, layers, hidden, heads, vocabulary)
    llama2 = kv_heads < heads or re.search(r"llama[-_ ]?2(?!\d)", path.name, re.IGNORECASE) is not None
    shape = Architecture(layers, hidden, intermediate, heads, kv_heads, vocabulary, context=4096 if llama2 else 2048)
    file_type %= 1000  # the thousands are the version of the blocks
    return Header(path, shape, llama2, file_type, *_tokens(path, pieces, scores), tensors)


def _check_version(path: Path, head: bytes) -> None:
    kind = OLD_FORMATS.get(head[:4])
    if head[:4] == b"GGUF":
        raise unreadable(path, "it is GGUF already. Rename it to end in .gguf")
    if kind is None or len(head) < 8:
        raise unreadable(path, "it is no GGML file")
    version = int.from_bytes(head[4:], "little")
    if kind != "GGJT" or version != VERSION:
        name = kind if kind == "GGML" else f"{kind} version {version}"
        raise unreadable(path, f"it is {name}, and of GGML's formats only GGJT version {VERSION} is known. {TAKE_ANOTHER}")


def _pieces(reader: Reader, path: Path, count: int) -> tuple[list[bytes], list[float]]:
    pieces, scores = [], []
    for token in range(count):
        length = reader.number("I")
        if length > MAX_PIECE_BYTES:
            raise damaged(path, f"token {token} of its vocabulary has {length:,} bytes")
        pieces.append(reader.take(length))
        scores.append(reader.number("f"))
    if not all(map(math.isfinite, scores)):
        raise damaged(path, "a score in its vocabulary is no number")
    if pieces[FIRST_BYTE:FIRST_PIECE] != [bytes([byte]) for byte in range(256)]:
        raise unreadable(path, "its vocabulary is not of LLaMA's kind (SentencePiece with a token for every byte). Take the model as GGUF")
    return pieces, scores


def _tokens(path: Path, pieces: list[bytes], scores: list[float]) -> tuple[tuple[str, ...], tuple[float, ...], tuple[int, ...]]:
    """The vocabulary as GGUF spells it. One that is empty or was there before becomes unused: llama.cpp wants them all different."""
    texts = [text for text, _ in SPECIALS] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [kind for _, kind in SPECIALS] + [BYTE] * 256
    known = set(texts)
    added = len(scores)
    while added > FIRST_PIECE and scores[added - 1] == ADDED_SCORE:
        added -= 1
    for token, piece in enumerate(pieces[FIRST_PIECE:], FIRST_PIECE):
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(path, f"token {token} of its vocabulary is no text") from error
        if token < added:
            text, kind = text.replace(" ", "\u2581"), NORMAL
        else:
            # Those in brackets steer, such as [PAD] and <|im_end|>, and are never shown; the others are text.
            kind = CONTROL if re.fullmatch(r"<.+>|\[.+\]", text) else USER_DEFINED
        if not text or text in known or re.fullmatch(r"<unused \d+>", text):
            text, kind = f"<unused {token}>", UNUSED
        known.add(text)
        texts.append(text)
        types.append(kind)
    return tuple(texts), tuple(scores), tuple(types)


def _tensor(reader: Reader, path: Path) -> tuple[str, TensorInfo]:
    dimensions, length, kind = reader.numbers("3I")
    if dimensions not in (1, 2) or length > MAX_PIECE_BYTES:
        raise damaged(path, f"a tensor claims {dimensions:,} dimensions and a name of {length:,} bytes")
    shape = reader.numbers(f"{dimensions}I")
    name = reader.take(length).decode("utf-8", errors="replace")
    if kind not in KNOWN_TYPES:
        raise damaged(path, f"its tensor {name[:80]!r} has the type number {kind}, which version {VERSION} had not")
    if kind in TYPES_OF_K and shape[0] % 256:
        raise unreadable(
            path, f"its tensor {name[:80]!r} has rows of {shape[0]} in blocks of 64, which were given up. Take another quantization"
        )
    reader.skip(-reader.position % ALIGNMENT)
    tensor = tensor_info(path, name, shape, kind, reader.position)
    reader.skip(tensor.size)
    return name, tensor


def _check_tensors(path: Path, tensors: Mapping[str, TensorInfo], layers: int, hidden: int, heads: int, vocabulary: int) -> tuple[int, int]:
    """Refuse what are not all the tensors of a LLaMA. Gives key and value heads and the MLP's size, which the first layer tells."""
    width = hidden // heads

    def rows(name: str) -> int:
        return tensors[name].shape[-1] if name in tensors else 0

    keys, intermediate = rows("layers.0.attention.wk.weight"), rows("layers.0.feed_forward.w1.weight")
    expected = {"tok_embeddings.weight": (hidden, vocabulary), "norm.weight": (hidden,), "output.weight": (hidden, vocabulary)}
    for layer in range(layers):
        shapes = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden), (hidden,)]
        shapes += [(hidden, intermediate), (intermediate, hidden), (hidden, intermediate), (hidden,)]
        expected |= {f"layers.{layer}.{name}": shape for name, shape in zip(_LAYER_NAMES, shapes, strict=True)}
    for name, shape in expected.items():
        if name not in tensors:
            raise damaged(path, f"it ends after {len(tensors)} of {len(expected)} tensors, {name!r} is missing")
        if tensors[name].shape != shape:
            raise damaged(path, f"its tensor {name!r} has the shape {list(tensors[name].shape)} instead of {list(shape)}")
        if len(shape) == 1 and tensors[name].type != "F32":
            raise damaged(path, f"its tensor {name!r} is {tensors[name].type} instead of F32")
    if keys % width or heads % (keys // width):
        raise damaged(path, f"its {heads} heads of {width} cannot share {keys} rows of keys")
    return keys // width, intermediate


def to_gguf(source: Path, target: Path, report: hub.Report, /, **about: object) -> Path:
    """Write the model in `source` as a GGUF file into the folder `target`, with `about` in its manifest, and give its path.

    The folder is complete or absent, and at no time more than 16 MB of weights are in memory.
    Raises BadInput for a file that this cannot read, EngineError where the disk has no room for it.
    """
    header = read_header(source)
    need, free = source.stat().st_size + BLOCK_BYTES, hub.free_bytes(target)
    if need > free:
        raise EngineError(
            f"{source.name} has to be converted once, which needs {need / 1e9:.1f} GB of disk; {free / 1e9:.1f} GB are free in {target.parent}. "
            "Free some space, or set GUANACO_HOME to a larger disk."
        )
    name = f"{source.stem.replace('.ggmlv3', '')}.gguf"
    try:
        with paths.building(target) as folder:
            _write_header(header, folder / name)
            with open(source, "rb") as file, open(folder / name, "ab") as copy:
                _copy_weights(header, file, copy, report)
            read_gguf(folder / name)
            report(Progress(f"Converting {source.name} once: checksum", None))
            paths.write_manifest(folder, **about)
    except OSError as error:
        raise EngineError(
            f"Converting {source.name} failed ({error.strerror or error}). It needs {need / 1e9:.1f} GB of disk; "
            f"{hub.free_bytes(target) / 1e9:.1f} GB are free in {target.parent}. Nothing was kept."
        ) from error
    return target / name


def _write_header(header: Header, path: Path) -> None:
    """Everything of the GGUF file up to the first weight."""
    import numpy
    from gguf import GGMLQuantizationType, GGUFWriter

    shape = header.shape
    writer = GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_file_type(header.file_type)
    writer.add_quantization_version(2)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5 if header.llama2 else 1e-6)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(header.tokens)
    writer.add_token_scores(header.scores)
    writer.add_token_types(header.token_types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    for name, tensor in header.tensors.items():
        # The numeric type counts for nothing where the raw one is given, and the writer turns the shape round again.
        kind = GGMLQuantizationType[tensor.type]
        writer.add_tensor_info(_gguf_name(name), tensor.shape[::-1], numpy.dtype(numpy.float32), tensor.size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{_LAYER_NAMES[rest]}"


def _copy_weights(header: Header, source: BinaryIO, copy: BinaryIO, report: hub.Report) -> None:
    total, done = sum(tensor.size for tensor in header.tensors.values()), 0
    for tensor in header.tensors.values():
        copy.write(bytes(-copy.tell() % ALIGNMENT))
        source.seek(tensor.offset)
        left = tensor.size
        while left:
            report(Progress(f"Converting {header.path.name} once: {done / 1e9:.1f} of {total / 1e9:.1f} GB", done / total))
            block = source.read(min(left, BLOCK_BYTES))
            if not block:
                raise damaged(header.path, "it was cut while it was read")
            copy.write(block)
            left -= len(block)
            done += len(block)
    copy.write(bytes(-copy.tell() % ALIGNMENT))

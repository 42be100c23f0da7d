"""What a GGUF file's header says, read in milliseconds and believed only as far as the file bears it out.

A file that is cut, hostile or of another format is refused with BadInput before anything large is allocated.
The layout is that of the GGUF specification, versions 2 and 3 (ggml repository, docs/gguf.md).
"""

import contextlib
import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.architecture import Architecture
from engine.errors import BadInput

VERSIONS = (2, 3)
OLD_FORMATS = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT"}
# Vocabularies of 262,144 tokens with their merges take about 15 MB; the limits keep a hostile header from costing more than a moment.
MAX_HEADER_BYTES = 64 * 2**20
MAX_ENTRIES = 2**16
MAX_KEY_BYTES = 2**16 - 1
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32


class TensorType(NamedTuple):
    """How a type stores weights: blocks of `weights` of them in `size` bytes each."""

    name: str
    weights: int
    size: int


# By their number in a file (`enum ggml_type`); the missing numbers were given up. A block holds weights and their scales:
# one of Q4_K has 256 weights of 4 bits, 12 bytes of 6-bit scales and minima, and two 16-bit factors, 144 bytes in all.
TENSOR_TYPES: dict[int, TensorType] = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 36),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
}

# `general.file_type` (`enum llama_ftype`): what most of a model's matrices are, and in which mixture.
FILE_TYPES: dict[int, str] = {
    number: name
    for number, name in enumerate(
        "F32 F16 Q4_0 Q4_1 Q4_1 - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS IQ2_XS Q2_K_S IQ3_XS "
        "IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 - - - TQ1_0 TQ2_0 MXFP4 NVFP4 Q1_0".split()
    )
    if name != "-"  # given up
}

# The numbers of the scalar types of metadata and how struct spells them; the other two are strings and arrays.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `offset` and `size` in bytes from the file's start; the length of a row comes first in `shape`."""

    shape: tuple[int, ...]
    type: str
    offset: int
    size: int

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Array:
    """A list among the metadata that nobody has asked for yet: how many, of which type, and where. `Header.values` reads it."""

    length: int
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """All that a GGUF file says before its weights. `fields` has numbers, booleans and strings, and an Array for every list."""

    path: Path
    version: int
    fields: Mapping[str, bool | int | float | str | Array]
    tensors: Mapping[str, TensorInfo]
    data_offset: int

    def values(self, name: str) -> list:
        """The list in the field `name`, read from the file; empty where there is no such list. Raises BadInput if the file changed."""
        array = self.fields.get(name)
        if not isinstance(array, Array):
            return []
        with opened(self.path) as file:
            reader = Reader(file, self.path)
            reader.skip(array.offset)
            if array.kind == _STRING:
                return [reader.text() for _ in range(array.length)]
            return list(reader.numbers(f"{array.length}{_SCALARS[array.kind]}"))


class Reader:
    """Little-endian values in the order of a file. Nothing is read or allocated that the file, or `limit`, does not hold.

    Every method raises BadInput where the file ends too early.
    """

    def __init__(self, file: BinaryIO, path: Path, limit: int | None = None):
        self._file = file
        self._path = path
        self._limit = limit
        self.size = path.stat().st_size
        self.position = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._advance(count)
        taken = self._file.read(count)
        if len(taken) != count:
            raise damaged(self._path, "it was cut while it was read")
        return taken

    def skip(self, count: int) -> None:
        """Go on `count` bytes."""
        self._advance(count)
        self._file.seek(count, 1)

    def number(self, code: str) -> bool | int | float:
        """The next number of struct's type `code`."""
        return self.numbers(code)[0]

    def numbers(self, codes: str) -> tuple:
        """The next numbers of struct's types `codes`."""
        layout = struct.Struct(f"<{codes}")
        return layout.unpack(self.take(layout.size))

    def text(self) -> str:
        """The next string; what is not UTF-8 in it is replaced."""
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def key(self) -> str:
        """The next string where it is a name."""
        length = self.number("Q")
        if length > MAX_KEY_BYTES:
            raise damaged(self._path, f"it has a name of {length:,} bytes")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(self._path, "one of its names is no text") from error

    def skip_texts(self, count: int) -> None:
        """Go on `count` strings. A vocabulary has 100,000 of them, so this loop calls nothing of its own."""
        if 8 * count > self._left:
            raise self._ended()
        read, left = self._file.read, self._left
        for _ in range(count):
            length = int.from_bytes(read(8), "little")
            left -= 8 + length
            if left < 0:
                raise self._ended()
            read(length)
        self.position += self._left - left

    @property
    def _left(self) -> int:
        return min(self.size, self._limit or self.size) - self.position

    def _advance(self, count: int) -> None:
        if count > self._left:
            raise self._ended()
        self.position += count

    def _ended(self) -> BadInput:
        if self._limit and self._limit < self.size:
            return damaged(self._path, f"its header goes on for more than {self._limit / 2**20:.0f} MB")
        return damaged(self._path, f"it is cut off after {self.size:,} bytes")


def damaged(path: Path, how: str) -> BadInput:
    """The error for a file that began well."""
    return BadInput(f"{path.name} is damaged: {how}. Fetch it again.")


def unreadable(path: Path, why: str) -> BadInput:
    """The error for a file that is something else."""
    return BadInput(f"{path.name} is not a model file this can read: {why}.")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading. Raises BadInput with the reason where it is none, may not be read, or the disk fails."""
    try:
        if path.exists() and not path.is_file():
            raise unreadable(path, "it is no file")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror or error}).") from error


def read(path: Path) -> Header:
    """The header of a GGUF file, and the certainty that all its tensors are there: 0.02 s for a vocabulary of 49,152 tokens.

    Raises BadInput for a file that is no GGUF of version 2 or 3 (it names what it is), that is cut, or that contradicts itself.
    """
    with opened(path) as file:
        reader = Reader(file, path, MAX_HEADER_BYTES)
        version = _version(path, file.read(8))
        reader.position = 8
        tensor_count, field_count = reader.numbers("QQ")
        if max(tensor_count, field_count) > MAX_ENTRIES:
            raise damaged(path, f"it claims {tensor_count:,} tensors and {field_count:,} fields")
        fields = {}
        for _ in range(field_count):
            name = reader.key()
            if name in fields:
                raise damaged(path, f"its field {name[:80]!r} is there twice")
            fields[name] = _value(reader, path, name)
        alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise damaged(path, f"its alignment is {alignment}, which is no power of two")
        relative = {}
        for _ in range(tensor_count):
            name = reader.key()
            if name in relative:
                raise damaged(path, f"its tensor {name[:80]!r} is there twice")
            relative[name] = _tensor(reader, path, name, alignment)
        data_offset = -(-reader.position // alignment) * alignment
    tensors = {name: TensorInfo(each.shape, each.type, data_offset + each.offset, each.size) for name, each in relative.items()}
    _check_data(path, tensors, reader.size)
    return Header(path, version, fields, tensors, data_offset)


def _version(path: Path, head: bytes) -> int:
    if head[:4] in OLD_FORMATS:
        raise unreadable(path, f"it is {OLD_FORMATS[head[:4]]}, a format of 2023 that came before GGUF")
    if len(head) < 8 or head[:4] != b"GGUF":
        raise unreadable(path, "it is no GGUF file")
    version = int.from_bytes(head[4:], "little")
    if swapped := version & 0xFFFF == 0 and int.from_bytes(head[4:], "big"):
        raise unreadable(path, f"it is GGUF version {swapped} for big-endian machines; take the little-endian file")
    if version not in VERSIONS:
        raise unreadable(path, f"GGUF version {version}, known are {VERSIONS[0]} and {VERSIONS[1]}")
    return version


def _value(reader: Reader, path: Path, name: str) -> bool | int | float | str | Array:
    kind = reader.number("I")
    if kind == _STRING:
        return reader.text()
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind])
    if kind != _ARRAY:
        raise damaged(path, f"its field {name[:80]!r} has the type number {kind}, which there is not")
    kind, length = reader.numbers("IQ")
    array = Array(length, kind, reader.position)
    if kind == _STRING:
        reader.skip_texts(length)
    elif kind in _SCALARS:
        reader.skip(length * struct.calcsize(f"<{_SCALARS[kind]}"))
    else:
        raise damaged(path, f"its field {name[:80]!r} is a list of the type number {kind}, which no model has")
    return array


def _tensor(reader: Reader, path: Path, name: str, alignment: int) -> TensorInfo:
    dimensions = reader.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise damaged(path, f"its tensor {name[:80]!r} has {dimensions} dimensions")
    shape = reader.numbers(f"{dimensions}Q")
    kind, offset = reader.numbers("IQ")
    if offset % alignment:
        raise damaged(path, f"its tensor {name[:80]!r} is not aligned")
    return tensor_info(path, name, shape, kind, offset)


def tensor_info(path: Path, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
    """A tensor of `path` with its size in bytes. Raises BadInput for an unknown type and for a shape that no tensor can have."""
    if kind not in TENSOR_TYPES:
        raise unreadable(path, f"its tensor {name[:80]!r} has the type number {kind}, which is newer than this app or was given up")
    stored = TENSOR_TYPES[kind]
    weights = math.prod(shape)
    if not 0 < weights < 2**63:
        raise damaged(path, f"its tensor {name[:80]!r} has the shape {list(shape)}")
    if (shape[0] if shape else 1) % stored.weights:
        raise damaged(
            path, f"its tensor {name[:80]!r} has rows of {shape[0] if shape else 1}, no multiple of {stored.name}'s {stored.weights}"
        )
    return TensorInfo(shape, stored.name, offset, weights // stored.weights * stored.size)


def _check_data(path: Path, tensors: Mapping[str, TensorInfo], size: int) -> None:
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset < end:
            raise damaged(path, f"its tensors {before[:80]!r} and {name[:80]!r} lie over each other")
        end, before = tensor.offset + tensor.size, name
    if end > size:
        raise damaged(path, f"it has {size:,} bytes instead of {end:,}")


def architecture(header: Header) -> Architecture | None:
    """The model's shape, from its own metadata; None where that does not state it, or states none of a Llama's kind."""
    family = header.fields.get("general.architecture")
    tokens = header.fields.get("tokenizer.ggml.tokens")

    def stated(name: str) -> int | None:
        value = header.fields.get(f"{family}.{name}")
        return value if isinstance(value, int) and value > 0 else None

    return Architecture.from_config(
        {
            "num_hidden_layers": stated("block_count"),
            "hidden_size": stated("embedding_length"),
            "intermediate_size": stated("feed_forward_length"),
            "num_attention_heads": stated("attention.head_count"),
            "num_key_value_heads": stated("attention.head_count_kv"),
            "head_dim": stated("attention.key_length"),
            "vocab_size": tokens.length if isinstance(tokens, Array) else None,
            "tie_word_embeddings": "output.weight" not in header.tensors,
            "max_position_embeddings": stated("context_length"),
        }
    )


def bits_per_weight(tensors: Mapping[str, TensorInfo]) -> float:
    """Bits that a weight takes on average, scales included; 0 where there are no tensors."""
    weights = sum(tensor.weights for tensor in tensors.values())
    return 8 * sum(tensor.size for tensor in tensors.values()) / weights if weights else 0.0


def quantization(header: Header) -> str:
    """What the model's makers call its quantization, e.g. "Q4_K_M"; where they do not say, the type of most of its weights."""
    return FILE_TYPES.get(header.fields.get("general.file_type")) or most_common_type(header.tensors)


def most_common_type(tensors: Mapping[str, TensorInfo]) -> str:
    """The type of most weights, e.g. "Q4_K"; "unknown" where there are no tensors."""
    weights = Counter()
    for tensor in tensors.values():
        weights[tensor.type] += tensor.weights
    return weights.most_common(1)[0][0] if weights else "unknown"

"""A GGUF model laid anew, once, for llama.cpp's fast kernels on processors: faster than as shipped, at some loss.

Matrices become Q4_K where their rows allow it, else IQ4_NL; everything else is copied byte for byte. Torch is not needed,
and memory stays bounded however large the model is.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from engine import gguf_file, hub, paths
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.gguf_file import TENSOR_TYPES, Header, Reader, TensorInfo, damaged, opened

# Raised when the same source would be laid differently, so that what older versions made is made again.
VERSION = 1
NOTE = "guanaco_playground.layout"
# What llama.cpp does not repack on x86, or reads more of than it has to: measured in tests/benchmarks/README.md.
SLOW_TYPES = frozenset(("F32", "F16", "BF16", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q5_K", "Q6_K"))
# The matrices that every token is multiplied with. Others (routers, convolutions, positions) are small, or must stay as they are.
MATRICES = frozenset("attn_q attn_k attn_v attn_qkv attn_output ffn_gate ffn_up ffn_down".split())
EXPERTS = ("", "_exps", "_shexp")
# llama.cpp repacks eight rows at a time.
ROWS_TOGETHER = 8
# With less than this share of the bytes laid anew, nobody would notice.
LEAST_SHARE = 0.1
CHUNK_WEIGHTS = 2**18
COPY_BYTES = 2**24
MAX_WORKERS = 8
_FILE_TYPE_OF = {"IQ4_NL": 25, "Q4_K": 14}  # 14 is Q4_K_S: Q4_K and nothing larger
_NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}
_FIELD_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9


def faster_types(header: Header) -> Mapping[str, str]:
    """The tensors that would be laid anew, with the type of each. Raises BadInput with the reason where it would not pay."""
    name = header.path.name
    if header.fields.get("split.count", 1) != 1:
        raise BadInput(f"{name} is one of several parts of a model, which cannot be laid anew. Choose a model in one file.")
    tied = "output.weight" not in header.tensors
    # Of an embedding that is not the output as well, a token reads one row: no time to win.
    types = {each: kind for each, tensor in header.tensors.items() if _is_matrix(each, tied) and (kind := _faster_type(tensor))}
    every = sum(tensor.size for each, tensor in header.tensors.items() if tied or each != "token_embd.weight")
    if sum(header.tensors[each].size for each in types) < LEAST_SHARE * every or not types:
        raise BadInput(f"{name} is {gguf_file.quantization(header)}, which would get no faster. Use it as it is.")
    return types


def _is_matrix(name: str, tied: bool) -> bool:
    if name in ("output.weight", "token_embd.weight"):
        return tied or name == "output.weight"
    parts = name.split(".")
    return (
        len(parts) == 4
        and parts[0] == "blk"
        and parts[3] == "weight"
        and any(parts[2] == each + more for each in MATRICES for more in EXPERTS)
    )


def _faster_type(tensor: TensorInfo) -> str | None:
    from engine.quants import ROW_MULTIPLES

    if tensor.type not in SLOW_TYPES or len(tensor.shape) < 2 or tensor.shape[1] % ROWS_TOGETHER:
        return None
    return next((kind for kind, multiple in ROW_MULTIPLES.items() if tensor.shape[0] % multiple == 0), None)


@dataclass(frozen=True)
class _Plan:
    """What is written: every tensor with its shape, type, offset from the data's start and size, in the order of the source."""

    header: Header
    types: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    alignment: int

    @classmethod
    def of(cls, header: Header) -> "_Plan":
        types, alignment = faster_types(header), header.fields.get("general.alignment", gguf_file.DEFAULT_ALIGNMENT)
        tensors, offset = {}, 0
        for name, tensor in header.tensors.items():
            kind = _NUMBERS[types.get(name, tensor.type)]
            tensors[name] = gguf_file.tensor_info(header.path, name, tensor.shape, kind, offset)
            offset += -(-tensors[name].size // alignment) * alignment
        return cls(header, types, tensors, alignment)

    @property
    def size(self) -> int:
        """Bytes of the whole file, and a little more."""
        return self.header.data_offset + sum(tensor.size + self.alignment for tensor in self.tensors.values()) + 4096

    @property
    def file_type(self) -> int | None:
        """What to state as `general.file_type`: that of most weights, or None where the stated one stays true."""
        return _FILE_TYPE_OF.get(gguf_file.most_common_type(self.tensors))


def relay(source: Path, target: Path, report: hub.Report) -> Path:
    """The faster layout of the GGUF model `source`, in the folder `target`, which is complete or absent. Made once, then found again.

    Takes about 0.15 s a million weights on two cores. Raises BadInput for a file that is damaged or would get no faster,
    EngineError where the disk has no room for it or fails.
    """
    plan = _Plan.of(gguf_file.read(source))
    path = target / f"{source.stem}.faster.gguf"
    if _is_made(path, source):
        return path
    need, free = plan.size, hub.free_bytes(target)
    if need > free:
        raise EngineError(
            f"The faster layout of {source.name} needs {need / 1e9:.1f} GB of disk; {free / 1e9:.1f} GB are free in {target.parent}. "
            "Free some space, set GUANACO_HOME to a larger disk, or use the model as shipped."
        )
    try:
        with paths.building(target) as folder:
            with open(source, "rb") as file, open(folder / path.name, "wb") as copy:
                _write_header(plan, file, copy)
                _write_weights(plan, file, copy, report)
            gguf_file.read(folder / path.name)
            report(Progress(f"Laying {source.name} anew once: checksums", None))
            paths.write_manifest(folder, source=_identity(source) | {"sha256": paths.sha256(source)}, layout=VERSION)
    except OSError as error:
        raise EngineError(
            f"Laying {source.name} anew failed ({error.strerror or error}). It needs {need / 1e9:.1f} GB of disk; "
            f"{hub.free_bytes(target) / 1e9:.1f} GB are free in {target.parent}. Nothing was kept; the model as shipped still works."
        ) from error
    return path


def _identity(source: Path) -> dict:
    stat = source.stat()
    return {"name": source.name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _is_made(path: Path, source: Path) -> bool:
    """Whether `path` was made of this very source. One that was only touched or moved is told by its checksum."""
    try:
        manifest = paths.read_manifest(path.parent)
        made, size = manifest.get("source"), manifest.get("files", {}).get(path.name, {}).get("size")
        if manifest.get("layout") != VERSION or not isinstance(made, dict) or path.stat().st_size != size:
            return False
    except (BadInput, OSError, AttributeError):
        return False
    now = _identity(source)
    return made.get("size") == now["size"] and (made.get("mtime_ns") == now["mtime_ns"] or made.get("sha256") == paths.sha256(source))


def _write_header(plan: _Plan, source: BinaryIO, copy: BinaryIO) -> None:
    """Everything before the weights: the source's fields as they are, but for what the weights are."""
    types = sorted({plan.header.tensors[name].type for name in plan.types}), sorted(set(plan.types.values()))
    ours = {NOTE: (_STRING, _text(f"faster, version {VERSION}: {' and '.join(types[0])} became {' and '.join(types[1])}"))}
    if plan.file_type is not None:
        ours["general.file_type"] = (_UINT32, struct.pack("<I", plan.file_type))
    if "general.quantization_version" not in plan.header.fields:
        ours["general.quantization_version"] = (_UINT32, struct.pack("<I", 2))
    kept = [raw for name, raw in _fields(plan.header.path, source) if name not in ours]
    kept += [_text(name) + struct.pack("<I", kind) + value for name, (kind, value) in ours.items()]
    copy.write(b"GGUF" + struct.pack("<IQQ", plan.header.version, len(plan.tensors), len(kept)) + b"".join(kept))
    for name, tensor in plan.tensors.items():
        copy.write(_text(name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        copy.write(struct.pack("<IQ", _NUMBERS[tensor.type], tensor.offset))
    copy.write(bytes(-copy.tell() % plan.alignment))


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _fields(path: Path, source: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """The fields of a GGUF file that was found to be sound, each with its bytes."""
    source.seek(0)
    reader = Reader(source, path, gguf_file.MAX_HEADER_BYTES)
    reader.skip(16)
    for _ in range(reader.number("Q")):
        start = reader.position
        name, kind = reader.key(), reader.number("I")
        count, is_array = 1, kind == _ARRAY
        if is_array:
            kind, count = reader.numbers("IQ")
        if kind == _STRING:
            reader.skip_texts(count)
        else:
            reader.skip(count * _FIELD_BYTES[kind])
        end = reader.position
        source.seek(start)
        yield name, source.read(end - start)


def _write_weights(plan: _Plan, source: BinaryIO, copy: BinaryIO, report: hub.Report) -> None:
    header, name = plan.header, plan.header.path.name
    total, done = sum(tensor.size for tensor in header.tensors.values()), 0
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # numpy lets go of the interpreter's lock where it computes
        for each, tensor in header.tensors.items():
            source.seek(tensor.offset)
            if each in plan.types:
                pieces = _laid_anew(plan, each, source, pool, workers)
            else:
                pieces = ((block, len(block)) for block in _blocks(header.path, source, tensor.size, COPY_BYTES))
            for piece, read in pieces:
                copy.write(piece)
                done += read
                report(Progress(f"Laying {name} anew once: {done / 1e9:.2f} of {total / 1e9:.2f} GB", done / total))
            copy.write(bytes(-copy.tell() % plan.alignment))


def _blocks(path: Path, source: BinaryIO, size: int, length: int) -> Iterator[bytes]:
    """The next `size` bytes, `length` at a time. Raises BadInput where the file was cut since."""
    while size:
        block = source.read(min(size, length))
        if len(block) < min(size, length):
            raise damaged(path, "it was cut while it was read")
        size -= len(block)
        yield block


def _laid_anew(plan: _Plan, name: str, source: BinaryIO, pool: ThreadPoolExecutor, workers: int) -> Iterator[tuple[bytes, int]]:
    """A tensor's new blocks, a few rows a worker at a time, each with the number of bytes that were read for it."""
    import numpy
    from gguf import GGMLQuantizationType, quants

    from engine.quants import quantize

    tensor, kind, path = plan.header.tensors[name], plan.types[name], plan.header.path
    row_bytes = tensor.size * tensor.shape[0] // tensor.weights
    rows = max(1, CHUNK_WEIGHTS // tensor.shape[0])
    importance = _importance(plan.header, name)

    def convert(block: bytes) -> bytes:
        stored = numpy.frombuffer(block, numpy.uint8).reshape(-1, row_bytes)
        weights = quants.dequantize(stored, GGMLQuantizationType[tensor.type]).astype(numpy.float32, copy=False)
        if not numpy.isfinite(weights).all():
            raise damaged(path, f"its tensor {name[:80]!r} has weights that are no numbers")
        return quantize(weights, kind, importance).tobytes()

    stream = _blocks(path, source, tensor.size, rows * row_bytes)
    while blocks := [*islice(stream, workers)]:
        yield from zip(pool.map(convert, blocks), map(len, blocks), strict=True)


def _importance(header: Header, name: str):
    """How much a column counts, [length of a row]: the square of the norm's gain in front of the matrix, which is how large that
    input is on average as far as the file tells. None where no norm is in front of it, or none that is stored as plain numbers."""
    import numpy

    layer, _, last = name.removesuffix(".weight").rpartition(".")
    place = last.removesuffix("_exps").removesuffix("_shexp")
    before = {"output": "output_norm", "token_embd": "output_norm", "ffn_gate": "ffn_norm", "ffn_up": "ffn_norm"}
    before |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_qkv"), "attn_norm")
    gain = header.tensors.get(f"{layer}.{before.get(place)}.weight".lstrip("."))
    if gain is None or gain.type != "F32" or gain.shape != header.tensors[name].shape[:1]:
        return None
    with opened(header.path) as file:
        file.seek(gain.offset)
        squares = numpy.frombuffer(next(_blocks(header.path, file, gain.size, gain.size)), numpy.float32).astype(numpy.float64) ** 2
    mean = squares.mean()
    if not numpy.isfinite(mean) or not mean:
        return None
    return numpy.clip(squares / mean, 1e-3, 1e3).astype(numpy.float32)

"""GGUF headers: read as the gguf package reads them, refused with a sentence where they are cut, hostile or something else (row 34)."""

import struct
import time

import gguf
import numpy
import pytest
from builders import Llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import gguf_file
from engine.architecture import Architecture
from engine.errors import BadInput

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def field(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def whole(fields: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), data: int = 64) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + b"".join((*fields, *tensors))
    return head + bytes(-len(head) % 32 + data)


SMALL = whole(
    (
        field("general.architecture", 8, text("llama")),
        field("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + text("a") + text("\u2581b") + text("")),
        field("llama.block_count", 4, struct.pack("<I", 1)),
        field("numbers", 9, struct.pack("<IQ3h", 3, 3, -1, 0, 1)),
    ),
    (tensor("output.weight", (32, 2), 2), tensor("norm.weight", (3,), 0, 64)),
    data=64 + 12,
)
SMALL_HEADER = SMALL.index(b"norm.weight") + 11 + 4 + 8 + 4 + 8


@pytest.fixture
def read(tmp_path):
    """Read bytes as if they were a file."""

    def read(content: bytes) -> gguf_file.Header:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return gguf_file.read(path)

    return read


def test_every_kind_of_value_comes_back(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    values = {
        "uint8": 255,
        "int8": -128,
        "uint16": 65535,
        "int16": -32768,
        "uint32": 2**32 - 1,
        "int32": -(2**31),
        "float32": 0.5,
        "uint64": 2**64 - 1,
        "int64": -(2**63),
        "float64": 0.1,
        "bool": True,
        "string": "\u2581\u4e2d",
    }
    lists = {"texts": ["a", "\u4e2d", "x" * 300], "integers": [1, -2, 3], "floats": [0.5, -1.0], "flags": [True, False]}
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(kind, value)
    for name, value in lists.items():
        writer.add_array(name, value)
    writer.add_tensor("first", numpy.zeros((2, 3), numpy.float16))
    writer.add_tensor("second", numpy.ones(5, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = gguf_file.read(path)
    assert {name: header.fields[name] for name in values} == values
    assert {name: header.values(name) for name in lists} == lists
    assert header.values("string") == header.values("nothing") == []
    first, second = header.tensors["first"], header.tensors["second"]
    assert (header.version, first.shape, first.type, first.offset, first.size) == (3, (3, 2), "F16", header.data_offset, 12)
    assert numpy.frombuffer(path.read_bytes()[second.offset :][: second.size], numpy.float32).tolist() == [1] * 5


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q8_0"])
def test_a_model_is_read_as_the_gguf_package_reads_it(tmp_path, kind):
    model = Llama(kind)
    path = model.gguf(tmp_path / "model.gguf")
    header = gguf_file.read(path)
    _agrees(header, path)
    assert gguf_file.architecture(header) == Architecture(2, 64, 128, 4, 4, len(model.vocabulary), context=2048)
    assert gguf_file.quantization(header) == kind


@pytest.mark.long
def test_the_starter_is_read_as_the_gguf_package_reads_it(starter):
    path = next((starter / "models" / "starter" / "gguf").glob("*.gguf"))
    start = time.perf_counter()
    header = gguf_file.read(path)
    assert time.perf_counter() - start < 0.3
    _agrees(header, path)
    assert gguf_file.architecture(header) == Architecture(30, 576, 1536, 9, 3, 49152, tied=True, context=8192)
    assert gguf_file.quantization(header) == "Q4_1"
    assert gguf_file.bits_per_weight(header.tensors) == pytest.approx(5.74, abs=0.01)


def _agrees(header: gguf_file.Header, path) -> None:
    reader = gguf.GGUFReader(path)
    assert header.data_offset == reader.data_offset
    assert [*header.tensors] == [each.name for each in reader.tensors]
    for each in reader.tensors:
        mine = header.tensors[each.name]
        assert (mine.shape, mine.type) == (tuple(each.shape.tolist()), each.tensor_type.name)
        assert (mine.offset, mine.size) == (each.data_offset, each.n_bytes)
    for name, theirs in reader.fields.items():
        if not name.startswith("GGUF."):
            mine = header.values(name) if isinstance(header.fields[name], gguf_file.Array) else header.fields[name]
            assert mine == theirs.contents(), name


def test_types_are_as_large_as_the_gguf_package_says():
    sizes = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    sizes[9] = ("Q8_1", 32, 2 + 2 + 32)  # its two factors are 16-bit since 2024, which the package has not followed
    assert {number: tuple(kind) for number, kind in gguf_file.TENSOR_TYPES.items()} == sizes


def test_file_types_have_the_gguf_packages_names():
    theirs = {each.value: each.name.removeprefix("MOSTLY_").removeprefix("ALL_") for each in gguf.LlamaFileType if each.name != "GUESSED"}
    theirs |= {4: "Q4_1", 38: "MXFP4"}  # Q4_1 with 16-bit embeddings; MXFP4 in experts alone
    assert gguf_file.FILE_TYPES == theirs


@pytest.mark.parametrize("stated, name", [(15, "Q4_K_M"), (7, "Q8_0"), (5, "Q4_0"), (1024, "Q4_0"), (None, "Q4_0")])
def test_quantization_is_the_stated_one_or_the_most_common(read, stated, name):
    fields = () if stated is None else (field("general.file_type", 4, struct.pack("<I", stated)),)
    header = read(whole(fields, (tensor("a", (32, 2), 2), tensor("b", (3,), 0, 64)), 76))
    assert gguf_file.quantization(header) == name
    assert gguf_file.bits_per_weight(header.tensors) == pytest.approx((36 + 12) * 8 / 67)


def test_a_file_without_tensors_is_a_header(read):
    header = read(whole())
    assert (gguf_file.quantization(header), gguf_file.bits_per_weight(header.tensors), gguf_file.architecture(header)) == (
        "unknown",
        0,
        None,
    )


@pytest.mark.parametrize(
    "key, kind, value", [("head_count", 4, "0"), ("head_count", 6, "inf"), ("head_count", 8, "text"), ("head_count", 9, "")]
)
def test_a_shape_that_makes_no_sense_is_none(read, key, kind, value):
    values = {4: struct.pack("<I", 0), 6: struct.pack("<f", float("inf")), 8: text("9"), 9: struct.pack("<IQI", 4, 1, 9)}
    fields = [field("general.architecture", 8, text("llama")), field(f"llama.attention.{key}", kind, values[kind])]
    for name in ("block_count", "embedding_length", "feed_forward_length"):
        fields.append(field(f"llama.{name}", 4, struct.pack("<I", 64)))
    fields.append(field("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 1) + text("a")))
    assert gguf_file.architecture(read(whole(tuple(fields)))) is None


ONE = (tensor("a"),)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is not a model file this can read: it is no GGUF file"),
        (b"PK\3\4 a zip file", "it is no GGUF file"),
        (b"lmgg" + bytes(8), "it is GGML, a format of 2023"),
        (b"fmgg" + bytes(8), "it is GGMF"),
        (b"tjgg" + bytes(8), "it is GGJT"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1, known are 2 and 3"),
        (b"GGUF" + struct.pack("<I", 4), "GGUF version 4"),
        (b"GGUF" + struct.pack("<I", 0), "GGUF version 0"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "GGUF version 3 for big-endian machines"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "damaged: it claims 1,152,921,504,606,846,976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "damaged: it claims 0 tensors and 1,152"),
        (whole((struct.pack("<Q", 2**62) + b"a",)), "a name of 4,611"),
        (whole((field("a", 8, struct.pack("<Q", 2**62)),)), "cut off after"),
        (whole((field("a", 8, struct.pack("<Q", 2**64 - 1)),)), "cut off after"),
        (whole((field("a", 9, struct.pack("<IQ", 8, 2**61)),)), "cut off after"),
        (whole((field("a", 9, struct.pack("<IQ", 8, 5) + bytes(8) + struct.pack("<Q", 2**40)),)), "cut off after"),
        (whole((field("a", 9, struct.pack("<IQ", 12, 2**61)),)), "cut off after"),
        (whole((field("a", 9, struct.pack("<IQIQ", 9, 1, 4, 0)),)), "list of the type number 9, which no model has"),
        (whole((field("a", 9, struct.pack("<IQ", 77, 0)),)), "list of the type number 77"),
        (whole((field("a", 13, b""),)), "type number 13, which there is not"),
        (whole((text(b"\xff") + bytes(8),)), "no text"),
        (whole((field("a", 7, b"\1"), field("a", 7, b"\1"))), "field 'a' is there twice"),
        (whole((field("general.alignment", 4, struct.pack("<I", 24)),), ONE), "no power of two"),
        (whole((field("general.alignment", 4, struct.pack("<I", 0)),), ONE), "no power of two"),
        (whole((field("general.alignment", 8, text("32")),), ONE), "no power of two"),
        (whole((field("general.alignment", 10, struct.pack("<Q", 2**63)),), ONE), r"has \d+ bytes instead of 9,223"),
        (whole((), (*ONE, *ONE)), "tensor 'a' is there twice"),
        (whole((), (tensor("a", (1,) * 5),)), "has 5 dimensions"),
        (whole((), (text("a") + struct.pack("<I", 2**32 - 1),)), "has 4294967295 dimensions"),
        (whole((), (tensor("a", (2**32, 2**32)),)), "has the shape"),
        (whole((), (tensor("a", (4, 0)),)), "has the shape"),
        (whole((), (tensor("a", (48,), 2),)), "rows of 48, no multiple of Q4_0's 32"),
        (whole((), (tensor("a", kind=4),)), "type number 4, which is newer than this app or was given up"),
        (whole((), (tensor("a", offset=8),)), "'a' is not aligned"),
        (whole((), (tensor("a", offset=2**63),)), "bytes instead of"),
        (whole((), (tensor("a", (64,)), tensor("b", offset=224)), 256), "'a' and 'b' lie over each other"),
        (whole((), (tensor("a", (17,)),)), "bytes instead of"),
    ],
)
def test_what_is_refused(read, content, words):
    start = time.perf_counter()
    with pytest.raises(BadInput, match=words) as error:
        read(content)
    assert time.perf_counter() - start < 1 and "\n" not in str(error.value)


def test_a_header_without_end_is_given_up(tmp_path):
    path = tmp_path / "model.gguf"
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**30))
        file.truncate(2**34)  # sparse: a billion empty strings that take no room
    with pytest.raises(BadInput, match="goes on for more than 64 MB"):
        gguf_file.read(path)


def test_no_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        gguf_file.read(tmp_path / "none.gguf")
    with pytest.raises(BadInput, match="it is no file"):
        gguf_file.read(tmp_path)


def test_a_file_cut_since_is_noticed(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(SMALL)
    header = gguf_file.read(path)
    assert header.values("tokenizer.ggml.tokens") == ["a", "\u2581b", ""] and header.values("numbers") == [-1, 0, 1]
    path.write_bytes(SMALL[:40])
    with pytest.raises(BadInput, match="cut off after 40 bytes"):
        header.values("tokenizer.ggml.tokens")


def test_every_cut_is_noticed(read):
    for length in range(len(SMALL)):
        with pytest.raises(BadInput):
            read(SMALL[:length])
    read(SMALL)


def test_a_cut_of_the_padding_behind_the_last_tensor_is_none(read):
    content = SMALL + bytes(-len(SMALL) % 32)
    for length in range(len(SMALL), len(content)):
        assert read(content[:length]).tensors == read(content).tensors


@SAME_FOLDER
@given(place=st.integers(0, SMALL_HEADER - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(read, place, value):
    _read_or_refused(read, SMALL[:place] + bytes([value]) + SMALL[place + 1 :])


@SAME_FOLDER
@given(counts=st.tuples(*[st.integers(0, 3) | st.integers(0, 2**64 - 1)] * 2), rest=st.binary(max_size=300))
def test_garbage_is_read_or_refused(read, counts, rest):
    _read_or_refused(read, b"GGUF" + struct.pack("<IQQ", 3, *counts) + rest)


def _read_or_refused(read, content: bytes) -> None:
    start = time.perf_counter()
    try:
        header = read(content)
        for name in header.fields:
            header.values(name)
        gguf_file.architecture(header)
        gguf_file.quantization(header)
        gguf_file.bits_per_weight(header.tensors)
    except BadInput:
        pass
    assert time.perf_counter() - start < 1

"""GGML files of 2023: llama.cpp makes the same of what they are turned into, and what is cut or of another version is refused (row 34)."""

import json
import shutil
import struct
import time
import urllib.request
from collections import namedtuple

import numpy
import pytest
from builders import Llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import ggml, gguf_file, paths
from engine.architecture import Architecture
from engine.errors import BadInput, EngineError

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
TEXTS = ("Hello the llama", " two  spaces, \u4e2d and \u00e9", "\u0c80 \U0001f999 in bytes\n\ttabs", "", "[PAD] a<|x|>b added")
PROMPT = [1, *range(259, 300), 3 + 0xE0, 3, 258, 2, 368]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A small GGJT file of version 3."""
    return Llama().ggjt(tmp_path_factory.mktemp("ggml") / "model.ggmlv3.f16.bin")


@pytest.fixture
def read(tmp_path):
    """Read the header of bytes as if they were a file."""

    def read(content: bytes) -> ggml.Header:
        path = tmp_path / "model.bin"
        path.write_bytes(content)
        return ggml.read_header(path)

    return read


def _converted(model: Llama, folder, name: str = "model.ggmlv3.q.bin"):
    return ggml.to_gguf(model.ggjt(folder / name), folder / "converted", lambda progress: None)


def _heard(path) -> tuple:
    """What llama.cpp makes of a model: all log-probabilities after each of some prompts, and the tokens of some texts."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.verbosity = str(path), -1
    parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.fit_params = 128, 1, False, False
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    logits = []
    for length in (1, 7, len(PROMPT)):
        # Part of a character would come without its probabilities, so a whole one is forced; that does not change them.
        options = {"n_predict": 1, "n_probs": 1000, "temperature": 0, "cache_prompt": False, "logit_bias": [[300, 1000]]}
        answer = server.handle_completions({"prompt": PROMPT[:length], **options})
        (token,) = answer["choices"][0]["logprobs"]["content"]
        logits.append({each["id"]: (each["logprob"], tuple(each["bytes"])) for each in token["top_logprobs"]})

    def ask(name: str, **body) -> dict:
        request = urllib.request.Request(
            f"{server.listening_address}/{name}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    tokens = [
        ask("tokenize", content=text, add_special=True, parse_special=special)["tokens"] for text in TEXTS for special in (False, True)
    ]
    shown = [ask("detokenize", tokens=each)["content"] for each in tokens]
    return logits, tokens, shown


@pytest.mark.parametrize(
    "kind, options",
    [
        ("F32", {}),
        ("F16", {"added": ("[PAD]", "<|x|>", "added word")}),
        ("Q4_0", {}),
        ("Q5_1", {"kv_heads": 2}),
        ("Q8_0", {"added": ("[PAD]",)}),
    ],
)
def test_llama_cpp_makes_the_same_of_both_files(tmp_path, kind, options):
    model = Llama(kind, **options)
    direct, converted = _heard(model.gguf(tmp_path / "direct.gguf")), _heard(_converted(model, tmp_path))
    assert direct == converted
    logits, tokens, shown = converted
    assert len(logits[0]) == len(model.vocabulary) and logits[0] != logits[1] != logits[2]
    texts = [text for text, _, _ in model.vocabulary]
    assert [texts[token] for token in tokens[0]][:2] == ["<s>", "\u2581Hello"]
    assert "<0xE0>" in [texts[token] for token in tokens[4]] and "\u4e2d" in [texts[token] for token in tokens[2]]
    assert shown[2].removeprefix("<s>").removeprefix(" ") == TEXTS[1]


def test_what_is_kept(tmp_path):
    model = Llama("Q4_0", added=("[PAD]", "added word"))
    seen = []
    path = ggml.to_gguf(
        model.ggjt(tmp_path / "tiny-7B.ggmlv3.q4_0.bin", file_type=2002), tmp_path / "out", seen.append, source="someone/tiny"
    )
    assert path == tmp_path / "out" / "tiny-7B.q4_0.gguf"
    header = gguf_file.read(path)
    expected = {
        "general.architecture": "llama",
        "general.name": "tiny-7B.q4_0",
        "general.file_type": 2,
        "llama.context_length": 2048,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10_000.0,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
    }
    assert {name: header.fields[name] for name in expected} == expected
    assert gguf_file.architecture(header) == Architecture(2, 64, 128, 4, 4, len(model.vocabulary), context=2048)
    assert gguf_file.quantization(header) == "Q4_0"
    texts, scores, types = zip(*model.vocabulary, strict=True)
    assert header.values("tokenizer.ggml.tokens") == [*texts]
    assert header.values("tokenizer.ggml.scores") == [*scores]
    assert header.values("tokenizer.ggml.token_type") == [*types]
    assert [progress.fraction for progress in seen][0] == 0 and seen[-2].fraction > 0.9 and "checksum" in seen[-1].text
    assert paths.damaged(path.parent) is None and paths.read_manifest(path.parent)["source"] == "someone/tiny"


def test_k_quants_are_copied_byte_for_byte(tmp_path):
    """The gguf package cannot make them, and any bytes will do."""
    from gguf import GGMLQuantizationType

    model = Llama("F32", hidden=256, layers=1)
    random, kinds = numpy.random.default_rng(1), ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
    for number, (name, (_, shape, _)) in enumerate(model.weights.items()):
        kind = kinds[number % len(kinds)]
        if not isinstance(shape, int):
            size = next(each.size for each in gguf_file.TENSOR_TYPES.values() if each.name == kind)
            model.weights[name] = (
                GGMLQuantizationType[kind],
                shape,
                random.integers(0, 256, shape[0] * shape[1] // 256 * size, numpy.uint8),
            )
    source = model.ggjt(tmp_path / "model.ggmlv3.q4_K_M.bin", file_type=15)
    assert ggml.read_header(source).quantization == "Q4_K_M"
    path = ggml.to_gguf(source, tmp_path / "out", lambda progress: None)
    content, tensors = path.read_bytes(), gguf_file.read(path).tensors
    assert len(tensors) == len(model.weights)
    for (_, _, data), tensor in zip(model.weights.values(), tensors.values(), strict=True):
        assert content[tensor.offset : tensor.offset + tensor.size] == data.tobytes()


@pytest.mark.parametrize(
    "name, kv_heads, epsilon, context",
    [
        ("guanaco-7B.ggmlv3.q4_0.bin", 4, 1e-6, 2048),
        ("Llama-2-7B.ggmlv3.q4_0.bin", 4, 1e-5, 4096),
        ("llama2_7b.bin", 4, 1e-5, 4096),
        ("llama-20b.bin", 4, 1e-6, 2048),
        ("any-70b.ggmlv3.q4_0.bin", 2, 1e-5, 4096),
    ],
)
def test_a_llama_2_is_told_by_its_heads_or_its_name(tmp_path, name, kv_heads, epsilon, context):
    fields = gguf_file.read(_converted(Llama(kv_heads=kv_heads, layers=1), tmp_path, name)).fields
    assert fields["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(epsilon)
    assert (fields["llama.context_length"], fields["llama.attention.head_count_kv"]) == (context, kv_heads)


def test_tokens_without_a_text_of_their_own_are_unused(tmp_path):
    model = Llama(layers=1, added=("", "", "</s>", "<unused 400>"))
    header = ggml.read_header(model.ggjt(tmp_path / "model.bin"))
    first = len(model.vocabulary) - 4
    assert header.tokens[first:] == tuple(f"<unused {first + number}>" for number in range(4))
    assert header.token_types[first:] == (ggml.UNUSED,) * 4


def test_a_score_of_added_tokens_amid_the_vocabulary_adds_none(tmp_path):
    model = Llama(layers=1)
    model.vocabulary[300] = (model.vocabulary[300][0], -1000.0, 1)
    assert ggml.read_header(model.ggjt(tmp_path / "model.bin")).token_types[300] == ggml.NORMAL


@pytest.mark.parametrize(
    "head, words",
    [
        (b"", "it is no GGML file"),
        (b"PK\3\4 a pickle in a zip file", "it is no GGML file"),
        (b"tjgg", "it is no GGML file"),
        (b"lmgg" + bytes(8), "it is GGML, and of GGML's formats only GGJT version 3 is known. Take the same model as GGUF"),
        (b"fmgg" + struct.pack("<I", 1), "it is GGMF version 1,"),
        (b"tjgg" + struct.pack("<I", 1), "it is GGJT version 1,"),
        (b"tjgg" + struct.pack("<I", 2), "it is GGJT version 2,"),
        (b"tjgg" + struct.pack("<I", 4), "it is GGJT version 4,"),
        (b"GGUF" + struct.pack("<I", 3), "it is GGUF already. Rename it"),
    ],
)
def test_other_formats_and_versions_are_named(read, head, words):
    with pytest.raises(BadInput, match=words):
        read(head)


VOCABULARY, HIDDEN, HEADS, LAYERS, ROTARY = (8 + 4 * number for number in (0, 1, 3, 4, 5))


@pytest.mark.parametrize("place", [VOCABULARY, HIDDEN, HEADS, LAYERS, ROTARY])
@pytest.mark.parametrize("value", [0, 1, 2**31, 2**32 - 1])
def test_absurd_numbers_are_refused(read, file, place, value):
    content = bytearray(file.read_bytes())
    content[place : place + 4] = struct.pack("<I", value)
    with pytest.raises(BadInput, match="damaged: it claims|one too many"):
        read(content)


def _without(name: str, model: Llama) -> None:
    del model.weights[name]


def _reshaped(name: str, shape, model: Llama) -> None:
    form, _, data = model.weights[name]
    model.weights[name] = (form, shape, data)


def _piece(token: int, piece: tuple, model: Llama) -> None:
    model.vocabulary[token] = piece


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda model: _without("layers.1.ffn_norm.weight", model), "ends after 20 of 21 tensors, 'layers.1.ffn_norm.weight' is missing"),
        (lambda model: _without("layers.0.attention.wk.weight", model), "'layers.0.attention.wk.weight' is missing"),
        (lambda model: _without("output.weight", model), "'output.weight' is missing"),
        (lambda model: _reshaped("output.weight", (64, len(model.vocabulary)), model), "has the shape"),
        (lambda model: _reshaped("layers.0.attention.wk.weight", (128, 32), model), "has the shape"),
        (lambda model: model.weights.update(more=model.weights["norm.weight"]), "'more' is one too many"),
        (lambda model: _piece(10, ("x", 0.0, 1), model), "not of LLaMA's kind"),
        (lambda model: _piece(300, ("x" * 300, 0.0, 1), model), "token 300 of its vocabulary has 300 bytes"),
        (lambda model: _piece(300, ("x", float("nan"), 1), model), "a score in its vocabulary is no number"),
    ],
)
def test_what_is_no_llama_is_refused(tmp_path, change, words):
    model = Llama()
    change(model)
    with pytest.raises(BadInput, match=words):
        ggml.read_header(model.ggjt(tmp_path / "model.bin"))


@pytest.mark.parametrize(
    "name, kind, words",
    [
        ("output.weight", 4, "has the type number 4, which version 3 had not"),
        ("output.weight", 30, "has the type number 30, which version 3 had not"),
        ("output.weight", 12, "rows of 64 in blocks of 64, which were given up"),
        ("norm.weight", 1, "damaged"),
    ],
)
def test_types_that_are_not_as_they_were_are_refused(read, file, name, kind, words):
    content = bytearray(file.read_bytes())
    start = content.index(struct.pack("<I", len(name)), content.index(name.encode()) - 24) + 4
    content[start : start + 4] = struct.pack("<I", kind)
    with pytest.raises(BadInput, match=words):
        read(content)


@pytest.mark.long
def test_every_cut_is_noticed(tmp_path, file):
    size = file.stat().st_size
    copy = shutil.copy(file, tmp_path / "model.bin")
    for length in sorted({size - 1, size - 2, *range(0, size, 499), *range(5200)}, reverse=True):
        with open(copy, "r+b") as cut:
            cut.truncate(length)
        with pytest.raises(BadInput):
            ggml.read_header(copy)


@SAME_FOLDER
@given(place=st.integers(0, 5500), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(read, file, place, value):
    content = bytearray(file.read_bytes())
    content[place] = value
    _read_or_refused(read, content)


@SAME_FOLDER
@given(numbers=st.lists(st.integers(0, 600) | st.integers(0, 2**32 - 1), min_size=7, max_size=7), rest=st.binary(max_size=200))
def test_garbage_is_read_or_refused(read, numbers, rest):
    _read_or_refused(read, b"tjgg" + struct.pack("<8I", 3, *numbers) + rest)


@SAME_FOLDER
@given(head=st.tuples(*[st.integers(0, 20) | st.integers(0, 2**32 - 1)] * 5), rest=st.binary(max_size=100))
def test_garbage_among_the_tensors_is_refused(read, file, head, rest):
    with pytest.raises(BadInput):
        read(file.read_bytes() + struct.pack("<5I", *head) + rest)


def _read_or_refused(read, content: bytes) -> None:
    start = time.perf_counter()
    try:
        assert len(set(read(content).tokens)) == len(read(content).tokens)
    except BadInput:
        pass
    assert time.perf_counter() - start < 2


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, file, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1000))
    with pytest.raises(EngineError, match=r"needs 0\.0 GB of disk; 0\.0 GB are free in"):
        ggml.to_gguf(file, tmp_path / "out", lambda progress: pytest.fail("began"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error, raised", [(OSError(28, "No space left on device"), EngineError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_conversion_that_fails_leaves_nothing(tmp_path, file, error, raised):
    def report(progress):
        if progress.fraction and progress.fraction > 0.5:
            raise error

    with pytest.raises(raised):
        ggml.to_gguf(file, tmp_path / "out", report)
    assert not [*tmp_path.glob("*out*")]


def test_a_file_cut_while_it_is_read_leaves_nothing(tmp_path, file):
    copy = shutil.copy(file, tmp_path / "model.bin")

    def report(progress):
        with open(copy, "r+b") as cut:
            cut.truncate(20_000)

    with pytest.raises(BadInput, match="cut while it was read"):
        ggml.to_gguf(copy, tmp_path / "out", report)
    assert not (tmp_path / "out").exists()


def test_no_more_than_a_block_is_in_memory(tmp_path, file, monkeypatch):
    reads = []
    monkeypatch.setattr(ggml, "BLOCK_BYTES", 1000)
    path = ggml.to_gguf(file, tmp_path / "out", reads.append)
    assert len(reads) > file.stat().st_size / 1000 - 50
    whole = ggml.to_gguf(file, tmp_path / "whole", lambda progress: None)
    assert path.read_bytes() == whole.read_bytes()

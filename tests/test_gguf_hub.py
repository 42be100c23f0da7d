"""GGUF files of Hub repositories: which is meant, what is refused before the download, and what an awkward Hub leaves (rows 33 to 35)."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from builders import Llama
from conftest import ROOT
from hub_server import HubServer
from hypothesis import given
from hypothesis import strategies as st

from engine import gguf_file, gguf_hub, hardware, hub, paths
from engine.errors import BadInput, EngineError
from engine.gguf_hub import choose, offers, parse
from engine.hardware import GIB, Machine
from engine.hub import RemoteFile, Repository

ROOMY = 10**12
FETCH = """
import sys
from engine import gguf_hub
from engine.errors import EngineError
try:
    print("at:", gguf_hub.fetch(sys.argv[1], sys.argv[2] or None, lambda progress: None))
except EngineError as error:
    print(type(error).__name__, error)
"""


def repo(*names: str, **sizes: int) -> Repository:
    """A repository of empty files, or of files by their size in GB."""
    files = [RemoteFile(name, 0, None, None) for name in names]
    files += [RemoteFile(f"model.{method}.gguf", int(size * 1e9), None, None) for method, size in sizes.items()]
    return Repository("someone/model-GGUF", "0" * 40, tuple(files), "mit", False)


@pytest.mark.parametrize(
    "name, method",
    [
        ("guanaco-33B.ggmlv3.q4_K_M.bin", "Q4_K_M"),
        ("guanaco-33B.ggmlv3.q2_K.bin", "Q2_K"),
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("model_q8_0.gguf", "Q8_0"),
        ("model-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("model-Q4_0_16_16.gguf", None),
        ("model.i1-IQ4_NL.gguf", "IQ4_NL"),
        ("model-IQ3_XXS.GGUF", "IQ3_XXS"),
        ("model-UD-Q4_K_XL.gguf", "Q4_K_XL"),
        ("model-imatrix-Q5_K_S.gguf", "Q5_K_S"),
        ("model-bf16.gguf", "BF16"),
        ("model-f16.gguf", "F16"),
        ("BF16/model-00001-of-00001.gguf", "BF16"),
        ("Q8_0/model-Q8_0.gguf", "Q8_0"),
        ("SmolLM3-3B.gguf", None),
        ("model-xQ4_0.gguf", None),
    ],
)
def test_methods_are_read_from_names(name, method):
    (offer,) = offers([RemoteFile(name, 1, None, None)])
    assert offer.method == method


@pytest.mark.parametrize(
    "name",
    [
        "mmproj-model-f16.gguf",
        "model.imatrix.gguf",
        "imatrix.dat",
        "ggml-vocab-llama.gguf",
        "model.safetensors",
        "pytorch_model.bin",
        "ggml-model-q4_0.bin",
        "README.md",
        "model-Q4_0-00001-of-00002.gguf",
    ],
)
def test_files_that_are_no_whole_model_are_not_offered(name):
    assert offers([RemoteFile(name, 1, None, None)]) == []


@pytest.mark.parametrize(
    "method, names, chosen",
    [
        ("q4_k", ["a.Q4_K_M.gguf", "a.Q4_K.gguf", "a.Q4_K_S.gguf"], ["a.Q4_K.gguf"]),
        ("Q4_0", ["a.Q4_0_4_4.gguf", "a.Q4_0.gguf", "a.IQ4_NL.gguf"], ["a.Q4_0.gguf"]),
        ("iq4_nl", ["a.Q4_0.gguf", "a.IQ4_NL.gguf"], ["a.IQ4_NL.gguf"]),
        ("Q4_0", ["a.ggmlv3.q4_0.bin", "a.Q4_0.gguf"], ["a.Q4_0.gguf"]),
        ("Q4_1", ["a.ggmlv3.q4_1.bin", "a.Q4_0.gguf"], ["a.ggmlv3.q4_1.bin"]),
        ("A.Q4_0.GGUF", ["b.Q4_0.gguf", "a.Q4_0.gguf"], ["a.Q4_0.gguf"]),
        (None, ["a.Q8_0.gguf", "a.Q4_0.gguf", "a.Q4_K_M.gguf"], ["a.Q4_K_M.gguf"]),
        (None, ["a.Q8_0.gguf", "a.Q4_0.gguf"], ["a.Q4_0.gguf"]),
        (None, ["a.Q8_0.gguf", "a.ggmlv3.q4_K_M.bin"], ["a.Q8_0.gguf"]),
        (None, ["whatever.gguf", "README.md"], ["whatever.gguf"]),
        (
            "Q6_K",
            ["Q6_K/a-00002-of-00003.gguf", "Q6_K/a-00003-of-00003.gguf", "Q6_K/a-00001-of-00003.gguf", "Q8_0/a-00001-of-00002.gguf"],
            [f"Q6_K/a-0000{part}-of-00003.gguf" for part in (1, 2, 3)],
        ),
    ],
)
def test_the_file_that_is_meant_is_chosen(method, names, chosen):
    assert [file.name for file in choose(repo(*names), method, ROOMY).files] == chosen


@pytest.mark.parametrize("memory, chosen", [(20e9, "Q8_0"), (8e9, "Q5_0"), (1e9, "Q3_K_S")])
def test_without_a_usual_one_the_largest_that_fits_is_chosen(memory, chosen):
    assert choose(repo(Q8_0=7.2, Q5_0=4.7, Q3_K_S=2.9), None, int(memory)).method == chosen


def test_an_unknown_method_is_told_what_there_is():
    with pytest.raises(BadInput) as error:
        choose(repo(Q8_0=7.16, Q4_0=3.83), "Q4_K_M", int(6e9))
    assert str(error.value) == ("someone/model-GGUF has no Q4_K_M. It has: Q4_0 (3.83 GB, fits), Q8_0 (7.16 GB, does not fit).")


def test_several_files_of_one_method_are_asked_about():
    with pytest.raises(BadInput, match=r"several files of Q4_0: .*Name one of them: someone/model-GGUF:13b.Q4_0.gguf"):
        choose(repo("7b.Q4_0.gguf", "13b.Q4_0.gguf"), None, ROOMY)


@pytest.mark.parametrize(
    "names, words",
    [
        (["model.safetensors", "config.json"], "holds safetensors, which load without a method: choose someone/model-GGUF"),
        (["adapter_model.safetensors", "adapter_config.json"], "LoRA adapter"),
        (["ggml-model-q4_0.bin"], "ggmlv3 in their name"),
        (["a-00001-of-00002.gguf"], "parts of one are missing"),
        (["README.md"], "Take another repository"),
        ([], "no files at all"),
    ],
)
def test_a_repository_without_gguf_files_is_told_what_it_holds(names, words):
    with pytest.raises(BadInput, match=words):
        choose(repo(*names), None, ROOMY)


@pytest.mark.parametrize(
    "name, meaning",
    [
        ("TheBloke/guanaco-33B-GGML", ("TheBloke/guanaco-33B-GGML", None)),
        ("Qwen/Qwen2.5-0.5B-Instruct-gguf", ("Qwen/Qwen2.5-0.5B-Instruct-gguf", None)),
        ("a/b:q4_k_m", ("a/b", "Q4_K_M")),
        ("a/b-GGUF:Q8_0", ("a/b-GGUF", "Q8_0")),
        ("a/b:sub/Model.q4_0.gguf", ("a/b", "sub/Model.q4_0.gguf")),
        ("a/b", None),
        ("a/gguf", None),
        ("a/b:", None),
        ("a/b:x y", None),
        ("a/b:../x.gguf/", None),
        ("C:/models/x.gguf", None),
        ("C:\\models\\x.gguf", None),
        ("http://x/y", None),
        ("starter", None),
        ("", None),
    ],
)
def test_the_spelling_of_an_id(name, meaning):
    assert parse(name) == meaning


@given(st.text(max_size=60) | st.from_regex(r"[\w./:\\ -]{0,60}", fullmatch=True))
def test_whatever_is_typed_is_an_id_or_none(name):
    meaning = parse(name)
    if meaning:
        source, method = meaning
        assert hub.HUB_ID.fullmatch(source)
        assert name.casefold() == (f"{source}:{method}" if method else source).casefold()
        assert parse(f"{source}:{method}" if method else source) == meaning


@given(st.from_regex(hub.HUB_ID, fullmatch=True), st.sampled_from(["Q2_K", "q4_K_M", "iq4_nl", "Q8_0", "f16"]))
def test_a_method_behind_any_id_is_understood(source, method):
    assert parse(f"{source}:{method}") == (source, method.upper())


@given(st.lists(st.text(max_size=30).map(lambda text: f"{text}.gguf"), unique=True, max_size=5))
def test_any_names_are_offered_once_and_found_again(names):
    files = [RemoteFile(name, 1, None, None) for name in names]
    for offer in offers(files):
        assert all(file in files for file in offer.files)
        assert offer.is_called(offer.name)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A repository with two quantizations of a small model, a GGML file of it, and other files."""
    folder = tmp_path_factory.mktemp("hub") / "model-GGUF"
    folder.mkdir()
    Llama("Q4_0").gguf(folder / "model.Q4_0.gguf")
    Llama("Q8_0").gguf(folder / "model.Q8_0.gguf")
    Llama("Q5_1").ggjt(folder / "model.ggmlv3.q5_1.bin", file_type=2009)
    (folder / "README.md").write_text("# A model")
    (folder / "text.Q6_K.gguf").write_text("This is no model.")
    return folder


def process(source: str, method: str | None, endpoint: str, **env: str) -> subprocess.Popen:
    """Fetch in a process of its own: the client reads HF_ENDPOINT when it is imported."""
    quick = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DISABLE_XET": "1"}
    variables = {**os.environ, "HF_ENDPOINT": endpoint, **quick, **env}
    command = [sys.executable, "-c", FETCH, source, method or ""]
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fetch(source: str, method: str | None, endpoint: str, **env: str) -> str:
    out, errors = process(source, method, endpoint, **env).communicate(timeout=120)
    assert "Traceback" not in out + errors, errors
    return out


def kept(home) -> list[str]:
    return [path.name for path in (home / "models" / "gguf").rglob("*") if path.suffix in (".gguf", ".bin") and path.is_file()]


@pytest.mark.long
def test_a_file_arrives_verified_and_is_found_again_without_a_network(served, home):
    target = gguf_hub._folder("someone/model-GGUF", offers([RemoteFile("model.Q4_0.gguf", 1, None, None)])[0])
    begun = target.parent / f".{target.name}.download" / f".{paths.sha256(served / 'model.Q4_0.gguf')}.part"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(bytes(10**7))  # of no use: longer than the file
    with HubServer({"someone/model-GGUF": served}) as server:
        out = fetch("someone/model-GGUF", None, server.url)
        fetch("someone/model-GGUF", "Q8_0", server.url)
        count = len(server.requests)
        assert fetch("someone/model-GGUF", "q4_0", server.url) == out and len(server.requests) == count
        assert server.fetched() == ["model.Q4_0.gguf", "model.Q8_0.gguf"]
    path = gguf_hub.on_disk("someone/model-GGUF")
    assert out.strip() == f"at: {path}" and path.name == "model.Q4_0.gguf"
    assert path.read_bytes() == (served / "model.Q4_0.gguf").read_bytes() and not paths.damaged(path.parent)
    assert gguf_hub.on_disk("Someone/Model-gguf", "q8_0").name == "model.Q8_0.gguf"
    assert gguf_hub.on_disk("someone/model-GGUF", "model.Q8_0.gguf").name == "model.Q8_0.gguf"
    assert not gguf_hub.on_disk("someone/model-GGUF", "Q6_K") and not gguf_hub.on_disk("someone/other-GGUF")
    path.write_bytes(path.read_bytes()[:-100])
    assert not gguf_hub.on_disk("someone/model-GGUF", "Q4_0"), "a file that was cut does not count"
    (path.parent / "manifest.json").write_text('{"source": "someone/model-GGUF", "files": [1]}')
    assert gguf_hub.on_disk("someone/model-GGUF").name == "model.Q8_0.gguf"


@pytest.mark.long
def test_a_ggml_file_is_converted_once_and_the_raw_one_removed(served, home):
    with HubServer({"someone/model-GGML": served}) as server:
        out = fetch("someone/model-GGML", "q5_1", server.url)
        path = gguf_hub.on_disk("someone/model-GGML", "Q5_1")
        assert out.strip() == f"at: {path}"
        count = len(server.requests)
        fetch("someone/model-GGML", "model.ggmlv3.q5_1.bin", server.url)
        assert len(server.requests) == count
    assert gguf_file.quantization(gguf_file.read(path)) == "Q5_1"
    assert kept(home) == [path.name]


def test_a_conversion_that_was_stopped_needs_no_second_download(served, monkeypatch):
    size = (served / "model.ggmlv3.q5_1.bin").stat().st_size
    listed = Repository("a/b", "0" * 40, (RemoteFile("model.ggmlv3.q5_1.bin", size, None, None),), "mit", False)
    target = gguf_hub._folder("a/b", choose(listed, None, ROOMY))
    raw = target.with_name(f".{target.name}.ggml")
    raw.mkdir(parents=True)
    shutil.copy(served / "model.ggmlv3.q5_1.bin", raw)
    monkeypatch.setattr(hub, "repository", lambda source: listed)
    monkeypatch.setattr(hub, "download", lambda *args: pytest.fail("downloaded"))
    assert gguf_hub.fetch("a/b", None, lambda progress: None) == gguf_hub.on_disk("a/b", "Q5_1")
    assert not raw.exists()


@pytest.mark.long
@pytest.mark.parametrize(
    "method, trouble, words",
    [
        ("Q4_0", {"status": 404}, "BadInput .*no such model"),
        ("Q4_0", {"status": 500}, "EngineError .*it answered 500"),
        ("Q4_0", {"gated": True}, "EngineError .*gated.*HF_TOKEN"),
        ("Q4_0", {"lie": True}, "EngineError .*checksum is not the one the Hub reports"),
        ("Q4_0", {"hang": True}, "EngineError .*(Check the connection|reached)"),
        ("Q6_K", {}, "BadInput text.Q6_K.gguf of .* cannot be used: text.Q6_K.gguf is not a model file.*removed again"),
        ("Q2_K", {}, r"BadInput .*has no Q2_K. It has: .*Q4_0 \("),
    ],
)
def test_trouble_is_explained_and_nothing_is_left(served, home, method, trouble, words):
    with HubServer({"someone/model-GGUF": served}, **trouble) as server:
        out = fetch("someone/model-GGUF", method, server.url)
    assert re.match(words, out), out
    assert not kept(home)
    assert not gguf_hub.on_disk("someone/model-GGUF")


@pytest.mark.long
def test_a_download_that_was_killed_goes_on_where_it_was(tmp_path, home):
    folder = tmp_path / "large"
    folder.mkdir()
    large = Llama("F16", hidden=512, layers=5).gguf(folder / "large.F16.gguf")
    with HubServer({"someone/large": folder}, hang=15 * 2**20) as server:
        stopped = process("someone/large", None, server.url)
        until = time.monotonic() + 60
        while not any(path.stat().st_size for path in (home / "models").rglob("*.part")) and time.monotonic() < until:
            time.sleep(0.05)
        stopped.kill()
        stopped.communicate()
    assert not gguf_hub.on_disk("someone/large")
    with HubServer({"someone/large": folder}) as server:
        out = fetch("someone/large", "F16", server.url)
        assert server.ranges and min(server.ranges) > 2**20
    path = gguf_hub.on_disk("someone/large")
    assert out.strip() == f"at: {path}" and path.read_bytes() == large.read_bytes()
    assert not list((home / "models").rglob("*.part"))


@pytest.fixture
def offline(monkeypatch):
    """`fetch` with a Hub that is a list of files, and downloads that are no more than recorded."""
    downloads = []
    monkeypatch.setattr(hub, "repository", lambda source: listed)
    monkeypatch.setattr(hub, "download", lambda repo, files, target, report: downloads.append([file.name for file in files]))
    listed = repo(Q8_0=34.56, Q4_0=18.36, Q2_K=12.05)

    def run(memory: int, method: str | None = None, disk: float = 1e12, listed_now: Repository | None = None):
        nonlocal listed
        listed = listed_now or listed
        monkeypatch.setattr(hardware, "machine", lambda: Machine("computer", "Linux", 2, memory, memory, ()))
        monkeypatch.setattr(hub, "free_bytes", lambda target: int(disk))
        with pytest.raises(EngineError) as error:
            gguf_hub.fetch("someone/model-GGUF", method, lambda progress: None)
        assert not downloads
        return str(error.value)

    return run


def test_what_cannot_fit_memory_is_refused_before_the_download_with_what_fits(offline):
    said = offline(20 * GIB)
    assert "Q4_0 of someone/model-GGUF does not fit: it needs about 20.9 GB of memory, 19.3 GB can be used." in said
    assert "These fit: Q2_K (12.05 GB, fits)." in said
    assert "Nothing smaller there fits" in offline(8 * GIB, "Q8_0")


def test_what_cannot_fit_the_disk_is_refused_before_the_download_with_what_is_smaller(offline):
    said = offline(64 * GIB, disk=15e9)
    assert "Q4_0 of someone/model-GGUF needs 18.4 GB of disk, and 15.0 GB are free" in said
    assert "or take one of: Q2_K (12.05 GB, fits)" in said


def test_a_ggml_file_needs_room_twice_and_what_is_there_counts(offline, home):
    listed = Repository("a/b", "0" * 40, (RemoteFile("b.ggmlv3.q4_0.bin", 10**9, None, None),), "mit", False)
    assert "needs 2.0 GB of disk, since it is converted once" in offline(64 * GIB, disk=1.5e9, listed_now=listed)
    target = gguf_hub._folder("a/b", choose(listed, None, ROOMY))
    begun = target.parent / f"..{target.name}.ggml.download"
    begun.mkdir(parents=True)
    with open(begun / "x.part", "wb") as part:
        part.truncate(4 * 10**8)
    assert "needs 1.6 GB of disk" in offline(64 * GIB, disk=1.5e9, listed_now=listed)


def test_parts_that_do_not_belong_together_and_adapters_are_no_model(tmp_path):
    from gguf import GGUFWriter

    def written(name: str, **fields) -> list:
        writer = GGUFWriter(tmp_path / name, "llama")
        for key, value in fields.items():
            (writer.add_string if isinstance(value, str) else writer.add_uint16)(key.replace("_", "."), value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return [tmp_path / name]

    one, two = written("one.gguf", split_count=2), written("two.gguf", split_count=2)
    gguf_hub._check(one + two)
    gguf_hub._check(written("whole.gguf"))
    with pytest.raises(BadInput, match="a part of 2, not of 1"):
        gguf_hub._check(one)
    with pytest.raises(BadInput, match="of the kind 'adapter'"):
        gguf_hub._check(written("lora.gguf", general_type="adapter"))


def test_a_file_outside_of_its_folder_is_not_fetched(tmp_path):
    listed = Repository("a/b", "0" * 40, (RemoteFile("../../x.gguf", 1, "0" * 64, None),), "mit", False)
    with pytest.raises(EngineError, match="outside of its folder"):
        hub.download(listed, list(listed.files), tmp_path / "target", lambda progress: None)


def test_different_files_never_share_a_folder():
    names = [("a/b", "m.Q4_0.gguf"), ("a/b", "x/m.Q4_0.gguf"), ("a/c", "m.Q4_0.gguf"), ("a/b", ".gguf"), ("a/b", "x" * 240 + ".gguf")]
    folders = [gguf_hub._folder(source, offers([RemoteFile(name, 1, None, None)])[0]) for source, name in names]
    assert len(set(folders)) == len(names)
    assert all(not folder.name.startswith(".") and len(folder.name) < 100 for folder in folders)

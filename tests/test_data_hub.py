"""Data sets of the Hub by the real client and the `datasets` library, against a local server (faults, row 33)."""

import gzip
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT
from hub_server import HubServer

from engine import data_hub
from engine.errors import BadInput, EngineError

LOAD = """
import json, sys
from engine import data_hub, datasets
from engine.errors import EngineError
name, public, limits = sys.argv[1], sys.argv[2] == "public", json.loads(sys.argv[3])
vars(data_hub).update(limits)
try:
    data = datasets.load(name, report=lambda progress: print(progress.text), public=public)
    print(json.dumps([data.rows, data.format, data.sha256, [each.messages[0].text for each in data.conversations]]))
except EngineError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def folder(tmp_path):
    """A repository of two files, whose names say which split they are."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"instruction": "first", "output": "a"}\n{"instruction": "second", "output": "b"}\n')
    (folder / "test.jsonl").write_text('{"instruction": "third", "output": "c"}\n')
    return folder


def said(hub: HubServer, home, name: str, public: bool = False, limits: dict | None = None, **env: str) -> list[str]:
    """What loading says, in a process of its own: the client reads HF_ENDPOINT when it is imported. `limits` are those of `data_hub`."""
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, name, "public" if public else "", json.dumps(limits or {})],
        cwd=ROOT,
        env={**os.environ, **place, "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2", **env},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def loaded(folder, name: str, **options) -> str:
    """The last line of that, from a Hub of these `options`."""
    with HubServer({}, datasets={"someone/rows": folder}, **options) as hub:
        return said(hub, folder.parent / "hub", name)[-1]


@pytest.mark.long
@pytest.mark.parametrize(
    "name, asked", [("someone/rows", ["first", "second"]), ("someone/rows:test", ["third"]), ("someone/rows:train[:1]", ["first"])]
)
def test_a_split_is_read(folder, name, asked):
    count, form, digest, found = json.loads(loaded(folder, name))
    assert (count, form, found) == (len(asked), "alpaca", asked) and len(digest) == 64


@pytest.mark.long
@pytest.mark.parametrize(
    "name, options, words",
    [
        ("someone/rows:valid", {}, "BadInput someone/rows cannot be read as asked.*valid"),
        ("someone/nothing", {}, "BadInput There is no data set someone/nothing on the Hub"),
        ("someone/rows", {"status": 500}, "EngineError The Hub could not give.*500"),
        ("someone/rows", {"gated": True}, "HF_TOKEN"),
    ],
)
def test_what_is_not_there_says_so(folder, name, options, words):
    assert re.search(words, loaded(folder, name, **options))


@pytest.mark.long
def test_code_is_never_run_and_pickles_never_opened(folder, tmp_path):
    for path in folder.iterdir():
        path.unlink()
    (folder / "rows.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    (folder / "rows.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "no data files this can read" in loaded(folder, "someone/rows") and not (tmp_path / "canary").exists()


@pytest.mark.long
def test_files_outside_of_the_repository_are_not_read(folder, tmp_path):
    (tmp_path / "secret.jsonl").write_text('{"instruction": "secret", "output": "x"}\n')
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path}/secret.jsonl\n---\n")
    told = loaded(folder, "someone/rows")
    assert told.startswith("EngineError someone/rows names") and "lies outside of it" in told and '"secret"' not in told


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "field", ["data_files: {}", "data_files: [{}]", "data_files: [{{split: train, path: [a.csv, {}]}}]", "data_dir: {}"]
)
@pytest.mark.parametrize(
    "place",
    ["/**", "/etc/passwd", "~/rows.csv", "../../rows.csv", "a/../../b", "..", "http://10.0.0.1/a.csv", "zip://a.csv::b.zip", "C:\\a.csv"],
)
def test_what_a_card_names_outside_is_refused_before_it_is_looked_for(card, field, place, tmp_path, monkeypatch):
    front = "---\n" * (card == "README.md")
    (tmp_path / card).write_text(f"{front}configs:\n- config_name: a\n  {field.format(repr(place))}\n{front}")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name, **named: str(tmp_path / name))
    with pytest.raises(EngineError, match="lies outside of it. Nothing was read"):
        data_hub._check_card("someone/rows", "0" * 40, {card: 100}, True)


@pytest.mark.parametrize(
    "said, words",
    [
        ("configs:\n- {config_name: a, data_files: ['data/**', 'b..c/x-*.csv', '...csv'], data_dir: data}\n", ""),
        ("license: mit\n", ""),
        ("configs: 3\n", "cannot be read"),
        ("configs: [\n", "cannot be read"),
        ("a: &a [*a]\n", "longer than it looks"),
        ("a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")), "longer"),
        ("a: &a " + "x" * 5_000 + "\nb: [" + "*a, " * 5_000 + "]\n", "longer than it looks"),
    ],
)
def test_a_card_is_read_as_far_as_it_makes_sense(said, words, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(f"---\n{said}---\nRows.")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name, **named: str(tmp_path / name))
    asked = "someone/rows", "0" * 40, {"README.md": 100, "a.csv": 10}, True
    if not words:
        data_hub._check_card(*asked)
        return
    with pytest.raises(BadInput, match=words):
        data_hub._check_card(*asked)
    with pytest.raises(BadInput, match="far too many"):
        data_hub._check_card(*asked[:2], {"README.md": 10**9}, True)


@pytest.mark.long
def test_a_visitor_reads_without_the_hosts_token_and_hears_how_much_is_fetched(folder):
    size = sum(path.stat().st_size for path in folder.iterdir())
    with HubServer({}, datasets={"someone/rows": folder}) as hub:
        told = said(hub, folder.parent / "hub", "someone/rows", public=True, HF_TOKEN="hf_test")
        assert json.loads(told[-1])[3] == ["first", "second"] and f"{size / 1e3:.1f} kB" in told[0]
        assert hub.requests and {authorization for _, _, authorization in hub.requests} == {None}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["private", "gated", "listed"])
def test_a_visitor_gets_nothing_that_only_the_hosts_owner_may_read(folder, kind):
    with HubServer({}, datasets={"someone/rows": folder}, gated={"gated": True, "listed": "listed"}.get(kind, False)) as hub:
        hub.private |= {"someone/rows"} if kind == "private" else set()
        for public in (False, True):  # what its owner has fetched before is not given out either
            told = said(hub, folder.parent / "hub", "someone/rows", public, HF_TOKEN="hf_test")[-1]
            assert ("first" in told) != public, told
        assert told.startswith("BadInput") and "only data sets that everybody may read" in told


@pytest.mark.long
def test_a_visitor_cannot_fill_the_disk(folder):
    rows = b'{"instruction": "again and again", "output": "a"}\n' * 2_000
    (folder / "train.jsonl").write_bytes(rows)
    with HubServer({}, datasets={"someone/rows": folder}) as hub:
        for limit, words in (("MOST_BYTES", "someone/rows has 0.1 MB of data files"), ("MOST_BUILT_BYTES", "unpacks to more")):
            told = said(hub, folder.parent / limit, "someone/rows", True, {limit: 50_000})[-1]
            assert told.startswith("BadInput") and words in told and "on this public host at most 0 MB" in told
            assert ("train.jsonl" in hub.fetched()) == (limit == "MOST_BUILT_BYTES"), "its size is known before anything is fetched"
        assert said(hub, folder.parent / "own", "someone/rows", False, {"MOST_BYTES": 1, "MOST_BUILT_BYTES": 1})[-1].startswith("[2000")
        told = said(hub, folder.parent / "full", "someone/rows", True, {"MOST_BYTES": 10**18})[-1]
        assert told.startswith("EngineError The disk of this public host is nearly full")
        hub.datasets["someone/packed"] = folder.parent / "packed"
        shutil.copytree(folder, hub.datasets["someone/packed"]).joinpath("train.jsonl").rename(folder.parent / "packed/train.arrow")
        (folder.parent / "packed/test.jsonl").unlink()
        told = said(hub, folder.parent / "other", "someone/packed", True)[-1]
        assert told.startswith("BadInput") and "'train.arrow'; on this public host .csv" in told


@pytest.mark.long
@pytest.mark.parametrize("name", ["train.jsonl.gz", "train.jsonl"])
def test_nothing_is_unpacked_for_a_visitor(folder, name):
    """Neither by its name nor by what it is; what the host's owner reads is."""
    packed = gzip.compress((folder / "train.jsonl").read_bytes())
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(packed)
    with HubServer({}, datasets={"someone/rows": folder}) as hub:
        told = said(hub, folder.parent / "public", "someone/rows", True)[-1]
        assert told.startswith(f"BadInput someone/rows holds '{name}'") and "not packed ones" in told
        assert (name in hub.fetched()) == (name == "train.jsonl")
        assert '"first"' in said(hub, folder.parent / "own", "someone/rows")[-1]


@pytest.mark.long
def test_what_a_small_parquet_file_holds_is_found_out_before_it_is_built(folder):
    for path in folder.iterdir():
        path.unlink()
    texts = pyarrow.DictionaryArray.from_arrays([0] * 1_000, ["a" * 10_000])
    pyarrow.parquet.write_table(pyarrow.table({"instruction": texts, "output": texts}), folder / "train.parquet")
    with HubServer({}, datasets={"someone/rows": folder}) as hub:
        told = said(hub, folder.parent / "public", "someone/rows", True, {"MOST_BUILT_BYTES": 9_000_000})[-1]
        assert told.startswith("BadInput train.parquet unpacks to more than 9 MB. Take fewer rows")
        assert said(hub, folder.parent / "public", "someone/rows", True)[-1].startswith("[1000")


def test_rows_of_the_hub_have_a_checksum_of_their_values():
    def of(*rows) -> str:
        checksum = data_hub.RowsChecksum()
        for number, fields in enumerate(rows, 1):
            checksum.add(data_hub.Row(number, fields))
        return checksum.hexdigest()

    assert of({"a": 1, "b": "é"}) == of({"b": "é", "a": 1}) != of({"a": 2, "b": "é"})
    assert of({"a": 1}, {"a": 2}) != of({"a": 2}, {"a": 1})

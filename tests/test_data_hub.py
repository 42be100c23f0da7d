"""Data sets of the Hub by the real client and the `datasets` library, against a local server (faults, row 33)."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from hub_server import HubServer

from engine import data_hub

LOAD = (
    "import sys, json; from engine import datasets; from engine.errors import EngineError\n"
    "try:\n    data = datasets.load(sys.argv[1])\n"
    "    print(json.dumps([data.rows, data.format, data.sha256, [each.messages[0].text for each in data.conversations]]))\n"
    "except EngineError as error:\n    print(type(error).__name__, error)"
)


@pytest.fixture
def folder(tmp_path):
    """A repository of two files, whose names say which split they are."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"instruction": "first", "output": "a"}\n{"instruction": "second", "output": "b"}\n')
    (folder / "test.jsonl").write_text('{"instruction": "third", "output": "c"}\n')
    return folder


def loaded(folder, name: str, **options) -> str:
    """What loading says, in a process of its own: the client reads HF_ENDPOINT when it is imported."""
    environment = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}
    with HubServer({}, datasets={"someone/rows": folder}, **options) as hub:
        done = subprocess.run(
            [sys.executable, "-c", LOAD, name],
            cwd=ROOT,
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder.parent / "hub"), **environment},
            capture_output=True,
            text=True,
            timeout=180,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


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
    said = loaded(folder, "someone/rows")
    assert said.startswith("BadInput someone/rows cannot be read as asked") and '"secret"' not in said


def test_rows_of_the_hub_have_a_checksum_of_their_values():
    def of(*rows) -> str:
        checksum = data_hub.RowsChecksum()
        for number, fields in enumerate(rows, 1):
            checksum.add(data_hub.Row(number, fields))
        return checksum.hexdigest()

    assert of({"a": 1, "b": "é"}) == of({"b": "é", "a": 1}) != of({"a": 2, "b": "é"})
    assert of({"a": 1}, {"a": 2}) != of({"a": 2}, {"a": 1})

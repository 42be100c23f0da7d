"""What a notebook begins with: installing beside a torch that stays, commands, the page, Colab's Drive and secrets (faults, rows 1 and
31)."""

import http.server
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import types
import urllib.request

import pytest
import training
from builders import free_port

from engine import errors, paths, runs
from engine.cells import colab, commands, installing
from engine.errors import BadInput, EngineError

CANARY = "hf_canarycanarycanary"


class Packages:
    """Installed versions and a pip for them, in place of the real ones."""

    def __init__(self, monkeypatch, versions: dict[str, str], offers: dict[str, str] = {}, errors: str = ""):
        self.versions, self.offers, self.errors, self.calls = versions, offers, errors, []
        monkeypatch.setattr(installing.metadata, "version", self._version)
        monkeypatch.setattr(installing, "_pip", self._pip)

    def _version(self, name: str) -> str:
        if name not in self.versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return self.versions[name]

    def _pip(self, command: str, *arguments: str) -> subprocess.CompletedProcess:
        constraints = [open(each).read() for before, each in zip(arguments, arguments[1:]) if before == "--constraint"]
        self.calls.append((command, *constraints, *arguments[-1:]))
        if self.errors:
            return subprocess.CompletedProcess([], 1, "", self.errors)
        if command == "uninstall":
            del self.versions[arguments[-1]]
        else:
            self.versions |= self.offers
        return subprocess.CompletedProcess([], 0, "", "")


@pytest.fixture
def wanted(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("# Ranges.\ntorch>=2.8,<2.14\npeft>=0.21,<1\n")
    return file


def test_where_all_is_here_pip_is_not_called(monkeypatch, wanted, capsys):
    packages = Packages(monkeypatch, {"torch": "2.11.0+cu128", "peft": "0.21.2"})
    installing.install(wanted)
    assert packages.calls == [] and "ready: torch 2.11.0+cu128, 2 packages" in capsys.readouterr().out


def test_this_environment_needs_nothing(monkeypatch):
    packages = Packages.__new__(Packages)
    packages.errors, packages.calls = "none", []
    monkeypatch.setattr(installing, "_pip", packages._pip)
    installing.install()
    assert packages.calls == []


@pytest.mark.long
def test_what_is_missing_is_installed_and_torch_held_where_it_is(monkeypatch, wanted, capsys):
    packages = Packages(monkeypatch, {"torch": "2.11.0+cu128"}, {"peft": "0.21.2"})
    installing.install(wanted)
    assert packages.calls == [("install", "torch==2.11.0+cu128\n", "peft<1,>=0.21")]
    assert "Installing peft; torch 2.11.0+cu128 stays." in capsys.readouterr().out


def test_a_torch_that_changes_or_does_not_fit_is_told(monkeypatch, wanted):
    packages = Packages(monkeypatch, {"torch": "2.11.0"}, {"peft": "0.21.2", "torch": "2.13.0"})
    with pytest.raises(EngineError, match="torch 2.11.0 is not as it was"):
        installing.install(wanted)
    packages = Packages(monkeypatch, {"torch": "2.5.1"})
    with pytest.raises(EngineError, match=r"torch 2.5.1 is here, and this needs torch <2.14,>=2.8.*Runtime version"):
        installing.install(wanted)
    assert packages.calls == []


def test_an_old_torchao_is_removed_and_a_new_one_stays(monkeypatch, wanted, capsys):
    packages = Packages(monkeypatch, {"torch": "2.11.0", "peft": "0.21.2", "torchao": "0.10.0"})
    installing.install(wanted)
    assert packages.calls == [("uninstall", "torchao")] and "Removed torchao 0.10.0" in capsys.readouterr().out
    packages = Packages(monkeypatch, {"torch": "2.11.0", "peft": "0.21.2", "torchao": "0.16.0"})
    installing.install(wanted)
    assert packages.calls == []


def test_pips_failure_is_its_own_words_and_what_to_do(monkeypatch, wanted):
    Packages(monkeypatch, {"torch": "2.11.0"}, errors="WARNING: x\nERROR: No matching distribution found for peft\nhint: y\n")
    with pytest.raises(EngineError, match="what is missing: No matching distribution found for peft\nCheck the connection"):
        installing.install(wanted)


@pytest.mark.long
def test_what_was_loaded_before_it_was_renewed_is_told(monkeypatch, wanted, capsys):
    import peft  # noqa: F401

    Packages(monkeypatch, {"torch": "2.11.0", "peft": "0.17.0"}, {"peft": "0.21.2"})
    installing.install(wanted)
    assert "peft had been loaded before. If a later cell fails, restart the session" in capsys.readouterr().out


def test_an_error_is_shown_in_a_notebook_as_its_sentence():
    assert errors.BadInput("No such model.")._render_traceback_() == ["No such model."]
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shown = []
    shell._showtraceback = lambda kind, value, lines: shown.append(lines)
    result = shell.run_cell("from engine.errors import EngineError\nraise EngineError('The disk is full.')")
    assert shown == [["The disk is full."]] and not result.success
    InteractiveShell.clear_instance()


@pytest.mark.long
def test_a_command_shows_its_lines_and_its_failure(capsys):
    commands.engine("runs")
    assert "Nothing has been trained yet" in capsys.readouterr().out
    with pytest.raises(EngineError, match="-m engine runs ended with 2"):
        commands.engine("runs", "no-such-run")
    assert "There is no run 'no-such-run'" in capsys.readouterr().out


@pytest.mark.long
def test_the_page_opens_in_the_background_and_ends(capsys):
    port = free_port()
    commands.open_page("--model", "scripted", port=port)
    [process] = commands._pages
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().out and commands._answers(port)
    commands.close_page()
    assert process.poll() is not None and not commands._answers(port)
    with pytest.raises(EngineError, match="The page did not start: There is no model 'nonsense'"):
        commands.open_page("--model", "nonsense", port=port)
    commands.close_page()


@pytest.mark.long
def test_the_page_takes_another_port_where_another_program_has_its_own(capsys):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        commands.open_page("--model", "scripted", port=other.server_port)
        other.shutdown()
    address = re.search(r"http://127\.0\.0\.1:(\d+)", capsys.readouterr().out)
    assert int(address[1]) != other.server_port
    assert "Guanaco Playground" in urllib.request.urlopen(address[0], timeout=5).read().decode()
    commands.close_page()


@pytest.fixture
def google(monkeypatch, tmp_path):
    """Colab's own modules, and a Drive."""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab-test")
    monkeypatch.setattr(colab, "DRIVE", tmp_path / "drive")
    drive, userdata, output = types.ModuleType("drive"), types.ModuleType("userdata"), types.ModuleType("output")
    drive.mount = lambda place: (tmp_path / "drive/MyDrive").mkdir(parents=True, exist_ok=True)
    userdata.get = lambda name: CANARY
    output.shown = []
    output.serve_kernel_port_as_iframe = lambda port, path, height: output.shown.append((port, path))
    package = types.ModuleType("google.colab")
    package.drive, package.userdata, package.output = drive, userdata, output
    parent = types.ModuleType("google")
    parent.colab = package
    monkeypatch.setitem(sys.modules, "google", parent)
    monkeypatch.setitem(sys.modules, "google.colab", package)
    return package


def test_runs_on_a_drive_outlive_the_runtime(google, tmp_path, home, monkeypatch, capsys, rows, tiny):
    colab.keep_runs(True)
    run = training.fresh(training.plan(tiny, rows), paths.runs() / "one")
    assert (tmp_path / "drive/MyDrive/guanaco-playground/runs/one/recipe.yaml").is_file()
    colab.keep_runs(True)  # run once more
    assert run.folder.is_dir() and "kept on your Drive" in capsys.readouterr().out
    monkeypatch.setenv("GUANACO_HOME", str(tmp_path / "another-runtime"))
    colab.keep_runs(True)
    assert [each.id for each in runs.every()] == ["one"]


def test_what_was_there_before_a_drive_is_kept(google, home, capsys, tiny, rows):
    training.fresh(training.plan(tiny, rows), paths.runs() / "earlier")
    colab.keep_runs(True)
    assert (home / "runs-before-drive/earlier").is_dir() and "What was in runs before is now in" in capsys.readouterr().out


def test_without_a_drive_a_lost_runtime_is_foretold(google, capsys):
    colab.keep_runs(False)
    assert "gone with it; switch DRIVE on" in capsys.readouterr().out


def test_a_drive_that_is_refused_and_one_elsewhere_are_told(google, monkeypatch, capsys):
    def refused(place: str) -> None:
        raise ValueError("mount failed")

    google.drive.mount = refused
    with pytest.raises(EngineError, match=r"Google Drive was not mounted \(mount failed\). Run this cell again, or switch DRIVE off."):
        colab.keep_runs(True)
    monkeypatch.delenv("COLAB_RELEASE_TAG")
    with pytest.raises(BadInput, match="on Colab alone"):
        colab.keep_runs(True)
    colab.keep_runs(False)
    assert f"Runs lie in {paths.runs()}." in capsys.readouterr().out


def test_a_token_comes_from_the_secrets_and_is_never_shown(google, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "")
    colab.token()
    assert os.environ["HF_TOKEN"] == CANARY
    shown = capsys.readouterr().out
    assert "HF_TOKEN is set" in shown and "canary" not in shown


def test_no_secret_is_told(google, monkeypatch, capsys):
    class SecretNotFoundError(Exception):
        pass

    def none(name: str) -> str:
        raise SecretNotFoundError(name)

    google.userdata.get = none
    monkeypatch.setenv("HF_TOKEN", "")
    colab.token()
    shown = capsys.readouterr().out
    assert "no secret HF_TOKEN (SecretNotFoundError)" in shown and "There is no HF_TOKEN. Guanaco and the starter need none" in shown


@pytest.mark.long
def test_on_colab_the_page_is_an_iframe(google):
    port = free_port()
    commands.open_page("--model", "scripted", port=port, tab="game")
    commands.close_page()
    assert google.output.shown == [(port, "/?tab=game")]

"""Ctrl-C and a notebook's stop button are a signal for a whole group of processes: it ends what it is meant for and nothing else, and no
process stays behind."""

import contextlib
import functools
import os
import signal
import subprocess
import sys

import psutil
import pytest
from builders import free_port, until
from conftest import ROOT
from test_measures import question, written

from engine import runs
from engine.evaluate import measurements

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.name != "posix", reason="groups of processes are POSIX's")]

# What a notebook does: a model, or the page, that is pressed stop beside. Lines on stdout say how far it is.
TALK = """
import sys, time
from engine.cells.talking import Talk
talk = Talk(sys.argv[1])
try:
    print("READY", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    pass
talk.say("Hello", max_new_tokens=4)
print("ANSWERED", flush=True)
time.sleep(600)
"""
ANSWER = """
from engine.cells.talking import Talk
talk = Talk("starter", "none")
print("READY", flush=True)
talk.say("Write a long story about a guanaco.", max_new_tokens=2000)
talk.say("Say yes.", max_new_tokens=4)
print("ANSWERED", flush=True)
"""
PAGE = """
import os, sys, time
from engine.cells import commands
commands.open_page("--model", sys.argv[1], port=int(sys.argv[2]))
try:
    print("READY", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    pass
[page] = commands._pages
if os.getpgid(page.pid) == os.getpgid(0) or page.poll() is not None or not commands._answers(int(sys.argv[2])):
    sys.exit("The page ends with the answer.")
print("ANSWERED", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def group(*command: str, **environment: str):
    """A Python program that leads a group of processes, as a notebook's kernel and a terminal's command do."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # Where the tests were begun in a shell's background they ignore this signal, and so would what they begin.
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=variables, start_new_session=True, preexec_fn=heeds, **pipes)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def read_to(process: subprocess.Popen, words: str) -> str:
    """What it prints up to a line with these words."""
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return "".join(said)
    pytest.fail("".join(said))


def press(process: subprocess.Popen) -> None:
    """What Jupyter and terminals do."""
    os.killpg(process.pid, signal.SIGINT)


def children(process: subprocess.Popen) -> list[psutil.Process]:
    """Its processes but for itself."""
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


@pytest.mark.parametrize("model", ["tiny_gguf", "tiny"])
def test_a_model_outlives_the_stop_button_and_not_its_notebook(model, request):
    with group("-c", TALK, str(request.getfixturevalue(model))) as notebook:
        read_to(notebook, "READY")
        press(notebook)
        assert "Error" not in read_to(notebook, "ANSWERED")
        held = children(notebook)
        assert held
        notebook.kill()
        until(lambda: gone(held), 30)


def test_the_stop_button_ends_one_answer(starter):
    with group("-c", ANSWER) as notebook:
        read_to(notebook, "READY")
        assert notebook.stdout.read(1)
        press(notebook)
        assert "Stopped." in read_to(notebook, "ANSWERED")


def test_the_page_outlives_the_stop_button_and_not_its_notebook(tiny_gguf):
    with group("-c", PAGE, str(tiny_gguf), str(free_port())) as notebook:
        read_to(notebook, "READY")
        until(lambda: len(children(notebook)) == 2)  # the page and its model
        press(notebook)
        read_to(notebook, "ANSWERED")
        held = children(notebook)
        assert len(held) == 2
        os.killpg(notebook.pid, signal.SIGKILL)
        until(lambda: gone(held), 30)


@pytest.mark.parametrize("model", ["tiny_gguf", "tiny"])
def test_ctrl_c_ends_the_app_and_its_model(model, request):
    with group("app.py", "--port", str(free_port()), "--model", str(request.getfixturevalue(model))) as app:
        read_to(app, "To create a public link")
        until(lambda: children(app))
        held = children(app)
        press(app)
        said, _ = app.communicate(timeout=60)
        assert app.returncode in (0, 130) and "Traceback" not in said
        until(lambda: gone(held), 30)


def test_ctrl_c_ends_a_chat_and_its_model(starter):
    with group("-u", "-m", "engine", "chat", "Write a long story about a guanaco.", "--max-new-tokens", "2000") as chat:
        until(lambda: children(chat))
        held = children(chat)
        assert chat.stdout.read(1)
        press(chat)
        said, _ = chat.communicate(timeout=60)
        assert chat.returncode == 130 and "Traceback" not in said
        until(lambda: gone(held), 30)


def test_ctrl_c_ends_a_measurement_by_llama_cpp_in_order(starter_home, home, tmp_path):
    home.mkdir()
    (home / "models").symlink_to(starter_home / "models")
    data = written(tmp_path / "mmlu.jsonl", [question("anatomy", number, "A") for number in range(5_000)])
    options = ("--backend", "llama.cpp", "--data", data, "--shots", "0")
    with group("-m", "engine", "evaluate", "mmlu", *options) as command:
        until(lambda: (made := measurements.every()) and made[0].process and made[0].process.pid == command.pid and made[0].read_rows())
        made, held = measurements.every()[0], children(command)
        press(command)
        said, _ = command.communicate(timeout=120)
    assert command.returncode == 1 and f"--resume {made.id}" in said
    until(lambda: gone(held), 30)
    assert runs.all_events(made)[-1].status == "stopped"

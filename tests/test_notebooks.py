"""The notebooks: built files are current and clean; each runs top to bottom on the starter; faults at this door come as sentences
(faults, rows 1, 27, 31 and 33)."""

import copy
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT
from hub_server import HubServer
from nbclient.exceptions import CellExecutionError

import notebooks
from engine import links, runs
from engine.cells import commands, first
from engine.errors import EngineError
from engine.game import starter_pack
from engine.runs import Run
from notebooks import build, fresh, outputs, run_all

MAX_BYTES = 300_000
CANARY = "hf_canarycanarycanary"


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_the_built_file_is_current(name):
    kept = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4)
    made = fresh(name)
    assert [(cell.cell_type, cell.source, cell.metadata) for cell in kept.cells] == [
        (cell.cell_type, cell.source, cell.metadata) for cell in made.cells
    ], "run: python notebooks/build.py"
    assert kept.metadata == made.metadata


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_the_first_cells_install_and_test_the_machine(name):
    code = [cell.source for cell in fresh(name).cells if cell.cell_type == "code"]
    assert first.install_cell().rstrip() in code[0] and 'engine("doctor")' in code[1]


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_kept_outputs_are_small_ours_and_of_no_machine(name):
    place = ROOT / f"notebooks/{name}.ipynb"
    kept = nbformat.read(place, 4)
    assert place.stat().st_size < MAX_BYTES and notebooks.pictures(kept)
    for cell in (cell for cell in kept.cells if cell.cell_type == "code"):
        assert cell.execution_count is None and not any(each.output_type == "error" for each in cell.outputs)
        assert not (build.MACHINE in cell.metadata.get("tags", ()) and cell.outputs)
        text = "".join(map(notebooks.shown, cell.outputs))
        assert not re.search(r"/tmp/|/home/|/root|\d{8}-\d{6}|tokens/s|hf_\w+", text), text
        assert not re.search(r"ChatGPT|GPT-4|Guanaco-65B", text), "answers of others"


def test_the_badge_and_the_clone_are_there_where_the_project_is_published(monkeypatch):
    assert links.REPOSITORY is None or links.colab("x.ipynb")
    monkeypatch.setattr(links, "REPOSITORY", "someone/guanaco-playground")
    made = fresh("guanaco_chat")
    assert (
        "](https://colab.research.google.com/github/someone/guanaco-playground/blob/main/notebooks/guanaco_chat.ipynb)"
        in made.cells[0].source
    )
    assert "git clone --quiet --depth 1 https://github.com/someone/guanaco-playground" in made.cells[1].source
    compile(made.cells[1].source, "cell", "exec")
    monkeypatch.setattr(links, "REPOSITORY", None)
    made = fresh("guanaco_chat")
    assert "colab.research" not in made.cells[0].source and "git" not in made.cells[1].source


def test_values_go_into_forms_only():
    made = fresh("guanaco_finetune", STEPS=3)
    assert any('STEPS = 3  # @param {"type":"integer"}' in cell.source for cell in made.cells)
    with pytest.raises(ValueError, match="no form RANK"):
        fresh("guanaco_finetune", RANK=3)


def test_outputs_are_cleaned_and_old_ones_kept_for_cells_that_stay():
    made = fresh("guanaco_guess")
    cell = next(cell for cell in made.cells if "play(ROUNDS)" in cell.source)
    texts = "step 3/4 · loss 1.20 · 30 tokens/s · 0:04 left in /x/y, run-20260102-030405"
    cell.outputs = [nbformat.v4.new_output("stream", text=texts)]
    machine = next(cell for cell in made.cells if "doctor" in cell.source)
    machine.outputs = [nbformat.v4.new_output("stream", text="2 cores")]
    build.scrubbed(made, {"/x/y": "."})
    assert cell.outputs[0].text == "step 3/4 · loss 1.20 in ., run" and machine.outputs == []
    again = fresh("guanaco_guess")
    changed = next(each for each in again.cells if "PUBLISHED" in each.source)
    changed.source += "\n"
    old = copy.deepcopy(made)
    next(each for each in old.cells if "PUBLISHED" in each.source).outputs = cell.outputs
    build._with_old_outputs(again, old)
    assert next(each for each in again.cells if "play(ROUNDS)" in each.source).outputs == cell.outputs and changed.outputs == []


def test_the_game_is_played_whatever_the_self_test_says(monkeypatch, capsys):
    def failing(*arguments: str) -> None:
        raise EngineError("-m engine doctor ended with 1; the lines above say why.")

    monkeypatch.setattr(commands, "engine", failing)
    cells = {name: next(cell.source for cell in fresh(name).cells if 'engine("doctor")' in cell.source) for name in notebooks.NAMES}
    exec(cells.pop("guanaco_guess"), {})
    assert capsys.readouterr().out == "-m engine doctor ended with 1; the lines above say why. The game is played all the same.\n"
    for source in cells.values():
        with pytest.raises(EngineError):
            exec(source, {})


def begin(folder, **environment: str) -> subprocess.CompletedProcess:
    """The install cell as a program, in a folder."""
    variables = {key: value for key, value in os.environ.items() if key != "GUANACO_PLAYGROUND"}
    code = first.install_cell() + "\nprint(APP)"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=variables | environment, capture_output=True, text=True)


def test_a_project_that_is_not_there_is_told_with_what_to_do(tmp_path):
    done = begin(tmp_path)
    assert done.returncode == 1 and "NotHere: Guanaco Playground is not here. Upload guanaco-playground.zip" in done.stderr, done.stderr
    (tmp_path / "guanaco-playground.zip").write_bytes(b"PK\x03\x04 half of it")
    done = begin(tmp_path)
    assert done.returncode == 1 and "guanaco-playground.zip is damaged, or not all of it is here yet. Upload it again" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["guanaco-playground.zip"]


@pytest.mark.long
def test_the_project_is_found_beside_around_and_in_a_zip(tmp_path):
    beside, around, zipped = (tmp_path / name for name in ("beside", "around", "zipped"))
    for folder in (beside, around / "notebooks", zipped):
        folder.mkdir(parents=True)
    (beside / "guanaco-playground").symlink_to(ROOT)
    (around / "engine").symlink_to(ROOT / "engine")
    project = tmp_path / "packed/guanaco-playground"
    shutil.copytree(ROOT / "engine", project / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.txt", project)
    shutil.make_archive(str(zipped / "guanaco-playground"), "zip", project.parent)
    # As GitHub packs it: the branch is part of the folder's name, and of the file's unless somebody renamed it.
    branch = project.rename(project.with_name("guanaco-playground-main"))
    for name, file in (("renamed", "guanaco-playground"), ("github", "guanaco-playground-main")):
        (tmp_path / name).mkdir()
        shutil.make_archive(str(tmp_path / name / file), "zip", branch.parent)
    found_in = [(beside, ROOT), (around / "notebooks", around), (zipped, zipped / "guanaco-playground")]
    for folder, found in (*found_in, *((tmp_path / name, tmp_path / name / branch.name) for name in ("renamed", "github"))):
        done = begin(folder, PIP_NO_INDEX="1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(found) and done.stdout.startswith("Guanaco Playground is ready: torch ")


@pytest.fixture
def own_home(starter, home):
    """A state folder of this test's own on the real starter."""
    home.mkdir()
    (home / "models").symlink_to(starter / "models")
    return home


@pytest.mark.long
def test_guanaco_chat_runs_top_to_bottom(own_home, tmp_path):
    done = run_all(fresh("guanaco_chat"), tmp_path, own_home, HF_TOKEN=CANARY)
    assert "self-test: " in outputs(done, 'engine("doctor")')
    loaded = outputs(done, "Talk(MODEL)")
    assert "starter runs on CPU through llama.cpp" in loaded and "No GPU here" in loaded
    assert len(outputs(done, "talk.say(MESSAGE")) > 20
    assert re.findall(r"^--- (.*)", outputs(done, "talk.compare"), re.MULTILINE) == [
        "the bare base",
        "guanaco-mini × 0.5",
        "guanaco-mini × 1",
        "guanaco-mini × 1.5",
    ]
    kept = nbformat.read(ROOT / "notebooks/guanaco_chat.ipynb", 4)
    for cell, text in (("show_nf4()", "4.13 bits a weight"), ('show_memory("T4")', "Guanaco 33B: ")):
        assert text in outputs(done, cell) and outputs(done, cell) == outputs(kept, cell), "what is kept is what it shows"
    assert notebooks.pictures(done) == 2 and CANARY not in nbformat.writes(done)


@pytest.mark.long
def test_guanaco_guess_runs_top_to_bottom(own_home, tmp_path):
    done = run_all(fresh("guanaco_guess"), tmp_path, own_home)
    played = outputs(done, "play(ROUNDS)")
    assert played.count("A was ") == 10 and "the bot “always longer” plays" in played and "it may truly be anything from" in played
    assert notebooks.pictures(done) == 1 and not outputs(done, "PUBLISHED = ")


@pytest.mark.long
def test_guanaco_guess_says_why_the_published_answers_do_not_come(own_home, tmp_path):
    notebook = fresh("guanaco_guess", PUBLISHED=True)
    notebook.cells = [cell for cell in notebook.cells if not any(part in cell.source for part in ("doctor", "play(ROUNDS)"))]
    notebook.cells[-3].source = f"from engine.cells.playing import play\nROUNDS = 10\n{notebook.cells[-3].source}"
    with pytest.raises(CellExecutionError, match="cannot be reached. Check the connection. The starter pack can be played without it"):
        run_all(notebook, tmp_path, own_home, GUANACO_ANSWERS="http://127.0.0.1:9")
    assert outputs(notebook, "from_published").splitlines()[-1].endswith("The starter pack can be played without it.")


# Stands before the game: whoever is asked looks at all that there is first.
PEEK = """
import builtins
looked = []
def input(question):
    space = globals()
    for name, value in list(space.items()):
        if name not in ("looked", "In", "Out", "_ih", "_oh", "PEEK"):
            looked.append(f"{name}: {value!r} {getattr(value, '__dict__', '')!r}"[:20000])
    return "q"
import engine.cells.playing as playing
import functools
playing.play = functools.partial(playing.play, ask=input)
"""


@pytest.mark.long
def test_nothing_tells_the_sides_before_the_guess(own_home, tmp_path):
    notebook = fresh("guanaco_guess")
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "doctor" not in cell.source][:2]
    notebook.cells.insert(1, nbformat.v4.new_code_cell(PEEK))
    notebook.cells.append(nbformat.v4.new_code_cell("print(repr(looked))"))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    done = run_all(notebook, tmp_path, own_home)
    before = outputs(done, "play(ROUNDS)")
    names = [name for name in starter_pack.SYSTEMS if name in before.replace("Which of the two is Guanaco mini's?", "")]
    assert "1 of 10: " in before and "The game waits: run this cell again" in before and not names
    looked = outputs(done, "print(repr(looked))")
    assert len(looked) > 500 and not any(name in looked for name in starter_pack.SYSTEMS)


@pytest.mark.long
def test_guanaco_finetune_runs_top_to_bottom(own_home, tmp_path):
    done = run_all(fresh("guanaco_finetune", STEPS=4, RESUME=True), tmp_path, own_home)
    assert "Runs lie in " in outputs(done, "DRIVE = ") and "computing in float32: there is no GPU" in outputs(done, "training.recipe")
    assert "256: 256 good, 0 bad" in outputs(done, "show_data") and "prompt format chat" in outputs(done, "show_data")
    trained = outputs(done, "training.start")
    assert "step 4/4" in trained and "is done." in trained and notebooks.pictures(done) == 2, "and once more by the cell that resumes"
    assert "is done: there is nothing to go on with" in outputs(done, "training.resume")
    assert outputs(done, "before_and_after").count("After: ") == 2
    assert re.findall(r"^--- (\S+)", outputs(done, "talk.compare"), re.MULTILINE)[0] == "the"
    [folder] = [path for path in (own_home / "runs").iterdir() if path.is_dir()]
    assert (tmp_path / f"{folder.name}-adapter/adapter_model.safetensors").is_file() and list(
        (tmp_path / f"{folder.name}-gguf").glob("*-F16.gguf")
    )
    assert runs.finished(Run(folder))


def load_model(tmp_path, home, hub: HubServer, **environment: str) -> str:
    """What the chat notebook shows where it loads `someone/tiny` of that server."""
    notebook = fresh("guanaco_chat", MODEL="someone/tiny")
    notebook.cells = [
        cell for cell in notebook.cells if cell.cell_type == "code" and ("Install" in cell.source or "Talk(MODEL)" in cell.source)
    ]
    quick = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "2",
        "HF_HOME": str(home / "hub"),
    }
    with pytest.raises(CellExecutionError):
        run_all(notebook, tmp_path, home, **quick | environment)
    assert CANARY not in nbformat.writes(notebook)
    return outputs(notebook, "Talk(MODEL)")


@pytest.mark.long
@pytest.mark.parametrize(
    "token, trouble, words",
    [
        (
            "",
            {"gated": True},
            "someone/tiny is gated: its owner asks you to accept a licence first. Open its page on the Hub, accept, then set HF_TOKEN",
        ),
        (CANARY, {"gated": "everybody"}, "someone/tiny is gated: its owner asks you to accept a licence first"),
        (
            CANARY,
            {"status": 401, "message": "Invalid credentials in Authorization header"},
            "the token in HF_TOKEN is not accepted. Make a new one",
        ),
        ("", {"status": 500}, "it answered 500. Try again later. The starter model still works."),
    ],
)
def test_a_model_that_does_not_come_is_explained_without_a_traceback(tiny, home, tmp_path, token, trouble, words):
    with HubServer({"someone/tiny": tiny}, **trouble) as hub:
        text = load_model(tmp_path, home, hub, HF_TOKEN=token)
    assert words in text and "Traceback" not in text and "line " not in text, text
    assert ("HF_TOKEN is set" if token else "There is no HF_TOKEN") in text

"""The README is true: its commands run as written, its claims about files hold."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile

import builders
import pytest
import training
from conftest import ROOT, SHARED, shared
from exporting import copied
from hub_server import HubServer
from judge_server import JudgeServer
from pages import Page
from playing import written

from engine import export, memory, models, presets, recipe, runs
from engine.backends.scripted import ScriptedBackend
from engine.cells import first
from engine.events import Step
from engine.game import answer_files, starter_pack
from engine.hardware import GIB, Gpu, Machine
from engine.presets import PRESETS
from engine.runs import Run

ANSWER = {"answer_id": "x", "question_id": 1, "text": "strength 1"}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command(name: str) -> str:
    """The shell command below `<!-- NAME command -->`."""
    return re.search(rf"<!-- {name} command -->\n```bash\n(.*?)\n```", README, re.DOTALL)[1]


def shell(text: str, **env: str) -> subprocess.CompletedProcess:
    """Run with this test's own Python first on the path."""
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    return subprocess.run(text, shell=True, cwd=ROOT, env={**os.environ, "PATH": path, **env}, capture_output=True, text=True, timeout=600)


def test_the_start_and_test_commands_install_what_there_is():
    for name in ("start", "test"):
        for file in re.findall(r"-r (\S+)", command(name)):
            assert (ROOT / file).is_file()
    assert command("start") == "pip install -r requirements.txt && python app.py"


def test_ci_runs_exactly_the_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    picked = subprocess.run(
        ["bash", "-c", re.search(r'command="\$\((.*)\)"', script)[1]], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    assert picked == command("test")
    assert script.rstrip().endswith('eval "$command"') and "pytest" not in script


@pytest.mark.long
def test_the_start_command_serves_a_page(starter_home):
    """As written but for the port: the default may be taken here."""
    port = builders.free_port()
    text = command("start").replace("python app.py", f"exec python app.py --port {port}")
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    process = subprocess.Popen(
        ["bash", "-c", text],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "GUANACO_HOME": str(starter_home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            try:
                assert "Guanaco Playground" in urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read().decode()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        else:
            pytest.fail("no page after two minutes")
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.long
def test_the_client_example_runs():
    example = re.search(r"<!-- client example -->\n```python\n(.*?)\n```", README, re.DOTALL)[1]
    page = Page(ScriptedBackend(["Lima."], seconds_per_token=0))
    try:
        code = example.replace("http://127.0.0.1:7860", page.url)
        assert code != example
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-2:] == ["Lima.", "Lima."]
    finally:
        page.close()


def test_what_is_quoted_under_troubleshooting_is_what_the_app_says():
    section = README.partition("## Troubleshooting")[2].partition("\n## ")[0]
    sources = [path.read_text() for folder in ("engine", "ui") for path in (ROOT / folder).rglob("*.*") if path.suffix in (".py", ".js")]
    quoted = re.findall("“(.*?)”", section)
    assert len(quoted) >= 8
    assert not [words for words in quoted if not any(words in source for source in sources)]


def with_gpu(name: str, gibibytes: float, kind: tuple[int, int]) -> Machine:
    return Machine("computer", "Linux x86_64", 8, 64 * GIB, 60 * GIB, (Gpu(name, int(gibibytes * GIB), kind),))


def test_the_table_of_bases_is_what_the_planner_says():
    """Each card as a machine with that much memory, less what its driver keeps."""
    cards = [("T4", 15, (7, 5)), ("L4", 22.5, (8, 9)), ("L40S", 45, (8, 9)), ("A100", 79, (8, 0))]
    machines = [with_gpu(*card) for card in cards]
    table = re.findall(r"^\| `([\w.-]+)` \| ([\d.]+) GB \| ([\d.]+) GB \|(.*)\|$", README, re.MULTILINE)
    assert len(table) == 7
    for base, chat, finetune, fits in table:
        spec = models.MODELS[base]
        plans = [memory.training_plan(spec.shape, presets.of_model(base), machine) for machine in machines]
        assert {f"{spec.fit(machine).need / GIB:.1f}" for machine in machines} == {chat}
        assert {f"{plan.resident / GIB:.1f}" for plan in plans} == {finetune}
        said = ["both" if plan.fits else "chat" if spec.fit(machine).fits else "" for machine, plan in zip(machines, plans, strict=True)]
        assert [cell.strip() for cell in fits.split("|")] == said, base
    uncorrected = with_gpu("A6000", 47.9, (8, 6))
    assert memory.training_plan(models.MODELS["guanaco-65b"].shape, presets.of_model("guanaco-65b"), uncorrected).fits


def test_the_space_command_sends_nothing():
    done = shell(command("space"))
    assert done.returncode == 0 and "Nothing was sent" in done.stdout, done.stderr


@pytest.mark.long
def test_the_chat_command_answers(starter):
    done = shell(command("chat"))
    assert done.returncode == 0 and "Paris" in done.stdout


@pytest.mark.long
def test_the_inspect_command_shows_a_row(starter):
    done = shell(command("inspect"))
    assert done.returncode == 0 and "256: 256 good, 0 bad" in done.stdout and "⟦" in done.stdout, done.stderr


@pytest.mark.long
def test_the_train_commands_begin_save_and_go_on(starter, home, tmp_path):
    """As written but for the folder; ended by Ctrl-C in their second step."""
    home.mkdir()
    (home / "models").symlink_to(starter / "models")
    run = Run(tmp_path / "my-first-run")
    for name in ("train", "resume"):
        before = len(runs.all_events(run))
        text = command(name).replace("my-first-run", str(run.folder))
        process = training.begun([sys.executable, *shlex.split(text)[1:]], GUANACO_HOME=str(home))
        training.wait_for(lambda before=before: any(isinstance(each, Step) for each in runs.all_events(run)[before:]), process, 300)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert "Stopped after step" in out, err
    assert run.steps_saved()[-1] >= 2 and run.recipe.data.source == str(ROOT / "engine/guanaco_mini/rows.jsonl")
    assert shell("python -m engine runs", GUANACO_HOME=str(home)).stdout.splitlines()[1].startswith("my-first-run")
    assert shell(command("findings"), GUANACO_HOME=str(home)).stdout.startswith("my-first-run: stopped at step")


def test_the_recipe_is_one_and_every_preset_is_named():
    assert recipe.parse(re.search(r"<!-- recipe -->\n```yaml\n(.*?)\n```", README, re.DOTALL)[1])
    listed = README[README.index("Presets:") : README.index("A recipe of your own")]
    assert set(re.findall(r"`([\w.-]+)`", listed)) == set(PRESETS)
    assert shlex.split(command("mini"))[-1] in PRESETS


@pytest.mark.long
def test_the_export_commands_take_a_run_along(spelling, home, tmp_path):
    """As written but for the folders; the Hub is a server here."""
    copied(spelling[0], home / "runs" / "my-first-run")
    (tmp_path / "owned").mkdir()
    with HubServer({}, owned=tmp_path / "owned") as hub:
        text = re.sub(r" (my-\w+)$", rf" {tmp_path}/\1", command("export"), flags=re.MULTILINE)
        done = shell(f"set -e\n{text}", HF_ENDPOINT=hub.url, HF_TOKEN="hf_test", HF_HUB_OFFLINE="0")
        assert done.returncode == 0 and hub.private == {"me/my-first-run"}, done.stderr
    kinds = {
        "adapter": "adapter_model.safetensors",
        "model": "model.safetensors",
        "gguf": "my-first-run-F16.gguf",
        "notebook": "finetune.ipynb",
    }
    assert all((tmp_path / f"my-{name}" / file).is_file() for name, file in kinds.items())
    assert set(re.findall(r"--to (\w+)", text)) == set(export.KINDS)


@pytest.mark.long
def test_the_generate_command_makes_a_file_that_the_game_reads(starter, tmp_path):
    asked = tmp_path / "questions.jsonl"
    asked.write_text("".join(line + "\n" for line in starter_pack.QUESTIONS.read_text().splitlines()[:2]))
    out = tmp_path / "mini.jsonl"
    text = command("generate").replace("engine/game/starter_pack/questions.jsonl", str(asked)).replace("mini.jsonl", str(out))
    done = shell(text.replace("--max-new-tokens 200", "--max-new-tokens 8"))
    assert done.returncode == 0 and "2 answers" in done.stdout, done.stderr
    made = answer_files.read(out)
    assert made.system == "Guanaco mini" and list(made.answers) == ["1", "2"]


@shared
@pytest.mark.long
def test_the_judge_command_judges_two_files(tmp_path):
    text = command("judge")
    for name in ("mini", "other"):
        text = text.replace(f"{name}.jsonl", str(written(tmp_path / f"{name}.jsonl", [{**ANSWER, "model_id": name}])))
    with JudgeServer() as server:
        done = shell(text.replace("http://gpu-box:8000/v1", server.url), GUANACO_ANSWERS=str(SHARED / "qlora"))
    assert done.returncode == 0 and "2 judgements are in" in done.stdout, done.stderr


@shared
@pytest.mark.long
def test_the_elo_command_rates_the_published_judgements():
    done = shell(command("elo"), GUANACO_ANSWERS=str(SHARED / "qlora"))
    assert done.returncode == 0 and done.stdout.splitlines()[2].startswith("GPT-4"), done.stderr


@pytest.mark.long
def test_the_evaluate_command_measures(starter, home):
    """As written but for the number of rows."""
    home.mkdir()
    (home / "models").symlink_to(starter / "models")
    done = shell(command("evaluate").replace("--limit 50", "--limit 4"), GUANACO_HOME=str(home))
    assert done.returncode == 0 and "NF4" in done.stdout and re.search(r"Perplexity: [\d.]+ \([\d.]+ – [\d.]+\)", done.stdout), done.stderr


@pytest.mark.long
def test_the_layouts_command_measures_both(starter):
    done = shell(command("layouts"))
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and [line.split()[0] for line in lines] == ["sharper", "faster"], done.stderr
    assert all("tokens/s" in line and "perplexity" in line for line in lines)


def test_the_notebooks_command_builds_what_is_there():
    files = sorted((ROOT / "notebooks").glob("*.ipynb"))
    before = [file.read_bytes() for file in files]
    done = shell(command("notebooks"))
    assert done.returncode == 0 and [file.read_bytes() for file in files] == before, done.stderr
    assert set(re.findall(r"`notebooks/(\w+\.ipynb)` \| [a-z]", README)) == {file.name for file in files}


def test_the_zip_command_packs_what_notebooks_look_for(tmp_path):
    done = shell(command("zip").replace("--output guanaco-playground.zip", f"--output {tmp_path}/guanaco-playground.zip"))
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "guanaco-playground.zip") as packed:
        assert {f"{first.FOLDER}/engine/cells/installing.py", f"{first.FOLDER}/app.py"} <= set(packed.namelist())


@pytest.mark.long
def test_the_doctor_command_finds_this_machine_well():
    done = shell(command("doctor"))
    assert done.returncode == 0 and done.stdout.startswith("### Guanaco Playground self-test: "), done.stdout


@pytest.mark.long
def test_the_models_command_lists_every_model_of_the_readme():
    done = shell(command("models"))
    assert done.returncode == 0
    listed = {row["id"] for row in json.loads(shell(command("models") + " --json").stdout)}
    table = README[README.index("| id | what it is") : README.index("Any Hub id")]
    assert set(re.findall(r"`([\w.-]+)`", re.sub(r"`HF_TOKEN`", "", table))) == listed


def test_flags_of_the_app_are_documented():
    shown = shell("python app.py --help", COLUMNS="200").stdout
    for flag in (
        "--host",
        "--port",
        "--share",
        "--model",
        "--adapter",
        "--backend",
        "--base-url",
        "--api-key-env",
        "--layout",
        "--quantization",
        "--read-only",
        "--training",
    ):
        assert flag in shown and flag in README

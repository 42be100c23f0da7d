"""The ranges of requirements.txt resolve for every Python the README names, also beside the torch that Colab has."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

CORE = {"gradio": 6, "transformers": 5, "huggingface-hub": 2, "accelerate": 1, "datasets": 5, "torch": 2, "peft": 0, "bitsandbytes": 0}
# What Colab's runtimes have, and keep.
COLABS_PYTHON, COLABS_TORCH = "3.12", "2.11.0"


@pytest.mark.long
@pytest.mark.parametrize(("python", "torch"), [("3.11", ""), ("3.12", ""), ("3.13", ""), (COLABS_PYTHON, COLABS_TORCH)])
def test_requirements_resolve(python, torch, tmp_path):
    report, constraints = tmp_path / "report.json", tmp_path / "constraints.txt"
    constraints.write_text(f"torch=={torch}\n" if torch else "")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--quiet",
        "--python-version",
        python,
        "--only-binary=:all:",
        "--target",
        str(tmp_path / "target"),
        "--report",
        str(report),
        "--constraint",
        str(constraints),
        "-r",
        "requirements.txt",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    versions = {
        item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"]
        for item in json.loads(report.read_text())["install"]
    }
    assert {name: int(versions[name].split(".")[0]) for name in CORE} == CORE
    major, minor = map(int, versions["torch"].split("+")[0].split(".")[:2])
    assert (2, 8) <= (major, minor) < (2, 14)
    assert not torch or versions["torch"] == torch

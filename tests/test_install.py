"""The ranges of requirements.txt resolve for every Python the README names, also beside the torch that Colab has."""

import pytest
from conftest import ROOT
from resolving import resolved

CORE = {"gradio": 6, "transformers": 5, "huggingface-hub": 2, "accelerate": 1, "datasets": 5, "torch": 2, "peft": 0, "bitsandbytes": 0}
# What Colab's runtimes have, and keep.
COLABS_PYTHON, COLABS_TORCH = "3.12", "2.11.0"


@pytest.mark.long
@pytest.mark.parametrize(("python", "torch"), [("3.11", ""), ("3.12", ""), ("3.13", ""), (COLABS_PYTHON, COLABS_TORCH)])
def test_requirements_resolve(python, torch, tmp_path):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"torch=={torch}\n" if torch else "")
    versions = resolved(ROOT / "requirements.txt", tmp_path, python, "--constraint", str(constraints))
    assert {name: int(versions[name].split(".")[0]) for name in CORE} == CORE
    major, minor = map(int, versions["torch"].split("+")[0].split(".")[:2])
    assert (2, 8) <= (major, minor) < (2, 14)
    assert not torch or versions["torch"] == torch

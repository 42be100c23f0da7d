"""The house is as the README's map says, and the engine stands without a browser."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

TOP = {"app.py", "ui", "engine", "notebooks", "spaces", "tests", "requirements.txt", "README.md", ".ci"}
# What a training process alone imports: these define layers and gradients, which torch has to be there for.
TRAINING = {f"engine.{name}" for name in ("lora_layers", "packing", "passes", "train", "trainee")}
ENGINE = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "engine").rglob("*.py"))


def _tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


IMPORTS = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    print(module, *(name for name in ("gradio", "torch", "transformers", "sklearn", "scipy", "matplotlib") if name in sys.modules))
"""


def _imported(modules: list[str]) -> list[str]:
    """Modules imported one after the other in a fresh process, each with what of the heavy libraries is loaded after it."""
    done = subprocess.run([sys.executable, "-c", IMPORTS, *modules], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
def test_the_engine_imports_no_gradio_and_torch_for_training_only():
    modules = [name.removesuffix(".__init__") for name in ENGINE]
    light = [name for name in modules if name not in TRAINING]
    assert _imported(light) == light
    assert _imported(sorted(TRAINING)) == [f"{name} torch" for name in sorted(TRAINING)]


@pytest.mark.long
@pytest.mark.parametrize("module", ENGINE)
def test_every_module_can_be_imported_first(module):
    """Two that import each other may go well in one order only."""
    name = module.removesuffix(".__init__")
    assert [line.split()[0] for line in _imported([name])] == [name]


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "tests/benchmarks").glob("*.py") if path.stem != "trl_side"))
def test_every_benchmark_finds_what_it_imports(name):
    """They are run by hand, so nothing else would tell."""
    code = f"import sys; sys.path.insert(0, 'tests/benchmarks'); import {name}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_maps_every_source_file_and_no_other():
    text = (ROOT / "README.md").read_text()
    mapped = set(re.findall(r"^\| `([\w/.-]+\.py)` \|", text, re.MULTILINE))
    sources = {name for name in _tracked() if name.endswith(".py") and not name.startswith("tests/")}
    assert mapped == sources


def test_top_level_is_the_fixed_one():
    tops = {name.partition("/")[0] for name in _tracked()}
    assert tops - TOP <= {".gitignore", "LICENSE", "pytest.ini"}


def test_spaces_is_no_package():
    assert not (ROOT / "spaces" / "__init__.py").exists()


def test_no_source_file_is_too_long():
    long = {name: lines for name in _tracked() if name.endswith(".py") and (lines := len((ROOT / name).read_text().splitlines())) > 400}
    assert not long


def test_every_module_opens_with_what_it_promises():
    for name in _tracked():
        if name.endswith(".py"):
            assert (ROOT / name).read_text().lstrip().startswith('"""'), name

"""Fixtures: a state folder of its own for each test, tiny models made on the spot, and the real starter made once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
# Real data, beside the project and never part of it.
SHARED = ROOT.parent / "shared/data"
shared = pytest.mark.skipif(not SHARED.exists(), reason="the folder of real data sets is not here")
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# Threads that wait for each other by spinning make tiny models up to ten times slower where other programs keep the cores busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The tests are about a CPU, so that they are the same on every machine; those of tests/test_gpu.py give processes the GPU back.
# What they may see is kept for the processes that tests run in, which begin with the variables of the first.
GPUS = os.environ.setdefault("TEST_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Trainings of tests would stand back for other tests until their time is up.
os.environ["GUANACO_NICENESS"] = "0"

import builders  # noqa: E402
import training  # noqa: E402
from hypothesis import settings  # noqa: E402

# No time limit for an example: machines are noisy, and a slow one is no failure.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


# Fixtures that serve the page, which takes seconds to begin.
SERVED = {"served", "page", "endless", "public"}


def pytest_collection_modifyitems(items) -> None:
    """The quick run has one file of tests that are served the page; the others are long."""
    for item in items:
        if SERVED & set(item.fixturenames) and item.path.name != "test_page.py":
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty GUANACO_HOME, and no Hub in reach unless a test sets up its own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("GUANACO_HOME", str(folder))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A random Llama of a few thousand parameters with a byte-level tokenizer and a chat template."""
    return builders.model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture
def page(home):
    """The app as it is served, on the scripted backend."""
    from pages import Page

    from engine.backends.scripted import ScriptedBackend

    served = Page(ScriptedBackend())
    yield served
    served.close()


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """A random GPT-2: its linear layers are Conv1D, and none is called as in a Llama."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder, tokenizer = tmp_path_factory.mktemp("gpt2") / "tiny-gpt2", builders.byte_tokenizer()
    torch.manual_seed(0)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=256, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def two_adapters(tiny, tmp_path_factory) -> list[str]:
    """Random LoRA adapters of the tiny model, by path."""
    folder = tmp_path_factory.mktemp("adapters")
    return [str(builders.adapter(folder / name, tiny, tiny, seed=seed)) for name, seed in (("one", 1), ("two.with.dots", 2))]


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    """A random Llama as GGUF in float32, beside its transformers folder."""
    import gguf_builders
    import torch

    folder = tmp_path_factory.mktemp("gguf")
    model = gguf_builders.tiny("llama", tied=False)
    tokens = builders.byte_tokenizer().convert_ids_to_tokens(range(model.config.vocab_size))
    with torch.no_grad():  # it says letters, so that texts can be compared
        model.lm_head.weight[[index for index, token in enumerate(tokens) if not (len(token) == 1 and token.isascii())]] = 0
    model.save_pretrained(folder / "tiny-llama")
    builders.byte_tokenizer().save_pretrained(folder / "tiny-llama")
    gguf_builders.write(model, folder / "tiny-llama.gguf")
    return folder / "tiny-llama.gguf"


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> Path:
    """A dozen questions and answers for the tiny model to learn."""
    return training.data(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="session")
def whole(tiny, rows, tmp_path_factory):
    """A training run that nothing disturbed, its end and its events."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUANACO_HOME", str(tmp_path_factory.mktemp("home")))
        run = training.fresh(training.plan(tiny, rows), tmp_path_factory.mktemp("run") / "whole")
        return run, *training.trained(run)


@pytest.fixture(scope="session")
def spelling(rows, tmp_path_factory):
    """A short run on a base that says letters, so that answers can be compared as texts, and that base."""
    base = builders.model(tmp_path_factory.mktemp("base") / "tiny-letters", letters=True)
    plan = training.plan(base, rows, optimization={"steps": 3, "learning_rate": 0.02}, cadence={"save_every": 9, "eval_every": 9})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUANACO_HOME", str(tmp_path_factory.mktemp("home")))
        run = training.fresh(plan, tmp_path_factory.mktemp("run") / "counting")
        training.trained(run)
    return run, base


@pytest.fixture(scope="session")
def merged(spelling, tmp_path_factory):
    """The folder of that run's merged weights, and what the export said."""
    import exporting

    folder = tmp_path_factory.mktemp("merged") / "counting"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUANACO_HOME", str(tmp_path_factory.mktemp("home")))
        return folder, exporting.exported(spelling[0], "merged", folder)


@pytest.fixture(scope="session")
def starter_home(pytestconfig) -> Path:
    """A GUANACO_HOME with the real starter, fetched and converted by the product itself; kept between runs."""
    folder = pytestconfig.cache.mkdir("starter-home")
    with FileLock(folder.with_suffix(".lock")):  # tests run in two processes
        command = [sys.executable, "-m", "engine", "chat", "--backend", "transformers", "--max-new-tokens", "1", "Hi"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "GUANACO_HOME": str(folder)}, check=True, timeout=600)
    return folder


@pytest.fixture
def starter(starter_home, monkeypatch) -> Path:
    """Use the real starter's state folder in this test."""
    monkeypatch.setenv("GUANACO_HOME", str(starter_home))
    return starter_home


@pytest.fixture
def run_engine():
    """Run `python -m engine ARGS` as a person would; keyword arguments are environment variables."""

    def run(*args: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "engine", *args], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=600
        )

    return run

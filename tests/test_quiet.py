"""What libraries would do unasked."""

import os
import subprocess
import sys

import pytest
import training
from conftest import ROOT


@pytest.mark.long
@pytest.mark.parametrize("what", ["matrix", "nf4", "none"])
def test_no_library_fetches_code_of_the_hub(what, tiny, tmp_path, home):
    """A package `kernels` that is installed is not asked for any: bitsandbytes would for processors with AVX512-BF16."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/__init__.py").write_text("raise SystemExit('code was fetched')")
    ask = (
        "import numpy, sys\n"
        "from engine import models, nf4\n"
        "from engine.backends import pretrained\n"
        "from engine.settings import LoadSettings\n"
        "if sys.argv[2] == 'matrix':\n"
        "    nf4.rounded(numpy.ones((8, 64), numpy.float32))\n"
        "else:\n"
        "    pretrained.opened(models.resolve(sys.argv[1]), LoadSettings(quantization=sys.argv[2]), lambda progress: None)\n"
        "import peft, bitsandbytes.backends.cpu.ops\n"
        "assert sys.modules['kernels'] is None\n"
    )
    found = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    done = subprocess.run([sys.executable, "-c", ask, str(tiny), what], cwd=ROOT, env=found, capture_output=True, text=True)
    assert done.returncode == 0 and "kernels" not in done.stderr, done.stderr


@pytest.mark.long
def test_a_recipe_without_an_optimizer_trains_on_a_cpu_without_words_of_libraries(tiny, rows, tmp_path, run_engine):
    """The default pages, which bitsandbytes says it cannot there."""
    plan = training.plan(tiny, rows, optimization={"optimizer": "paged_adamw_32bit", "steps": 1})
    done = run_engine("train", str(training.written(plan, tmp_path / "tiny.yaml")))
    assert done.returncode == 0 and "does not page here" in done.stderr and "Warning" not in done.stderr, done.stderr

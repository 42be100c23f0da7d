"""What libraries would do unasked."""

import os
import subprocess
import sys

import pytest
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

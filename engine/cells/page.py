"""`python -m engine.cells.page OPTIONS`: the web page of a notebook, which ends with its notebook. The options are those of app.py."""

import runpy
from pathlib import Path

from engine import children

APP = Path(__file__).resolve().parents[2] / "app.py"

if __name__ == "__main__":
    children.end_with_parent()
    runpy.run_path(str(APP), run_name="__main__")

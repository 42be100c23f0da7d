"""Guanaco mini, the starter's own adapter: `rows.jsonl`, an instruction set written for this project, and in `adapter/` what the
preset `guanaco-mini` makes of it."""

from pathlib import Path

GUANACO_MINI = "guanaco-mini"
ROWS = Path(__file__).with_name("rows.jsonl")
ADAPTER = Path(__file__).with_name("adapter")

"""Everything of Guanaco Playground that works without a browser.

No module in this package imports gradio; `tests/test_layout.py` proves it.
Importing any of them is cheap: torch and transformers are imported inside the functions that need them.
"""

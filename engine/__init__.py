"""Everything of Guanaco Playground that works without a browser.

No module in this package imports gradio; `tests/test_layout.py` proves it. Importing any of them is cheap: torch and
transformers are imported inside the functions that need them.
"""

import os

# Set before gradio or huggingface_hub is imported: nothing leaves the machine that nobody asked for.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

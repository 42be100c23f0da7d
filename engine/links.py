"""Where this project is published; None as long as it is nowhere. What depends on it is left out meanwhile."""

import os

REPOSITORY: str | None = None  # owner/name on GitHub
SPACE: str | None = None  # owner/name on the Hub


def clone() -> str | None:
    """The address that git clones."""
    return f"https://github.com/{REPOSITORY}" if REPOSITORY else None


def duplicate() -> str | None:
    """The address that makes a Space of one's own: a copy of the one that this is, else of the published one."""
    space = os.environ.get("SPACE_ID") or SPACE
    return f"https://huggingface.co/spaces/{space}?duplicate=true" if space else None


def colab(notebook: str) -> str | None:
    """The address that opens a file of `notebooks/` in Colab."""
    return f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{notebook}" if REPOSITORY else None

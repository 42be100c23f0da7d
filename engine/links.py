"""Where this project is published; None as long as it is nowhere. What depends on it is left out meanwhile."""

REPOSITORY: str | None = None  # owner/name on GitHub
SPACE: str | None = None  # owner/name on the Hub


def clone() -> str | None:
    """The address that git clones."""
    return f"https://github.com/{REPOSITORY}" if REPOSITORY else None


def colab(notebook: str) -> str | None:
    """The address that opens a file of `notebooks/` in Colab."""
    return f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{notebook}" if REPOSITORY else None

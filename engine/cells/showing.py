"""Output of cells: a text that changes in place or grows, pictures, two texts side by side; what stops a cell, in a sentence."""

import contextlib
import html
import time
from collections.abc import Iterator

from engine.errors import EngineError
from engine.events import Progress

WIDTH = 700
# How often a text that grows is shown anew, seconds.
_OFTEN = 0.12


class Line:
    """A text below a cell, which is replaced. JupyterLab would break what is printed in the middle of words."""

    def __init__(self, text: str = ""):
        from IPython.display import display

        self._shown = text
        self._handle = display(_wrapped(text), raw=True, display_id=True)

    def show(self, text: str) -> None:
        if text != self._shown and self._handle:
            self._shown = text
            self._handle.update(_wrapped(text), raw=True)

    def report(self, progress: Progress) -> None:
        """Show how far something is."""
        self.show(progress.text if progress.fraction is None else f"{progress.text} ({progress.fraction:.0%})")


class Growing:
    """A text below a cell that comes in pieces; within `with`, after which all of it is shown."""

    def __init__(self):
        self.text, self._line, self._at = "", Line(), 0.0

    def add(self, piece: str) -> None:
        self.text += piece
        if time.monotonic() > self._at:
            self._line.show(self.text)
            self._at = time.monotonic() + _OFTEN

    def __enter__(self) -> "Growing":
        return self

    def __exit__(self, *_: object) -> None:
        self._line.show(self.text)


@contextlib.contextmanager
def stopped_says(text: str) -> Iterator[None]:
    """The stop button within the block ends the cell with this sentence instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise EngineError(text) from None


def _wrapped(text: str) -> dict[str, str]:
    return {"text/html": f"<div style='white-space:pre-wrap;max-width:1000px'>{html.escape(text)}</div>", "text/plain": text}


def picture(png: bytes) -> None:
    """Show a picture."""
    from IPython.display import Image, display

    display(Image(png, width=WIDTH))


def side_by_side(titles: tuple[str, str], texts: tuple[str, str], above: str = "") -> None:
    """Show two texts beside each other, as texts whatever is in them, below a line of text."""
    from IPython.display import display

    heads = "".join(f"<th style='text-align:left'>{_escaped(title)}</th>" for title in titles)
    cells = "".join(f"<td style='text-align:left;vertical-align:top;width:50%'>{_escaped(text)}</td>" for text in texts)
    table = f"<table style='width:100%;max-width:1000px'><tr>{heads}</tr><tr>{cells}</tr></table>"
    plain = "\n\n".join([above, *(f"{title}: {text}" for title, text in zip(titles, texts, strict=True))]).strip()
    display({"text/html": f"<p><b>{_escaped(above)}</b></p>{table}" if above else table, "text/plain": plain}, raw=True)


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")

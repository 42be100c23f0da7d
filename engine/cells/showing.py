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
    """A text below a cell, which is replaced. JupyterLab would break what is printed in the middle of words; where there is no notebook it
    is printed."""

    def __init__(self, text: str = ""):
        self._shown = text
        self.handle = _displayed(_wrapped(text), display_id=True)

    def show(self, text: str) -> None:
        if text != self._shown:
            self._shown = text
            if self.handle:
                self.handle.update(_wrapped(text), raw=True)
            else:
                print(text)

    def report(self, progress: Progress) -> None:
        """Show how far something is."""
        self.show(progress.text if progress.fraction is None else f"{progress.text} ({progress.fraction:.0%})")


class Growing:
    """A text below a cell that comes in pieces; within `with`, after which all of it is shown."""

    def __init__(self):
        self.text, self._line, self._at = "", Line(), 0.0

    def add(self, piece: str) -> None:
        self.text += piece
        if not self._line.handle:
            print(piece, end="", flush=True)
        elif time.monotonic() > self._at:
            self._line.show(self.text)
            self._at = time.monotonic() + _OFTEN

    def __enter__(self) -> "Growing":
        return self

    def __exit__(self, *_: object) -> None:
        if self._line.handle:
            self._line.show(self.text)
        else:
            print()


@contextlib.contextmanager
def stopped_says(text: str) -> Iterator[None]:
    """The stop button within the block ends the cell with this sentence instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise EngineError(text) from None


def _displayed(data: dict[str, str], **options: object):
    """Show an output; IPython's handle where `display_id` asks for one, None where there is no notebook."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython():
        return display(data, raw=True, **options)
    if data["text/plain"]:
        print(data["text/plain"])
    return None


def _wrapped(text: str) -> dict[str, str]:
    return {"text/html": f"<div style='white-space:pre-wrap;max-width:1000px'>{html.escape(text)}</div>", "text/plain": text}


def picture(png: bytes) -> None:
    """Show a picture."""
    from IPython.display import Image, display

    display(Image(png, width=WIDTH))


def side_by_side(titles: tuple[str, str], texts: tuple[str, str], above: str = "") -> None:
    """Show two texts beside each other, as texts whatever is in them, below a line of text."""
    heads = "".join(f"<th style='text-align:left'>{html.escape(title)}</th>" for title in titles)
    cells = "".join(
        f"<td style='text-align:left;vertical-align:top;width:50%;white-space:pre-wrap'>{html.escape(text)}</td>" for text in texts
    )
    table = f"<table style='width:100%;max-width:1000px'><tr>{heads}</tr><tr>{cells}</tr></table>"
    plain = "\n\n".join([above, *(f"{title}: {text}" for title, text in zip(titles, texts, strict=True))]).strip()
    _displayed(
        {"text/html": f"<p style='white-space:pre-wrap'><b>{html.escape(above)}</b></p>{table}" if above else table, "text/plain": plain}
    )

"""Output of cells: a line that changes in place, pictures, two texts side by side."""

import html

from engine.events import Progress

WIDTH = 700


class Line:
    """A line below a cell, whose text is replaced."""

    def __init__(self, text: str = ""):
        from IPython.display import display

        self._shown = text
        self._handle = display(_plain(text), raw=True, display_id=True)

    def show(self, text: str) -> None:
        if text != self._shown and self._handle:
            self._shown = text
            self._handle.update(_plain(text), raw=True)

    def report(self, progress: Progress) -> None:
        """Show how far something is."""
        self.show(progress.text if progress.fraction is None else f"{progress.text} ({progress.fraction:.0%})")


def _plain(text: str) -> dict[str, str]:
    return {"text/plain": text}


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

"""The page's own scripts and styles, read from `static/`, and how scripts hand an action's details to the server."""

from pathlib import Path

FOLDER = Path(__file__).parent / "static"


def text(name: str) -> str:
    """A file of `static/`."""
    return (FOLDER / name).read_text(encoding="utf-8")


def script(*names: str) -> str:
    """Scripts of `static/` as one, with what all of them share before them."""
    return "".join(map(text, ("dom.js", *names)))


def taking(*names: str, flag: str = "") -> str:
    """Script for an event that the page's own scripts triggered: its first inputs are that action's fields, in this
    order; an API client passes them like any other input. A `flag` of the page is set at once, before the server answers."""
    fields = "".join(f"window.guanacoAction.{name}, " for name in names)
    first = f"document.body.dataset.{flag} = 'true'; " if flag else ""
    return f"(...values) => {{ {first}return [{fields}...values.slice({len(names)})]; }}"


def saving(name: str) -> str:
    """Script for an event whose input is a text: the browser saves it as a file. `name` is an expression, which may use `text`."""
    return f"""text => {{
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {{ type: "text/plain" }}));
  link.download = {name};
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}}"""

"""A sentence on the page."""

import html


def told(text: str, kind: str = "") -> str:
    """A sentence as HTML, nothing where there is none; what is `wrong` is spoken at once."""
    return f'<p class="{kind}" role="{"alert" if kind == "wrong" else "status"}">{html.escape(text)}</p>' if text else ""

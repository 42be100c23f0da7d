"""Colour, type and spacing. Fonts are those of the visitor's system: nothing is fetched from outside."""

import gradio as gr

_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

CSS = """
#status { font-size: 0.875rem; }
#status, #facts { padding: 0 !important; } #warning p { margin: 0; }
#facts { min-height: 1.5rem; font-size: 0.8125rem; opacity: 0.8; }
#facts .error, #facts .clear-status { display: none; } /* the message in the corner says it; this mark would stay */
#warning { font-size: 0.8125rem; opacity: 0.75; }
#conversation { overflow-anchor: none; }
"""


def theme() -> gr.themes.Base:
    """The app's theme, light and dark."""
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="amber", neutral_hue="stone", font=_SANS, font_mono=_MONO, radius_size="md"
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
    )

"""Colour, type and spacing, light and dark. Fonts are those of the visitor's system: nothing is fetched from outside."""

import gradio as gr

from ui import assets

_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")
# A warm paper, ink, and the blue-green of high lakes.
_PAPER, _INK, _LAKE = "#faf8f4", "#26231f", "#1f6f6b"
_NIGHT, _LAMP, _GLACIER = "#1a1917", "#e9e5dd", "#63bdb4"

STYLES = ("page.css", "finetune.css", "finetune_runs.css", "measure.css")


def head() -> str:
    """The page's styles, and the script that more than one event needs. As `css`, Gradio would rewrite the styles: it puts its own class
    before every selector, so that a state kept on the body could not be styled."""
    return f"<style>{''.join(map(assets.text, STYLES))}</style><script>{assets.text('turns.js')}</script>"


def theme() -> gr.themes.Base:
    """The app's theme. Values ending in `_dark` are for dark pages."""
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="amber", neutral_hue="stone", font=_SANS, font_mono=_MONO, radius_size="md", spacing_size="sm"
    ).set(
        body_background_fill=_PAPER,
        body_background_fill_dark=_NIGHT,
        body_text_color=_INK,
        body_text_color_dark=_LAMP,
        body_text_color_subdued="#6b655c",
        body_text_color_subdued_dark="#a39c91",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#232120",
        background_fill_secondary="#f1ede5",
        background_fill_secondary_dark="#2c2a27",
        block_background_fill="#ffffff",
        block_background_fill_dark="#232120",
        block_border_width="0px",
        block_shadow="none",
        block_label_text_size="*text_sm",
        block_title_text_size="*text_sm",
        block_title_text_weight="600",
        block_info_text_size="*text_xs",
        border_color_primary="#e2dcd0",
        border_color_primary_dark="#3a3733",
        code_background_fill="#fbfaf7",
        code_background_fill_dark="#1f1e1c",
        color_accent=_LAKE,
        color_accent_soft="#e2efec",
        color_accent_soft_dark="#24403d",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1f1e1c",
        input_border_width="1px",
        link_text_color=_LAKE,
        link_text_color_dark=_GLACIER,
        panel_background_fill="transparent",
        slider_color=_LAKE,
        slider_color_dark=_GLACIER,
        button_primary_background_fill=_LAKE,
        button_primary_background_fill_hover="#195a57",
        button_primary_background_fill_dark="#2b807a",
        button_primary_text_color="white",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_dark="transparent",
        button_secondary_border_color="*border_color_primary",
        button_secondary_border_color_dark="*border_color_primary",
        button_border_width="1px",
        button_cancel_background_fill="#b3402d",
        button_cancel_background_fill_dark="#b3402d",
        button_cancel_background_fill_hover="#973524",
        button_cancel_background_fill_hover_dark="#c8503c",
        button_cancel_text_color="white",
    )

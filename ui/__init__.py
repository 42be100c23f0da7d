"""The page: names the tabs and holds the limits that every visitor is held to."""

import contextlib
import warnings

import gradio as gr
from starlette.middleware import Middleware

from engine import jobs, uploads
from engine.errors import EngineError
from engine.game import sharing
from engine.services import Services
from ui import chat, compare, doors, downloads, finetune, game, leaderboard, limits, measure, theme, tools

TITLE = "Guanaco Playground"
TABS = (chat.TAB, compare.TAB, finetune.TAB, game.TAB, leaderboard.TAB, measure.TAB)
MAX_UPLOAD = 20 * 2**20
MAX_QUEUE = 64
QUEUE_SECONDS = 0.02
# Gradio copies each upload into a folder of its own; what is kept of one is kept in ours at once. How often such copies are looked for,
# and how old they may get, seconds.
UPLOADS_LOOKED_AT, UPLOADS_KEPT = 600, 3_600


def build(services: Services) -> gr.Blocks:
    """The whole page."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(UPLOADS_LOOKED_AT, UPLOADS_KEPT)) as page:
        # Gradio makes all its routes anew at this call, and describes all that there is by then. Its direct route would lead past the
        # queue and every limit.
        page.queue(max_size=MAX_QUEUE, api_open=False)
        gr.Markdown(f"# {TITLE}", elem_id="brand", container=False)
        with gr.Tabs() as tabs:
            with gr.Tab("Chat", id=chat.TAB):
                talk = chat.tab(services)
            # It is there from the start, so that an answer that begins as it opens is seen whole.
            with gr.Tab("Compare", id=compare.TAB, render_children=True) as comparing:
                sides = compare.tab(services, talk, tabs, comparing)
            with gr.Tab("Finetune", id=finetune.TAB) as finetuning:
                finetune.tab(services, finetuning, talk, tabs, sides)
            with gr.Tab("Blind game", id=game.TAB):
                game.tab(services)
            with gr.Tab("Leaderboard", id=leaderboard.TAB) as rating:
                leaderboard.tab(services, rating)
            with gr.Tab("Measure", id=measure.TAB) as measuring:
                measure.tab(services, measuring)
        page.load(_asked_for, None, tabs, api_visibility="private", queue=False, show_progress="hidden")
        doors.draw(services)
        tools.endpoints(services)
    # Gradio looks for work a thousand times a second, which alone takes a twentieth of a core while a page is open.
    page._queue.sleep_when_free = QUEUE_SECONDS
    page._queue.progress_update_sleep_when_free = QUEUE_SECONDS
    return page


def _asked_for(request: gr.Request) -> dict:
    """The tab that an address names, as in `/?tab=game`."""
    tab = request.query_params.get("tab")
    return gr.Tabs(selected=tab) if tab in TABS else gr.skip()


def serve(services: Services, host: str, port: int, share: bool = False) -> None:
    """Serve the page until the program is told to end. Raises BadInput where the owner's environment makes no sense."""
    with contextlib.suppress(EngineError):  # on a disk that fails old uploads stay
        uploads.sweep()
    if not services.read_only:
        with contextlib.suppress(EngineError):
            jobs.follow_hub_jobs()
    with sharing.as_wanted(services.store):
        launch(build(services), services, host, port, share)


def launch(page: gr.Blocks, services: Services, host: str, port: int, share: bool, block: bool = True) -> None:
    """Serve the page, and as an MCP server where that is installed: no analytics, no monitoring page, bounded uploads (or none) and
    queue, nothing fetched from outside."""
    warnings.filterwarnings("ignore", "This MCP server includes a tool that has a gr.State input")  # it is no tool, see `tools`
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=theme.theme(),
        head=theme.head(),
        max_file_size=MAX_UPLOAD,
        enable_monitoring=False,
        run_history=False,
        app_kwargs={
            "middleware": [Middleware(limits.ContentPolicy), Middleware(limits.BodyLimit, most=MAX_UPLOAD if services.may_train else 0)],
            "routes": [downloads.route(services.offers)] if services.may_train else [],
        },
        ssr_mode=False,
        prevent_thread_lock=True,
        footer_links=["api"],
        show_error=False,
        mcp_server=tools.installed(),
        # Gradio would ask itself for the page, and give up where a machine that is busy loading a model takes 3 seconds for it.
        _frontend=False,
    )
    tools.offer(page)
    if block:
        page.block_thread()

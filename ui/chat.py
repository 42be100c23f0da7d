"""The chat tab: a conversation with the loaded model, and every action on it as a named endpoint.

The conversation itself comes from the visitor's browser with each action and goes back to it; the host keeps none."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from engine.errors import BadInput
from engine.library import storage_secret
from engine.messages import checked_text
from engine.runtime import MAX_WAITING
from engine.services import Services
from engine.settings import MAX_SYSTEM_CHARS, ChatSettings
from engine.threads import Thread
from ui import assets, form, models, sidebar, starting
from ui.answers import Answers
from ui.render import shown

WARNING = "Research use: answers may be wrong or offensive, and Guanaco's LLaMA bases are licensed for research only."
PANEL_BUTTONS = """<button type="button" data-opens="chats" aria-expanded="false">Conversations</button>
<button type="button" data-opens="settings" aria-expanded="false">Settings</button>"""
TAB = "chat"
STORAGE_KEY = "guanaco-playground"
BLEND_NAMES = ("adapter", "strength", "mixed_in", "mixed_in_strength")
BLEND = len(BLEND_NAMES)
# How the events of every tab run that make a model answer. They share one limit, above what the runtime lets wait: it explains
# its limit better than Gradio does.
ANSWERING = {"concurrency_limit": MAX_WAITING + 6, "concurrency_id": "answer", "show_progress": "hidden", "trigger_mode": "once"}


def tab(services: Services) -> "Talk":
    """Draw the tab inside the Blocks that are open; gives the components that other tabs may need."""
    secret = storage_secret()
    library = gr.BrowserState(None, storage_key=f"{STORAGE_KEY}.conversations", secret=secret)
    current = gr.BrowserState(None, storage_key=f"{STORAGE_KEY}.open", secret=secret)
    with gr.Row(elem_id="chat-head"):
        gr.HTML(PANEL_BUTTONS, js_on_load=assets.text("panels.js"), elem_id="panel-buttons", apply_default_css=False)
        chip = models.draw_chip()
        clear_button = gr.Button("Clear", size="sm", scale=0, min_width=60, elem_id="clear")
    with gr.Row(elem_id="chat-tab"):
        with gr.Column(elem_id="chats-panel", scale=0, min_width=0):
            chats = sidebar.draw()
        with gr.Column(elem_id="talk", scale=1, min_width=0):
            view = gr.HTML(
                {},
                html_template="<div></div>",
                js_on_load=assets.script("messages.js", "view.js"),
                elem_id="conversation",
                apply_default_css=False,
                welcome={"title": starting.TITLE, "text": starting.TEXT, "groups": starting.GROUPS},
            )
            with gr.Row(elem_classes="composer"):
                message = form.message_box("Message", "Write a message (Enter sends)", "message", autofocus=True)
                compare_button = gr.Button("Compare", scale=0, min_width=80, elem_id="to-compare")
                send_button = gr.Button("Send", variant="primary", scale=0, min_width=80, elem_id="send")
                stop_button = gr.Button("Stop", variant="stop", scale=0, min_width=80, elem_id="stop")
            gr.Markdown(WARNING, elem_classes="footnote", container=False)
        with gr.Column(elem_id="settings-panel", scale=0, min_width=0):
            pickers = models.draw_pickers(services, chip)
            preset = gr.Dropdown(list(starting.SYSTEM_PRESETS), value=None, label="Take a system text", info="It goes into the box below.")
            system = gr.Textbox(
                "",
                label="System text",
                info="How the assistant should behave; empty takes the adapter's or the prompt format's own.",
                lines=2,
                max_lines=8,
                elem_id="system",
            )
            with gr.Accordion("Sampling", open=False):
                values = form.components(ChatSettings)
    pickers.wire()
    sidebar.wire(chats, library, current, view, system)
    # Gradio tells of a picker also when it is only left.
    preset.input(
        lambda name: [starting.SYSTEM_PRESETS.get(name, gr.skip()), None],
        preset,
        [system, preset],
        api_name="system_preset",
        **form.SILENT,
    )
    talk = Talk(
        library, current, view, chats, message, system, pickers.blend, values, compare_button, send_button, stop_button, clear_button
    )
    _wire(services, talk)
    return talk


@dataclass(frozen=True)
class Talk:
    """The components of what is said and answered. `library` holds all conversations, `current` is the one on the screen;
    `blend` are those of `Services.blend`, `settings` those of ChatSettings. `compare` is for the tab of that name."""

    library: gr.BrowserState
    current: gr.BrowserState
    view: gr.HTML
    chats: gr.HTML
    message: gr.Textbox
    system: gr.Textbox
    blend: list[Component]
    settings: list[Component]
    compare: gr.Button
    send: gr.Button
    stop: gr.Button
    clear: gr.Button

    @property
    def opened(self) -> list[Component]:
        """What `sidebar.opening` fills."""
        return [self.view, self.current, self.system, self.chats]


def _wire(services: Services, talk: Talk) -> None:
    """Connect what is said and answered."""
    view, current, message, system = talk.view, talk.current, talk.message, talk.system
    chosen = [*talk.blend, system, *talk.settings]
    answers = Answers(services.runtime)
    turn_id = gr.Number(visible=False, label="turn", precision=0)
    verdict = gr.Number(visible=False, label="thumb", precision=0)
    text = gr.Textbox(visible=False, label="text")

    def answered(
        request: gr.Request,
        change: Callable[[Thread], Thread],
        conversation: object,
        rest: tuple,
        continues: bool = False,
        cold: bool = False,
    ) -> Iterator[dict]:
        """Change the conversation, then answer its end: updates of the view. All that comes in is checked before the
        first of them."""
        blend, (system_text, *settings) = rest[:BLEND], rest[BLEND:]
        with form.explained():
            checked = checked_text(system_text or "", "The system text", MAX_SYSTEM_CHARS)
            thread = change(Thread.read(conversation)).model_copy(update={"system": checked})
            read = form.read(ChatSettings, *settings)
            updates = answers.stream(thread, services.blend(*blend), read, request.session_hash, continues, cold)
            first = next(updates)
        yield first
        yield from updates

    def send(request: gr.Request, message: str, conversation: object, *rest) -> Iterator[dict]:
        updates = answered(request, lambda thread: thread.asked(message), conversation, rest)
        yield {**next(updates), "taken": True}
        yield from updates

    def example(request: gr.Request, message: str, system: str, conversation: object, *rest) -> Iterator[dict]:
        """`system` is the example's own, or empty for the one in the box."""
        in_box = rest[BLEND]
        rest = (*rest[:BLEND], system or in_box, *rest[BLEND + 1 :])
        updates = answered(request, lambda thread: thread.asked(message), conversation, rest)
        yield {**next(updates), **({"system": system} if system else {})}
        yield from updates

    def edit(request: gr.Request, turn: int, message: str, conversation: object, *rest) -> Iterator[dict]:
        yield from answered(request, lambda thread: thread.edited(turn, message), conversation, rest)

    def retry(request: gr.Request, turn: int | None, conversation: object, *rest) -> Iterator[dict]:
        yield from answered(request, lambda thread: thread.to_answer_again(turn), conversation, rest, cold=True)

    def go_on(request: gr.Request, conversation: object, *rest) -> Iterator[dict]:
        def open_ended(thread: Thread) -> Thread:
            thread.to_continue()
            return thread

        yield from answered(request, open_ended, conversation, rest, continues=True)

    def stop(request: gr.Request) -> None:
        answers.stops.stop(request.session_hash)

    def undo(conversation: object, draft: str) -> list:
        with form.explained():
            thread, said = Thread.read(conversation).undone()
        return [shown(thread), thread.model_dump(mode="json"), f"{said}\n\n{draft}" if (draft or "").strip() else said]

    def branch(turn: int, conversation: object) -> list:
        with form.explained():
            thread = Thread.read(conversation).showing(turn)
        return [shown(thread), thread.model_dump(mode="json")]

    def judge(turn: int, thumb: int, reason: str, conversation: object) -> list:
        with form.explained():
            thread = Thread.read(conversation).thumbed(turn, thumb)
            services.store.thumb(thread, turn, thumb, reason or "")
        return [shown(thread), thread.model_dump(mode="json")]

    def restore(conversation: object) -> list:
        """What was open in this browser when a page was last here; one that cannot be read gives way to a new one, and so does one with
        nothing in it: another tab may be about to fill it."""
        try:
            thread = Thread.read(conversation)
            return sidebar.opening(thread if thread.turns else Thread.new(thread.system), restored=True)
        except BadInput:
            return sidebar.opening(Thread.new(), restored=True)

    for answer in (send, edit, retry, go_on):
        form.names(answer, *BLEND_NAMES, "system", settings=ChatSettings)
    form.names(example, *BLEND_NAMES, "system_in_box", settings=ChatSettings)
    # The view is the one output of an answer's updates, as each more would cost the server as much as the answer does. What
    # it brings for others (the conversation to keep, the box to empty, a system text) the page's own script passes on.
    own = {"fn": None, "inputs": None, "api_visibility": "private", "show_progress": "hidden"}
    view.keep_conversation(**own, outputs=current, js="() => window.guanacoConversation")
    view.message_taken(**own, outputs=message, js="() => ''")
    view.system_set(**own, outputs=system, js="() => window.guanacoSystem")
    # From the press on nothing else may change the conversation.
    asking = functools.partial(assets.taking, flag="answering")
    an_example = [text, gr.Textbox(visible=False, label="system text"), current, *chosen]
    events = (
        gr.on([message.submit, talk.send.click], send, [message, current, *chosen], view, js=asking(), api_name="chat", **ANSWERING),
        view.example(example, an_example, view, js=asking("text", "system"), api_name="example", **ANSWERING),
        view.edit_message(edit, [turn_id, text, current, *chosen], view, js=asking("turn", "text"), api_name="edit", **ANSWERING),
        view.answer_again(retry, [turn_id, current, *chosen], view, js=asking("turn"), api_name="retry", **ANSWERING),
        view.continue_answer(go_on, [current, *chosen], view, js=asking(), api_name="continue", **ANSWERING),
    )
    for event in events:
        form.afterwards(event, "window.guanacoEnded")
    both = [view, current]
    judged = [turn_id, verdict, text, current]
    changes = (
        view.undo_message(undo, [current, message], [*both, message], api_name="undo", **form.QUICK),
        view.show_branch(branch, [turn_id, current], both, js=assets.taking("turn"), api_name="branch", **form.QUICK),
        view.give_thumb(judge, judged, both, js=assets.taking("turn", "thumb", "text"), api_name="thumb", **form.QUICK),
    )
    for event in changes:
        form.afterwards(event, "window.guanacoChanged")
    talk.stop.click(stop, None, None, api_name="stop", **form.SILENT)
    talk.clear.click(**{**own, "inputs": [system, current]}, outputs=[view, current, talk.chats], js="window.guanacoCleared")
    page = gr.context.Context.root_block
    page.load(restore, current, talk.opened, api_name="restore", **form.SILENT)

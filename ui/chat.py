"""The chat tab: streaming, stop, retry, clear, pickers, system text and sampling settings."""

import html
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import gradio as gr

from engine import hardware
from engine.errors import BadInput
from engine.messages import Conversation, Message, checked_history, checked_text
from engine.services import Services
from engine.settings import MAX_SYSTEM_CHARS, ChatSettings
from ui import form
from ui.render import ChatView, Pace, render, status

WARNING = "For research and learning: answers may be wrong, biased or offensive. Guanaco's LLaMA bases are licensed for research only."
LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": r"\(", "right": r"\)", "display": False},
    {"left": r"\[", "right": r"\]", "display": True},
]
ANSWERING = "answer"  # one queue for every button that makes the model answer


@dataclass
class Stops:
    """A stop flag for each visitor's answer under way."""

    flags: dict[str, threading.Event] = field(default_factory=dict)

    def begin(self, session: str | None) -> threading.Event:
        flag = threading.Event()
        if session:
            self.flags[session] = flag
        return flag

    def stop(self, session: str | None) -> None:
        flag = self.flags.get(session or "")
        if flag:
            flag.set()

    def end(self, session: str | None, flag: threading.Event) -> None:
        if session and self.flags.get(session) is flag:
            del self.flags[session]


def tab(services: Services) -> None:
    """Draw the tab inside the Blocks that are open."""
    runtime = services.runtime
    stops = Stops()
    machine = hardware.machine().summary

    def asked(messages: tuple[Message, ...], adapter: str, system: str, values: tuple) -> tuple:
        """What the runtime is asked: conversation, settings, adapter. Raises BadInput for anything out of bounds."""
        conversation = Conversation(messages, checked_text(system or "", "The system text", MAX_SYSTEM_CHARS))
        return conversation, form.read(ChatSettings, *values), services.adapter(adapter)

    def answer(question: tuple, session: str | None) -> Iterator[list]:
        """Stream an answer as updates of `outputs`; what fails reaches the person as a message, and nothing is lost.

        What did not change is skipped: every component that is sent costs the page a redraw."""
        flag = stops.begin(session)
        view = ChatView(question[0].messages)
        pace = Pace()
        line = None
        try:
            yield [view.rows(), "", gr.Button(visible=False), gr.Button(visible=True)]
            for event in runtime.chat(*question, flag.is_set):
                view = render(event, view)
                if pace.due(len(view.answer or "")):
                    yield [
                        gr.skip() if view.answer is None else view.rows(),
                        gr.skip() if view.line == line else html.escape(view.line),
                        gr.skip(),
                        gr.skip(),
                    ]
                    line = view.line
            yield [view.rows(), html.escape(view.line), gr.Button(visible=True), gr.Button(visible=False)]
        finally:
            stops.end(session, flag)
        if view.failed:
            raise form.shown(view.failed)

    def send(request: gr.Request, message: str, history: list, adapter: str, system: str, *values) -> Iterator[list]:
        with form.explained():
            text = checked_text(message)
            if not text.strip():
                raise BadInput("Write a message first.")
            question = asked((*checked_history(history or []), Message("user", text)), adapter, system, values)
        updates = answer(question, request.session_hash)
        yield [*next(updates), ""]
        for update in updates:
            yield [*update, gr.skip()]  # what was typed meanwhile stays

    def retry(request: gr.Request, history: list, adapter: str, system: str, *values) -> Iterator[list]:
        with form.explained():
            messages = checked_history(history or [])
            while messages and messages[-1].role == "assistant":
                messages = messages[:-1]
            if not messages:
                raise BadInput("There is no message to answer again.")
            question = asked(messages, adapter, system, values)
        yield from answer(question, request.session_hash)

    def stop(request: gr.Request) -> None:
        stops.stop(request.session_hash)

    def load(model: str) -> str:
        with form.explained():
            services.load(model)
        return running()

    def clear() -> list:
        """Empty the conversation; the answer under way is cancelled by Gradio, which closes its generator."""
        return [[], "", gr.Button(visible=True), gr.Button(visible=False)]

    def running() -> str:
        return html.escape(status(services.state(), machine))

    def look(seen: str) -> tuple:
        """What is running now, for the status line and the pickers. `seen` is the model that this page last knew: when
        it changes, the picker turns to the adapter that came with the new one."""
        state = services.state()
        picked = {"value": services.chosen_adapter()} if state.phase == "ready" and state.model != seen else {}
        return (
            running(),
            gr.Dropdown(choices=services.adapter_choices(), **picked),
            gr.Timer(1 if state.phase == "loading" else 4),
            state.model if state.phase == "ready" else seen,
        )

    status_line = gr.HTML(running, elem_id="status", container=False)
    with gr.Row():
        model = gr.Dropdown(
            services.model_choices(),
            value=lambda: services.state().model or None,
            interactive=not services.read_only,
            label="Model",
            allow_custom_value=not services.read_only,
            scale=3,
            info="This host's model" if services.read_only else "A known model, a Hub id (owner/name), a folder or a GGUF file",
        )
        load_button = gr.Button("Load", scale=0, min_width=90, visible=not services.read_only)
        adapter = gr.Dropdown(
            services.adapter_choices(),
            value=services.chosen_adapter,
            label="Adapter",
            allow_custom_value=True,
            scale=2,
            info="LoRA on top of the base; none is the bare base",
        )
    chatbot = gr.Chatbot(
        label="Conversation",
        elem_id="conversation",
        height="46vh",
        latex_delimiters=LATEX,
        buttons=["copy", "copy_all"],
        placeholder="Ask anything. The model runs on this machine.",
    )
    facts = gr.HTML("", elem_id="facts", container=False)
    with gr.Row():
        message = gr.Textbox(
            "",
            label="Message",
            show_label=False,
            placeholder="Write a message. Enter sends, Shift+Enter starts a new line.",
            lines=1,
            max_lines=8,
            scale=8,
            autofocus=True,
            elem_id="message",
        )
        send_button = gr.Button("Send", variant="primary", scale=0, min_width=90, elem_id="send")
        stop_button = gr.Button("Stop", variant="stop", scale=0, min_width=90, visible=False, elem_id="stop")
    with gr.Row():
        retry_button = gr.Button("Retry", size="sm", elem_id="retry")
        clear_button = gr.Button("Clear", size="sm", elem_id="clear")
    gr.Markdown(WARNING, elem_id="warning", container=False)
    with gr.Accordion("Settings", open=False):
        system = gr.Textbox(
            "", label="System text", info="How the assistant should behave; empty takes the prompt format's own.", lines=2, max_lines=8
        )
        values = form.components(ChatSettings)

    outputs = [chatbot, facts, send_button, stop_button]
    chosen = [adapter, system, *values]
    # Gradio lays its error mark over whatever shows progress; over the facts line it hides nothing.
    answering = {
        "concurrency_limit": 1,
        "concurrency_id": ANSWERING,
        "show_progress": "minimal",
        "show_progress_on": facts,
        "trigger_mode": "once",
    }
    sending = gr.on(
        [message.submit, send_button.click], send, [message, chatbot, *chosen], [*outputs, message], api_name="chat", **answering
    )
    retrying = retry_button.click(retry, [chatbot, *chosen], outputs, api_name="retry", **answering)
    stop_button.click(stop, None, None, api_name="stop", queue=False, show_progress="hidden")
    clearing = gr.on(
        [clear_button.click, chatbot.clear],
        clear,
        None,
        outputs,
        api_name="clear",
        cancels=[sending, retrying],
        queue=False,
        show_progress="hidden",
    )
    # An update that was on its way when the answer was cancelled may land after the first clearing; after this none can.
    clearing.then(clear, None, outputs, api_name="clear_late", api_visibility="private", queue=False, show_progress="hidden")
    load_button.click(load, model, status_line, api_name="load_model", concurrency_limit=1, show_progress="hidden")
    timer = gr.Timer(1)
    seen = gr.State("")
    timer.tick(look, seen, [status_line, adapter, timer, seen], api_name="status", show_progress="hidden", queue=False)

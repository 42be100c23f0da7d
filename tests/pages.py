"""Pages for tests and benchmarks: an app in this process over a backend that can be looked into, and its API's shapes."""

import builders
import gradio as gr

import ui
from engine.backends.scripted import ScriptedBackend
from engine.runtime import Runtime
from engine.services import Services
from engine.settings import ChatSettings

DEFAULTS = [field.default for field in ChatSettings.model_fields.values()]

# What the pickers of adapters and the system text hold on a fresh page, in the order of the endpoints.
BARE = ["none", 1, "none", 1, ""]


class Page:
    """An app on a free port in this process, over a scripted backend that a test can look into."""

    def __init__(self, backend: ScriptedBackend, read_only: bool = False, port: int | None = None, training: bool = False):
        self.backend = backend
        self.runtime = Runtime(isolated=False)
        self.runtime.load("scripted")
        with self.runtime._condition:
            assert self.runtime._condition.wait_for(lambda: self.runtime._state.phase == "ready", 30)
        self.runtime._backend = backend
        self.services = Services(self.runtime, read_only, training)
        self.blocks = ui.build(self.services)
        ui.launch(self.blocks, self.services, "127.0.0.1", port or builders.free_port(), share=False, block=False)
        self.url = self.blocks.local_url.rstrip("/")

    def client(self):
        from gradio_client import Client

        return Client(self.url, verbose=False)

    def close(self):
        self.blocks.close()
        self.runtime.close()


def ask(client, message="Hello", conversation=None, adapter="none", system="", settings=DEFAULTS):
    """Submit a message; the job's result is the view and the conversation."""
    return client.submit(message, conversation, adapter, *BARE[1:-1], system, *settings, api_name="/chat")


def thread(*texts: str) -> dict:
    """A conversation as a client holds it: messages of the user and answers in turn."""
    turns = [{"id": at, "parent": at - 1, "role": ("user", "assistant")[at % 2], "text": text} for at, text in enumerate(texts)]
    return {"id": "0123456789abcdef", "turns": turns, "leaf": len(turns) - 1}


def texts(view: dict) -> list[str]:
    """What the turns of a view say."""
    return [turn["text"] for turn in view["turns"]]


def wired(step, name: str):
    """A function of a step's events, by its name."""
    with gr.Blocks() as blocks:
        step.draw()
        step.wire(gr.BrowserState())
    return next(each.fn for each in blocks.fns.values() if each.name == name)

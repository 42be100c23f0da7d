"""What an assistant that speaks MCP may call where `gradio[mcp]` is installed: a few plain functions among the named endpoints.

The other endpoints are a page's: they take and give what a page holds, so they are no tools.
"""

import importlib.util

import gradio as gr

from engine import hardware, history, models, runs
from engine.errors import BadInput
from engine.events import Failed, Finished
from engine.findings import findings
from engine.messages import Conversation, checked_text
from engine.services import NO_TRAINING, Services
from engine.settings import ChatSettings
from ui import form
from ui.chat import ANSWERING
from ui.finetune.training import PLAIN, named

TOOLS = ("ask", "list_models", "finetune_preview", "finetune_estimate", "finetune_start", "finetune_status")


def installed() -> bool:
    """Whether the packages of `gradio[mcp]` are here."""
    return importlib.util.find_spec("mcp") is not None


def offer(page: gr.Blocks) -> None:
    """Leave the MCP server of a launched page the tools alone, by the names of their endpoints."""
    if server := page.mcp_server_obj:
        server.tool_to_endpoint = {name: f"/{name}" for name in TOOLS}


def endpoints(services: Services) -> None:
    """The tools that no tab has, in the Blocks that are open."""

    def ask(message: str, system: str = "", adapter: str = "", temperature: float = 0.7, max_new_tokens: int = 512) -> str:
        """Ask the model that is loaded, and get its whole answer.

        Args:
            message: What to ask; every call is a conversation of its own.
            system: A system text to follow, if any.
            adapter: The id of an adapter to answer with, "none" for the bare base; empty for the one that the app opened with.
            temperature: 0 gives the likeliest answer, higher ones more varied answers.
            max_new_tokens: The answer stops after this many tokens.
        """
        with form.explained(plain=True):
            given = {"temperature": temperature, "max_new_tokens": max_new_tokens}
            settings = form.read_fields(ChatSettings, ChatSettings().model_dump() | given)
            conversation = Conversation(system=checked_text(system, "The system text")).add("user", checked_text(message))
            blend = services.blend(adapter or services.chosen_adapter(), 1.0, None, None)
            last = None
            for last in services.runtime.chat(conversation, settings, blend):
                pass
            if not isinstance(last, Finished):
                raise BadInput(last.text if isinstance(last, Failed) else "The answer did not begin. Try again.")
            return last.text

    def list_models() -> list[dict]:
        """The models known by name: whether each fits this machine and is on its disk, its licence, and which one is loaded."""
        loaded = services.state().model
        if services.read_only:
            return [{"id": loaded, "loaded": True}]
        return [{**row, "loaded": row["id"] == loaded} for row in models.listing(hardware.machine())]

    def finetune_status(run: str) -> dict:
        """How a finetuning run stands: its status, step, loss, held-out losses first and last, and what its curves say.

        Args:
            run: The id that finetune_start gave.
        """
        with form.explained(plain=True):
            if not services.may_train:
                raise BadInput(NO_TRAINING)
            name, found = named(run, services.read_only)
            row = history.summary(name, found)
            said = findings(found.recipe, runs.all_events(found))
            kept = ("id", "status", "step", "steps", "loss", "held_out", "adapter")
            return {each: row[each] for each in kept} | {"findings": [each.text for each in said]}

    gr.api(ask, api_name="ask", **{key: value for key, value in ANSWERING.items() if key.startswith("concurrency")})
    gr.api(list_models, api_name="list_models", **PLAIN)
    gr.api(finetune_status, api_name="finetune_status", **PLAIN)

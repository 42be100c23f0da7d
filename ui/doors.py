"""The foot of the page: where it runs, what can be done there, and the other doors into the same app, as far as they are open."""

import html
import os

import gradio as gr

from engine import hardware, links
from engine.hardware import Machine
from engine.services import Services
from engine.visitors import KEPT_DAYS

NOTEBOOKS = {"chat": "guanaco_chat.ipynb", "guess": "guanaco_guess.ipynb", "finetune": "guanaco_finetune.ipynb"}


def draw(services: Services) -> None:
    """Inside the Blocks that are open; nothing on a computer of one's own while no door is known."""
    if said := told(services.may_train, hardware.machine()):
        gr.HTML(said, elem_id="doors", apply_default_css=False)


def told(may_train: bool, machine: Machine) -> str:
    """As HTML, empty where there is nothing to say."""
    doors = "".join(f"<li>{door}</li>" for door in _doors())
    here = _here(may_train, machine)
    if doors:
        return f"<p>{here} The same app elsewhere:</p><ul>{doors}</ul>"
    return f"<p>{here}</p>" if machine.host != "computer" else ""


def _here(may_train: bool, machine: Machine) -> str:
    lent = ", lent for one answer at a time" if hardware.gpu_is_lent() else ""
    place = {"computer": "this computer", "colab": "Colab", "space": "a Hugging Face Space"}[machine.host]
    # A Space has the published judgements only where its owner has them fetched.
    ratings = "ratings from its guesses" if machine.host == "space" else "ratings"
    can = f"Chat, comparing, finetuning, the blind game and {ratings} work here."
    if not may_train:
        can = f"Chat, comparing, the blind game and {ratings} work here; finetuning is off for visitors."
    if machine.host == "colab":
        can += " What is made here is gone with the runtime, unless it is kept on Drive."
    if machine.host == "space" and may_train:
        restarts = "" if os.environ.get("GUANACO_HOME") else "when the Space restarts, or "  # its owner may have put that on a lasting disk
        gone = f"{restarts}{KEPT_DAYS} days after the run has ended"
        can += f" What is trained here is gone {gone}: take your adapter along before, in step 7 of Finetune."
    return f"This page runs on {place} ({html.escape(machine.summary)}{lent}). {can}"


def _doors() -> list[str]:
    """Links with what each can run."""
    found = []
    if address := links.duplicate():
        found.append(f"{_link(address, 'Duplicate the Space')}: yours alone; Guanaco 7B on ZeroGPU or a T4, the starter on CPUs")
    if address := links.clone():
        found.append(f"{_link(address, 'Clone it')}: the starter on a laptop, 7B and 13B on a GPU with 16 GB, 65B on one with 48 GB")
    if links.REPOSITORY:
        cells = ", ".join(_link(links.colab(name), what) for what, name in NOTEBOOKS.items())
        found.append(f"Open in Colab: {cells}; Guanaco 7B and 13B on a free T4")
    return found


def _link(address: str | None, text: str) -> str:
    return f'<a href="{html.escape(address or "")}" target="_blank" rel="noopener">{html.escape(text)}</a>'

"""Guanaco Playground as a Hugging Face Space: on ZeroGPU, on a GPU of its own, or on CPUs. In the uploaded folder this is `app.py`.

The owner's choices are variables of the Space: GUANACO_MODEL, GUANACO_ADAPTER, GUANACO_TRAINING=on (visitors may finetune, not on
ZeroGPU), GUANACO_FETCH_ANSWERS=on (the published answers and judgements), GUANACO_VOTES=owner/name (a data set for guesses); its secret
HF_TOKEN is for gated models and that data set.
"""

import spaces  # first of all: where a GPU is only lent, it stands in for CUDA before torch is imported

# isort: split
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator

import gradio as gr

import ui
from engine import hardware
from engine.backends.base import Delta, Prompt
from engine.backends.lent import Task
from engine.blend import Blend
from engine.errors import EngineError
from engine.game import published
from engine.model_spec import STARTER
from engine.models import ON_A_GPU
from engine.runtime import Runtime
from engine.services import Services
from engine.settings import ChatSettings

# What a visitor's quota is asked for: the start of a process with the weights, and tokens at a slow pace.
START_SECONDS, TOKENS_A_SECOND, MOST_SECONDS = 15, 15, 120


def seconds(prompt: Prompt, settings: ChatSettings, seed: int, blend: Blend, cold: bool) -> int:
    """How long an answer may hold the GPU."""
    return min(MOST_SECONDS, START_SECONDS + settings.max_new_tokens // TOKENS_A_SECOND)


@spaces.GPU
def decorated() -> None:
    """Never called. ZeroGPU refuses a Space that has decorated nothing when its page opens, and a model that could not be loaded has
    not: then the page is to say so."""


def lend(task: Task) -> Task:
    """ZeroGPU's decorator; what it says of queues and quotas becomes the answer's own failure, and so does what its client raises."""
    lent = spaces.GPU(duration=seconds)(task)

    def answer(*asked: object) -> Iterator[Delta | EngineError]:
        try:
            yield from lent(*asked)
        except gr.Error as error:
            raise EngineError(str(error.message)) from error
        except EngineError:
            raise
        except Exception as error:  # of its connection to the service that lends, of its queues
            traceback.print_exc()
            raise EngineError(
                f"This host could borrow no GPU for the answer, or lost it ({type(error).__name__}). Try again in a minute."
            ) from error

    return answer


def fetch_answers() -> None:
    """Fetch the published answers and judgements, and say in the log what came of it. The Space does without them where that fails."""
    print(f"Fetching the published answers and judgements: {published.size() / 1e6:.1f} MB from {published.source()}", flush=True)
    try:
        published.fetch(lambda progress: None)
    except (EngineError, OSError) as error:
        print(f"The published answers and judgements were not fetched: {error}", file=sys.stderr, flush=True)
    else:
        print("The published answers and judgements are here.", flush=True)


def main() -> None:
    """Load the model and serve the page."""
    lent = hardware.gpu_is_lent()
    if lent:  # its stand-in for CUDA is there in this thread alone, and transformers would load quantized weights in others
        os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")
    model = os.environ.get("GUANACO_MODEL") or (ON_A_GPU if hardware.machine().has_gpu else STARTER)
    training = _on("GUANACO_TRAINING") and not lent
    try:
        if _on("GUANACO_FETCH_ANSWERS") and not published.available():
            threading.Thread(target=fetch_answers, daemon=True).start()
        with contextlib.closing(Runtime(lend=lend if lent else None)) as runtime:
            try:
                runtime.load(model, os.environ.get("GUANACO_ADAPTER"), log=True)
            except EngineError as error:  # the page says that there is no model here, the log says why
                print(error, file=sys.stderr, flush=True)
                runtime.refused(model, str(error))
            ui.serve(Services(runtime, read_only=True, training=training), "0.0.0.0", int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    except EngineError as error:
        sys.exit(str(error))


def _on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() == "on"


if __name__ == "__main__":
    main()

"""Chat in cells: a model loaded once, answers that stream, one question at several strengths of the adapter."""

import atexit
import time
from collections.abc import Sequence
from dataclasses import replace

from engine import hardware, models
from engine.blend import Blend
from engine.cells import colab
from engine.cells.showing import Growing, Line, stopped_says
from engine.errors import BadInput, EngineError
from engine.events import Failed, Notice, Token
from engine.messages import Conversation, checked_text
from engine.runtime import Runtime
from engine.settings import ChatSettings, made

_LOOK = 0.1
_runtimes: list[Runtime] = []


class Talk:
    """A conversation with a model, which takes the place of the one that was loaded before. `adapter` as in `Runtime.load`.

    Raises BadInput where the model is none or does not fit, and keeps the one before it then; EngineError where it cannot be fetched.
    """

    def __init__(self, model: str, adapter: str | None = None):
        machine = hardware.machine()
        # What is loaded stays where another one cannot be; its memory would be given back first.
        models.check_fit(models.resolve(model), replace(machine, memory_free=machine.memory) if _runtimes else machine)
        close()
        if not machine.has_gpu:
            print(
                f"No GPU here: the starter answers at reading speed on the processor, larger models slowly.{colab.where_gpus_are(machine)}"
            )
        line = Line(f"Loading {model}")
        self._runtime = Runtime()
        _runtimes.append(self._runtime)
        self._runtime.load(model, adapter)
        try:
            with stopped_says("Loading was stopped. Run this cell again to load a model."):
                while (state := self._runtime.state).phase == "loading":
                    line.show(state.text if state.fraction is None else f"{state.text} ({state.fraction:.0%})")
                    time.sleep(_LOOK)
        except EngineError:
            close()
            raise
        if not state.loaded:
            line.show(f"{model} is not loaded.")
            raise EngineError(state.text)
        self.adapter = self._runtime.wanted_adapter
        loaded = state.loaded
        line.show(
            f"{loaded.model} runs on {loaded.device} through {loaded.backend}: {loaded.quantization}, computing in {loaded.compute_dtype}."
        )
        for note in loaded.notes:
            print(f"{note[:1].upper()}{note[1:]}.")
        self._conversation = Conversation()

    def say(self, text: str, strength: float = 1.0, **settings: object) -> None:
        """Show the answer to the next message of the conversation as it comes; `settings` are those of ChatSettings. The stop button
        ends the answer, which stays as far as it got."""
        asked = self._conversation.add("user", checked_text(text))
        answer = self._answer(asked, strength, made(ChatSettings, **settings))
        if answer:
            self._conversation = asked.add("assistant", answer)

    def forget(self) -> None:
        """Begin a new conversation."""
        self._conversation = Conversation()

    def compare(self, text: str, strengths: Sequence[float] = (0, 0.5, 1), **settings: object) -> None:
        """Show the likeliest answers to one question at several strengths of the adapter; 0 is the bare base, and the only one where
        there is no adapter. The conversation stays as it is."""
        chosen = made(ChatSettings, **{"temperature": 0, "max_new_tokens": 60, **settings})
        try:
            strengths = [float(each) for each in strengths]
        except (TypeError, ValueError) as error:
            raise BadInput("The strengths are numbers in a list, such as (0, 0.5, 1).") from error
        if not self.adapter:
            print(f"There is no adapter on {self._runtime.state.model}, so there is one answer, its own.")
            strengths = (0,)
        for strength in strengths:
            print(f"\n--- {f'{self.adapter} × {strength:g}' if strength else 'the bare base'}")
            self._answer(Conversation().add("user", checked_text(text)), strength, chosen)

    def _answer(self, conversation: Conversation, strength: float, settings: ChatSettings) -> str:
        if self._runtime not in _runtimes:
            raise BadInput("The model of this conversation was given back. Run the cell that loads it once more.")
        events = self._runtime.chat(conversation, settings, Blend.of([self.adapter], [strength]))
        with Growing() as shown:
            try:
                for event in events:
                    match event:
                        case Token():
                            shown.add(event.text)
                        case Notice():
                            print(f"({event.text})")
                        case Failed():
                            raise event.error
            except KeyboardInterrupt:
                print("Stopped.")
            finally:
                events.close()
        return shown.text


@atexit.register
def close() -> None:
    """Give the loaded model and its memory back."""
    while _runtimes:
        _runtimes.pop().close()

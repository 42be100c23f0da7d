"""Chat in cells: a model loaded once, answers that stream, one question at several strengths of the adapter."""

import atexit
import time
from collections.abc import Sequence

from engine import hardware
from engine.blend import Blend
from engine.cells import colab
from engine.cells.showing import Line
from engine.errors import EngineError
from engine.events import Failed, Notice, Token
from engine.messages import Conversation, checked_text
from engine.runtime import Runtime
from engine.settings import ChatSettings

_LOOK = 0.1
_runtimes: list[Runtime] = []


class Talk:
    """A conversation with a model, which takes the place of the one that was loaded before. `adapter` as in `Runtime.load`.

    Raises EngineError where the model is none, does not fit, or cannot be fetched.
    """

    def __init__(self, model: str, adapter: str | None = None):
        close()
        machine = hardware.machine()
        if not machine.has_gpu:
            print(
                f"No GPU here: the starter answers at reading speed on the processor, larger models slowly.{colab.where_gpus_are(machine)}"
            )
        line = Line(f"Loading {model}")
        self._runtime = Runtime()
        _runtimes.append(self._runtime)
        self._runtime.load(model, adapter)
        while (state := self._runtime.state).phase == "loading":
            line.show(state.text if state.fraction is None else f"{state.text} ({state.fraction:.0%})")
            time.sleep(_LOOK)
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
        """Print the answer to the next message of the conversation as it comes; `settings` are those of ChatSettings. The stop button
        ends the answer, which stays as far as it got."""
        asked = self._conversation.add("user", checked_text(text))
        answer = self._answer(asked, strength, ChatSettings(**settings))
        if answer:
            self._conversation = asked.add("assistant", answer)

    def forget(self) -> None:
        """Begin a new conversation."""
        self._conversation = Conversation()

    def compare(self, text: str, strengths: Sequence[float] = (0, 0.5, 1), **settings: object) -> None:
        """Print the likeliest answers to one question at several strengths of the adapter; 0 is the bare base, and the only one where
        there is no adapter. The conversation stays as it is."""
        chosen = ChatSettings(**{"temperature": 0, "max_new_tokens": 60, **settings})
        if not self.adapter:
            print(f"There is no adapter on {self._runtime.state.model}, so there is one answer, its own.")
            strengths = (0,)
        for strength in strengths:
            print(f"--- {f'{self.adapter} × {strength:g}' if strength else 'the bare base'}")
            self._answer(Conversation().add("user", checked_text(text)), strength, chosen)
            print()

    def _answer(self, conversation: Conversation, strength: float, settings: ChatSettings) -> str:
        said = []
        events = self._runtime.chat(conversation, settings, Blend.of([self.adapter], [strength]))
        try:
            for event in events:
                match event:
                    case Token():
                        said.append(event.text)
                        print(event.text, end="", flush=True)
                    case Notice():
                        print(f"({event.text})")
                    case Failed():
                        raise event.error
        except KeyboardInterrupt:
            print(" … stopped.", end="")
        finally:
            events.close()
        print()
        return "".join(said)


@atexit.register
def close() -> None:
    """Give the loaded model and its memory back."""
    while _runtimes:
        _runtimes.pop().close()

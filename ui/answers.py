"""One answer on its way to one visitor: from the runtime's events to updates of the view, and the visitor's stop flag."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.blend import Blend
from engine.runtime import Runtime
from engine.settings import ChatSettings
from engine.threads import Facts, Thread
from ui import form
from ui.markdown import Growing
from ui.render import Answer, Pace, render, shown

KEPT_A_SECOND = 0.2  # how often an answer under way is kept, for those who close the page


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


@dataclass(frozen=True)
class Answers:
    """Makes answers on the loaded model, one visitor's stop apart from another's."""

    runtime: Runtime
    stops: Stops = field(default_factory=Stops)

    def stream(
        self, thread: Thread, blend: Blend, settings: ChatSettings, session: str | None, continues: bool = False, cold: bool = False
    ) -> Iterator[dict]:
        """Answer the last message of a conversation, or go on with its last answer: updates of the view. At the start,
        every few seconds and at the end they hold the `conversation` that is to be kept. What fails ends as a message
        after all else is shown.

        Updates in between hold only the answer under way: every turn that is sent costs server and page."""
        conversation = thread.conversation()
        flag = self.stops.begin(session)
        pace, keeping, answer, growing = Pace(), Pace(KEPT_A_SECOND), Answer(), Growing()
        begun = shown(thread)
        keep = len(begun["turns"])
        if continues:
            keep -= 1
            growing.add(thread.to_continue().text)

        def live() -> dict:
            return {"id": None, "role": "assistant", "blocks": growing.blocks(), "line": answer.waiting, "live": True}

        try:
            yield {**begun, "turns": [*begun["turns"][:keep], live()], "busy": True, "conversation": thread.model_dump(mode="json")}
            drawn = answer
            keeping.due(0)  # it is kept as it is now
            for event in self.runtime.chat(conversation, settings, blend, flag.is_set, cold=cold):
                before = len(answer.text)
                answer = render(event, answer)
                growing.add(answer.text[before:])
                if pace.due(len(answer.text), answer != drawn):
                    drawn = answer
                    update = {"thread": thread.id, "turns": [live()], "keep": keep, "busy": True}
                    if answer.text and keeping.due(len(answer.text)):
                        update["conversation"] = self._ended(thread, answer, settings, continues).model_dump(mode="json")
                    yield update
            ended = self._ended(thread, answer, settings, continues)
            view = shown(ended)
            if answer.failed or (answer.notice and not answer.text):
                line = answer.failed or answer.notice
                view["turns"].append({"role": "assistant", "blocks": [], "line": line, "failed": bool(answer.failed)})
            yield {**view, "conversation": ended.model_dump(mode="json")}
        finally:
            self.stops.end(session, flag)
        if answer.failed:
            raise form.shown(answer.failed)

    @staticmethod
    def _ended(thread: Thread, answer: Answer, settings: ChatSettings, continues: bool) -> Thread:
        """The conversation with all that came of an answer, even where it failed midway."""
        text = answer.finished.text if answer.finished else answer.text
        facts = Facts.of(answer.finished, settings) if answer.finished else None
        return thread.extended(text, facts) if continues else thread.answered(text, facts)

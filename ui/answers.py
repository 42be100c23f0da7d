"""Answers on their way to one visitor, one or two side by side: from the runtime's events to updates of a view, and the
visitor's stop flag."""

import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engine.blend import Blend
from engine.comparison import Comparison, Side, together
from engine.events import Event
from engine.paths import public_name
from engine.runtime import Runtime
from engine.services import Services
from engine.settings import ChatSettings
from engine.threads import Facts, Thread
from ui import form
from ui.markdown import Growing
from ui.render import SIDES, Answer, Pace, made_with, numbered, render, shown, side_by_side, size

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


class Live:
    """One answer under way: what came of it, and how it is drawn. `text` is what it goes on from."""

    def __init__(self, text: str = ""):
        self.answer = Answer()
        self._growing = Growing()
        self._growing.add(text)

    def take(self, event: Event) -> None:
        """What the runtime says of it."""
        before = len(self.answer.text)
        self.answer = render(event, self.answer)
        self._growing.add(self.answer.text[before:])

    def row(self) -> dict:
        """It as a turn of the view."""
        return {"id": None, "role": "assistant", "blocks": numbered(self._growing.blocks()), "line": self.answer.waiting, "live": True}

    def outcome(self, settings: ChatSettings) -> tuple[str, Facts | None]:
        """Its text and facts; all that came of it even where it failed midway."""
        finished = self.answer.finished
        return (finished.text, Facts.of(finished, settings)) if finished else (self.answer.text, None)

    def told(self) -> list[dict]:
        """What is to be said where it failed or never began, as a row after the others."""
        answer = self.answer
        if not (answer.failed or (answer.notice and not answer.text)):
            return []
        return [{"role": "assistant", "blocks": {}, "line": answer.failed or answer.notice, "failed": bool(answer.failed)}]


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
        pace, keeping, live = Pace(), Pace(KEPT_A_SECOND), Live(thread.to_continue().text if continues else "")
        begun = shown(thread)
        keep = len(begun["turns"]) - continues

        def ended() -> Thread:
            text, facts = live.outcome(settings)
            return thread.extended(text, facts) if continues else thread.answered(text, facts)

        try:
            yield {**begun, "turns": [*begun["turns"][:keep], live.row()], "busy": True, "conversation": thread.model_dump(mode="json")}
            drawn = live.answer
            keeping.due(0)  # it is kept as it is now
            for event in self.runtime.chat(conversation, settings, blend, flag.is_set, cold=cold):
                live.take(event)
                length = len(live.answer.text)
                if pace.due(length, live.answer != drawn):
                    drawn = live.answer
                    update = {"thread": thread.id, "turns": [live.row()], "keep": keep, "busy": True}
                    if length and keeping.due(length):
                        update["conversation"] = ended().model_dump(mode="json")
                    yield update
            now = ended()
            view = shown(now)
            yield {**view, "turns": view["turns"] + live.told(), "conversation": now.model_dump(mode="json")}
        finally:
            self.stops.end(session, flag)
        if live.answer.failed:
            raise form.shown(live.answer.failed)


@dataclass(frozen=True)
class Comparisons:
    """Makes two answers side by side, each visitor's stop apart from another's and from that of the chat."""

    services: Services
    stops: Stops = field(default_factory=Stops)

    def stream(self, begun: Comparison, sides: Sequence[Side], settings: ChatSettings, session: str | None) -> Iterator[dict]:
        """Answer both ends of a comparison: updates of its view, of which those in between hold only the answers under way.
        A side that fails says so in its column; only where both do, that is raised after all else is shown. Raises BadInput
        or EngineError before the first update where a model cannot be had."""
        with self.services.pair.lent([side.model for side in sides]) as runtimes:
            pace, keeping, lives = Pace(), Pace(KEPT_A_SECOND), [Live() for _ in sides]
            titles = [made_with(public_name(side.model or self.services.state().model), side.blend.label) for side in sides]
            view = self.shown(begun, titles)
            keep = [len(column["turns"]) for column in view["columns"].values()]

            def under_way() -> dict:
                rows = [{"turns": [live.row()], "keep": at} for live, at in zip(lives, keep, strict=True)]
                return {"columns": dict(zip(SIDES, rows, strict=True)), "busy": True}

            def ended() -> Comparison:
                return begun.answered([live.outcome(settings) for live in lives])

            answers = [
                functools.partial(runtime.chat, begun.side(at).conversation(), settings, side.blend)
                for at, (runtime, side) in enumerate(zip(runtimes, sides, strict=True))
            ]
            flag = self.stops.begin(session)
            try:
                for column, live in zip(view["columns"].values(), lives, strict=True):
                    column["turns"] += [live.row()]
                yield {**view, "busy": True}
                drawn = [live.answer for live in lives]
                keeping.due(0)  # it is kept as it is now
                for at, event in together(answers, flag.is_set):
                    lives[at].take(event)
                    now = [live.answer for live in lives]
                    length = sum(len(each.text) for each in now)
                    if pace.due(length, now != drawn):
                        drawn = now
                        kept = {"comparison": ended().model_dump(mode="json")} if length and keeping.due(length) else {}
                        yield {**under_way(), **kept}
                view = self.shown(ended(), titles)
                for column, live in zip(view["columns"].values(), lives, strict=True):
                    column["turns"] += live.told()
                yield view
            finally:
                self.stops.end(session, flag)
        if all(live.answer.failed for live in lives):
            raise form.shown(lives[0].answer.failed)

    def shown(self, comparison: Comparison, titles: Sequence[str] = ()) -> dict:
        """A comparison for its view, with what is to be said of a second model in memory on a host of one's own, else None."""
        second = self.services.pair.second
        state, held = second.state, None
        if state.phase == "ready" and not self.services.read_only:
            model = public_name(state.model)
            held = {"model": model, "text": f"{model} is loaded too ({size(second.memory())}); unused it makes room by itself."}
        return {**side_by_side(comparison, titles), "second": held}

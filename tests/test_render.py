"""Engine events, turns and the status as the page shows them."""

import time
from dataclasses import replace

import pytest

from engine.backends.base import Loaded
from engine.events import Failed, Finished, Notice, Progress, Token
from engine.hardware import GIB, Machine
from engine.runtime import State
from engine.settings import ChatSettings
from engine.threads import Facts, Thread
from ui.render import Answer, Pace, detail, facts, render, shown, status

DONE = Finished("Hello", 2, 5, 1.0, 0.5, 4.0, "stop", 7, "scripted", "scripted", None)
MACHINE = Machine("computer", "Linux", 2, 24 * GIB, 20 * GIB, ())


def test_an_unknown_event_raises():
    with pytest.raises(TypeError):
        render(object(), Answer())


def test_an_answer_from_its_events():
    answer = Answer()
    waiting = []
    for event in (Progress("Loading", 0.5), Notice("Left out."), Token("Hel"), Token("lo"), DONE):
        answer = render(event, answer)
        waiting.append(answer.waiting)
    assert waiting == ["Loading (50%) …", "Loading (50%) …", "", "", ""]
    assert (answer.text, answer.notice, answer.finished) == ("Hello", "Left out.", DONE)


def test_a_failure_keeps_what_was_said():
    answer = render(Failed("No luck."), render(Token("Hel"), Answer()))
    assert (answer.failed, answer.text) == ("No luck.", "Hel")


def test_what_stands_under_an_answer():
    under = Facts.of(DONE, ChatSettings(temperature=0.2))
    assert facts(under) == "2 tokens · 4.0 tokens/s · first after 0.5 s · ended by itself"
    assert "the oldest 3 messages no longer fitted and were" in facts(under.model_copy(update={"dropped_messages": 3}))
    assert "the oldest message no longer fitted and was" in facts(under.model_copy(update={"dropped_messages": 1}))
    assert "temperature 0.2" in detail(under) and "seed 7" in detail(under) and "adapter none" in detail(under)


def test_a_conversation_as_rows():
    cut = Facts.of(replace(DONE, finish_reason="length"), ChatSettings())
    thread = Thread.new().asked("Hi").answered("**One**", cut).to_answer_again().answered("Two", cut)
    user, bot = shown(thread)["turns"]
    assert user["last"] and not user["unanswered"] and user["ids"] == (0,)
    assert bot["cut"] and (bot["at"], bot["ids"]) == (1, (1, 2)) and bot["blocks"] == {"0": "<p>Two</p>\n"}
    assert shown(Thread.new())["turns"] == []
    assert shown(Thread.new().asked("Hi"))["turns"][0]["unanswered"]


@pytest.mark.parametrize("size, most", [(1_000, 9), (6_000, 9), (12_000, 5), (24_000, 3)])
def test_long_answers_are_drawn_more_seldom(monkeypatch, size, most):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace()
    drawn = 0
    for _ in range(1000):
        drawn += pace.due(size)
        now[0] += 0.001
    assert most - 1 <= drawn <= most


def test_the_chip_says_what_is_running_and_escapes_names():
    loaded = Loaded("<b>x", "transformers", "CPU", "NF4", "float32", 8192, "chat", ("computing in float32: there is no GPU",))
    chip = status(State("ready", "<b>x", "Ready", loaded=loaded), MACHINE, "my<i>adapter", 310 * 2**20)
    for part in (
        "&lt;b&gt;x",
        "NF4",
        "CPU",
        "adapter my&lt;i&gt;adapter",
        "310 MB in use",
        "computing in float32: there is no GPU",
        "this computer: CPU only, 2 cores",
    ):
        assert f"<span>{part}" in chip
    assert "told" not in chip
    assert chip.index("adapter") < chip.index("NF4") < chip.index("CPU"), "a narrow screen shows the first three alone"
    assert '<span class="told">No &lt;luck&gt;.</span>' in status(State("ready", "x", "No <luck>.", loaded=loaded), MACHINE, "", 0)
    loading = status(State("loading", "starter", "Fetching", 0.4), MACHINE, "", 0)
    assert "Fetching (40%)" in loading and 'value="0.400"' in loading
    assert "No pip" in status(State("failed", "starter", "No pip here"), MACHINE, "", 0)

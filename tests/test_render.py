"""Engine events as the page shows them."""

import time

import pytest

from engine.backends.base import Loaded
from engine.events import Failed, Finished, Notice, Progress, Token
from engine.messages import Message
from engine.runtime import State
from ui.render import ChatView, Pace, render, status

ASKED = ChatView((Message("user", "Hi"),))
DONE = Finished("Hello", 2, 5, 1.0, 0.5, 4.0, "stop", 7, "scripted", "scripted", None)


def test_an_unknown_event_raises():
    with pytest.raises(TypeError):
        render(object(), ASKED)


def test_an_answer_from_its_events():
    view = ASKED
    lines = []
    for event in (Progress("Loading", 0.5), Notice("Left out."), Token("Hel"), Token("lo"), DONE):
        view = render(event, view)
        lines.append(view.line)
    assert view.rows() == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert lines[0] == "Loading (50%) …" and lines[2] == "Left out."
    assert view.line == "2 tokens · 4.0 tokens/s · first after 0.5 s · ended by itself · seed 7"


def test_a_failure_keeps_what_was_said():
    view = render(Failed("No luck."), render(Token("Hel"), ASKED))
    assert (view.failed, view.answer) == ("No luck.", "Hel")


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


def test_status_says_what_is_running():
    loaded = Loaded(
        "starter", "transformers", "CPU", "NF4 double-quantized", "float32", 8192, "chat", ("computing in float32: there is no GPU",)
    )
    assert (
        status(State("ready", "starter", "Ready", loaded=loaded), "2 cores")
        == "● starter · NF4 double-quantized · CPU · transformers · computing in float32: there is no GPU · 2 cores"
    )
    assert "(40%)" in status(State("loading", "starter", "Fetching", 0.4), "2 cores")
    assert "No pip" in status(State("failed", "starter", "No pip here"), "2 cores")

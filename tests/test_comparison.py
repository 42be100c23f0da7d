"""Two answers to one prompt: both ends of a conversation, made at the same time, on one model or on two."""

import contextlib
import contextvars
import itertools
import json
import threading
from dataclasses import replace

import builders
import gradio.utils
import pytest
from builders import until
from gradio_client.utils import apply_diff
from hypothesis import given
from hypothesis import strategies as st
from pages import Page
from test_runtime import HELLO, SHORT, ready, wait
from test_threads import FACTS, TEXT, threads

from engine import hardware, pair
from engine.backends.scripted import ScriptedBackend
from engine.blend import BASE, Blend
from engine.comparison import Comparison, Side, together
from engine.errors import BadInput, EngineError
from engine.events import Finished, Token
from engine.pair import Pair
from engine.runtime import Runtime
from engine.services import Services
from engine.settings import ChatSettings
from engine.threads import MAX_THREAD_CHARS, Thread
from ui.answers import Comparisons
from ui.render import shown, side_by_side


@st.composite
def comparisons(draw) -> Comparison:
    """What a person can make of a conversation by the buttons of the tab."""
    made = Comparison.of(draw(threads()))
    for _ in range(draw(st.integers(0, 5))):
        match draw(st.sampled_from(("ask", "again", "swap"))):
            case "ask":
                made = made.asked(draw(TEXT))
            case "again":
                made = made.to_answer_again()
            case "swap":
                made = made.swapped()
                continue
        made = made.answered([(draw(st.one_of(st.just(""), TEXT)), FACTS) for _ in range(2)])
    return made


def said(thread: Thread) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in thread.path()]


@given(comparisons())
def test_a_comparison_survives_the_browser_and_swapping_twice(made):
    assert Comparison.read(json.loads(json.dumps(made.model_dump(mode="json")))) == made
    assert made.swapped().swapped() == made
    assert [said(made.swapped().side(at)) for at in (0, 1)] == [said(made.side(at)) for at in (1, 0)]
    shared = [(turn.role, turn.text) for turn in made.shared()]
    for at in (0, 1):
        assert said(made.side(at))[: len(shared)] == shared


@given(comparisons(), st.sampled_from((0, 1)), st.lists(TEXT, max_size=3))
def test_what_is_kept_is_on_the_screen_and_nothing_is_lost(made, at, meanwhile):
    now = made.thread
    for text in meanwhile:
        now = now.asked(text).answered(text, FACTS)
    kept = made.kept(at, now)
    assert said(kept) == said(made.side(at)) and kept.id == made.thread.id
    paths = [said(kept.up_to(turn.id)) for turn in kept.turns]
    for turn in now.turns:
        assert said(now.up_to(turn.id)) in paths
    assert not said(made.side(1 - at)) or said(made.side(1 - at)) in paths


def test_both_sides_share_the_first_question_and_part_with_its_answers():
    made = Comparison.of(Thread.new()).asked("Hi", "Be brief.").answered([("one", FACTS), ("two", FACTS)])
    assert len(made.thread.turns) == 3 and made.thread.system == "Be brief."
    assert [turn.text for turn in made.shared()] == ["Hi"]
    further = made.asked("More").answered([("three", FACTS), ("four", FACTS)])
    assert [said(further.side(at))[-3:] for at in (0, 1)] == [
        [("assistant", one), ("user", "More"), ("assistant", two)] for one, two in (("one", "three"), ("two", "four"))
    ]
    kept = made.kept(1)
    assert said(kept)[-1] == ("assistant", "two") and kept.place(kept.turns[-1]).ids == (1, 2)


@pytest.mark.parametrize(
    "value, words",
    [
        ("x", "not a comparison"),
        ({"thread": Thread.new().model_dump(), "ends": [0, -1]}, "ends on nothing"),
        ({"thread": Thread.new().model_dump(), "ends": [-1]}, "not a comparison"),
        ({"thread": {"id": "../etc"}, "ends": [-1, -1]}, "not a comparison"),
    ],
)
def test_what_is_none_is_refused(value, words):
    with pytest.raises(BadInput, match=words):
        Comparison.read(value)


def test_room_is_needed_for_both_answers_before_anything_is_made():
    turns = [{"id": at, "parent": at - 1, "role": ("user", "assistant")[at % 2], "text": "x" * 30_000} for at in range(11)]
    full = Comparison.of(Thread.read({"id": "0" * 16, "turns": turns, "leaf": 10}))
    assert full.thread.with_room("short") and sum(len(turn["text"]) for turn in turns) + 64_000 < MAX_THREAD_CHARS
    fuller = Comparison.of(full.thread.answered("y" * 30_000, FACTS))
    assert fuller.thread.with_room("short")
    with pytest.raises(BadInput, match="is full"):
        fuller.asked("short")
    with pytest.raises(BadInput, match="Write a message"):
        Comparison.read(None).asked("  ")


def test_answers_come_at_the_same_time_and_end_together():
    meet, before = threading.Barrier(2, timeout=30), threading.active_count()

    def answer(stop):
        meet.wait()  # would break where one had to wait for the other
        yield Token("a")
        while not stop():
            yield Token("b")

    events = together([answer, answer], lambda: False)
    seen = set()
    while len(seen) < 2:
        seen.add(next(events)[0])
    events.close()
    assert threading.active_count() == before


def test_each_answer_is_made_in_the_context_of_whoever_asks():
    asks = contextvars.ContextVar("asks")
    asks.set("a visitor")

    def answer(stop):
        yield Token(asks.get("nobody"))
        asks.set("the other answer")

    assert [event.text for _, event in together([answer, answer], lambda: False)] == ["a visitor"] * 2 and asks.get() == "a visitor"


def test_an_unexpected_failure_of_one_answer_is_not_swallowed():
    def breaks(stop):
        yield Token("a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(together([breaks, lambda stop: iter([Token("b")])], lambda: False))


@pytest.fixture
def first(home, monkeypatch):
    """A runtime whose models are all scripted: each answers with its own id."""

    def scripted(spec, *_) -> ScriptedBackend:
        backend = ScriptedBackend([f"I am {spec.id}. "], seconds_per_token=0.001, slots=2)
        backend.loaded = replace(backend.loaded, model=spec.id)
        return backend

    monkeypatch.setattr("engine.runtime.open_backend", scripted)
    runtime = ready()
    yield runtime
    runtime.close()


def answers(runtimes) -> list[str]:
    ended = [event for runtime in runtimes for event in runtime.chat(HELLO, SHORT) if isinstance(event, Finished)]
    return [event.text for event in ended]


def test_a_second_model_is_loaded_beside_the_first_and_given_back(first, monkeypatch):
    monkeypatch.setattr(pair, "IDLE_SECONDS", 0.05)
    both = Pair(first)
    with both.lent(["", "starter"]) as runtimes:
        assert answers(runtimes) == ["I am scripted.", "I am starter."]
        assert both.second.state.phase == "ready" and first.state.model == "scripted"
    until(lambda: both.second.state.phase == "idle")
    with both.lent(["", "scripted"]) as runtimes:
        assert runtimes == [first, first] and both.second.state.phase == "idle"


def test_a_second_model_in_use_is_not_taken_away(first):
    both = Pair(first)
    with both.lent(["", "starter"]):
        wait(both.second, "ready")
        with both.lent(["starter", "starter"]) as runtimes:
            assert runtimes == [both.second, both.second]
        with pytest.raises(EngineError, match="Somebody compares with starter"), both.lent(["", "qwen2.5-0.5b"]):
            pass
    with both.lent(["", "qwen2.5-0.5b"]) as runtimes:
        assert answers(runtimes)[1] == "I am qwen2.5-0.5b."


def test_what_cannot_be_compared_is_refused_before_anything_is_loaded(first, monkeypatch):
    both = Pair(first)
    for models, words in (
        (["starter", "qwen2.5-0.5b"], "Neither side is the loaded model, scripted"),
        (["", "no such model"], "no such model"),
        (["", "guanaco-65b"], "does not fit|too large|needs"),
    ):
        monkeypatch.setattr(hardware, "machine", lambda: hardware.Machine("computer", "Linux", 2, 8 * 2**30, 6 * 2**30, ()))
        with pytest.raises(BadInput, match=words), both.lent(models):
            pass
    assert both.second.state.phase == "idle" and not both._users


def test_a_model_that_fails_to_load_says_so_in_its_own_column(first, monkeypatch):
    opened = []

    def failing(spec, *_):
        opened.append(spec.id)
        raise EngineError(f"{spec.id} is damaged.")

    monkeypatch.setattr("engine.runtime.open_backend", failing)
    flow = Comparisons(Services(first))
    begun = Comparison.read(None).asked("Hi")
    last = list(flow.stream(begun, [Side("", BASE), Side("starter", BASE)], ChatSettings(), "me"))[-1]
    left, right = last["columns"].values()
    assert left["kept"] and left["turns"][-1]["text"] == "I am scripted."
    assert right["turns"][-1]["failed"] and "starter is damaged" in right["turns"][-1]["line"] and not right["kept"]
    # A second try loads it anew instead of going back to some other model.
    list(flow.stream(begun, [Side("", BASE), Side("starter", BASE)], ChatSettings(), "me"))
    assert opened == ["starter", "starter"]


def test_another_first_model_and_a_public_host(first):
    services = Services(first)
    with services.pair.lent(["", "starter"]):
        wait(services.pair.second, "ready")
    services.load("qwen2.5-0.5b")
    assert services.pair.second.state.phase == "idle"
    wait(first, "ready")
    public = Services(first, read_only=True)
    assert public.side("", "none", 1, None, 1) == Side("", Blend())
    assert public.side("qwen2.5-0.5b", "none", 1, None, 1).model == ""
    with pytest.raises(BadInput, match="public host"):
        public.side("starter", "none", 1, None, 1)
    with pytest.raises(BadInput, match="public host"):
        public.unload_second()


@pytest.mark.long
def test_two_real_models_through_llama_cpp(home, tmp_path):
    one, other = (builders.Llama("Q8_0", hidden=256, layers=layers).gguf(tmp_path / f"{layers}.gguf") for layers in (2, 3))
    with contextlib.closing(Runtime()) as runtime:
        runtime.load(str(one))
        wait(runtime, "ready")
        flow = Comparisons(Services(runtime))
        begun = Comparison.read(None).asked("Hello")
        greedy = ChatSettings(temperature=0, max_new_tokens=30)
        updates = list(flow.stream(begun, [Side("", BASE), Side(str(other), BASE)], greedy, "me"))
        texts = [column["turns"][-1]["text"] for column in updates[-1]["columns"].values()]
        assert all(texts) and texts[0] != texts[1]
        assert "is loaded too" in updates[-1]["second"]["text"]
        process = flow.services.pair.second._backend.process_id
        flow.services.unload_second()
        assert not hardware.process_memory(process)


def test_what_came_so_far_is_kept_for_those_who_close_the_page(first, monkeypatch):
    monkeypatch.setattr("ui.answers.KEPT_A_SECOND", 1e9)
    first._backend._script, first._backend._pace = ["word "] * 40, 0.01  # longer than two updates of the screen
    flow = Comparisons(Services(first))
    begun = Comparison.read(None).asked("Hi")
    updates = list(flow.stream(begun, [Side("", BASE), Side("", Blend.of(["scripted-x"]))], ChatSettings(), "me"))
    kept = [Comparison.read(each["comparison"]) for each in updates if "comparison" in each]
    assert len(kept) > 2 and kept[0] == begun and len(kept[-1].thread.turns) == 3


@given(st.lists(comparisons(), min_size=2, max_size=4))
def test_gradio_sends_every_view_as_it_is(made):
    """What Gradio sends is how a view differs from the one before; its way to tell has a fault with lists inside lists."""
    views = [*map(side_by_side, made), *(shown(each.thread) for each in made)]
    for before, after in itertools.pairwise(views):
        sent, there = (json.loads(json.dumps(each)) for each in (gradio.utils.diff(before, after), before))
        assert apply_diff(there, sent) == json.loads(json.dumps(after))


@pytest.fixture(scope="module")
def page():
    made = Page(ScriptedBackend(seconds_per_token=0, slots=2))
    yield made
    made.close()


@pytest.mark.long
def test_comparing_through_the_api(page):
    client = page.client()
    view = client.predict(comparison=None, message="Hello", adapter_b="scripted-x", api_name="/compare")
    assert [column["turns"][-1]["text"].startswith("[scripted-x]") for column in view["columns"].values()] == [False, True]
    assert [column["title"] for column in view["columns"].values()] == ["A · scripted · no adapter", "B · scripted · scripted-x"]
    again = client.predict(comparison=view["comparison"], message="", api_name="/compare")
    assert len(again["comparison"]["thread"]["turns"]) == 5
    more = client.predict(comparison=view["comparison"], message="More", api_name="/compare")
    assert [len(column["turns"]) for column in more["columns"].values()] == [3, 3]
    swapped = client.predict(comparison=view["comparison"], adapter_b="scripted-x", strength_b=0.5, api_name="/swap_sides")
    assert swapped[0]["comparison"]["ends"] == view["comparison"]["ends"][::-1] and swapped[2:4] == ("scripted-x", 0.5)
    assert swapped[0]["columns"]["A"]["title"] == "A · scripted · scripted-x"
    kept = client.predict(1, view["comparison"], None, None, adapter_b="scripted-x", api_name="/keep_side")
    assert kept[0]["turns"][-1]["text"] == view["columns"]["B"]["turns"][-1]["text"] and kept[-4] == "scripted-x"
    from_chat = client.predict(message="And?", conversation=kept[1], adapter="scripted-x", api_name="/compare_from_chat")
    assert from_chat["earlier"] == "After 2 earlier messages of “Hello”"
    assert client.predict(message="", conversation=None, api_name="/compare_from_chat")["columns"]["A"]["turns"] == []
    assert client.predict(comparison={"a": 1}, api_name="/restore_comparison")["shared"] == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"message": ""}, "Write a message"),
        ({"message": "x" * 33_000}, "limit is 32,000"),
        ({"comparison": {"thread": {"id": "x"}, "ends": [0, 0]}}, "not a comparison"),
        ({"model_a": "starter", "model_b": "qwen2.5-0.5b"}, "Neither side"),
        ({"strength_b": 9, "adapter_b": "scripted-x"}, "1.5"),
        ({"adapter_a": "/etc/passwd", "adapter_b": "/etc/passwd"}, "adapter"),
        ({"system": "x" * 9_000}, "system text"),
    ],
)
def test_what_is_out_of_bounds_is_refused_on_the_server(page, arguments, words):
    produced = page.backend.produced
    with pytest.raises(Exception, match=words):
        page.client().predict(**{"comparison": None, "message": "Hi", **arguments}, api_name="/compare")
    assert page.backend.produced == produced


def test_a_side_that_is_none_cannot_be_kept(page):
    with pytest.raises(Exception, match="0 .A. or 1 .B."):
        page.client().predict(7, None, None, None, api_name="/keep_side")

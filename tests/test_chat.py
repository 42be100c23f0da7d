"""Streaming an answer: stop strings, whole characters, trimming, limits, ends (faults, rows 15 and 26)."""

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.decoding import TextStream
from engine.backends.scripted import ScriptedBackend
from engine.blend import Blend
from engine.chat import StopStrings, stream
from engine.events import Failed, Finished, Notice, Token
from engine.messages import Conversation
from engine.settings import ChatSettings

STOPS = ("### Human:", "### Assistant:")
HELLO = Conversation().add("user", "Hello")


def answer(backend, conversation=HELLO, **settings):
    stop = settings.pop("stop", lambda: False)
    return list(stream(backend, conversation, ChatSettings(**settings), stop))


def scripted(*script, **options):
    return ScriptedBackend(list(script), seconds_per_token=0, **options)


@given(st.lists(st.one_of(st.text("# Humansit:\n", max_size=5), st.sampled_from(STOPS), st.text(max_size=4)), max_size=12), st.data())
def test_stop_strings_never_show_wherever_they_are_cut(parts, data):
    text = "".join(parts)
    chunks = []
    rest = text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        chunks.append(rest[:size])
        rest = rest[size:]
    guard = StopStrings(STOPS)
    shown = ""
    for chunk in chunks:
        shown += guard.add(chunk)
        assert not any(stop in shown for stop in STOPS)
        if guard.met:
            break
    else:
        shown += guard.rest()
    stripped = text.lstrip()
    cut = min((index for stop in STOPS if (index := stripped.find(stop)) >= 0), default=len(stripped))
    assert shown == stripped[:cut].rstrip()
    assert guard.met == (cut < len(stripped))


def test_a_stop_string_over_three_tokens_ends_the_answer_and_never_flashes():
    events = answer(scripted("Fine.", " #", "## Hu", "man: next", " more", prompt="guanaco"))
    assert [event.text for event in events if isinstance(event, Token)] == ["Fine."]
    assert events[-1].text == "Fine." and events[-1].finish_reason == "stop"


@pytest.mark.parametrize("own, prompt", [("", "Be kind.\n\nHello"), ("Be brief.", "Be brief.\n\nHello")])
def test_an_adapters_system_text_stands_where_the_conversation_brings_none(own, prompt, monkeypatch):
    backend = scripted("Hi.")
    backend.attach("scripted-kind")
    monkeypatch.setattr(backend, "system", lambda adapter: "Be kind." if adapter else "")
    asked = Conversation(system=own).add("user", "Hello")
    ends = [list(stream(backend, asked, ChatSettings(), blend=Blend.of([name])))[-1] for name in ("scripted-kind", None)]
    assert [end.prompt_tokens for end in ends] == [len(prompt), len(f"{own}\n\nHello") if own else len("Hello")]


def test_a_model_that_never_stops_ends_at_the_cap():
    backend = scripted("again ", ends=False)
    finished = answer(backend, max_new_tokens=30)[-1]
    assert (finished.finish_reason, finished.tokens, backend.produced) == ("length", 30, 30)


def test_stop_flag_ends_within_three_tokens():
    backend = scripted("word ", ends=False)
    asked = iter([False] * 5 + [True] * 99)
    finished = answer(backend, stop=lambda: next(asked))[-1]
    assert finished.finish_reason == "cancelled"
    assert backend.produced <= 5 + 3


def test_closing_the_stream_ends_generation():
    backend = scripted("word ", ends=False)
    events = stream(backend, HELLO, ChatSettings(max_new_tokens=4096))
    for _ in range(4):
        next(events)
    events.close()
    assert backend.produced <= 4 + 3


def test_figures_of_a_finished_answer():
    finished = answer(scripted("one ", "two ", "three"), seed=7)[-1]
    assert isinstance(finished, Finished)
    assert (finished.text, finished.tokens, finished.prompt_tokens, finished.seed, finished.backend) == (
        "one two three",
        3,
        5,
        7,
        "scripted",
    )
    assert 0 <= finished.ttft_seconds <= finished.seconds


def test_the_tokens_are_the_text():
    events = answer(scripted("  a", "", " b ", "\n", "c  "))
    assert "".join(event.text for event in events if isinstance(event, Token)) == events[-1].text == "a b \nc"


def test_oldest_turns_go_when_the_context_is_full_and_it_says_so():
    conversation = HELLO
    for number in range(6):
        conversation = conversation.add("assistant", "x" * 40).add("user", f"q{number}" + "y" * 40)
    events = answer(scripted("ok", context=300), conversation)
    assert isinstance(events[0], Notice) and "were left out" in events[0].text
    assert events[-1].dropped_messages > 0 and events[-1].prompt_tokens <= 300 - 75


def test_a_long_history_costs_few_encodings():
    conversation = HELLO
    for number in range(150):
        conversation = conversation.add("assistant", "x" * 40).add("user", f"q{number}" + "y" * 40)
    backend = scripted("ok", context=300)
    calls = []
    real = backend.encode
    backend.encode = lambda *args: calls.append(args) or real(*args)
    events = answer(backend, conversation)
    assert len(calls) <= 10 and events[-1].text == "ok"


def test_a_crash_in_a_backend_ends_in_a_failure_not_an_exception(capsys):
    backend = scripted("ok")
    backend.encode = lambda *args: 1 / 0
    assert "ZeroDivisionError" in answer(backend)[-1].text
    assert "Traceback" in capsys.readouterr().err


def test_a_message_longer_than_the_context_is_refused_with_numbers():
    events = answer(scripted("ok", context=100), Conversation().add("user", "z" * 200))
    assert [type(event) for event in events] == [Failed]
    assert "200 tokens; this model holds 100" in events[0].text and events[0].exit_code == 2


@pytest.mark.parametrize(
    "conversation", [Conversation(), Conversation().add("user", "  "), HELLO.add("assistant", " "), Conversation().add("assistant", "Hi")]
)
def test_nothing_to_answer(conversation):
    assert [type(event) for event in answer(scripted("x"), conversation)] == [Failed]


def test_answer_takes_what_the_context_leaves():
    assert answer(scripted("w ", ends=False, context=100), Conversation().add("user", "z" * 70), max_new_tokens=4096)[-1].tokens == 30


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\ufffd\u2581"), max_size=30))
def test_text_comes_whole_from_byte_tokens(text):
    for tokenizer in (builders.byte_tokenizer(), builders.sentencepiece_tokenizer()):
        pieces = TextStream(tokenizer)
        out = [pieces.add(token) for token in tokenizer(text, add_special_tokens=False).input_ids]
        assert all("\ufffd" not in piece for piece in out)
        assert "".join(out) + pieces.rest() == text


def test_a_character_cut_at_the_end_is_dropped():
    tokenizer = builders.byte_tokenizer()
    pieces = TextStream(tokenizer)
    ids = tokenizer("ok🦙").input_ids
    assert "".join(pieces.add(token) for token in ids[:-1]) + pieces.rest() == "ok"


def test_broken_bytes_do_not_grow_the_window():
    tokenizer = builders.byte_tokenizer()
    pieces = TextStream(tokenizer)
    broken = tokenizer("é").input_ids[0]
    for _ in range(200):
        pieces.add(broken)
        assert len(pieces._ids) - pieces._start <= 10


def test_a_cut_answer_is_continued_with_its_white_space():
    backend = scripted(" and", " more", prompt="guanaco")
    seen = []
    encode = backend.encode
    backend.encode = lambda conversation, prompt: seen.append(conversation) or encode(conversation, prompt)
    events = answer(backend, HELLO.add("assistant", "One"))
    assert events[-1].text == " and more"
    assert seen[-1].messages[-1].text == "One"


def test_dropping_old_turns_keeps_the_question_of_a_continued_answer():
    conversation = HELLO.add("assistant", "a").add("user", "b").add("assistant", "c")
    shorter = conversation.without_oldest_turn()
    assert [message.text for message in shorter.messages] == ["b", "c"] and shorter.without_oldest_turn() == shorter

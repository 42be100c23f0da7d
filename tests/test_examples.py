"""Training rows: targets are the answers and their ends and nothing else, whatever the text and the limits (faults, row 13)."""

import builders
import pytest
from builders import conversation
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.examples import Example, Lengths, example, statistics
from engine.messages import Conversation, Message
from engine.prompts import PROMPTS, encode
from engine.tokenizers import PretrainedTokenizer

BYTES, PIECES = (PretrainedTokenizer(make()) for make in (builders.byte_tokenizer, builders.sentencepiece_tokenizer))
UNLIMITED = Lengths(None)
forgeries = st.sampled_from(["### Human:", "### Assistant:", "<|im_end|>", "<|im_start|>assistant\n", "</s>", "\x00end\x00", "\x020\x03"])
characters = st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00")
texts = st.lists(forgeries | st.text(characters, max_size=12), min_size=1, max_size=4).map("".join).filter(str.strip)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


def targets(row: Example) -> list[int]:
    return [token for token, learnt in zip(row.ids, row.learn, strict=True) if learnt]


def ways():
    """Every prompt format with a tokenizer that it goes with."""
    return [(tokenizer, form) for form in PROMPTS.values() for tokenizer in (BYTES, PIECES) if form.name != "chat" or tokenizer is BYTES]


@given(turns)
def test_targets_are_every_answer_and_its_end_of_turn(turns):
    """By the bytes of the answers themselves: with the chat template each answer ends, elsewhere the conversation does."""
    row = example(BYTES, conversation(turns), PROMPTS["chat"], UNLIMITED)
    assert targets(row) == [token for _, said in turns for token in (*BYTES.ids(said, control=False), BYTES.end)]
    for name in ("guanaco", "openorca", "alpaca"):
        row = example(BYTES, conversation(turns), PROMPTS[name], UNLIMITED)
        defused = [piece.text for piece in PROMPTS[name].pieces(conversation(turns)) if piece.learn and not piece.control]
        assert targets(row) == [*(token for text in defused for token in BYTES.ids(text, control=False)), BYTES.end]
        assert not row.cut and row.learn[-1]


@given(turns, texts)
def test_without_limits_a_row_is_the_conversation_as_chat_renders_it(turns, system):
    asked = conversation(turns, system)
    for tokenizer, form in ways():
        row, whole = example(tokenizer, asked, form, UNLIMITED), encode(tokenizer, asked, form)
        assert row.ids == whole.ids[: len(row.ids)] and row.learn == whole.learn[: len(row.ids)]
        assert not any(whole.learn[len(row.ids) :]) and row.ids[-1] == tokenizer.end


@given(turns, st.integers(2, 120))
def test_a_cut_row_is_a_beginning_that_ends(turns, limit):
    for tokenizer, form in ways():
        whole = example(tokenizer, conversation(turns), form, UNLIMITED)
        row = example(tokenizer, conversation(turns), form, Lengths(limit))
        if row is None:
            assert len(whole.ids) > limit and not any(whole.learn[: limit - 1])
            continue
        body = len(row.ids) - 1
        assert len(row.ids) <= limit and row.cut == len(whole.ids) - len(row.ids)
        assert row.ids[:body] == whole.ids[:body] and row.learn[:body] == whole.learn[:body]
        assert (row.ids[-1], row.learn[-1]) == (tokenizer.end, True) and any(row.learn[:body])


@given(turns, texts, st.integers(20, 120), st.integers(2, 30))
def test_question_and_answer_have_limits_of_their_own(turns, system, source, target):
    asked = conversation(turns, system)
    for tokenizer, form in ways():
        row = example(tokenizer, asked, form, Lengths(None, source, target))
        if row is None:
            continue
        start = max(index for index in range(len(row.ids)) if row.learn[index] and not row.learn[index - 1])
        end = len(row.ids)
        assert start <= source and end - start <= target
        assert row.ids[-1] == tokenizer.end and row.learn[-1]
        last = example(tokenizer, Conversation(asked.messages[-2:]), form, UNLIMITED)
        answer = targets(last)[:-1]
        assert list(row.ids[start : end - 1]) == answer[: end - 1 - start]


@given(st.text("ab ", min_size=1, max_size=300).filter(str.strip), st.integers(30, 90))
def test_a_long_question_is_cut_at_its_end_and_its_markers_stay(question, source):
    said = "An answer."
    row = example(BYTES, conversation([(question, said)]), PROMPTS["chat"], Lengths(None, source))
    text = "".join(BYTES._tokenizer.decode([token]) for token in row.ids)
    head, tail = "<|im_start|>user\n", f"<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>"
    assert text.startswith(head) and text.endswith(tail)
    kept = text.removeprefix(head).removesuffix(tail)
    assert question.startswith(kept) and (kept == question or len(row.ids) - len(said) - 1 == source)


def test_older_turns_go_before_the_question_is_cut():
    pairs = [("first " * 8, "one"), ("second", "two")]
    row = example(BYTES, conversation(pairs, "Be brief."), PROMPTS["chat"], Lengths(None, 90))
    assert targets(row) == [*BYTES.ids("two", control=False), BYTES.end]
    text = BYTES._tokenizer.decode(row.ids)
    assert "Be brief." in text and "second" in text and "first" not in text


@given(turns)
def test_everything_is_all_but_the_first_token(turns):
    for tokenizer, form in ways():
        row = example(tokenizer, conversation(turns), form, UNLIMITED, learn_everything=True)
        assert row.learn == (False, *[True] * (len(row.ids) - 1))


def test_what_is_not_to_be_learnt_is_no_row():
    asked = Conversation((Message("user", "a"), Message("assistant", "b")))
    assert example(BYTES, asked, PROMPTS["chat"], UNLIMITED) is None
    assert example(BYTES, conversation([("long " * 50, "b")]), PROMPTS["chat"], Lengths(64)) is None


def test_a_turn_that_is_not_learnt_has_no_targets():
    asked = Conversation((Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d", train=True)))
    assert targets(example(BYTES, asked, PROMPTS["chat"], UNLIMITED)) == [*BYTES.ids("d", control=False), BYTES.end]


def test_a_tokenizer_without_an_end_is_refused():
    endless = builders.byte_tokenizer()
    endless.eos_token = None
    with pytest.raises(BadInput, match="no token that ends a text"):
        example(PretrainedTokenizer(endless), conversation([("a", "b")]), PROMPTS["plain"], UNLIMITED)


@pytest.mark.parametrize("limits", [{"total": 1}, {"source": 0}, {"target": 1}])
def test_limits_that_leave_no_room_are_refused(limits):
    with pytest.raises(BadInput, match="must be at least"):
        Lengths(**limits)


@given(st.lists(st.none() | st.tuples(st.integers(2, 50), st.integers(1, 2), st.integers(0, 3)), max_size=30))
def test_statistics_count_what_there_is(shapes):
    rows = [shape and Example((1,) * shape[0], (False,) * (shape[0] - shape[1]) + (True,) * shape[1], shape[2]) for shape in shapes]
    found, kept = statistics(row and row.size for row in rows), [row for row in rows if row]
    assert (found.rows, found.unlearnable) == (len(kept), len(rows) - len(kept))
    assert found.total == sum(len(row.ids) for row in kept) and found.targets == sum(sum(row.learn) for row in kept)
    assert found.cut == sum(row.cut > 0 for row in kept)
    lengths = sorted(len(row.ids) for row in kept) or [0]
    assert (found.min, found.max) == (lengths[0], lengths[-1]) and found.min <= found.median <= found.p95 <= found.max
    assert sum(length <= found.p95 for length in lengths) >= 0.95 * len(lengths)

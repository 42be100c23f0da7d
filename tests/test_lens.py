"""What the lens shows is what trains: the same tokens, the same targets; what the limits cut is shown besides."""

import builders
import pytest
from builders import conversation
from conftest import SHARED, shared
from hypothesis import given, settings
from hypothesis import strategies as st
from test_examples import BYTES, PIECES, texts, turns, ways

from engine import datasets, models, tokenizer_files
from engine.examples import Lengths, encoded, example
from engine.lens import lens
from engine.messages import Conversation, Message
from engine.prompts import PROMPTS, encode

UNLIMITED = Lengths(None)
limits = st.builds(Lengths, st.none() | st.integers(2, 150), st.none() | st.integers(1, 120), st.none() | st.integers(2, 40))


def check_lens_is_the_example(tokenizer, asked, form, lengths, everything=False) -> None:
    row = example(tokenizer, asked, form, lengths, everything)
    seen = lens(tokenizer, asked, form, lengths, everything)
    left = [each for each in seen if each.state != "cut"]
    assert tuple(each.id for each in left) == (row.ids if row else ())
    assert tuple(each.state == "learnt" for each in left) == (row.learn if row else ())
    whole = encoded(tokenizer, asked, form)
    if row is None:
        assert tuple(each.id for each in seen) == whole.ids
    else:
        assert left[-1].end and len(seen) - len(left) >= row.cut and (len(seen) == len(left)) == (row.ids == whole.ids)
    if lengths.source is None and left:
        assert all(each.state == "cut" for each in seen[len(left) :]), "what is cut off stands behind what is left"


@settings(max_examples=12)
@given(turns, texts, limits, st.booleans())
def test_tokens_that_are_left_are_those_that_train(turns, system, lengths, everything):
    for tokenizer, form in ways():
        check_lens_is_the_example(tokenizer, conversation(turns, system), form, lengths, everything)


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=20))
def test_texts_of_tokens_make_the_text_again(said):
    """As the tokenizer reads them, with control characters as pictures; the first has what several tokens make together."""
    asked = conversation([("q", f"x{said}x")])
    for tokenizer in (BYTES, PIECES):
        seen = lens(tokenizer, asked, PROMPTS["guanaco"], UNLIMITED)
        shown = "".join(each.text for each in seen if each.state == "learnt" and not each.end)
        assert not any(ord(each) < 32 and each not in "\n\t" for each in shown)
        if said.isprintable():  # to one of them ▁ is a space
            assert shown.lstrip(" ").replace("▁", " ") == f"x{said}x".replace("▁", " ")


def test_a_character_of_several_tokens_is_whole_in_the_first():
    seen = lens(BYTES, conversation([("a", "é🦙\ufffd!")]), PROMPTS["plain"], UNLIMITED)
    assert [each.text for each in seen if each.state == "learnt"] == [
        *"\n\n",
        "é",
        "",
        "🦙",
        "",
        "",
        "",
        "\ufffd",
        "",
        "",
        "!",
        "<|im_end|>",
    ]


def test_a_character_that_is_cut_through_is_unknown_on_both_sides():
    asked = conversation([("a", "🦙🦙")])
    start = len(encode(BYTES, Conversation(asked.messages[:1]), PROMPTS["plain"]))
    seen = lens(BYTES, asked, PROMPTS["plain"], Lengths(start + 9))
    assert [each.text for each in seen if each.state == "learnt"] == [*"\n\n", "🦙", "", "", "", "\ufffd", "", "<|im_end|>"]
    assert "🦙" not in [each.text for each in seen if each.state == "cut"]


def test_control_and_direction_are_not_raw():
    seen = lens(BYTES, conversation([("a", "\x1b[31m\x7f\u202eb\r\n")]), PROMPTS["plain"], UNLIMITED)
    text = "".join(each.text for each in seen)
    assert "␛[31m␡\ufffdb␍\n" in text


def test_cut_turns_and_questions_stand_where_they_were():
    pairs = [("first " * 8, "one"), ("second " * 8, "two")]
    seen = lens(BYTES, conversation(pairs, "Be brief."), PROMPTS["chat"], Lengths(None, 80))
    text = "".join(f"[{each.text}]" if each.state == "cut" else each.text for each in seen).replace("][", "")
    assert (
        text.index("Be brief.")
        < text.index("[first")
        < text.index("]second sec")
        < text.index("[second second ]<|im_end|>")
        < text.index("two<|im_end|>")
    )
    assert [each.text for each in seen if each.end] == ["<|im_end|>"]


def test_ends_are_marked_at_every_learnt_answer():
    seen = lens(BYTES, conversation([("a", "b"), ("c", "d")]), PROMPTS["chat"], UNLIMITED)
    assert [(each.text, each.state) for each in seen if each.end] == [("<|im_end|>", "learnt")] * 2


def test_a_conversation_with_nothing_to_learn_is_all_cut():
    asked = Conversation((Message("user", "a"), Message("assistant", "b")))
    seen = lens(BYTES, asked, PROMPTS["chat"], UNLIMITED)
    assert {each.state for each in seen} == {"cut"} and tuple(each.id for each in seen) == encode(BYTES, asked, PROMPTS["chat"]).ids


def test_a_space_before_a_word_is_seen():
    seen = lens(PIECES, conversation([("Hi", "Hi")]), PROMPTS["guanaco"], UNLIMITED)
    assert " H" in [each.text for each in seen] and seen[0].text == "<s>"


@pytest.mark.long
@shared
@pytest.mark.parametrize("file", ["alpaca.json", "oasst_text.jsonl", "short.jsonl"])
def test_on_the_starter_real_rows_are_seen_as_they_train(starter, file):
    tokenizer = tokenizer_files.opened(models.resolve("starter"), lambda progress: None)
    for asked in datasets.load(SHARED / "instruct" / file).conversations[:60]:
        for name, lengths in (("chat", Lengths(256)), ("guanaco", Lengths(200, 80, 60)), ("plain", UNLIMITED)):
            check_lens_is_the_example(tokenizer, asked, PROMPTS[name], lengths)
        seen = lens(tokenizer, asked, PROMPTS["chat"], UNLIMITED)
        shown = "".join(each.text for each in seen if each.state == "learnt" and not each.end)
        assert shown == "".join(message.text for message in asked.messages if message.train).replace("\r", "␍")


@pytest.mark.long
def test_both_kinds_of_tokenizers_read_ids_alike(tmp_path):
    for make in (builders.byte_tokenizer, builders.sentencepiece_tokenizer):
        folder = tmp_path / make.__name__
        make().save_pretrained(folder)
        mine, theirs = tokenizer_files._from_folder(folder), tokenizer_files._by_transformers("x", folder)
        asked = conversation([("Wie geht's?", "Gut, 🦙 </s>")], "Sei nett.")
        assert lens(mine, asked, PROMPTS["guanaco"], UNLIMITED) == lens(theirs, asked, PROMPTS["guanaco"], UNLIMITED)

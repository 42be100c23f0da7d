"""Data formats: each to the same messages whatever the text, each fault named, the format of rows told by their fields."""

import json

import pytest
from builders import conversation
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import datasets
from engine.data_formats import FORMATS, Unfit
from engine.errors import BadInput
from engine.messages import Conversation, Message

characters = st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00")
text = st.text(characters, min_size=1, max_size=30).filter(str.strip)
# Text between markers loses the white space at its ends; a marker inside would be one, and a hash before one makes it none.
inner = text.map(lambda each: each.strip().rstrip("#").rstrip() or "x").filter(
    lambda each: not any(marker in f"\n\n{each}" for marker in ("###", "<human>:", "<bot>:", "Human:", "Assistant:"))
)


def alternating(texts):
    return st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


def converted(name: str, **fields) -> tuple[Conversation, ...]:
    return FORMATS[name].convert(fields)


def one(name: str, **fields) -> Conversation:
    (only,) = converted(name, **fields)
    return only


@given(alternating(inner), st.one_of(st.just(""), inner))
def test_marked_text_gives_its_turns(turns, system):
    for name, field, asked, said in (
        ("oasst", "text", " ### Human: {} ", "### Assistant: {}"),
        ("oasst", "text", "### Human: {}", "### Assistant: {}"),
        ("chip2", "text", "\n<human>: {}", "\n<bot>: {}"),
        ("hh-rlhf", "chosen", "\n\nHuman: {}", "\n\nAssistant: {}"),
    ):
        written = system + "".join(asked.format(question) + said.format(answer) for question, answer in turns)
        assert one(name, **{field: written}) == conversation(turns, system)
        assert datasets.detect([{field: written}])[0] == name
        open_end = written + asked.format("and then")
        assert one(name, **{field: open_end}) == conversation(turns, system), "a question without an answer is dropped"


@given(alternating(text), st.one_of(st.just(""), text))
def test_lists_of_messages_give_their_turns(turns, system):
    for name, field, role, content, names in (
        ("messages", "messages", "role", "content", ("system", "user", "assistant")),
        ("sharegpt", "conversations", "from", "value", ("system", "human", "gpt")),
        ("sharegpt", "conversations", "from", "value", ("system", "user", "chatgpt")),
    ):
        rows = [{role: names[0], content: system}] if system else []
        rows += [{role: who, content: said} for turn in turns for who, said in zip(names[1:], turn, strict=True)]
        assert one(name, **{field: rows}) == conversation(turns, system)
        assert datasets.detect([{field: rows}])[0] == name
        parts = [{**row, content: [{"type": "text", "text": row[content]}]} for row in rows]
        assert one(name, **{field: parts}) == conversation(turns, system)
        columns = {key: [row[key] for row in rows] for key in (role, content)}
        assert one(name, **{field: columns}) == conversation(turns, system), "Parquet files may hold a list as columns"


@given(text, text, text, text)
def test_fields_give_one_question_and_answer(question, extra, answer, system):
    plain, both = conversation([(question, answer)]), conversation([(f"{question}\n\n{extra}", answer)])
    for expected, name, fields in (
        (both, "alpaca", {"instruction": question, "input": extra, "output": answer}),
        (plain, "alpaca", {"instruction": question, "input": "", "output": answer}),
        (plain, "alpaca", {"instruction": question, "output": answer}),
        (both, "self-instruct", {"instruction": question, "instances": [{"input": extra, "output": answer}]}),
        (plain, "openorca", {"system_prompt": "", "question": question, "response": answer}),
        (conversation([(question, answer)], system), "openorca", {"system_prompt": system, "question": question, "response": answer}),
        (plain, "unnatural-instructions", {"instruction": "i", "instruction_with_input": question, "input": extra, "output": answer}),
        (plain, "unnatural-instructions", {"instruction": "i", "instances": [{"instruction_with_input": question, "output": answer}]}),
        (plain, "longform", {"input": question, "output": answer, "source": "s", "subset": "t"}),
        (plain, "input-output", {"inputs": question, "targets": answer}),
        (plain, "input-output", {"input": question, "output": answer}),
        (plain, "input-output", {"prompt": question, "completion": answer}),
        (plain, "input-output", {"question": question, "answer": answer}),
        (plain, "input-output", {"prompt": question, "response": answer}),
    ):
        assert one(name, **fields) == expected
        assert datasets.detect([fields])[0] == name


@given(st.lists(st.tuples(text, text), min_size=1, max_size=4), text)
def test_instances_give_a_conversation_each(pairs, instruction):
    instances = [{"input": extra, "output": answer} for extra, answer in pairs]
    expected = tuple(conversation([(f"{instruction}\n\n{extra}", answer)]) for extra, answer in pairs)
    assert converted("self-instruct", instruction=instruction, instances=instances) == expected
    assert converted("unnatural-instructions", instruction=instruction, instances=instances) == expected


@given(text)
def test_plain_text_is_one_answer_without_a_question(text):
    assert one("text", text=text) == Conversation((Message("assistant", text, train=True),))


def test_neighbours_of_one_role_are_joined():
    rows = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")]
    assert one("messages", messages=[{"role": role, "content": said} for role, said in rows]) == conversation([("a\n\nb", "c\n\nd")])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    "instruction input output instances text system_prompt question response chosen messages conversations prompt completion "
    "inputs targets instruction_with_input role content from value type".split()
)
turn = st.dictionaries(
    names, st.sampled_from(["user", "assistant", "human", "gpt", "text", "### Human:", "", None]) | json_values, max_size=4
)
junk = st.dictionaries(
    names, json_values | st.lists(turn, max_size=3) | st.sampled_from(["### Human: a ### Assistant: b", "\n\nHuman:"]), max_size=5
)


@settings(max_examples=400)
@given(junk)
def test_no_row_raises_anything_but_unfit(fields):
    for form in FORMATS.values():
        assert isinstance(form.sign(fields), str)
        try:
            made = form.convert(fields)
        except Unfit as error:
            assert str(error)
            continue
        assert made
        for each in made:
            roles = [message.role for message in each.messages]
            assert roles[-1] == "assistant" and not any(left == right for left, right in zip(roles, roles[1:], strict=False))
            for message in each.messages:
                assert message.text.strip() and message.train == (message.role == "assistant")
                message.text.encode("utf-8")


@settings(max_examples=50)
@given(st.lists(json_values | junk, max_size=6))
def test_no_file_raises_anything_but_bad_input(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("junk")
    for path, content in (
        (folder / "a.json", json.dumps(rows, default=repr)),
        (folder / "a.jsonl", "\n".join(json.dumps(row, default=repr) for row in rows)),
        (folder / "a.csv", "\n".join(str(row) for row in rows)),
        (folder / "a.txt", "\n\n".join(str(row) for row in rows)),
    ):
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        for name in ("auto", *FORMATS):
            try:
                data = datasets.load(path, name)
            except BadInput:
                continue
            assert data.rows == len(data.bad) + len(set(data.lines)) and len(data.lines) == len(data.conversations)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"instruction": "q"}, "output is missing"),
        ({"instruction": "q", "output": None}, "output is null"),
        ({"instruction": "q", "output": 7}, "output is a number, not text"),
        ({"instruction": "q", "output": float("nan")}, "output is NaN"),
        ({"instruction": "q", "output": ["a"]}, "output is a list"),
        ({"instruction": "q", "output": True}, "output is true or false"),
        ({"instruction": "q", "output": {"a": 1}}, "output is an object"),
        ({"instruction": "q", "output": b"a"}, "output is binary data"),
        ({"instruction": "q", "output": " \n"}, "output is empty"),
        ({"instruction": "", "output": "a"}, "instruction is empty"),
        ({"instruction": "q", "input": 3, "output": "a"}, "input is a number"),
        ({"instruction": "q", "output": "a\x00"}, "output holds a NUL"),
        ({"instruction": "q", "output": "a\ud83d"}, "output holds half of a surrogate pair"),
        ({"instruction": "q", "output": "a\udcff"}, "output is not UTF-8"),
        ({"instruction": "q", "output": "a" * 1_000_001}, "output has more than 1,000,000 characters"),
    ],
)
def test_an_unfit_field_is_named_with_its_fault(fields, words):
    with pytest.raises(Unfit, match=words):
        converted("alpaca", **fields)


@pytest.mark.parametrize(
    "name, fields, words",
    [
        ("oasst", {"text": "### Human: hi"}, "no answer"),
        ("oasst", {"text": "hi"}, "none of the markers ### Human:"),
        ("oasst", {"text": "### Human: ### Assistant: b"}, "the user's turn at place 1 is empty"),
        ("messages", {"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}, "place 2 has the role 'tool'"),
        ("messages", {"messages": [{"role": "assistant", "content": None}]}, "place 1 is null"),
        ("messages", {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "does not stand first"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type 'image_url'"),
        ("messages", {"messages": "hi"}, "messages is a str, not a list"),
        ("messages", {"messages": ["hi"]}, "holds a str at place 1"),
        ("sharegpt", {"conversations": []}, "conversations is missing|conversations is empty"),
        ("self-instruct", {"instruction": "q", "instances": []}, "instances is empty"),
        ("input-output", {"text": "a"}, "none of the pairs"),
    ],
)
def test_an_unfit_conversation_says_where(name, fields, words):
    with pytest.raises(Unfit, match=words):
        converted(name, **fields)

"""FORMATS: what the fields of a data set's row mean, name -> pure converter from a row to conversations whose answers train.

A format is one entry. What a row lacks is said by Unfit, as a sentence without its end; nothing else is ever raised.
The fields are those of the data sets that artidoro/qlora trains on (qlora.py, `format_dataset`), and of chat formats.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.data_files import MAX_ROW_BYTES
from engine.messages import Conversation, Message, Role

Fields = Mapping[str, object]


class Unfit(ValueError):
    """Why a row cannot be used."""


@dataclass(frozen=True)
class DataFormat:
    """`fields` are those it needs, for people; `names` those that columns of other names can stand for. `convert` makes conversations of a row, one or (of a list of instances)
    several, or raises Unfit. `sign` says what in a row tells that it is in this format, or nothing where it is not."""

    name: str
    title: str
    fields: str
    convert: Callable[[Fields], tuple[Conversation, ...]]
    sign: Callable[[Fields], str]
    names: tuple[str, ...]


def _kind(value: object) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    named = {type(None): "null", bool: "true or false", int: "a number", float: "a number", bytes: "binary data", list: "a list"}
    return named.get(type(value), "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}")


def _checked(value: object, what: str) -> str:
    """Text that can be learnt as it is, or Unfit."""
    if not isinstance(value, str):
        raise Unfit(f"{what} is {_kind(value)}, not text")
    if len(value) > MAX_ROW_BYTES:
        raise Unfit(f"{what} has more than {MAX_ROW_BYTES:,} characters")
    if "\x00" in value:
        raise Unfit(f"{what} holds a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # Files are decoded so that a byte 0x80-0xff which is not UTF-8 becomes U+DC80-DCFF.
        stray = "\udc80" <= value[error.start] <= "\udcff"
        raise Unfit(f"{what} is not UTF-8" if stray else f"{what} holds half of a surrogate pair, which is no character") from error
    if not value.strip():
        raise Unfit(f"{what} is empty")
    return value


def _text(fields: Fields, name: str) -> str:
    if name not in fields:
        raise Unfit(f"the field {name} is missing")
    return _checked(fields[name], name)


def _absent(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _optional(fields: Fields, name: str) -> str:
    """As `_text`, or nothing where the field is missing, null or empty."""
    value = fields.get(name)
    return "" if _absent(value) or (isinstance(value, str) and not value.strip()) else _checked(value, name)


def _has(fields: Fields, *names: str) -> bool:
    return not any(_absent(fields.get(name)) for name in names)


def _named(names: Sequence[str]) -> str:
    return f"the rows have the fields {', '.join(names[:-1])} and {names[-1]}"


def _conversation(turns: Iterable[tuple[Role, object]], system: str = "") -> tuple[Conversation, ...]:
    """One conversation of turns, up to its last answer; neighbours of one role are joined."""
    turns = list(turns)
    while turns and turns[-1][0] != "assistant":
        turns.pop()
    if not turns:
        raise Unfit("it has no answer of an assistant")
    names = {"user": "the user's turn", "assistant": "the assistant's turn"}
    messages = [
        Message(role, _checked(text, f"{names[role]} at place {place}"), train=role == "assistant")
        for place, (role, text) in enumerate(turns, 1)
    ]
    return (Conversation(tuple(messages), system).alternating(),)


def _pair(question: str, answer: str, system: str = "") -> tuple[Conversation, ...]:
    return (Conversation((Message("user", question), Message("assistant", answer, train=True)), system),)


def _with_input(fields: Fields) -> str:
    """An instruction, and what it is to be done to below it."""
    return "\n\n".join(filter(None, (_text(fields, "instruction"), _optional(fields, "input"))))


def _alpaca(fields: Fields) -> tuple[Conversation, ...]:
    return _pair(_with_input(fields), _text(fields, "output"))


def _alpaca_sign(fields: Fields) -> str:
    names = ("instruction", "input", "output") if "input" in fields else ("instruction", "output")
    return _named(names) if _has(fields, "instruction", "output") else ""


def _records(value: object, name: str) -> list[Fields]:
    """A list of objects; some Parquet files hold it as an object of lists."""
    if isinstance(value, Mapping) and value and all(isinstance(each, list) for each in value.values()):
        value = [dict(zip(value, each, strict=False)) for each in zip(*value.values(), strict=False)]
    if not isinstance(value, list):
        raise Unfit(f"the field {name} is missing" if value is None else f"{name} is {_kind(value)}, not a list")
    if not value:
        raise Unfit(f"{name} is empty")
    for place, each in enumerate(value, 1):
        if not isinstance(each, Mapping):
            raise Unfit(f"{name} holds {_kind(each)} at place {place}, not an object")
    return value


def _looks_like_records(value: object, *names: str) -> bool:
    try:
        return set(names) <= set(_records(value, "")[0])
    except Unfit:
        return False


def _instances(fields: Fields) -> list[Fields]:
    """Every instance with the instruction that all of them have."""
    shared = {"instruction": fields["instruction"]} if "instruction" in fields else {}
    return [{**instance, **shared} for instance in _records(fields.get("instances"), "instances")]


def _self_instruct(fields: Fields) -> tuple[Conversation, ...]:
    return tuple(conversation for instance in _instances(fields) for conversation in _alpaca(instance))


def _self_instruct_sign(fields: Fields) -> str:
    fits = _has(fields, "instruction") and _looks_like_records(fields.get("instances"), "output")
    return "the rows have an instruction and a list of instances with input and output" if fits else ""


def _unnatural(fields: Fields) -> tuple[Conversation, ...]:
    """Both layouts of orhonovich/unnatural-instructions: a list of instances, or one instance a row."""
    instances = _instances(fields) if "instances" in fields else [fields]
    return tuple(
        conversation
        for each in instances
        for conversation in _pair(_optional(each, "instruction_with_input") or _with_input(each), _text(each, "output"))
    )


def _unnatural_sign(fields: Fields) -> str:
    if _has(fields, "instruction_with_input", "output"):
        return _named(("instruction_with_input", "output"))
    fits = _looks_like_records(fields.get("instances"), "instruction_with_input", "output")
    return "the rows have a list of instances with instruction_with_input and output" if fits else ""


def _openorca(fields: Fields) -> tuple[Conversation, ...]:
    return _pair(_text(fields, "question"), _text(fields, "response"), _optional(fields, "system_prompt"))


def _openorca_sign(fields: Fields) -> str:
    return _named(("system_prompt", "question", "response")) if "system_prompt" in fields and _has(fields, "question", "response") else ""


_PAIRS = (("inputs", "targets"), ("input", "output"), ("prompt", "completion"), ("question", "answer"), ("prompt", "response"))


def _input_output(fields: Fields) -> tuple[Conversation, ...]:
    pair = next((pair for pair in _PAIRS if _has(fields, *pair)), None)
    pair = pair or next((pair for pair in _PAIRS if set(pair) <= set(fields)), None)
    if pair is None:
        raise Unfit(f"it has none of the pairs {', '.join(f'{left} and {right}' for left, right in _PAIRS)}")
    return _pair(*(_text(fields, name) for name in pair))


def _input_output_sign(fields: Fields) -> str:
    return next((_named(pair) for pair in _PAIRS if _has(fields, *pair)), "")


def _longform(fields: Fields) -> tuple[Conversation, ...]:
    return _pair(_text(fields, "input"), _text(fields, "output"))


def _longform_sign(fields: Fields) -> str:
    names = ("input", "output", "source", "subset")
    return _named(names) if _has(fields, *names) else ""


@dataclass(frozen=True)
class _Marked:
    """Turns in one text, each behind a marker that names its role. Text before the first marker is the system text."""

    field: str
    marker: re.Pattern
    roles: Mapping[str, Role]
    shown: str

    def __call__(self, fields: Fields) -> tuple[Conversation, ...]:
        before, turns = self.turns(_text(fields, self.field))
        if not turns:
            raise Unfit(f"{self.field} has none of the markers {self.shown}")
        return _conversation(turns, before)

    def turns(self, text: str) -> tuple[str, list[tuple[Role, str]]]:
        """What stands before the first marker, and the turns."""
        before, *parts = self.marker.split(text)
        return before.strip(), [(self.roles[name], text.strip()) for name, text in zip(parts[::2], parts[1::2], strict=True)]

    def sign(self, fields: Fields) -> str:
        value = fields.get(self.field)
        found = {self.roles[name] for name in self.marker.findall(value)} if isinstance(value, str) else set()
        return f"the field {self.field} holds turns marked {self.shown}" if "assistant" in found else ""


_OASST = _Marked(
    "text", re.compile(r"(?<!#)###\s?(Human|Assistant):"), {"Human": "user", "Assistant": "assistant"}, "### Human: and ### Assistant:"
)
_CHIP2 = _Marked("text", re.compile(r"<(human|bot)>:"), {"human": "user", "bot": "assistant"}, "<human>: and <bot>:")
_HH = _Marked(
    "chosen", re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):"), {"Human": "user", "Assistant": "assistant"}, "Human: and Assistant:"
)


def question(text: str) -> Conversation:
    """A question as a conversation that waits for its answer: of several turns where it marks them as OpenAssistant's prompts do,
    an empty one of the assistant's at its end."""
    before, turns = _OASST.turns(text)
    if before or [role for role, _ in turns[-2:]] != ["user", "assistant"] or turns[-1][1]:
        return Conversation().add("user", text)
    return Conversation(tuple(Message(role, said) for role, said in turns[:-1])).alternating()


_CHAT_FIELDS = ("messages", "conversations", "conversation")


def _plain(fields: Fields) -> tuple[Conversation, ...]:
    return (Conversation((Message("assistant", _text(fields, "text"), train=True),)),)


def _plain_sign(fields: Fields) -> str:
    plain = isinstance(fields.get("text"), str) and not _OASST.sign(fields) and not _CHIP2.sign(fields)
    return "the rows have a field text without markers of turns" if plain else ""


def _content(value: object, place: int) -> object:
    """A message's text, of its parts where it is a list of them."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        if isinstance(part, Mapping) and part.get("type", "text") != "text":
            raise Unfit(f"the message at place {place} has a part of type {str(part.get('type'))[:40]!r}; only text is learnt")
        texts.append(_checked(part.get("text") if isinstance(part, Mapping) else part, f"a part of the message at place {place}"))
    return "".join(texts)


@dataclass(frozen=True)
class _Chat:
    """A list of messages, each an object with its role and its text."""

    role: str
    text: str
    roles: Mapping[str, Role]

    def __call__(self, fields: Fields) -> tuple[Conversation, ...]:
        name = next((name for name in _CHAT_FIELDS if _has(fields, name)), _CHAT_FIELDS[0])
        turns: list[tuple[Role, object]] = []
        system: list[str] = []
        for place, message in enumerate(_records(fields.get(name), name), 1):
            role = message.get(self.role)
            if not isinstance(role, str) or role not in self.roles:
                raise Unfit(f"the message at place {place} has the {self.role} {str(role)[:40]!r}; known are {', '.join(self.roles)}")
            text = _content(message.get(self.text), place)
            if self.roles[role] != "system":
                turns.append((self.roles[role], text))
            elif turns:
                raise Unfit(f"the system message at place {place} does not stand first")
            elif not _absent(text):
                system.append(_checked(text, f"the system message at place {place}"))
        return _conversation(turns, "\n\n".join(system))

    def sign(self, fields: Fields) -> str:
        name = next((name for name in _CHAT_FIELDS if _looks_like_records(fields.get(name), self.role, self.text)), None)
        return f"the field {name} is a list of messages with {self.role} and {self.text}" if name else ""


_MESSAGES = _Chat("role", "content", {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"})
_SHAREGPT = _Chat(
    "from",
    "value",
    {
        "system": "system",
        "human": "user",
        "user": "user",
        **dict.fromkeys(("gpt", "assistant", "bot", "chatgpt"), "assistant"),
    },
)

# What tells a format apart stands before what would fit its rows too: the first that fits a row is its format.
FORMATS: dict[str, DataFormat] = {
    entry.name: entry
    for entry in (
        DataFormat("messages", "Chat messages with role and content", "messages", _MESSAGES, _MESSAGES.sign, ("messages",)),
        DataFormat(
            "sharegpt", "ShareGPT conversations with from and value", "conversations", _SHAREGPT, _SHAREGPT.sign, ("conversations",)
        ),
        DataFormat(
            "unnatural-instructions",
            "Unnatural Instructions",
            "instruction_with_input, output, or a list instances of them",
            _unnatural,
            _unnatural_sign,
            ("instruction_with_input", "output"),
        ),
        DataFormat(
            "self-instruct",
            "Self-Instruct tasks with instances",
            "instruction, instances",
            _self_instruct,
            _self_instruct_sign,
            ("instruction", "instances"),
        ),
        DataFormat(
            "openorca",
            "OpenOrca",
            "system_prompt, question, response",
            _openorca,
            _openorca_sign,
            ("system_prompt", "question", "response"),
        ),
        DataFormat(
            "alpaca",
            "Alpaca instructions",
            "instruction, output, and perhaps input",
            _alpaca,
            _alpaca_sign,
            ("instruction", "input", "output"),
        ),
        DataFormat("hh-rlhf", "HH-RLHF, the chosen conversation", "chosen", _HH, _HH.sign, ("chosen",)),
        DataFormat(
            "oasst", "OpenAssistant text as Guanaco learnt it", "text with ### Human: and ### Assistant:", _OASST, _OASST.sign, ("text",)
        ),
        DataFormat("chip2", "OIG Chip2", "text with <human>: and <bot>:", _CHIP2, _CHIP2.sign, ("text",)),
        DataFormat("longform", "LongForm", "input, output", _longform, _longform_sign, ("input", "output")),
        DataFormat(
            "input-output",
            "Questions and answers, as in FLAN",
            " or ".join(f"{left} and {right}" for left, right in _PAIRS),
            _input_output,
            _input_output_sign,
            ("input", "output"),
        ),
        DataFormat("text", "Plain text", "text", _plain, _plain_sign, ("text",)),
    )
}

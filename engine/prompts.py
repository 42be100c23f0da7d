"""Prompt formats: from a conversation to the exact tokens a model sees, with a mask of those that training learns.

One renderer serves chat, preview and training. Text of people never turns into control tokens or role markers.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.errors import BadInput
from engine.messages import Conversation, Message
from engine.tokenizers import Template, Tokenizer

END = "\x00end\x00"  # stands for the tokenizer's end token inside a control piece
_ROLE_MARKER = re.compile(r"#{3,}(?=\s*(?:human|assistant|instruction|response|input|system)\b)", re.IGNORECASE)
_SLOT = re.compile("\x02([0-9]+)\x03")


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt. Only `control` pieces may hold special tokens; `learn` marks training targets."""

    text: str
    control: bool = False
    learn: bool = False


@dataclass(frozen=True)
class PromptFormat:
    """How turns become text. `user` and `answer` hold `{text}`; `stop` are strings that end an answer.

    `answer` is what stands before an assistant's text and ends a prompt; `lead` is what the model itself writes
    between it and the answer, so it belongs to the answer's tokens.
    """

    name: str
    system: str
    system_template: str
    user: str
    answer: str
    between: str
    lead: str = ""
    stop: tuple[str, ...] = ()

    def pieces(self, conversation: Conversation, template: Template | None = None) -> list[Piece]:
        """The prompt of a conversation. It ends ready for an answer when the last message is the user's, and with
        the end token when it is the assistant's. An empty system text means the format's own."""
        system = conversation.system or self.system
        pieces = [Piece(self.system_template.format(text=defused(system)))] if system else []
        for index, message in enumerate(conversation.messages):
            if index and message.role == "user":
                pieces.append(Piece(self.between))
            if message.role == "user":
                pieces.append(Piece(self.user.format(text=defused(message.text))))
            else:
                pieces.append(Piece(self.answer))
                pieces.append(Piece(self.lead + defused(message.text), learn=message.train))
        if conversation.messages and conversation.messages[-1].role == "user":
            pieces.append(Piece(self.answer))
        elif conversation.messages:
            pieces.append(Piece(END, control=True, learn=conversation.messages[-1].train))
        return pieces


def defused(text: str) -> str:
    """Text of a person or of an earlier answer in which no line can pass for a role marker of a text format:
    `### Human:` loses a hash. What people see on the screen is not changed."""
    return _ROLE_MARKER.sub("##", text)


@dataclass(frozen=True)
class ChatTemplateFormat:
    """The tokenizer's own chat template. Message texts are put in after rendering, so that they are never parsed."""

    name: str = "chat"
    system: str = ""
    stop: tuple[str, ...] = ()

    def pieces(self, conversation: Conversation, template: Template | None = None) -> list[Piece]:
        """As `PromptFormat.pieces`. Raises BadInput where the model has no template or refuses the turns."""
        if template is None:
            raise BadInput("This model has no chat template. Choose the prompt format guanaco, alpaca, openorca or plain.")
        messages = conversation.messages
        if conversation.system:
            messages = (Message("system", conversation.system), *messages)
        answering = bool(messages) and messages[-1].role == "user"
        rows = [{"role": message.role, "content": f"\x02{index}\x03"} for index, message in enumerate(messages)]
        try:
            rendered = template.render(rows, answering)
        except Exception as error:
            raise BadInput(f"The model's chat template does not accept these turns: {error}") from error
        parts = _SLOT.split(rendered)
        slots = sorted(int(part) for part in parts[1::2])
        if slots != list(range(len(messages))):
            lost = "the system text" if slots == list(range(1, len(messages))) and conversation.system else "a message"
            raise BadInput(
                f"The model's chat template leaves out or repeats {lost}. Choose another prompt format"
                + (", or clear the system text." if "system" in lost else ".")
            )
        markers = _markers("".join(parts[::2]), template.tokens)
        pieces: list[Piece] = []
        learning = False
        for index, part in enumerate(parts):
            if index % 2:
                message = messages[int(part)]
                learning = message.train
                pieces.append(Piece(_broken(message.text, markers), learn=learning))
            elif part:
                pieces.extend(_control_pieces(part, learning))
        return pieces


def _markers(template_text: str, tokens: frozenset[str]) -> re.Pattern | None:
    """What in a template's own text sets roles apart without being a token of its own, such as `<|user|>`, `[INST]` or
    `### Instruction:`."""
    found = {match.strip() for match in re.findall(r"<[^<>\s]+>|\[/?[A-Z_ ]+\]|<</?[A-Z]+>>|#{2,}[^\n:]*:?", template_text)} - tokens
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True)))) if found else None


def _broken(text: str, markers: re.Pattern | None) -> str:
    """Text of people with a space inside whatever would be a marker of the template."""
    if not markers:
        return text
    while (changed := markers.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text)) != text:
        text = changed
    return text


def _control_pieces(text: str, after_answer: bool) -> list[Piece]:
    """Template text; after a learnt answer its first special token, the end of the turn, is learnt too."""
    end = re.match(r"\s*<[^<>\s]+>", text) if after_answer else None
    if not end:
        return [Piece(text, control=True)]
    rest = text[end.end() :]
    return [Piece(end.group(), control=True, learn=True), *([Piece(rest, control=True)] if rest else [])]


@dataclass(frozen=True)
class PlainFormat:
    """No roles at all: the texts, joined by blank lines, and the model goes on from there."""

    name: str = "plain"
    system: str = ""
    stop: tuple[str, ...] = ()

    def pieces(self, conversation: Conversation, template: Template | None = None) -> list[Piece]:
        """As `PromptFormat.pieces`."""
        texts = [Message("system", conversation.system)] if conversation.system else []
        texts += conversation.messages
        pieces = [Piece(("\n\n" if index else "") + message.text, learn=message.train) for index, message in enumerate(texts)]
        if texts and texts[-1].role == "assistant":
            pieces.append(Piece(END, control=True, learn=texts[-1].train))
        return pieces


Format = PromptFormat | ChatTemplateFormat | PlainFormat

PROMPTS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        # eval/generations/vicuna of artidoro/qlora, field `prompt`.
        PromptFormat(
            name="guanaco",
            system="A chat between a curious human and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions.",
            system_template="{text} ",
            user="### Human: {text} ",
            answer="### Assistant:",
            between=" ",
            lead=" ",
            stop=("### Human:", "### Assistant:"),
        ),
        # Model card of uwnlp/llama-2-70b-qlora-openorca.
        PromptFormat(
            name="openorca",
            system="",
            system_template="{text}\n\n",
            user="### Instruction: {text}\n\n",
            answer="### Response:",
            between="\n\n",
            lead=" ",
            stop=("### Instruction:", "### Response:"),
        ),
        # tatsu-lab/stanford_alpaca, the prompt without input.
        PromptFormat(
            name="alpaca",
            system="Below is an instruction that describes a task. Write a response that appropriately completes the request.",
            system_template="{text}\n\n",
            user="### Instruction:\n{text}\n\n",
            answer="### Response:\n",
            between="\n\n",
            stop=("### Instruction:", "### Response:"),
        ),
        ChatTemplateFormat(),
        PlainFormat(),
    )
}


def prompt_format(name: str) -> Format:
    """The format of that name. Raises BadInput with the names there are."""
    if name not in PROMPTS:
        raise BadInput(f"There is no prompt format {name!r}. There are: {', '.join(PROMPTS)}.")
    return PROMPTS[name]


def own_format(stated: str, tokenizer: Tokenizer) -> str:
    """The name of a model's prompt format; plain for a base of unknown training that brings no chat template."""
    return "plain" if stated == "chat" and not tokenizer.template else stated


def chosen_format(name: str, stated: str, tokenizer: Tokenizer) -> Format:
    """The format of that name; `auto` is the model's own, as `own_format`. Raises BadInput."""
    return prompt_format(own_format(stated, tokenizer) if name == "auto" else name)


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and, for each, whether training learns it. Both of the same length."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.ids)


def encode(tokenizer: Tokenizer, conversation: Conversation, form: Format, answering: bool = False) -> Encoded:
    """Tokens of a conversation; `answering` leaves an assistant's text at the end open, for the model to go on with it.

    Special tokens are recognised in control pieces only. An answer is tokenized apart from what stands before it,
    so that the tokens at its start in training are those a model meets in chat, where its text is not yet there.
    """
    ids: list[int] = []
    learn: list[bool] = []
    for piece, new in encoded_pieces(tokenizer, conversation, form, answering):
        ids += new
        learn += [piece.learn] * len(new)
    return Encoded(tuple(ids), tuple(learn))


def encoded_pieces(
    tokenizer: Tokenizer, conversation: Conversation, form: Format, answering: bool = False
) -> Iterator[tuple[Piece, list[int]]]:
    """As `encode`, piece by piece: an answer's text is a learnt piece, the end after it a learnt control piece of its own."""
    if form.name != "chat":
        yield Piece("", control=True), tokenizer.start()
    pieces = form.pieces(conversation, tokenizer.template)
    if answering and conversation.continues:
        while pieces[-1].control:
            pieces.pop()
    for index, piece in enumerate(_joined(pieces)):
        ends = piece == Piece(END, True, piece.learn)
        yield piece, [tokenizer.end] if ends else _piece_ids(tokenizer, piece, first=not index and not piece.learn)


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbours of one kind as one piece; a space at the end of control text moves to the text after it, because
    SentencePiece vocabularies hold the space at the start of a word."""
    result: list[Piece] = []
    for piece in pieces:
        last = result[-1] if result else None
        if last and last.control and not piece.control and last.text.endswith(" "):
            result[-1] = Piece(last.text[:-1], True, last.learn)
            piece = Piece(" " + piece.text, False, piece.learn)
        if last and (last.control, last.learn) == (piece.control, piece.learn) and END not in (last.text, piece.text):
            result[-1] = Piece(last.text + piece.text, piece.control, piece.learn)
        elif piece.text:
            result.append(piece)
    return result


_ANCHOR = "\n"


def _piece_ids(tokenizer: Tokenizer, piece: Piece, first: bool) -> list[int]:
    """Ids of one piece as it stands inside a text: tokenizers that put a space before whatever they are given get an
    anchor before all but the first piece, whose ids are cut off again. In text of people no added token is recognised,
    special or not."""

    def alone(text: str) -> list[int]:
        return tokenizer.ids(text, piece.control)

    def inside(text: str) -> list[int]:
        return alone(_ANCHOR + text)[len(alone(_ANCHOR)) :]

    anchored = inside if tokenizer.prefixes_space else alone
    parts = [piece.text] if piece.control or not tokenizer.unsplit else tokenizer.unsplit.split(piece.text)
    ids = (alone if first else anchored)(parts[0])
    for part in parts[1:]:
        ids += anchored(part)
    return ids

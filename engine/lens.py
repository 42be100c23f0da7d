"""A row token by token, as training sees it: what is learnt, what is only read, what the limits cut off.

The tokens are those of `engine.examples.example`; their texts are made for people to read.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.backends.decoding import LONGEST_CHARACTER
from engine.examples import Lengths, Shape, encoded, shortened, within
from engine.messages import Conversation
from engine.prompts import Format, encode
from engine.tokenizers import ReadableTokenizer

State = Literal["learnt", "read", "cut"]
_UNFINISHED = "\ufffd"
# Control characters as their pictures; what turns the direction of text, and the later controls, as unknown characters.
_SHOWN = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_SHOWN |= {0x7F: "\u2421", **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), _UNFINISHED)}


@dataclass(frozen=True)
class Seen:
    """A token of a row. Of a character that takes several tokens the first has the whole text and the others have none. `end` marks
    tokens that end an answer which is learnt."""

    text: str
    id: int
    state: State
    end: bool


def lens(
    tokenizer: ReadableTokenizer, conversation: Conversation, form: Format, lengths: Lengths, learn_everything: bool = False
) -> list[Seen]:
    """The tokens of a row, those that the limits leave in order. What is cut off stands behind what is left of it: turns and the end of
    a question where they stood, the end of the row at its end. Of a row that has nothing to learn within the limits all is cut.
    Raises BadInput as `example` does."""
    whole = encoded(tokenizer, conversation, form)
    if whole is None:
        ids = encode(tokenizer, conversation, form).ids
        return _read(tokenizer, [(token, "cut", False) for token in ids])
    row = within(tokenizer, conversation, form, whole, lengths)
    if row is None:
        return _read(tokenizer, [(token, "cut", False) for token in whole.ids])
    shown = [(token, False) for token in whole.ids]
    for shorter in shortened(tokenizer, conversation, form, whole.shape, lengths):
        shown = _changed(shown, encoded(tokenizer, shorter, form).ids, within_row=True)
    shown = _changed(shown, row.ids, within_row=False)
    flags = iter(zip(row.learn(learn_everything), _ends(row.shape), strict=True))
    tokens: list[tuple[int, State, bool]] = []
    for token, cut in shown:
        learnt, end = (False, False) if cut else next(flags)
        tokens.append((token, "cut" if cut else "learnt" if learnt else "read", end))
    return _read(tokenizer, tokens)


def _ends(shape: Shape) -> list[bool]:
    """For each token of a row whether it ends an answer."""
    places = {place for answer in shape.answers for place in range(answer.text_end, answer.end)}
    return [place in places for place in range(shape.tokens)]


def _changed(shown: list[tuple[int, bool]], ids: Sequence[int], within_row: bool) -> list[tuple[int, bool]]:
    """Tokens, each with whether it is cut, those that are not being `ids` from now on: one stretch gives way to another, which may
    be empty, and stands behind it as cut. It lies anywhere `within_row`, else at the end."""
    places = [place for place, (_, cut) in enumerate(shown) if not cut]
    old = [shown[place][0] for place in places]
    same = _alike(old, ids)
    same_behind = _alike(old[same:][::-1], ids[same:][::-1]) if within_row else 0
    begin, end = ((*places, len(shown))[index] for index in (same, len(old) - same_behind))
    new = [(token, False) for token in ids[same : len(ids) - same_behind]]
    return [*shown[:begin], *new, *((token, True) for token, _ in shown[begin:end]), *shown[end:]]


def _alike(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens at the beginning are the same."""
    return next((place for place, (one, other) in enumerate(zip(left, right)) if one != other), min(len(left), len(right)))


def _read(tokenizer: ReadableTokenizer, tokens: list[tuple[int, State, bool]]) -> list[Seen]:
    """The tokens with their texts. A character is never made of tokens that are left and others that are cut."""
    seen: list[Seen] = []
    context: list[int] = []
    for _, group in itertools.groupby(tokens, key=lambda token: token[1] == "cut"):
        group = list(group)
        texts = _texts(tokenizer, [token for token, _, _ in group], context)
        seen += [Seen(text.translate(_SHOWN), *token) for text, token in zip(texts, group, strict=True)]
    return seen


def _texts(tokenizer: ReadableTokenizer, ids: Sequence[int], context: list[int]) -> Iterator[str]:
    """The text of each token, by what it adds to the few before it, the last whole characters, which are put into `context`: some
    tokenizers treat the first token of a text apart."""
    pending: list[int] = []
    for index, token in enumerate(ids, 1):
        pending.append(token)
        before = len(tokenizer.text(context))
        text = tokenizer.text([*context, *pending])[before:]
        broken = text.endswith(_UNFINISHED)
        if broken and len(pending) < LONGEST_CHARACTER and index < len(ids):
            continue
        yield from _parted(text, [tokenizer.text([*context, *pending[:count]])[before:] for count in range(1, len(pending))])
        if not broken:
            context[:] = pending
        pending = []


def _parted(text: str, beginnings: Sequence[str]) -> Iterator[str]:
    """A text of several tokens by token, given what the first ones make: where that is no beginning of the text, a character is not
    whole there."""
    given, empty = 0, 0
    for beginning in (*beginnings, text):
        if text.startswith(beginning):
            yield text[given : len(beginning)]
            yield from [""] * empty
            given, empty = len(beginning), 0
        else:
            empty += 1

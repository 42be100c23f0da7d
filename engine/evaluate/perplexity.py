"""Perplexity: exp of the mean loss a token, of a text in windows or of the answers of a data set by the very mask that training learns.

A text is read in windows that overlap: each token but the first is scored once, with at least half a window before it where the text
has that much. An answer is scored as training would learn it, its end token included, cut to the same length.
"""

import codecs
import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from engine import datasets, hub, paths
from engine.backends.base import Stop
from engine.backends.scoring import Text
from engine.blend import Blend
from engine.datasets import Data
from engine.errors import BadInput
from engine.evaluate import intervals
from engine.evaluate.measure import Item, Measure, Subject, checked, size
from engine.examples import Lengths, example
from engine.model_files import local_path

As = Literal["auto", "text", "answers"]
MAX_TEXT_BYTES = 50_000_000
_TEXTS = (".txt", ".md")


class _Perplexity(Measure):
    """Rows: `tokens` that were scored, and their summed `loss` in nats."""

    def half_width(self, limit: int, seed: int) -> None:
        return None

    def rows(self, subject: Subject, items: Sequence[Item], blend: Blend, stop: Stop, known: Container[int]) -> Iterator[tuple[int, dict]]:
        for number, figures in subject.scorer.likelihoods([item.content for item in items], blend, stop, known):
            item = items[number]
            yield number, {"key": item.key, "group": item.group, "tokens": len(figures), "loss": -math.fsum(figures)}

    def result(self, rows: Sequence[dict]) -> dict:
        """`perplexity` with its interval over rows or windows, and the mean `loss` a token in nats."""
        tokens = sum(row["tokens"] for row in rows)
        found = intervals.perplexity([row["loss"] for row in rows], [row["tokens"] for row in rows])
        return {"rows": len(rows), "tokens": tokens, "loss": math.log(found.value), "perplexity": asdict(found)}


class OfText(_Perplexity):
    """See `Measure`; its items are windows of a text, of at most `window` tokens, which are not counted without a tokenizer."""

    counted = False

    def __init__(self, text: str, window: int, sha256: str):
        self._text, self._window, self.sha256, self.told = text, window, sha256, ()

    @property
    def count(self) -> int:
        return max(1, math.ceil(size([self._text]) / max(1, self._window // 2)) - 1)

    def tokens(self, count: int) -> float:
        return count * min(self._window, size([self._text]))

    def items(self, subject: Subject) -> list[Item]:
        scorer = subject.scorer
        if scorer.tokenizer is None:
            raise BadInput("Perplexity needs a model whose tokens are known here. Choose the backend transformers.")
        ids = [*scorer.tokenizer.start(), *scorer.tokenizer.ids(self._text, control=False)]
        if len(ids) < 2:
            raise BadInput("A text of fewer than two tokens has no perplexity. Give a longer one.")
        return [
            Item(str(begin), "", Text(tuple(ids[start:end]), tuple(place >= begin for place in range(start, end))))
            for start, begin, end in windows(len(ids), min(self._window, subject.context))
        ]


def windows(count: int, window: int) -> Iterator[tuple[int, int, int]]:
    """How a text of so many tokens is read: (start of a window, first token scored in it, end). Windows move on by half of their
    length; all tokens but the first are scored once."""
    begin = 1
    start = 0
    while begin < count:
        end = min(start + window, count)
        yield start, begin, end
        begin, start = end, start + max(1, window // 2)


class OfAnswers(_Perplexity):
    """See `Measure`; its items are the rows of a data set, of at most `longest` tokens."""

    formed = True

    def __init__(self, data: Data, longest: int, told: Sequence[str]):
        self._data, self._longest, self.sha256, self.told = data, longest, data.sha256, tuple(told)

    @property
    def count(self) -> int:
        return len(self._data.conversations)

    def tokens(self, count: int) -> float:
        rows = ["".join(message.text for message in each.messages) for each in self._data.conversations]
        return count * min(self._longest, size(rows))

    def items(self, subject: Subject) -> list[Item]:
        """Rows that have no answer within the length are left out, as in training."""
        scorer = subject.scorer
        if scorer.tokenizer is None:
            raise BadInput("The answers of a data set need a model whose tokens are known here. Choose the backend transformers.")
        lengths = Lengths(min(self._longest, subject.context))
        made: list[Item] = []
        seen: dict[int, int] = {}
        for conversation, line in zip(self._data.conversations, self._data.lines, strict=True):
            seen[line] = seen.get(line, 0) + 1
            key = str(line) if seen[line] == 1 else f"{line}.{seen[line]}"
            found = example(scorer.tokenizer, conversation.or_system(subject.system), subject.form, lengths)
            if found:
                made.append(Item(key, "", Text(found.ids, found.learn)))
        if not made:
            raise BadInput(f"No row has an answer within {lengths.total} tokens. Allow longer rows with --max-length.")
        return made


def read(data: str, read_as: As, longest: int, skip_bad_rows: bool, report: hub.Report) -> Measure:
    """Perplexity of a text file or of a data set's answers; `auto` takes .txt and .md files as texts. Raises BadInput or
    EngineError."""
    if not data:
        raise BadInput("Name a text file or a data set with --data.")
    path = local_path(data)
    if read_as == "text" or (read_as == "auto" and path.suffix.lower() in _TEXTS):
        return OfText(_text(path), longest, paths.sha256(path))
    found = datasets.load(data, report=report)
    told = checked(found.bad, len(found.conversations), found.unit, skip_bad_rows, path.name)
    return OfAnswers(found, longest, told)


def _text(path: Path) -> str:
    if not path.is_file():
        raise BadInput(f"There is no file {path}.")
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise BadInput(f"{path.name} has {path.stat().st_size:,} bytes, the limit is {MAX_TEXT_BYTES:,}. Take a part of it.")
    try:
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path.name} is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start + 1}). Save it as UTF-8."
        ) from error
    if not text.strip():
        raise BadInput(f"{path.name} is empty.")
    return text

"""What a data set would be as training rows of a model: rows and faults, lengths in tokens, what is cut, what is learnt.

Neither weights nor torch are needed where the model's tokenizer is a plain file.
"""

from dataclasses import dataclass

from engine import datasets, hub, preview, tokenizer_files
from engine.data_files import BadRow
from engine.datasets import Data
from engine.examples import Lengths, Statistics, statistics
from engine.messages import Conversation
from engine.model_spec import ModelSpec
from engine.prompts import END, Format, Piece
from engine.tokenizers import Tokenizer

LEARNT = ("⟦", "⟧")
_SHOWN_CHARS = 1_500
_SHOWN_BAD = 10


@dataclass(frozen=True)
class Inspection:
    """`data` as read; `bad` has besides its bad rows those whose turns the format refuses. `sample` is a row as it is rendered, its
    targets within `LEARNT`."""

    data: Data
    bad: tuple[BadRow, ...]
    tokens: Statistics
    sample: str

    def document(self, form: Format, spec: ModelSpec, lengths: Lengths) -> dict:
        """The JSON document of `inspect-data`."""
        tokens = self.tokens
        return {
            "rows": self.data.rows,
            "ok": self.data.rows - len(self.bad),
            "bad": [{"line": bad.line, "reason": bad.reason} for bad in self.bad],
            "format": self.data.format,
            "reason": self.data.reason,
            "unit": self.data.unit,
            "truncated": tokens.cut,
            "unlearnable": tokens.unlearnable,
            "tokens": {
                "total": tokens.total,
                "min": tokens.min,
                "median": tokens.median,
                "mean": round(tokens.mean, 2),
                "p95": tokens.p95,
                "max": tokens.max,
            },
            "target_share": round(tokens.target_share, 4),
            "prompt_format": form.name,
            "model": spec.id,
            "max_length": lengths.total,
        }

    def table(self) -> str:
        """The same for people, with the first bad rows and the sample."""
        data, tokens = self.data, self.tokens
        rows = {
            "format": f"{data.format}: {data.reason}",
            "rows": f"{data.rows:,}: {data.rows - len(self.bad):,} good, {len(self.bad):,} bad",
            "cut": f"{tokens.cut:,}, each still ends with an end token; {tokens.unlearnable:,} besides have no answer within the limit",
            "tokens": f"{tokens.total:,}; a row {tokens.min:,} to {tokens.max:,}, median {tokens.median:,.0f}, mean {tokens.mean:,.1f}, 95% within {tokens.p95:,}",
            "targets": f"{tokens.target_share:.1%} of the tokens",
        }
        lines = [f"{name:<9}{text}" for name, text in rows.items()]
        lines += [f"{data.unit} {bad.line}: {bad.reason}" for bad in self.bad[:_SHOWN_BAD]]
        if len(self.bad) > _SHOWN_BAD:
            lines.append(f"… and {len(self.bad) - _SHOWN_BAD:,} more (--json lists all)")
        if self.sample:
            lines += ["", f"A row as it trains, targets within {' '.join(LEARNT)}:", self.sample]
        return "\n".join(lines)


def inspected(
    source: str,
    spec: ModelSpec,
    form: Format,
    lengths: Lengths,
    data_format: str = datasets.AUTO,
    columns: dict[str, str] | None = None,
    learn_everything: bool = False,
    report: hub.Report = lambda progress: None,
) -> Inspection:
    """Read a data set and make every row of it tokens, without keeping them. Raises BadInput or EngineError where the data
    or the tokenizer cannot be read, or the format suits no row."""
    data = datasets.load(source, data_format, columns, report)
    tokenizer = tokenizer_files.opened(spec, report)
    measured = preview.ended(preview.counting(data, tokenizer, form), report)
    sizes = list(measured.sizes(lengths, learn_everything))
    places = (index for index in range(len(data.conversations)) if index not in measured.refused)
    whole = next((index for index, size in zip(places, sizes, strict=True) if size and not size.cut), None)
    sample = "" if whole is None else _rendered(tokenizer, data.conversations[whole], form, learn_everything)
    return Inspection(data, measured.bad, statistics(sizes), sample)


def _rendered(tokenizer: Tokenizer, conversation: Conversation, form: Format, everything: bool) -> str:
    """A row as text, the stretches that are learnt within `LEARNT`; its middle is left out where it is long."""
    begin, end = LEARNT
    pieces = form.pieces(conversation, tokenizer.template)
    if not any(piece.control and piece.learn for piece in pieces):
        pieces = [*pieces, Piece(END, control=True, learn=True)]
    texts = [(piece.text.replace(END, "<end>"), piece.learn or everything) for piece in pieces]
    text = "".join(f"{begin}{text}{end}" if learnt else text for text, learnt in texts).replace(end + begin, "")
    text = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)  # data may not steer a terminal
    half = _SHOWN_CHARS // 2
    return text if len(text) <= _SHOWN_CHARS else f"{text[:half]} … {text[-half:]}"

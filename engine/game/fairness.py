"""Fair mode: both answers end in a whole sentence and do not say who they are. What was changed is told after the guess.

Cues of the published pair: ten of Guanaco's answers and one of ChatGPT's are cut off in the middle of a sentence.
"""

import functools
import re
from dataclasses import dataclass

MASK = "▒▒▒"
# Who an assistant says it is; what may also be an animal or a person counts only where it introduces itself.
_MAKERS = r"ChatGPT|GPT-?\d(?:\.\d)?|OpenAI|Open ?Assistant|LMSYS|Anthropic|Alibaba(?: Cloud)?|Google AI|DeepSeek|SmolLM\d?|Qwen[\d.]*"
_INTRODUCED = r"Guanaco(?: mini)?|Vicuna|Alpaca|Bard|Claude|Llama(?: \d)?|Gemini|Mistral|Meta(?: AI)?|Google|Microsoft"
_KIND = (
    r"(?:as|I am|I'm|being)\s+(?:just |only |merely )?an?\s+(?:large )?"
    r"(?:(?:AI|artificial intelligence|language|machine learning|virtual)(?:[ -](?:powered|based|language|model|assistant|chatbot|system))*|chatbot)"
)
# Ends of sentences; the number of a list's item is none.
_SENTENCE_END = re.compile(r"(?:(?<!\d)[.]|(?<=\d\d)[.](?=\s*$)|[!?。！？…])[\"'”’)\]*_]*(?=\s|$)")
_WHOLE = re.compile(r"(?:[.!?。！？…)\]|]|[.!?][\"'”’*_]+|```|[\"”’]|\d)\s*\Z")
_LEAST_KEPT = 0.5


@dataclass(frozen=True)
class Shown:
    """A text as it is shown, and what was changed in it, as sentences without a subject ("lost ...")."""

    text: str
    changes: tuple[str, ...] = ()


@functools.lru_cache(maxsize=256)
def _self(systems: tuple[str, ...]) -> re.Pattern:
    """What says who wrote a text: also the names of these systems, whole or up to their first digit."""
    own = {form for name in systems for form in (name, re.split(r"[-\s]*\d", name)[0]) if len(form) > 3}
    names = "|".join(map(re.escape, sorted(own, key=len, reverse=True)))
    introduced = rf"(?:(?:I am|I'm|name is|called|by)\s+)(?:{_INTRODUCED})"
    return re.compile(rf"(?i:\b(?:{_KIND}|{introduced})\b|\b(?:{_MAKERS})\b)" + (rf"|(?i:(?<!\w)(?:{names})(?!\w))" if names else ""))


def fair(text: str, question: str = "", systems: tuple[str, ...] = ()) -> Shown:
    """The text without a broken end and without its author's name, which may be one of `systems`. What the question itself has is
    kept: an answer about it is no sign."""
    changes = []
    trimmed = _trimmed(text)
    if trimmed != text.rstrip():
        lost = text.rstrip()[len(trimmed) :].strip()
        changes.append(f"lost its broken end, {len(lost)} characters: “{_ends(lost)}”")
    found: list[str] = []

    def masked(match: re.Match) -> str:
        if match[0].lower() in question.lower():
            return match[0]
        found.append(match[0])
        return MASK

    shown = _self(systems).sub(masked, trimmed)
    if found:
        changes.append("has masked: " + ", ".join(f"“{each}”" for each in dict.fromkeys(found)))
    return Shown(shown, tuple(changes))


def cut_off(text: str) -> bool:
    """Whether a text ends in the middle of a sentence, or within a bracket that its last line opened."""
    line = text.rstrip().rpartition("\n")[2]
    return not _WHOLE.search(text) or any(line.count(opening) > line.count(closing) for opening, closing in ("()", "[]", "{}"))


def names_itself(text: str, question: str = "", systems: tuple[str, ...] = ()) -> bool:
    """Whether a text says what wrote it."""
    return any(match[0].lower() not in question.lower() for match in _self(systems).finditer(text))


def _trimmed(text: str) -> str:
    """Up to the last whole sentence, or else to the last whole line, unless that would cost half of it."""
    text = text.rstrip()
    if not cut_off(text) or text.count("```") % 2:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    lines = [text.rfind("\n")] if "\n" in text else []
    for end in (*ends[-1:], *lines):
        kept = text[:end].rstrip()
        if len(kept) >= _LEAST_KEPT * len(text):
            return kept
    return text


def _ends(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:40]} … {text[-30:]}"

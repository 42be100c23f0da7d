"""The published instructions for judges (QLoRA, section 5.2), and what their answers are read as. They are read where they are asked
for, and are no part of this project."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from engine.game import published
from engine.hub import Report

# threeclass: 1, 2 or 3 for a tie, in the last line. score: up to ten points for each, in the first.
Kind = Literal["threeclass", "score"]
KINDS = get_args(Kind)
# What is kept of an answer that holds no verdict.
UNPARSED: Mapping[Kind, object] = {"threeclass": -1, "score": [-1, -1]}
_PROMPTS = "eval/prompts"
_VICUNA = {"threeclass": "vicuna_prompt_threeclass", "score": "vicuna_prompt_relative"}
MOST_POINTS = 10
_NEEDED = (
    "The published instructions for judges are fetched once, whatever is judged; a folder that has them may be named by GUANACO_ANSWERS."
)


@dataclass(frozen=True)
class Instruction:
    """How a judge is asked about one category of questions: the reviewer's number in the published file, from 1, and how its answers
    are sampled, at most `max_tokens` long."""

    reviewer: int
    category: str
    system: str
    template: str
    defaults: Mapping[str, str]
    temperature: float
    max_tokens: int

    def messages(self, question: str, first: str, second: str) -> list[dict[str, str]]:
        """The chat that is sent, with the answer `first` shown first."""
        text = self.template.format(question=question, answer_1=first, answer_2=second, **self.defaults)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": text}]


def read(kind: Kind, data: str, report: Report, max_tokens: int | None = None) -> list[Instruction]:
    """The instructions for a set of questions: OpenAssistant's three-class one for `oasst`, Vicuna's for all else, the first of them
    for categories that have none of their own; with another limit where `max_tokens` says one. Raises BadInput or EngineError as
    `published.at_hand`."""
    names = ("oa_prompt_threeclass", "oa_reviewer") if (kind, data) == ("threeclass", "oasst") else (_VICUNA[kind], "reviewer")
    prompts, reviewers = (_rows(published.at_hand(f"{_PROMPTS}/{name}.jsonl", report, _NEEDED)) for name in names)
    by_id = {prompt["prompt_id"]: prompt for prompt in prompts}
    return [
        Instruction(
            number,
            reviewer["category"],
            (prompt := by_id[reviewer["prompt_id"]])["system_prompt"],
            prompt["prompt_template"],
            prompt["defaults"],
            reviewer["metadata"]["temperature"],
            max_tokens or reviewer["metadata"]["max_tokens"],
        )
        for number, reviewer in enumerate(reviewers, 1)
    ]


def of_category(instructions: Sequence[Instruction], category: str) -> Instruction:
    """The one for a category of questions."""
    return next((each for each in instructions if each.category == category), instructions[0])


def verdict(kind: Kind, text: str) -> object:
    """The verdict in a judge's answer, read as the published ones were: 1, 2 or 3 alone in the last line, or two numbers alone in the
    first, here of 0 to 10; UNPARSED where there is none. Vicuna's instruction for maths asks for its points at the end: they stay
    unread, as in the published files but for those that somebody filled in by hand."""
    lines = text.strip().split("\n")
    try:
        if kind == "threeclass":
            chosen = int(lines[-1])
            return chosen if chosen in (1, 2, 3) else UNPARSED[kind]
        points = [float(each) for each in lines[0].replace(",", " ").split()]
    except ValueError:
        return UNPARSED[kind]
    fits = len(points) == 2 and all(math.isfinite(each) and 0 <= each <= MOST_POINTS for each in points)
    return points if fits else UNPARSED[kind]


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

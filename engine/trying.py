"""A finished run put to the test: what it was asked before and after, and questions it never learnt from, for a blind duel."""

import contextlib
from dataclasses import dataclass

from engine import datasets, presets, rows, runs
from engine.errors import EngineError
from engine.events import Sample
from engine.game.answer_files import Question
from engine.runs import Run

MOST_QUESTIONS, _MOST_CHARS = 10, 1_000


@dataclass(frozen=True)
class Change:
    """What the base, or the adapter a run began from, answered to a prompt, and what the end of the run answers."""

    prompt: str
    before: str
    after: str


def finished() -> dict[str, Run]:
    """The runs whose adapter can be tried, newest first, by their names in `runs.known`."""
    return {name: run for name, run in runs.known().items() if run.adapter.is_dir()}


def changes(run: Run) -> list[Change]:
    """Same-prompt answers, greedy both, from the run's own events; empty where it was not asked to give samples."""
    first: dict[str, Sample] = {}
    last: dict[str, Sample] = {}
    for event in runs.in_force(runs.all_events(run)):
        if isinstance(event, Sample):
            first.setdefault(event.prompt, event)
            last[event.prompt] = event
    return [Change(prompt, first[prompt].text, each.text) for prompt, each in last.items() if each.step > first[prompt].step]


def questions(run: Run) -> list[Question]:
    """Questions of the held-out rows, else general ones, where the run's data is no longer there or none was held out."""
    recipe = run.recipe
    asked: list[str] = []
    with contextlib.suppress(EngineError):  # the data may be gone, and the Hub too
        data = rows.read(recipe.data, lambda progress: None, rows.needed(recipe), run.public)
        count = len(data.conversations)
        held_out = datasets.at_most_half(recipe.data.held_out, count)
        _, tested = datasets.split(count, held_out, recipe.optimization.seed, recipe.data.held_out_from)
        for index in tested:
            turns = [message for message in data.conversations[index].messages if message.role == "user"]
            if len(turns) == 1 and len(turns[0].text) <= _MOST_CHARS:
                asked.append(turns[0].text)
    asked = list(dict.fromkeys(asked)) or list(dict.fromkeys((*recipe.samples.prompts, *presets.QUESTIONS)))
    return [Question(str(number), text, "") for number, text in enumerate(asked[:MOST_QUESTIONS], 1)]

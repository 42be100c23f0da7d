"""What was trained here, to look back on: runs with small curves, several beside each other, their disk, and deleting one.

Event files are read sparsely and once as long as they stay as they are, so that many long runs are listed at once.
"""

import contextlib
import functools
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from engine import jobs, paths, runs
from engine.errors import BadInput
from engine.events import Ended, Evaluated, Event, Queued, Sample, Started, Step, from_json
from engine.recipe import Recipe
from engine.runs import Phase, Run

# Points of a run's loss that are kept, and of the small curve in the list.
CURVE, SMALL = 400, 60
MAX_COMPARED = 6
# Of a long run not every step is read: enough of them for a mean of four in each point of its curve.
_STEPS_READ = 4 * CURVE
_STEP_LINE = b'{"event": "Step"'
_KINDS_OF_PHASE = (Queued, Started, Step, Ended)
_TAIL_BYTES = 65_536
# How `engine.runs` notes a run whose folder is elsewhere.
_POINTERS = "*.elsewhere"
Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Story:
    """What a run's events tell, less what was made again: the loss as `curve` of at most CURVE points, held-out losses in `tests`, of
    each sample prompt the first and the last answer by step, and the event that its phase follows from."""

    step: int
    steps: int | None
    curve: Points
    tests: Points
    samples: dict[str, dict[int, str]]
    last: Event | None


def current() -> tuple[str, Run] | None:
    """The run that has the machine, else one that waits for it, else None; with its name."""
    under_way = [(name, run) for name, run in runs.known().items() if run.process]
    return min(under_way, key=lambda each: phase(each[1]) == "waiting", default=None)


def phase(run: Run) -> Phase:
    """As `runs.phase`, from the end of the run's events alone."""
    last = None
    with contextlib.suppress(FileNotFoundError), open(run.events, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        last = _last_of_phase(_events(file.read().splitlines(keepends=True)[::-1]))
    if last is None:
        last = story(run).last
    return runs.phase(run, [last] if last else [])


def _last_of_phase(events: Iterable[Event]) -> Event | None:
    return next((event for event in events if isinstance(event, _KINDS_OF_PHASE)), None)


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events of whole lines, one at a time; what is none is left out."""
    for line in lines:
        if line.endswith(b"\n"):
            with contextlib.suppress(ValueError):
                yield from_json(line.decode("utf-8", "replace"))


def story(run: Run) -> Story:
    """What the run's events tell so far."""
    try:
        found = run.events.stat()
    except FileNotFoundError:
        return Story(0, None, (), (), {}, None)
    return _story(run.events, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _story(path: Path, size: int, changed: int) -> Story:
    """`size` and `changed` say which state of the file is meant."""
    with open(path, "rb") as file:
        lines = file.read(size).splitlines(keepends=True)
    marks = [at for at, line in enumerate(lines) if line.startswith(_STEP_LINE)]
    stride = max(1, len(marks) // _STEPS_READ)
    passed_over = set(marks[:-1]) - set(marks[::stride])
    events = runs.in_force(_events(line for at, line in enumerate(lines) if at not in passed_over))
    steps = [(event.step, event.loss) for event in events if isinstance(event, Step)]
    samples: dict[str, dict[int, str]] = {}
    for event in events:
        if isinstance(event, Sample):
            answers = samples.setdefault(event.prompt, {})
            if len(answers) > 1:
                del answers[max(answers)]
            answers[event.step] = event.text
    return Story(
        steps[-1][0] if steps else 0,
        next((event.steps for event in reversed(events) if isinstance(event, Started)), None),
        thinned(steps, CURVE),
        thinned([(event.step, event.loss) for event in events if isinstance(event, Evaluated)], CURVE),
        samples,
        _last_of_phase(reversed(events)),
    )


def thinned(points: Sequence[tuple[int, float]], most: int) -> Points:
    """At most so many points in place of many: the mean of as many neighbours each, at the place of the last of them."""
    if len(points) <= most:
        return tuple((step, round(loss, 5)) for step, loss in points)
    edges = [len(points) * at // most for at in range(most + 1)]
    groups = [points[low:high] for low, high in zip(edges, edges[1:], strict=False)]
    return tuple((group[-1][0], round(fmean(loss for _, loss in group), 5)) for group in groups)


def recipe(run: Run) -> Recipe:
    """The run's recipe. Raises BadInput where it cannot be read."""
    found = (run.folder / runs.RECIPE).stat()
    return _recipe(run, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _recipe(run: Run, size: int, changed: int) -> Recipe:
    return run.recipe


def summaries() -> list[dict]:
    """A row for each run, newest first: `name`, what it learns from what, how far it is, small curves, `when` it was begun (seconds
    since 1970) and the bytes it takes on disk."""
    rows = []
    for name, run in runs.known().items():
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            rows.append(summary(name, run))
    return rows


def summary(name: str, run: Run) -> dict:
    """A run's row in `summaries`."""
    told = story(run)
    try:
        plan = recipe(run)
        base, data = plan.model, plan.data.source
    except BadInput as error:  # one that a person or another version wrote; the other runs are still listed
        base, data = "", str(error)
    last = told.last
    return {
        "name": name,
        "id": run.id,
        "status": runs.phase(run, [last] if last else []),
        "base": paths.public_name(base),
        "data": paths.public_name(data),
        "step": told.step,
        "steps": told.steps,
        "loss": told.curve[-1][1] if told.curve else None,
        "held_out": [told.tests[0][1], told.tests[-1][1]] if told.tests else None,
        "curve": thinned(told.curve, SMALL),
        "tests": thinned(told.tests, SMALL),
        "when": run.begun,
        "bytes": disk(run.folder),
        "adapter": run.adapter.is_dir(),
        "text": last.text if isinstance(last, Ended) else "",
    }


def disk(folder: Path) -> int:
    """Bytes of all files in a folder, less those that vanish meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if not path.is_symlink() and path.is_file():
                total += path.stat().st_size
    return total


def compared(names: Sequence[str]) -> dict:
    """Several runs beside each other: `runs` with their curves; `recipes` with a row for each key whose values differ; `answers` to
    each sample prompt, before and after training, None where a run was not asked it. Raises BadInput."""
    if not 1 <= len(names) <= MAX_COMPARED or len(set(names)) < len(names):
        raise BadInput(f"Choose one to {MAX_COMPARED} runs, each once.")
    found = [(name, runs.known_as(name)) for name in names]
    stories = [story(run) for _, run in found]
    prompts = dict.fromkeys(prompt for told in stories for prompt in told.samples)
    return {
        "runs": [
            {"name": name, "id": run.id, "steps": told.steps, "curve": told.curve, "tests": told.tests}
            for (name, run), told in zip(found, stories, strict=True)
        ],
        "recipes": differences([recipe(run) for _, run in found]),
        "answers": [{"prompt": prompt, "runs": [_answers(told.samples.get(prompt)) for told in stories]} for prompt in prompts],
    }


def _answers(answers: dict[int, str] | None) -> list[dict] | None:
    return answers and [{"step": step, "text": text} for step, text in sorted(answers.items())]


def differences(recipes: Sequence[Recipe]) -> list[dict]:
    """The keys of recipes, dotted, whose values are not all the same, each with its title and every recipe's value."""
    flat = [dict(_flat(each)) for each in recipes]
    rows = []
    for key, title in _titles():
        values = [each[key] for each in flat]
        if any(value != values[0] for value in values):
            rows.append({"key": key, "title": title, "values": [_said(value) for value in values]})
    return rows


def _flat(plan: Recipe) -> Iterator[tuple[str, object]]:
    for name, value in plan.model_dump(mode="json").items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", each) for key, each in value.items())
        else:
            yield name, value


def _titles() -> Iterator[tuple[str, str]]:
    """Every dotted key of a recipe with its field's title."""
    for name, field in Recipe.model_fields.items():
        if inner := getattr(field.annotation, "model_fields", None):
            yield from ((f"{name}.{key}", each.title or key) for key, each in inner.items())
        else:
            yield name, field.title or name


def _said(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list() if value:
            return ", ".join(map(str, value))
    return "–" if value in (None, "", [], {}) else str(value)


def commands(name: str, run: Run, now: Phase) -> list[dict]:
    """What a person would type now: `what` it does and the `command`."""
    called, folder = shlex.quote(name), shlex.quote(str(run.folder))
    found = [("Say how it stands", f"python -m engine runs {called}")]
    if now in ("waiting", "starting", "training"):
        found.append(("Follow it", f"tail -f {folder}/{runs.EVENTS}"))
    elif now == "done":
        base = shlex.quote(recipe(run).model)
        found.append(("Chat with it", f"python -m engine chat --model {base} --adapter {called} PROMPT"))
    elif run.hub_job_goes_on:
        found.append(("Follow its job again", f"python -m engine job --follow {called}"))
    else:
        found.append(("Go on with it", f"python -m engine train {folder}/{runs.RECIPE} --run-dir {folder} --resume"))
    return [{"what": what, "command": command} for what, command in found]


def lost(run: Run, loaded: Collection[str] = ()) -> str:
    """What deleting a run takes away, in words. `loaded`: adapters that the chat has."""
    told, saved = story(run), len(run.steps_saved())
    parts = [f"its {told.step:,} step{'s' * (told.step > 1)} of training"] if told.step else []
    parts += [f"{saved} checkpoint{'s' * (saved > 1)}"] if saved else []
    parts += ["the finished adapter"] if run.adapter.is_dir() else []
    what = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts) or "its recipe"
    said = [f"Deleting {run.id} takes away {what}: {disk(run.folder) / 1e6:,.1f} MB. It cannot be brought back."]
    if run.folder.parent != paths.runs():
        said.append(f"Everything in {run.folder} goes.")
    names = {run.id, str(run.folder), str(run.adapter)}
    if names & set(loaded):
        said.append("Its adapter is loaded for the chat; it stays usable there only until the model is loaded again.")
    if later := [other.id for other in runs.every() if other != run and _began_from(other, names)]:
        said.append(f"Begun from its adapter: {', '.join(later)}. They keep what they learnt, but cannot be started anew.")
    return " ".join(said)


def _began_from(run: Run, names: Collection[str]) -> bool:
    with contextlib.suppress(BadInput, OSError):
        return recipe(run).lora.start_from in names
    return False


def delete(run: Run) -> None:
    """Remove a run's folder, which is whole or gone. Raises BadInput where it is under way, EngineError where the system does not let
    it go."""
    if run.hub_job_goes_on and not run.process:
        raise BadInput(f"A job of the Hub may still train {run.id}. Resume follows it to its end; then it can be deleted.")
    jobs.remove(run)
    for pointer in paths.runs().glob(_POINTERS):
        if pointer.read_text(encoding="utf-8") == str(run.folder):
            pointer.unlink()

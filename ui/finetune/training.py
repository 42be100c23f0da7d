"""The live view of one run: how far it is, its curves, what it answers meanwhile; stop, end, resume.

The page asks for the events it has not seen and keeps what it was told; nothing of a visitor is kept here. So a reload, a second
tab and a restart of the app show the same run.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict

import gradio as gr

from engine import checkpoints, history, jobs, runs, telling, visitors
from engine.errors import EngineError
from engine.events import Adjusted, Ended, Evaluated, Event, Notice, Progress, Queued, Sample, Saved, Started, Step
from engine.findings import findings
from engine.messages import checked_text
from engine.paths import public_name
from engine.runs import Run
from engine.services import Services
from ui import assets, form

MAX_NAME_CHARS = 4_000
UNDER_WAY = ("waiting", "starting", "training")
# Of what a process said that ended without a word.
_OUTPUT_CHARS = 2_000
# Asked for by the page's own script, which shows what it is told; none takes long.
PLAIN = {"queue": False}


def draw(services: Services) -> gr.HTML:
    """The view inside the Blocks that are open. Setting its value as `turned_to` says turns it to a run."""
    view = gr.HTML(
        {},
        html_template="<div></div>",
        js_on_load=assets.script("chart.js", "run_parts.js", "run.js"),
        elem_id="run",
        apply_default_css=False,
    )
    views = Views(services)
    gr.api(views.follow, api_name="finetune_follow", **PLAIN)
    gr.api(views.stop, api_name="finetune_stop", **PLAIN)
    gr.api(views.kill, api_name="finetune_kill", **PLAIN)
    gr.api(views.resume, api_name="finetune_resume", **PLAIN)
    return view


def turned_to(run: str) -> dict:
    """A value of the view that turns it to a run, also where it was turned to that one before and shows another by now."""
    return {"open": run, "asked": secrets.token_hex(8)}


class Views:
    """What the view's endpoints do."""

    def __init__(self, services: Services):
        self._services = services

    def follow(self, run: str = "", offset: int = 0) -> dict:
        """What a run told after byte `offset` of its events, and how it stands. An empty `run` is the one under way, else the
        latest; `more` says that there is more to read at once."""
        with form.explained():
            if self._services.read_only and not run:  # runs of others are nobody's to see; of one's own the page knows the name
                return {"run": ""}
            name, found = _meant(run, self._services.read_only)
            told = _told(name, found, offset if type(offset) is int and offset > 0 else 0) if found else {"run": ""}
            return _for_visitors(told) if self._services.read_only else told

    def stop(self, run: str) -> dict:
        """Ask a run to save and end."""
        with form.explained():
            name, found = self._own(run)
            jobs.stop(found)
            return {"run": name}

    def kill(self, run: str) -> dict:
        """End a run at once, from its last checkpoint on its work is lost."""
        with form.explained():
            name, found = self._own(run)
            jobs.end_at_once(found)
            return {"run": name}

    def resume(self, run: str) -> dict:
        """Go on with a run from its last checkpoint, when the machine is free."""
        with form.explained():
            name, found = self._own(run)
            go_on = visitors.resume if self._services.read_only else jobs.resume
            go_on(found)
            return {"run": name}

    def _own(self, run: str) -> tuple[str, Run]:
        return named(run, self._services.read_only)


def named(run: object, public: bool = False) -> tuple[str, Run]:
    """A run by the name that a client gives, with the name; `public` as in `runs.known_as`. Raises BadInput."""
    name = checked_text(run, "The name of a run", MAX_NAME_CHARS)
    return name, runs.known_as(name, public)


def _meant(run: object, public: bool) -> tuple[str, Run | None]:
    if run:
        return named(run, public)
    return history.current() or next(iter(runs.known().items()), ("", None))


def _told(name: str, run: Run, offset: int) -> dict:
    """What the page needs of a run, series as arrays."""
    try:
        found = run.events.stat()
        size, age = found.st_size, max(0.0, time.time() - found.st_mtime)
    except FileNotFoundError:
        size, age = 0, 0.0
    again = offset > size  # the run's folder was begun anew
    begin = 0 if again else offset
    events, end = jobs.follow(run, begin)
    now = history.phase(run)
    goes = now in UNDER_WAY
    other = None if goes else history.current()
    return {
        "run": name,
        "id": run.id,
        "offset": end,
        "again": again,
        "more": begin < end < size,
        "phase": now,
        "age": round(age, 1),
        "waiting": _waiting(run) if now == "waiting" else None,
        "resume_from": None if goes or now == "done" else checkpoints.sound_step(run),
        "other": other[0] if other else "",
        **_compact(events),
        **_about(name, run, events, not begin, now),
    }


def _for_visitors(told: dict) -> dict:
    """The same without what a public host keeps to itself: other visitors' runs, its folders and commands."""
    told = {name: value for name, value in told.items() if name not in ("commands", "output")} | {"other": ""}
    for name in ("base", "data"):
        told[name] = public_name(told.get(name, ""))
    if told.get("waiting"):
        told["waiting"]["holder"] = "another run"
    told["log"] = [line for line in told.get("log", ()) if line["kind"] not in ("queued", "done", "failed")]
    return told


def _waiting(run: Run) -> dict | None:
    events, _ = jobs.follow(run, max(0, run.events.stat().st_size - 4_000))
    last = next((event for event in reversed(events) if isinstance(event, Queued)), None)
    return last and asdict(last)


def _compact(events: Sequence[Event]) -> dict:
    """Events as a page draws them. `resumed_from` says after which step it is to forget what it has."""
    made = runs.in_force(events)
    steps = [event for event in made if isinstance(event, Step)]
    started = [event for event in events if isinstance(event, Started)]
    doing = None
    for event in events:
        if isinstance(event, Progress):
            doing = asdict(event)
        elif isinstance(event, Started | Step | Evaluated | Ended):
            doing = {}
    return {
        "steps": {
            "step": [event.step for event in steps],
            "loss": [_short(event.loss) for event in steps],
            "grad_norm": [_short(event.grad_norm) for event in steps],
            "learning_rate": [_short(event.learning_rate) for event in steps],
            "epoch": [event.epoch for event in steps],
        },
        "now": {name: getattr(steps[-1], name) for name in ("tokens_per_second", "memory", "eta_seconds")} if steps else None,
        "tests": [[event.step, _short(event.loss)] for event in made if isinstance(event, Evaluated)],
        "samples": [[event.step, event.prompt, event.text] for event in made if isinstance(event, Sample)],
        "started": asdict(started[-1]) if started else None,
        "resumed_from": min((event.resumed_from for event in started), default=None),
        "saved": max((event.step for event in made if isinstance(event, Saved)), default=None),
        "doing": doing,
        "log": [line for event in events if (line := _line(event))],
    }


def _short(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.6g}")


def _line(event: Event) -> dict | None:
    """An event as a line of the log, None for what is shown elsewhere."""
    match event:
        case Started(resumed_from=step):
            begins = f"Going on after step {step:,}" if step else "Beginning"
            text = (
                f"{begins}: {telling.counted(event.steps, 'step')} on {telling.counted(event.rows, 'row')}, {event.held_out:,} held out; "
                f"{event.parameters / 1e6:.2f}M parameters learn, on {event.device}, base {event.quantization}, computing in {event.dtype}, "
                f"{telling.counted(event.micro_batch, 'row')} a pass."
            )
            return {"kind": "started", "text": text}
        case Queued():
            return {"kind": "queued", "text": f"In line: {event.holder} has the machine; place {event.place}."}
        case Notice():
            return {"kind": "notice", "text": event.text}
        case Adjusted():
            return {"kind": "adjusted", "text": event.text}
        case Saved():
            return {"kind": "saved", "text": f"Step {event.step:,} saved: {event.bytes / 1e6:.1f} MB in {event.seconds:.1f} s."}
        case Ended():
            return {"kind": event.status, "text": event.text}
    return None


def _about(name: str, run: Run, events: Sequence[Event], first: bool, now: runs.Phase) -> dict:
    """What does not come with every step: what is found in the curves (anew where something but steps was told), what is trained,
    commands, and the last words of a process that ended without any."""
    about: dict = {}
    try:
        plan = history.recipe(run)
        about |= {"base": plan.model, "data": plan.data.source, "commands": history.commands(name, run, now)}
        if first or not all(isinstance(event, Step | Progress | Queued | Sample) for event in events):
            about["findings"] = [asdict(each) for each in findings(plan, runs.all_events(run))]
    except EngineError as error:
        about["base"] = str(error)
    if now == "interrupted":
        about["output"] = _output(run)
    return about


def _output(run: Run) -> str:
    with contextlib.suppress(OSError), open(run.folder / runs.OUTPUT, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _OUTPUT_CHARS))
        return file.read().decode("utf-8", "replace").strip()
    return ""

"""What was measured and what is being: the list, one result or two beside each other, stopping, going on, deleting."""

import re
import textwrap

import gradio as gr

from engine import jobs
from engine.blend import NO_ADAPTER
from engine.errors import BadInput
from engine.evaluate import comparing, measurements, measuring
from engine.evaluate.measurements import Measurement
from engine.messages import checked_text
from engine.paths import public_name
from engine.services import Services
from ui import assets, form
from ui.measure import figures

NOT_HERE = (
    "Measuring keeps a processor busy for minutes, so it is for hosts of one's own: run the app on your own machine, or "
    "`python -m engine evaluate mmlu --limit 200`."
)
MOST_SHOWN = 2
# Asked for by the page's own script, which shows what it is told; none takes long.
PLAIN = {"queue": False}
_NAME_CHARS = 300
_HASH = re.compile(r"[0-9a-f]{40,}")
_SYSTEM_CHARS = 80


def draw(services: Services) -> gr.HTML:
    """The list inside the Blocks that are open. Setting its value to `{"open": ids}` shows these."""
    view = gr.HTML(
        {},
        html_template="<div></div>",
        js_on_load=assets.script("chart.js", "measured.js"),
        elem_id="measured",
        apply_default_css=False,
        most=MOST_SHOWN,
    )
    shelf = Shelf(services)
    gr.api(shelf.every, api_name="measure_list", **PLAIN)
    gr.api(shelf.show, api_name="measure_show", **PLAIN)
    gr.api(shelf.stop, api_name="measure_stop", **PLAIN)
    gr.api(shelf.resume, api_name="measure_resume", **PLAIN)
    gr.api(shelf.delete, api_name="measure_delete", **PLAIN)
    return view


class Shelf:
    """What the list's endpoints do."""

    def __init__(self, services: Services):
        self._services = services

    def every(self) -> dict:
        """All measurements, newest first."""
        if self._services.read_only:
            return {"rows": [], "off": NOT_HERE}
        with form.explained():
            return {"rows": measurements.of_all(row_of)}

    def show(self, ids: list[str]) -> dict:
        """One result, or two of the same measure beside each other: their figure, what they were made with, the paired test."""
        with form.explained():
            self._owner_only()
            if not isinstance(ids, (list, tuple)) or not 1 <= len(ids) <= MOST_SHOWN:
                raise BadInput(f"Name one measurement, or {MOST_SHOWN}.")
            # The base before what became of it.
            found = sorted(map(self._found, ids), key=lambda each: each.settings.adapter != NO_ADAPTER)
            done = [each for each in found if each.result]
            kinds = {each.settings.measure for each in found}
            alike = len(kinds) == 1
            shown = done if alike else done[:1]
            named = _apart([called(each) for each in shown])
            return {
                "measurements": [about(each) for each in found],
                "figure": figures.figure(shown[0].settings.measure, list(zip(named, [each.result for each in shown], strict=True)))
                if shown
                else None,
                "compared": _compared(found) if len(found) > 1 and (done == found or not alike) else None,
            }

    def stop(self, id: str) -> dict:
        """Ask a measurement to end; what was scored is kept."""
        with form.explained():
            self._owner_only()
            found = self._found(id)
            jobs.stop(found)
            return {"id": found.id}

    def resume(self, id: str) -> dict:
        """Go on with one that did not end."""
        with form.explained():
            self._owner_only()
            found = self._found(id)
            measurements.resume(found)
            return {"id": found.id}

    def delete(self, id: str) -> dict:
        """Delete one, with all that it scored."""
        with form.explained():
            self._owner_only()
            found = self._found(id)
            jobs.remove(found)
            return {"id": found.id}

    def _found(self, id: object) -> Measurement:
        return measurements.find(checked_text(id, "The name of a measurement", _NAME_CHARS))

    def _owner_only(self) -> None:
        if self._services.read_only:
            raise BadInput(NOT_HERE)


def row_of(measurement: Measurement) -> dict:
    """A measurement as a line of the list."""
    told = measurements.summary(measurement)
    settings, result = told["settings"], told["result"]
    return {
        "id": told["id"],
        "status": told["status"],
        "what": _what(settings, told["facts"]) if settings else "",
        "of": called(measurement) if settings else told["id"],
        "done": told["done"],
        "items": told["facts"].get("items"),
        "fraction": told["fraction"],
        "when": told["when"],
        "words": measuring.words(settings["measure"], result) if result else told["text"],
    }


def _what(settings: dict, facts: dict) -> str:
    """What is measured, in a few words."""
    title = measuring.titled(settings["measure"], facts)
    return title if settings["measure"] == "mmlu" else f"{title} · {public_name(settings['data'])}"


def called(measurement: Measurement) -> str:
    """Whom it measures: the model, and the adapter where there is one."""
    settings = measurement.settings
    held = "" if settings.load.quantization == "none" else f" · {settings.load.quantization.upper()}"
    adapter = "" if settings.adapter == NO_ADAPTER else f" + {public_name(settings.adapter)}"
    return f"{public_name(settings.model)}{adapter}{held}"


def _apart(names: list[str]) -> list[str]:
    """Names that are alike are numbered."""
    return names if len(set(names)) == len(names) else [f"{name} ({at})" for at, name in enumerate(names, 1)]


def about(measurement: Measurement) -> dict:
    """What stands under a result."""
    facts, result, settings = measurement.facts, measurement.result or {}, measurement.settings
    said = [
        f"{facts['backend']}, {facts['quantization']}, {facts['compute_dtype']}, {facts['device']}" if facts else "",
        f"data {facts['data'] or 'published questions'}, SHA-256 {_short(facts['data_sha256'])}" if facts else "",
        f"weights {_short(facts['weights'])}" + (f", adapter {_short(facts['adapter_sha256'])}" if facts["adapter_sha256"] else "")
        if facts
        else "",
        *(_asked(facts) if facts.get("formed") else []),
        f"a sample of {settings.limit:,} (seed {settings.seed})" if _sampled(facts, settings.limit) else "",
    ]
    return {
        **row_of(measurement),
        "facts": [each for each in said if each],
        "told": result.get("told", []),
        "caveats": result.get("caveats", []),
        "details": figures.details(measurement),
        "command": f"python -m engine evaluate {settings.measure} --resume {measurement.id}",
    }


def _sampled(facts: dict, limit: int | None) -> bool:
    """Whether there is more than was measured. Where it was not noted how much there is, what took as many as it was to is a sample."""
    return bool(facts and limit) and limit < facts.get("there", facts["items"] + 1)


def _short(mark: str) -> str:
    """As much of a hash as people compare; what is none, as a version, is left whole."""
    return mark[:12] if _HASH.fullmatch(mark) else mark


def _asked(facts: dict) -> list[str]:
    """How the answers of a data set were asked for."""
    system = textwrap.shorten(facts["system"], _SYSTEM_CHARS, placeholder=" …")
    return [f"prompt format {facts['prompt_format']}", f"system text “{system}”" if system else "no system text"]


def _compared(found: list[Measurement]) -> dict:
    """The paired test of two, or why there is none."""
    try:
        made = comparing.compared(*found, called=_apart([called(each) for each in found])[1])
    except BadInput as error:
        return {"words": str(error), "groups": {}}
    groups = {name: {"counted": comparing.counted(made.measure, each), "p": each.p} for name, each in made.groups.items()}
    return {"words": made.words, "groups": groups}

"""What the steps of the wizard share: the draft's base, rows and figures, kept on the host while they are looked at.

Nothing of a visitor is kept here: a draft comes from its browser, and what is computed for it can be computed again.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import fitting, hub, jobs, memory, models, pace, paths, presets, preview, runs, telling, tokenizer_files, trainable, uploads
from engine.backends.base import Stop
from engine.blend import NO_ADAPTER
from engine.datasets import Data
from engine.drafts import COMPARED_ROWS, COMPARED_TOKENS, Base, Draft
from engine.errors import BadInput
from engine.events import Progress
from engine.hub import HUB_ID
from engine.model_files import local_path
from engine.model_spec import ModelSpec
from engine.pace import Pace
from engine.paths import public_name
from engine.preview import Cutoff, Measured
from engine.prompts import Format, chosen_format
from engine.rows import LEAST_ROWS
from engine.services import NO_TRAINING, Services
from engine.tokenizers import Tokenizer
from ui.finetune import views
from ui.finetune.counts import Counts

# Tokenizers, configs of the Hub, beginnings and counts of data sets, the latest of all visitors; on a public host with texts of so many
# characters in all.
_KEPT, _KEPT_CHARACTERS = 24, 100_000_000
# How often somebody who waits to be read for is looked after, seconds.
_LOOK_SECONDS = 0.2

# Whoever asks for something else while one is on its way gets what was asked for last and could be had: an answer waits while later asks
# are open, and is taken where they come to nothing. The number of an ask is the page's; who asks for the same again, as Gradio may do by
# itself, asks once.
_ASKING = """(...values) => {
  const asks = (window.guanacoAsks ||= {}), mine = (asks.WHAT ||= {number: 0, taken: 0, open: new Set(), waiting: null});
  const asked = JSON.stringify(["NAME", ...values.slice(2)]);
  if (asked !== mine.asked) mine.number++;
  mine.asked = asked;
  mine.open.add(mine.number);
  return [{ask: mine.number}, ...values.slice(1)];
}"""
_LATEST = """found => {
  const mine = window.guanacoAsks?.WHAT;
  if (!found || !mine) return null;
  mine.open.delete(found.ask);
  const good = found.wrong === "", waiting = mine.waiting;
  if (found.ask < mine.taken) return null;
  if ([...mine.open].some(ask => ask > found.ask)) {
    if (good && !(waiting?.ask > found.ask)) mine.waiting = found;
    return null;
  }
  mine.waiting = null;
  const take = good ? found : waiting?.ask > mine.taken ? {...waiting, refused: found.wrong} : null;
  if (take) mine.taken = take.ask;
  return take || (found.wrong ? found : null);
}"""
# What was refused before it was heard, as by a full queue, was asked for last.
_UNHEARD = """() => {
  const mine = window.guanacoAsks?.WHAT, waiting = mine?.waiting;
  mine?.open.delete(Math.max(...mine.open));
  if (!waiting || [...mine.open].some(ask => ask > waiting.ask)) return null;
  mine.waiting = null;
  mine.taken = waiting.ask;
  return waiting;
}"""


@dataclass(frozen=True)
class Workshop:
    """`services` are the app's; `counts` those of rows under way, `_made` the latest measurements by what they are of, with the
    characters of their texts."""

    services: Services
    counts: Counts = field(default_factory=Counts)
    _made: OrderedDict[tuple, tuple[Any, int]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def allowed(self, draft: Draft | None = None) -> None:
        """Raises BadInput on a host where visitors may not train, or where a draft of theirs names what is the host's own."""
        if not self.services.may_train:
            raise BadInput(NO_TRAINING)
        if draft is None or not self.services.read_only:
            return
        source, start = draft.recipe.data.source, draft.recipe.lora.start_from
        # Nothing else of the disk is looked at, or visitors could ask what there is.
        ours = [place for each in (*uploads.bundled().values(), paths.uploads()) for place in (each, each.resolve())]
        named = [each for each in ours if Path(source).is_relative_to(each)]
        kept = any(local_path(source).resolve().is_relative_to(each.resolve()) for each in named)
        on_the_hub = HUB_ID.fullmatch(source.partition(":")[0].partition("@")[0]) and not local_path(source).exists()
        if source and not (kept or on_the_hub):
            raise BadInput("On this public host rows are uploaded, pasted or fetched from the Hub; its own files are not for visitors.")
        if draft.recipe.model not in models.MODELS or start not in (NO_ADAPTER, *models.ADAPTERS):
            raise BadInput("On this public host the bases and adapters in the lists can be finetuned, no others.")
        self._check_open(models.MODELS[draft.recipe.model])

    def _check_open(self, spec: ModelSpec) -> None:
        """Raises BadInput for a base that would be fetched for a visitor by what its owner alone has agreed to."""
        if not self._open(spec):
            raise BadInput(
                f"{spec.id} is gated, and not on the disk of this public host. Choose another base, or run the app on your own machine."
            )

    def _open(self, spec: ModelSpec) -> bool:
        return not (self.services.read_only and spec.gated) or spec.in_safetensors

    def _peek(self, key: tuple) -> Any:
        """What was made of that, None where nothing is kept."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
            return self._made.get(key, (None, 0))[0]

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        if (made := self._peek(key)) is not None:
            return made
        made = make()
        with self._lock:
            self._made[key] = made, _characters(made)
            self._made.move_to_end(key)
            while len(self._made) > (1 if self._long() else _KEPT):
                self._made.popitem(last=False)
        return made

    def _long(self) -> bool:
        return self.services.read_only and sum(size for _, size in self._made.values()) > _KEPT_CHARACTERS

    def spec(self, draft: Draft) -> ModelSpec:
        """The base, with its shape where it is known or on disk. Raises BadInput where there is none such, or none for visitors."""
        if self.services.read_only and draft.recipe.model not in models.MODELS:
            raise BadInput("On this public host the bases in the list can be finetuned, no others.")
        spec = trainable.as_known_here(models.resolve(draft.recipe.model))
        self._check_open(spec)
        return spec if spec.shape else self._peek(("base", spec.id)) or spec

    def base(self, draft: Draft) -> ModelSpec:
        """The same, seen to be one that can be trained: the config of one on the Hub is looked at. Raises BadInput, or EngineError where
        the Hub does not answer."""
        trainable.base(draft.recipe.model)
        spec = self.spec(draft)
        return self._once(("base", spec.id), lambda: trainable.looked_at(spec)) if spec.kind == "hub" else spec

    def check_start(self, draft: Draft) -> None:
        """Raises BadInput where the draft's base cannot go on with the adapter it names, EngineError where the Hub does not answer."""
        key = "adapter", draft.recipe.lora.start_from, draft.recipe.model
        if self._peek(key) is None:
            found = trainable.start(draft.recipe, self.spec(draft))
            if found and not found.weights.is_file():  # one on the Hub; what is here may change
                self._once(key, lambda: found)

    def too_large(self, draft: Draft) -> str:
        """Why the recipe does not fit this machine and what to do, empty where it does or where the base's shape is not known."""
        plan = self.plan(draft)
        if plan is None or plan.fits:
            return ""
        try:
            fitting.made_to_fit(self.spec(draft).shape, draft.recipe, jobs.machine())
        except BadInput as error:  # it names what would do
            return str(error)
        need, have = views.gigabytes(plan.resident), views.gigabytes(plan.have)
        return (
            f"This recipe needs {need} on this machine, and {have} can be used. “Make it fit” in step 5 changes it until it does; "
            "a smaller base in step 1 needs less."
        )

    def tokenizer(self, draft: Draft, report: hub.Report = lambda progress: None) -> Tokenizer:
        return self._once(("tokenizer", draft.recipe.model), lambda: tokenizer_files.opened(self.spec(draft), report))

    def form(self, draft: Draft) -> Format:
        """The format that turns become text in."""
        return chosen_format(draft.recipe.data.prompt_format, self.spec(draft).prompt, self.tokenizer(draft))

    def first(self, draft: Draft, report: hub.Report = lambda progress: None) -> preview.First:
        """The beginning of the data, at once; `report` hears what is fetched for it."""
        self.allowed(draft)
        data = draft.recipe.data
        key = "first", data.source, data.format, tuple(sorted(data.columns.items()))
        return self._once(key, lambda: preview.first(data.source, data.format, data.columns, report, self.services.read_only))

    def readable(self, draft: Draft) -> preview.First:
        """The same. Raises BadInput that says what to do where no row of it can be read."""
        first = self.first(draft)
        if first.unsure:
            raise BadInput(f"{first.reason.rstrip('.')}. Say in step 2 which column holds what.")
        return first

    def measured(self, draft: Draft) -> Measured | None:
        """The lengths of all rows, where they were measured already."""
        return self._peek(self._key(draft))

    def refused(self, draft: Draft) -> str:
        """Why the rows could not be counted as they were asked for last, empty where they could or were not asked for."""
        return self._peek(("refused", *self._key(draft))) or "" if self.measured(draft) is None else ""

    def measuring(self, draft: Draft, session: str = "", place: str = "", calm: float = 0) -> Iterator[Progress | Measured]:
        """The same, made now and once for all who ask, as `Counts.heard`; the last value is whole."""
        self.allowed(draft)

        def make(stop: Stop) -> Iterator[Progress | Measured]:
            data = draft.recipe.data
            asked = data.source, self.spec(draft), self.form(draft), data.format, data.columns, data.system
            with self._turn(stop) as admitted:
                for each in preview.measuring(*asked, stop=stop, public=self.services.read_only) if admitted else ():
                    if isinstance(each, Measured) and each.done:
                        self._once(self._key(draft), lambda: each)
                    yield each

        if (made := self.measured(draft)) is not None:
            yield made
        else:
            try:
                yield from self.counts.heard(session, self._key(draft), make, place, calm)
            except BadInput as error:
                why = str(error)
                self._once(("refused", *self._key(draft)), lambda: why)
                raise

    @contextlib.contextmanager
    def _turn(self, stop: Stop) -> Iterator[bool]:
        """On a public host rows are read for one visitor at a time: what nobody waits for any more goes on until they are. Gives whether it
        came to that before `stop`."""
        while admitted := not stop():
            if not self.services.read_only or self._reading.acquire(timeout=_LOOK_SECONDS):
                break
        try:
            yield admitted
        finally:
            if admitted and self.services.read_only:
                self._reading.release()

    def give_up_others(self, draft: Draft, session: str | None) -> None:
        """A session waits for counts of this draft alone from now on."""
        self.counts.only(session or "", self._key(draft))

    def counted(self, draft: Draft) -> Measured:
        """The lengths of all rows, measured now where they are not yet."""
        *_, measured = self.measuring(draft)
        return measured

    def _key(self, draft: Draft) -> tuple:
        data = draft.recipe.data
        return "rows", draft.recipe.model, data.source, data.format, tuple(sorted(data.columns.items())), data.prompt_format, data.system

    def cutoff(self, draft: Draft) -> Cutoff | None:
        """What the recipe's limits do to the rows, where they were measured."""
        made = self.measured(draft)
        return made and self.cut(draft, made)

    def cut(self, draft: Draft, made: Measured) -> Cutoff:
        """What the recipe's limits do to these rows."""
        data = draft.recipe.data
        return made.at(data.lengths, data.learn == "everything")

    def check_for_visitors(self, draft: Draft, made: Measured) -> None:
        """Raises BadInput where a run over these rows is more than a visitor may start. The bases for visitors are of known shapes."""
        cut = self.cut(draft, made)
        trainable.check_for_visitors(draft.recipe, made.rows, cut.total / max(1, cut.rows), self.pace(draft))

    def plan(self, draft: Draft) -> memory.Plan | None:
        """What training takes here, None where the base's shape is not known."""
        shape = self.spec(draft).shape
        return shape and memory.training_plan(shape, draft.recipe, jobs.machine())

    def pace(self, draft: Draft) -> Pace | None:
        spec = self.spec(draft)
        return spec.shape and pace.pace(spec.shape, draft.recipe, jobs.machine(), draft.recipe.model)

    def sentence(self, draft: Draft) -> str:
        """What the recipe means for these rows: passes, updates, time."""
        if not draft.recipe.data.source:
            return "Choose the data first; then it says here how long the run takes."
        found, speed = self.cutoff(draft), self.pace(draft)
        if not found:
            return "How many updates and how long is known once the rows are counted."
        if not speed:
            return "How long it takes is known once this base is on disk."
        if found.rows < LEAST_ROWS:
            return f"{found.rows} of these rows can be learnt from within this limit; at least {LEAST_ROWS} are needed."
        try:
            return pace.sentence(draft.recipe, found.rows, found.total / found.rows, speed)
        except BadInput as error:  # all rows would be held out
            return str(error)

    def duration(self, draft: Draft, seconds_per_step: float) -> str:
        """How long the run takes at a measured pace, at most, since other rows are shorter; empty where the rows are not counted."""
        found = self.cutoff(draft)
        if not found or found.rows < LEAST_ROWS:
            return ""
        steps = pace.work(draft.recipe, found.rows).steps
        take = "takes" if steps == 1 else "take"
        return f"{telling.counted(steps, 'update')} at this pace {take} {pace.duration_words(steps * seconds_per_step)} at most: most rows are shorter."

    def clone(self, run: str, draft: Draft) -> Draft:
        """The draft with the recipe of a run. Raises BadInput where there is none such."""
        self.allowed()
        if self.services.read_only:
            raise BadInput("The runs of a public host are not all yours. Run the app on your own machine to clone one.")
        recipe = runs.known_as(run).recipe
        return draft.model_copy(update={"recipe": recipe, "title": public_name(recipe.data.source)})

    def bases(self, chosen: ModelSpec | None = None) -> list[Base]:
        """All bases of the registry and the `chosen` one, where its shape is known: those that fit this machine first, small before large."""
        machine, found = jobs.machine(), []
        specs = {spec.id: spec for spec in (*models.MODELS.values(), chosen) if spec and spec.shape and self._open(spec)}
        for spec in specs.values():
            recipe = presets.of_model(spec.id)
            plan = memory.training_plan(spec.shape, recipe, machine)
            seconds = pace.seconds(COMPARED_ROWS, COMPARED_TOKENS, pace.pace(spec.shape, recipe, machine, spec.id))
            # A training takes the weights in safetensors, whatever a chat would fetch; the starter's are made of the file that it has.
            there = spec.on_disk if spec.kind == "starter" else spec.in_safetensors
            found.append(Base(spec.id, spec.title, spec.licence, spec.gated, plan.resident, plan.fits, seconds, spec.download_bytes, there))
        return sorted(found, key=lambda base: (not base.fits, base.need))


def _characters(made: object) -> int:
    """How long the texts are that it holds."""
    held = made.data if isinstance(made, Measured) else made
    held = held.conversations if isinstance(held, Data | preview.First) else ()
    return sum(len(message.text) for each in held for message in each.messages)


def kept(draft: Draft) -> dict:
    """A draft for the browser to keep."""
    return draft.model_dump(mode="json")


def asking(what: str, name: str) -> str:
    """The page's part of an event that asks for one of `what`, by the `name` of a control: its inputs are where the answer goes, the
    draft, and what is asked for; the function gets `{"ask": number}` in place of the first, for its answer to hold. `wrong` in the answer
    says why it cannot be had; it is empty where it can, and None where nothing was asked for."""
    return _ASKING.replace("WHAT", what).replace("NAME", name)


def latest(what: str) -> str:
    """What of its answer is handed to the change after it: the answer to take, or the one that says what is wrong with the last ask, or
    nothing. One that is taken since a later ask came to nothing says in `refused` why that did."""
    return _LATEST.replace("WHAT", what)


def unheard(what: str) -> str:
    """What is handed over after an ask that failed before it was heard: an answer that waited for that one, or nothing."""
    return _UNHEARD.replace("WHAT", what)

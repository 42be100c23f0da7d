"""What an app is made of, handed to every tab: the loaded model and what visitors may do."""

import functools
import json
import os
import queue
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine import adapters, children, hardware, layout_figures, paths, runs, visitors
from engine.backends.base import Stop
from engine.blend import NO_ADAPTER, Blend
from engine.comparison import Side
from engine.destinations import Exported
from engine.errors import BadInput, EngineError
from engine.events import Event, Progress
from engine.game import answering, published
from engine.game.answer_files import Question
from engine.game.decks import Deck
from engine.game.rounds import Game
from engine.game.shelf import Shelf
from engine.hub import Report
from engine.messages import Conversation
from engine.model_spec import ModelSpec
from engine.models import ADAPTERS, MODELS, resolve
from engine.offers import Offers, pack
from engine.pair import Pair
from engine.paths import public_name
from engine.runs import Run
from engine.runtime import FAILED, Runtime, State
from engine.settings import ChatSettings, Layout
from engine.store import Store

NO_TRAINING = "Training is off on this public host. Run the app on your own machine (python app.py), in Colab, or in a Space of your own."
NO_ANSWERS = "On this public host only its owner can fetch the published answers and judgements. Run the app on your own machine for them."
# What a finished run can be taken along as: the names of `engine.export.KINDS`, which takes long to import.
EXPORTS = ("adapter", "merged", "gguf", "notebook", "hub")
# How a duel is answered: as the published answers were sampled, and short enough for a laptop.
DUEL = ChatSettings(temperature=0.7, top_p=0.9, max_new_tokens=256)


@dataclass(frozen=True)
class Services:
    """`read_only`: a public host, where visitors may not download, upload, switch models or see paths, nor train unless its owner
    allows it by `training`; then each may take along what came of it. `offers` are files to be fetched by whoever has their address."""

    runtime: Runtime
    read_only: bool = False
    training: bool = False
    store: Store = field(default_factory=Store)
    shelf: Shelf = field(default_factory=Shelf)
    offers: Offers = field(default_factory=Offers)
    game: Game = field(init=False)
    pair: Pair = field(init=False)  # the loaded model, and a second one for comparisons

    def __post_init__(self) -> None:
        self.runtime.discreet = self.read_only
        object.__setattr__(self, "pair", Pair(self.runtime))
        object.__setattr__(self, "game", Game(self.store, self.shelf.find))

    @property
    def may_train(self) -> bool:
        """Whether visitors may finetune here."""
        return self.training or not self.read_only

    def state(self) -> State:
        """The runtime's state; on a public host without the paths and reasons that only its owner should read."""
        state = self.runtime.state
        if not self.read_only:
            return state
        loaded = state.loaded and replace(state.loaded, model=public_name(state.loaded.model))
        if loaded and loaded.backend == "remote":
            loaded = replace(loaded, device="another server")
        text = FAILED if state.phase == "failed" else state.text
        return replace(
            state,
            model=public_name(state.model),
            text="Loading" if state.phase == "loading" else text,
            loaded=loaded,
            adapters=tuple(map(public_name, filter(self._owners, state.adapters))),
        )

    def _owners(self, adapter: str) -> bool:
        """Whether an attached adapter is the owner's choice. Visitors attach those of their own runs, whose names are theirs alone."""
        return adapter == self.runtime.wanted_adapter or adapter in ADAPTERS

    def load(self, model: str, layout: str | None = None, adapter: str | None = None) -> None:
        """Load a model for everybody, unless it is the one that is loaded or loading. `layout` is that of `LoadSettings`, None
        for the one in use; `adapter` None the model's own. Raises BadInput."""
        self._owner_only()
        if layout not in (None, *Layout):
            raise BadInput(f"The layout is one of {', '.join(Layout)}.")
        wanted = Layout(layout) if layout and self.has_layouts(model) else self.runtime.load_settings.layout
        state, same = self.runtime.state, resolve(model, self.runtime.load_settings).id
        if state.phase in ("ready", "loading") and state.model == same and wanted == self.runtime.load_settings.layout:
            return
        self.pair.give_back()
        self.runtime.load(model, adapter, layout=wanted)

    def has_layouts(self, model: str) -> bool:
        """Whether there is a layout to choose: for what llama.cpp would run, on a host of one's own."""
        if self.read_only or not model:
            return False
        try:
            spec = resolve(model, self.runtime.load_settings)
        except BadInput:
            return False
        return spec.kind != "remote" and spec.runs_with(self.runtime.load_settings, hardware.machine()) == "llama.cpp"

    def layout_figures(self, model: str) -> list[dict]:
        """What both layouts cost here, as `layout_figures.kept`; empty where it is not known."""
        return layout_figures.kept(resolve(model)) if self.has_layouts(model) else []

    def measure_layouts(self, model: str) -> Iterator[str]:
        """Measure both layouts, while all answers pause; yields what is being done. Raises BadInput or EngineError."""
        self._owner_only()
        yield from (progress.text for progress in _told(lambda report: self._measure(resolve(model), report)))

    def _measure(self, spec: ModelSpec, report: Report) -> None:
        with self.runtime.alone():
            layout_figures.measured(spec, report)

    def fetch_answers(self) -> Iterator[Progress]:
        """Fetch the published answers, which somebody asked for. Raises BadInput on a public host, or EngineError."""
        if self.read_only:
            raise BadInput(NO_ANSWERS)
        return _told(published.fetch)

    def duel(self, sides: Sequence[Side], names: tuple[str, str], questions: Sequence[Question], stop: Stop) -> Iterator[Progress | Deck]:
        """Two models of this host answer the same questions, as `answering.duel`. Raises BadInput on a public host."""
        if self.read_only:
            raise BadInput("Duels are for a host of your own. Run the app on your own machine for them.")
        with self.pair.lent([side.model for side in sides]) as runtimes:
            chats = [functools.partial(_chat, runtime, side.blend, stop) for runtime, side in zip(runtimes, sides, strict=True)]
            yield from answering.duel(chats, names, questions, DUEL, stop)

    def export(self, run: str, kind: str, dest: str) -> Iterator[Progress | Exported]:
        """Export a run in a process of its own, as `engine.export`: progress, at the end what it gave. Ends with whoever listens.
        Raises BadInput or EngineError."""
        if self.read_only:
            raise BadInput("This public host gives nothing out. Run the app on your own machine for exports.")
        yield from _exported(run, kind, dest)

    def own_adapter(self, run: Run) -> Iterator[Progress | Path]:
        """The adapter of a run that a visitor began, as `export` gives it, packed once; whoever knows the run's name may have it. Raises
        BadInput for other runs, EngineError without the host's paths."""
        if not (self.may_train and run.public):
            raise BadInput("This public host gives out the adapters that visitors train on it, and nothing else.")
        whole = visitors.packed(run)
        if not whole.exists():
            yield Progress("Your adapter is being packed")
            try:
                with tempfile.TemporaryDirectory(dir=paths.home()) as place:
                    *_, made = _exported(run.folder, "adapter", Path(place) / run.id)
                    pack(Path(made.place), Path(place) / whole.name)
                    whole.parent.mkdir(exist_ok=True)
                    os.replace(Path(place) / whole.name, whole)
            except (EngineError, OSError) as error:
                print(f"{run.id} could not be packed: {error}", file=sys.stderr, flush=True)
                raise EngineError("Your adapter could not be packed; the host's log says why. Try again later.") from error
        yield whole

    def unload(self) -> None:
        """Give the model and its memory back, for everybody. Raises BadInput on a public host."""
        self._owner_only()
        self.pair.give_back()
        self.runtime.unload()

    def unload_second(self) -> None:
        """Give the second model and its memory back. Raises BadInput on a public host."""
        self._owner_only()
        self.pair.give_back()

    def cancel_load(self) -> None:
        """End a load under way. Raises BadInput on a public host."""
        self._owner_only()
        self.runtime.cancel_load()

    def _owner_only(self) -> None:
        if self.read_only:
            raise BadInput("On this public host the model is the owner's choice. Run the app on your own machine for others.")

    def blend(self, adapter: str | None, strength: float, second: str | None, second_strength: float) -> Blend:
        """What the values of the pickers mean. Raises BadInput."""
        strengths = [1.0 if each is None else each for each in (strength, second_strength)]
        return Blend.of([self._adapter(adapter), self._adapter(second)], strengths)

    def _adapter(self, shown: str | None) -> str | None:
        """The adapter that a picker's value means, None for the bare base. On a public host only the owner's may be chosen, by their
        public names, and by its name what a visitor trained. Raises BadInput."""
        if shown in (None, "", NO_ADAPTER):
            return None
        if not self.read_only:
            return shown
        for adapter in filter(self._owners, self.runtime.state.adapters):
            if public_name(adapter) == shown:
                return adapter
        model = self.runtime.state.model
        trained = adapters.trained(MODELS[model].source if model in MODELS else model)
        if self.training and shown in trained and (run := runs.known().get(shown)) and run.public:
            return shown
        raise BadInput("On this public host only the adapters in the list can be chosen. Run the app on your own machine for others.")

    def side(self, model: str | None, adapter: str | None, strength: float, second: str | None, second_strength: float) -> Side:
        """One side of a comparison from its pickers, as `blend`; an empty model stands for the loaded one. Raises BadInput."""
        if model and self.read_only and model != self.state().model:
            raise BadInput("On this public host only the loaded model can be compared with itself and its adapters.")
        return Side("" if self.read_only else model or "", self.blend(adapter, strength, second, second_strength))

    def model_choices(self) -> list[tuple[str, str]]:
        """What a model picker shows, and the id it stands for; those on disk first."""
        current = self.state().model
        if self.read_only:
            return [(current, current)]
        machine = hardware.machine()
        specs = sorted(MODELS.values(), key=lambda spec: not spec.on_disk)
        choices = [(f"{spec.title} · {_short(spec, machine)}", spec.id) for spec in specs]
        return choices if current in MODELS or not current else [(current, current), *choices]

    def about_model(self, name: str) -> str:
        """What is to be known of a model before it is loaded, in a few words each. Raises BadInput for what is none."""
        if self.read_only or not name:
            return ""
        load = self.runtime.load_settings
        spec, machine = resolve(name, load), hardware.machine()
        size = spec.to_fetch(machine, load)
        where = "on disk" if spec.on_disk else f"{_gigabytes(size)} to download" if size else "size unknown before the download"
        parts = [
            f"{spec.shape.parameters / 1e9:.2f} billion parameters" if spec.shape else "",
            "" if spec.kind == "remote" else where,
            spec.fit(machine, load).text,
            f"licence: {spec.licence}",
            "gated: accept its licence on the Hub and set HF_TOKEN" if spec.asks_licence(machine, load) and not spec.on_disk else "",
        ]
        return " · ".join(filter(None, parts))

    def adapter_choices(self, model: str = "") -> list[tuple[str, str]]:
        """What an adapter picker shows, and the id: none, the attached ones, those trained here and the registry's for the base,
        which is the loaded one unless `model` names another."""
        state = self.state()
        name = model or state.model
        base = MODELS[name].source if name in MODELS else name
        shown = {NO_ADAPTER: "none: the bare base"}
        shown |= {adapter: f"{adapter} · loaded" for adapter in state.adapters if name == state.model}
        if not self.read_only:
            offered = {run: f"{run} · trained here" for run in adapters.trained(base)}
            offered |= {spec.id: f"{spec.id} · {spec.licence}" for spec in ADAPTERS.values() if spec.base == base}
            shown |= {adapter: title for adapter, title in offered.items() if adapter not in shown}
        return [(title, adapter) for adapter, title in shown.items()]

    def chosen_adapter(self) -> str:
        """The adapter that the loaded model came with."""
        wanted = self.runtime.wanted_adapter or NO_ADAPTER
        return public_name(wanted) if self.read_only else wanted


def _exported(run: str | Path, kind: str, dest: str | Path) -> Iterator[Progress | Exported]:
    for each in children.told([sys.executable, "-m", "engine", "export", str(run), "--to", kind, "--json", "--", str(dest)]):
        yield each if isinstance(each, Progress) else Exported(**json.loads(each))


def _chat(runtime: Runtime, blend: Blend, stop: Stop, conversation: Conversation, settings: ChatSettings) -> Iterator[Event]:
    return runtime.chat(conversation, settings, blend, stop, cold=True)


def _told(work: Callable[[Report], None]) -> Iterator[Progress]:
    """Do what takes long in a thread, and give its progress as it comes. What it raises is raised at the end."""
    told: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work, told.put)
        done.add_done_callback(lambda _: told.put(None))
        while (progress := told.get()) is not None:
            yield progress
        done.result()


def _short(spec: ModelSpec, machine: hardware.Machine) -> str:
    """Size, fit, licence and whether it is on disk, for a line of a picker."""
    fits = spec.fit(machine).fits
    parts = [
        _gigabytes(size) if (size := spec.to_fetch(machine)) else "",
        "fits" if fits else "too large here" if fits is False else "",
        spec.licence,
        "on disk" if spec.on_disk else "",
    ]
    return ", ".join(filter(None, parts))


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"

"""The part of step 7 that takes a run along: exports, what came of them and how to use it, downloads, the recipe."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from engine import destinations, history, paths
from engine.destinations import Exported
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.runs import Run
from engine.services import EXPORTS
from engine.visitors import KEPT_DAYS
from ui import assets, downloads, form
from ui.finetune import views
from ui.finetune.workshop import Workshop

EXPORTING = {"concurrency_limit": 1, "concurrency_id": "export", "show_progress": "hidden"}
# Sentence on how an export is used, and the command for it, by its kind.
_USES = {
    "adapter": ("Chat with it, on the base that it was trained on:", "python -m engine chat --model {base} --adapter {place} 'Hello'"),
    "merged": ("Chat with it; any program that reads Hugging Face models does as well:", "python -m engine chat --model {place} 'Hello'"),
    "gguf": ("Run it with llama.cpp; this app takes the file as its --model too:", "llama-cli -m {gguf}"),
    "notebook": (
        "Open it with Jupyter, or unpack the zip where a notebook runs (Colab, Kaggle); it says first what it needs beside it:",
        "jupyter lab {notebook}",
    ),
    "hub": ("It is a repository of yours on the Hub. Chat with it:", "python -m engine chat --model {base} --adapter {repo} 'Hello'"),
}


def use(found: Exported, base: str) -> tuple[str, str]:
    """How an export is used: a sentence, and a command."""
    said, command = _USES[found.kind]
    place = Path(found.place)
    gguf = next((name for name in found.files if name.endswith("-F16.gguf")), "")
    words = {"base": base, "place": found.place, "gguf": place / gguf, "notebook": place / "finetune.ipynb"}
    words["repo"] = "/".join(found.place.rstrip("/").split("/")[-2:])
    return said, command.format(**{name: shlex.quote(str(word)) for name, word in words.items()})


@dataclass
class Taking:
    """The components; `found` gives the run of that name or raises BadInput."""

    shop: Workshop
    found: Callable[[str | None], Run]

    def draw(self) -> "Taking":
        mine = not self.shop.services.read_only
        with gr.Accordion("Take it along", open=True, elem_id="ft-export"):
            with gr.Row():
                self.kind = gr.Dropdown(
                    list(EXPORTS) if mine else ["adapter"],
                    value="adapter",
                    label="Export as",
                    info=None if mine else f"This host keeps a run for {KEPT_DAYS} days after it has ended.",
                    elem_id="ft-export-kind",
                )
                self.where = gr.Textbox(
                    label="Where to",
                    info="A folder on this machine; empty: a new one among the app's own. For the Hub: owner/name.",
                    visible=mine,
                    elem_id="ft-export-where",
                )
            with gr.Row():
                self.export = gr.Button("Export", size="sm", elem_id="ft-export-go")
                self.save = gr.Button("Save its recipe (YAML)", size="sm", elem_id="ft-save-recipe")
            self.told = gr.HTML(elem_id="ft-exported", apply_default_css=False)
            copied = {"interactive": False, "buttons": ["copy"], "visible": False}
            self.place = gr.Textbox(label="Where it is", elem_id="ft-export-place", **copied)
            self.use = gr.Textbox(label="How to use it", elem_id="ft-export-use", max_lines=2, **copied)
            self.command = gr.Textbox(
                label="The same on the command line", interactive=False, buttons=["copy"], visible=mine, elem_id="ft-export-command"
            )
            self.recipe = gr.Textbox(visible=False, label="recipe")
        self.results = [self.told, self.place, self.use]
        self.outputs = [self.kind, self.where, self.command, *self.results]
        return self

    def shown(self, run: str) -> list:
        """For another run: nothing of it is exported yet."""
        return ["adapter", "", self._command(run, "adapter", ""), *self._nothing("")]

    def _nothing(self, said: str) -> list:
        return [said, gr.Textbox(visible=False), gr.Textbox(visible=False)]

    def _command(self, run: str, kind: str, where: str) -> str:
        target = "" if self.shop.services.read_only or not run else self._target(run, kind, where)
        return f"python -m engine export {shlex.quote(run)} --to {kind} {shlex.quote(target)}" if target else ""

    def _target(self, run: str, kind: str, where: str) -> str:
        """Where an export goes: the place that was typed, else a new folder among the app's own; empty for the Hub, where only a person
        can name one."""
        typed = (where or "").strip()
        return typed or ("" if kind == "hub" else str(destinations.fresh(paths.home() / "exports", f"{Path(run).name}-{kind}")))

    def _offered(self, found: Exported) -> list[tuple[str, str]]:
        """Downloads of an export: the files of one piece, else the folder; of the Hub none."""
        place = Path(found.place)
        if found.kind == "hub":
            return []
        files = [place / name for name in found.files if name.endswith(".gguf")] if found.kind == "gguf" else [place]
        return [downloads.address(self.shop.services.offers, path) for path in files]

    def _own(self, run: Run) -> Iterator[str]:
        """What a visitor of a public host sees of the adapter that came of their run, at last where to fetch it."""
        for each in self.shop.services.own_adapter(run):
            if isinstance(each, Progress):
                yield views.told(f"{each.text}.")
            else:
                said = (
                    f"Here are your adapter, its recipe and its card. This host deletes them and the run {KEPT_DAYS} days after it has ended, and "
                    "may lose them before: when it restarts, or when its disk is full."
                )
                yield views.told(said, "good") + views.downloads([downloads.address(self.shop.services.offers, each)])

    def wire(self, run: gr.Dropdown) -> None:
        services = self.shop.services

        def exported(run: str, kind: str, where: str) -> Iterator[list]:
            try:
                found = self.found(run)
                if services.read_only:
                    yield from map(self._nothing, self._own(found))
                    return
                if kind not in EXPORTS:
                    raise BadInput(f"Export as one of {', '.join(EXPORTS)}.")
                target = self._target(run, kind, where)
                if not target:
                    raise BadInput("Say under “Where to” what the repository on the Hub is to be called: owner/name.")
                yield self._nothing(views.told("The export begins."))
                for each in services.export(str(found.folder), kind, target):
                    if isinstance(each, Exported):
                        said, command = use(each, found.recipe.model)
                        places = gr.Textbox(each.place, visible=True), gr.Textbox(command, info=said, visible=True)
                        yield [views.exported(each, self._offered(each)), *places]
                    else:
                        yield self._nothing(views.told(each.text))
            except EngineError as error:
                yield self._nothing(views.told(str(error), "wrong"))

        def recipe(run: str) -> str:
            with form.explained():
                if services.read_only:
                    raise BadInput("On this public host a run's recipe is that of step 4; save it there.")
                return history.recipe(self.found(run)).to_yaml()

        how = {"api_visibility": "private", **form.QUICK}
        gone = views.told("The export broke off. Try again; the app's log says why.", "wrong")
        begun = self.export.click(exported, [run, self.kind, self.where], self.results, api_visibility="private", **EXPORTING)
        begun.failure(lambda: self._nothing(gone), None, self.results, api_visibility="private", **form.SILENT)
        # The folder that it named may be taken now.
        begun.then(self._command, [run, self.kind, self.where], self.command, api_visibility="private", **form.SILENT)
        self.save.click(recipe, run, self.recipe, **how).success(None, self.recipe, None, js=assets.saving("'recipe.yaml'"))
        named = [self.kind.input, self.where.input, self.where.blur]  # what is pasted or deleted is no input to Gradio
        gr.on(named, self._command, [run, self.kind, self.where], self.command, trigger_mode="always_last", **how)

"""Step 2 of the wizard: the rows to learn from, what is in them, and where long ones are cut."""

import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from engine import datasets, drafts, memory, uploads
from engine.data_formats import FORMATS
from engine.drafts import Draft, read
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.preview import First, Measured
from engine.recipe import DataRecipe
from ui import form
from ui.finetune import views
from ui.finetune.counting import COUNTING
from ui.finetune.turns import Turn
from ui.finetune.workshop import Workshop, asking, kept, latest, unheard

LEAST, MOST = 8, 2_048
# A column that is called as the format calls it; no format has more fields than can be mapped.
SAME, MOST_FIELDS = "the same name", 6
# What is brought may come from the Hub.
BRINGING = {"concurrency_limit": 4, "concurrency_id": "bringing", "show_progress": "minimal"}
_RELENGTH = "() => document.getElementById('ft-relength')?.click()"


@dataclass
class DataStep:
    """The components of the step; `outputs` are filled by `shown`."""

    shop: Workshop
    outputs: list[Component] = field(default_factory=list)

    def draw(self) -> "DataStep":
        with gr.Tabs(elem_id="ft-sources"):
            with gr.Tab("Upload"):
                self.file = gr.File(
                    label="Rows: JSON, JSONL, CSV, TSV, Parquet or text, up to 20 MB", type="filepath", height=110, elem_id="ft-upload"
                )
            with gr.Tab("Paste"):
                self.pasted = gr.Textbox(
                    label="Rows",
                    lines=5,
                    max_lines=12,
                    placeholder='{"instruction": "Name a capital.", "output": "Lima."}',
                    info="JSON lines, a JSON list, CSV with a header line, or plain text.",
                    elem_id="ft-paste",
                )
                self.take = gr.Button("Use these rows", size="sm", elem_id="ft-take-pasted")
            with gr.Tab("Hub"):
                self.hub = gr.Textbox(label="Hub data set", placeholder="owner/name or owner/name:split", elem_id="ft-hub")
                self.fetch = gr.Button("Fetch its rows", size="sm", elem_id="ft-fetch")
            with gr.Tab("Bundled"):
                self.bundled = gr.Dropdown(list(uploads.bundled()), value=None, label="A set that comes with the app", elem_id="ft-bundled")
            # On a public host chats are not kept apart by visitor.
            with gr.Tab("My chats", visible=not self.shop.services.read_only):
                gr.Markdown("Answers of the chat tab that got a thumb up become rows.")
                self.thumbs = gr.Button("Use my thumbs-up chats", size="sm", elem_id="ft-thumbs")
        self.found = gr.JSON(visible=False, label="found")
        self.told = gr.HTML(views.READING, elem_id="ft-data-told", apply_default_css=False)
        self.preview = gr.HTML(elem_id="ft-preview", apply_default_css=False)
        self.mapping = gr.Accordion("Format and columns", open=False, elem_id="ft-format")
        with self.mapping:
            formats = [("find out", datasets.AUTO), *((f"{each.title}: {each.fields}", each.name) for each in FORMATS.values())]
            self.format = gr.Dropdown(formats, value=datasets.AUTO, label="Format")
            with gr.Row(elem_id="ft-columns"):
                self.columns = [gr.Dropdown([SAME], value=SAME, visible=False, min_width=140) for _ in range(MOST_FIELDS)]
            self.remap = gr.Button("Read again", size="sm", elem_id="ft-remap")
        limit = DataRecipe.model_fields["max_length"]
        self.limit = gr.Slider(LEAST, MOST, step=8, label=limit.title, info=limit.description, elem_id="ft-limit")
        self.wrong = gr.HTML(elem_id="ft-limit-wrong", apply_default_css=False)
        self.lengths = gr.HTML(elem_id="ft-lengths", apply_default_css=False)
        # Pressed by the page when something that shows the lengths has ended: another may have changed the draft meanwhile.
        self.relength = gr.Button(visible="hidden", elem_id="ft-relength")
        # The format that the pickers of columns are for.
        self.mapped = gr.Textbox(visible=False, label="format of the columns")
        mapping = [self.mapping, self.format, self.mapped, *self.columns]
        self.outputs = [self.told, self.bundled, self.preview, *mapping, self.limit, self.wrong, self.lengths]
        return self

    def shown(self, draft: Draft) -> list:
        """Everything of the step; the lengths as far as they are known."""
        data = draft.recipe.data
        if not data.source:
            said = views.told("No rows yet. Bring some, or try the bundled set.")
            return [said, None, "", gr.skip(), data.format, data.format, *self._columns(draft, None), self._limit(draft), "", ""]
        try:
            first = self.shop.first(draft)
            preview, mapping = views.data(first), gr.Accordion(open=True) if first.unsure else gr.skip()
        except EngineError as error:
            first, preview, mapping = None, views.told(str(error), "wrong"), gr.skip()
        found = [*self._columns(draft, first), self._limit(draft), "", self._lengths(draft)]
        return [views.told(draft.title), self._bundled(draft), preview, mapping, data.format, data.format, *found]

    def _bundled(self, draft: Draft) -> str | None:
        """The bundled set that the draft's rows are, None where they are others."""
        return next((title for title, path in uploads.bundled().items() if str(path) == draft.recipe.data.source), None)

    def _columns(self, draft: Draft, first: First | None) -> list:
        """For each field of the format which column holds it."""
        data = draft.recipe.data
        fields = self._fields(data.format if data.format != datasets.AUTO else first and first.format) if first else ()
        shown = [
            gr.Dropdown([SAME, *first.columns], value=data.columns.get(name, SAME), label=f"Column of “{name}”", visible=True)
            for name in fields
        ]
        return [*shown, *[gr.Dropdown(visible=False)] * (MOST_FIELDS - len(shown))]

    def _fields(self, format: str | None) -> tuple[str, ...]:
        return FORMATS[format].names[:MOST_FIELDS] if format in FORMATS else ()

    def _limit(self, draft: Draft):
        return gr.Slider(value=draft.recipe.data.max_length, maximum=self._most(draft))

    def _checked(self, limit: float | None, draft: Draft) -> int:
        """A limit that somebody chose. Raises BadInput that names its bounds."""
        return form.whole_number(self.limit.label, limit, LEAST, self._most(draft))

    def _most(self, draft: Draft) -> int:
        return max(MOST, draft.recipe.data.max_length)

    def _lengths(self, draft: Draft, so_far: Measured | None = None) -> str:
        """What is known of the rows' lengths, of those that are counted `so_far` while more are."""
        measured = so_far or self.shop.measured(draft)
        if measured is None:
            return views.told("The rows' lengths are counted when they are read.")
        data = draft.recipe.data
        means = self._means(draft) if measured.done else views.counted(measured)
        shown = views.lengths(measured, self.shop.cut(draft, measured), data.max_length, means)
        return shown + (views.bad_rows(measured.bad, measured.data.unit, data.skip_bad_rows) if measured.done else "")

    def _means(self, draft: Draft) -> str:
        try:
            plan = self.shop.plan(draft)
            held = f" Memory: {views.gigabytes(plan.resident)}." if isinstance(plan, memory.Plan) else ""
            return f"{self.shop.sentence(draft)}{held}"
        except EngineError as error:  # the base is gone since the rows were counted
            return str(error)

    def wire(self, draft: gr.BrowserState) -> list[Dependency]:
        """Gives the events that change the draft."""

        def upload(before: Draft, file: str | None) -> tuple:
            if not file:
                raise BadInput("Choose a file first.")
            path = Path(file)
            return uploads.keep(path, path.name, self.shop.services.read_only), path.name

        def paste(before: Draft, text: str) -> tuple:
            return uploads.paste(text or "", self.shop.services.read_only), "Pasted rows"

        def hub(before: Draft, name: str) -> tuple:
            if not (name or "").strip():
                raise BadInput("Name a data set of the Hub, such as owner/name.")
            return name.strip(), name.strip()

        def bundled(before: Draft, title: str | None) -> tuple | None:
            found = uploads.bundled()
            if not title or title == self._bundled(before):  # Gradio tells also that it was left as it was
                return None
            if title not in found:
                raise BadInput("Choose one of the bundled sets.")
            return found[title], title

        def thumbs(before: Draft) -> tuple:
            if self.shop.services.read_only:
                raise BadInput("On this public host chats are not kept apart by visitor. Upload or paste rows instead.")
            return uploads.thumbs_up(self.shop.services.store), "Thumbs-up chats"

        def remap(before: Draft, format: str, *columns: str) -> tuple:
            if not before.recipe.data.source:
                raise BadInput("Bring the rows first.")
            if format not in (datasets.AUTO, *FORMATS):
                raise BadInput("Choose one of the formats in the list.")
            fields = self._fields(format if format in FORMATS else self.shop.first(before).format)
            named = {name: column for name, column in zip(fields, columns) if column not in (None, SAME)}
            return before.recipe.data.source, before.title, format, named

        def bringing(asked: Callable[..., tuple | None]) -> Callable[..., dict]:
            """`asked` gives the source, its title, and how it is to be read if that was said; None where nothing was asked for."""

            def bring(ask: dict, kept_draft: object, *values: object) -> dict:
                """What was asked for, and what it was asked in place of; the draft may be another by now."""
                before = read(kept_draft)
                try:
                    self.shop.allowed()
                    if (named := asked(before, *values)) is None:
                        return {**ask, "wrong": None}
                    source, *how = named
                    changed = drafts.with_data(before, str(source), *how)
                    # What cannot be read at all does not become the draft's. What is fetched from the Hub may take long: its size is told.
                    self.shop.first(changed, lambda progress: gr.Info(html.escape(progress.text)))
                except EngineError as error:
                    return {**ask, "wrong": str(error)}
                return {**ask, "wrong": "", "before": kept(before), "draft": kept(changed)}

            return bring

        def take(found: dict, kept_draft: object) -> list:
            """The rows that were found, in the draft as it is now."""
            if found["wrong"]:
                gr.Warning(html.escape(found["wrong"], quote=False), title="That did not work")
                standing = read(kept_draft)
                still = f"The rows below are still those of {standing.title}." if standing.recipe.data.source else "No rows yet."
                return [gr.skip(), views.told(f"{found['wrong']} {still}", "wrong"), *[gr.skip()] * (len(self.outputs) - 1)]
            if found.get("refused"):
                gr.Warning(html.escape(found["refused"], quote=False), title="That did not work")
            now, before, there = (read(each) for each in (kept_draft, found["before"], found["draft"]))
            # By a recipe with data of its own; who asked twice has these rows already.
            if drafts.rows(now) not in (drafts.rows(before), drafts.rows(there)):
                said = f"{there.title} has come, but other rows were chosen meanwhile. Ask for it again to learn from it."
                return [gr.skip(), views.told(said, "wrong"), *[gr.skip()] * (len(self.outputs) - 1)]
            changed = drafts.with_data(now, *drafts.rows(there))
            return [kept(changed), *self.shown(changed)]

        def fields(format: str, mapped: str, kept_draft: object) -> list:
            """The pickers of columns for another format. What was chosen in them stays where it is the same one, which Gradio tells as
            well."""
            now = read(kept_draft)
            format = format if format in FORMATS else datasets.AUTO
            if format == mapped:
                return [gr.skip()] * (1 + MOST_FIELDS)
            draft = now if format == now.recipe.data.format else drafts.changed(now, {"data.format": format, "data.columns": {}})
            try:
                return [format, *self._columns(draft, self.shop.first(now))]
            except EngineError:
                return [format, *self._columns(draft, None)]

        def cut(limit: float | None, kept_draft: object) -> list:
            before = read(kept_draft)
            try:
                limit = self._checked(limit, before)
            except BadInput as error:
                return [gr.skip(), views.told(str(error), "wrong"), gr.skip()]
            changed = drafts.changed(before, {"data.max_length": limit})
            return [kept(changed), "", self._lengths(changed)]

        def leave(limit: float | None, kept_draft: object) -> list:
            return cut(form.left(limit, LEAST, self._most(read(kept_draft))), kept_draft)

        def lengths_now(kept_draft: object) -> object:
            now = read(kept_draft)
            if not now.recipe.data.source:
                return ""
            # Where nothing is counted, it stands there how far that is, or why it could not be.
            return gr.skip() if self.shop.measured(now) is None else self._lengths(now)

        taking = Turn(take, [self.found, draft], [draft, *self.outputs], handed=True, **form.QUICK)
        for event, function, inputs in (
            (self.file.upload, upload, [self.file]),
            (self.take.click, paste, [self.pasted]),
            (self.fetch.click, hub, [self.hub]),
            (self.bundled.input, bundled, [self.bundled]),
            (self.thumbs.click, thumbs, []),
            (self.remap.click, remap, [self.format, *self.columns]),
        ):
            # Of the same control too: a name is mended, or another set chosen, while the first is on its way.
            how = {"api_visibility": "private", "trigger_mode": "multiple", **BRINGING}
            found = event(bringing(function), [self.found, draft, *inputs], self.found, js=asking("rows", function.__name__), **how)
            taking.after(found.success, inputs=[self.found], hand=latest("rows"))
            taking.after(found.failure, hand=unheard("rows"))
        self.counts(taking.event, draft)
        changing = [taking.event]
        for trigger, function in ((self.limit.input, cut), (self.limit.release, leave)):
            moved = Turn(function, [self.limit, draft], [draft, self.wrong, self.lengths], **form.QUICK, **form.AS_TYPED)
            cuts = moved.after(trigger)
            cuts.success(None, None, None, js=_RELENGTH, api_visibility="private")
            changing.append(cuts)
        again = {"api_visibility": "private", "trigger_mode": "always_last", **form.QUICK}
        self.relength.click(lengths_now, draft, self.lengths, **again)
        mapped = [self.mapped, *self.columns]
        # A choice of it ends so, by mouse or keyboard. Gradio's input tells of it twice: the pickers would be drawn anew under who uses them.
        self.format.blur(fields, [self.format, self.mapped, draft], mapped, **again)
        return changing

    def counts(self, event: Dependency, draft: gr.BrowserState) -> None:
        """When an event has ended, count the draft's rows, and draw their lengths while that goes on. A count of other rows gives way."""

        def count(request: gr.Request, kept_draft: object) -> Iterator[str]:
            now = read(kept_draft)
            if not now.recipe.data.source:
                yield ""
                return
            try:
                for each in self.shop.measuring(now, request.session_hash or "", type(self).__name__):
                    if not isinstance(each, Progress):
                        yield self._lengths(now, each)
            except EngineError as error:
                yield views.told(str(error), "wrong")

        counted = event.success(count, draft, self.lengths, api_visibility="private", trigger_mode="multiple", **COUNTING)
        # By the limit and the rows as they are when all is counted.
        counted.success(None, None, None, js=_RELENGTH, api_visibility="private")

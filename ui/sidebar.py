"""The list of a visitor's conversations: open, search, rename, delete, take out, bring in. The store is the browser's, and
only the page's own script writes it: it gets told what to put in and what to drop, so that two answers of the server that
cross on their way undo nothing of each other."""

import secrets
from collections.abc import Callable, Iterable

import gradio as gr

from engine.library import MAX_IMPORT_BYTES, MAX_LIBRARY_BYTES, MAX_THREADS, Library, to_json, to_markdown
from engine.threads import Thread
from ui import assets, form
from ui.render import shown

_NAME = "`conversations-${new Date().toISOString().slice(0, 10)}.${text.startsWith('<!--') ? 'md' : 'json'}`"


def draw() -> gr.HTML:
    """The list, empty until the page has read what its browser keeps."""
    return gr.HTML(
        {},
        html_template="<div></div>",
        js_on_load=assets.script("sidebar.js"),
        elem_id="chats",
        apply_default_css=False,
        limits={"file": MAX_IMPORT_BYTES, "store": MAX_LIBRARY_BYTES, "threads": MAX_THREADS},
    )


def told(put: Iterable[Thread] = (), drop: Iterable[str] = (), **more: object) -> dict:
    """What the list is told: conversations to put into the store, ids to drop from it; perhaps `open` (the id of the one
    on the screen), `found` (ids that a search found, None: all) and `note` (a line to show)."""
    threads = list(put)
    return {
        "put": [thread.model_dump(mode="json") for thread in threads if thread.turns],
        "drop": [*drop, *(thread.id for thread in threads if not thread.turns)],
        "stamp": secrets.token_hex(4),
        **more,
    }


def opening(thread: Thread, **more) -> list:
    """A conversation for view, browser, system text and list."""
    return [shown(thread), thread.model_dump(mode="json"), thread.system, told(open=thread.id, **more)]


def save(conversation: object) -> dict:
    """The open conversation into the store, after whatever changed it."""
    with form.explained():
        thread = Thread.read(conversation)
    return told([thread], open=thread.id)


def _came(count: int) -> str:
    if not count:
        return "All of them are here already."
    return "1 conversation came in." if count == 1 else f"{count} conversations came in."


def wire(chats: gr.HTML, library: gr.BrowserState, current: gr.BrowserState, view: gr.HTML, system: gr.Textbox) -> None:
    """Connect the list. `current` is the conversation on the screen."""
    text = gr.Textbox(visible=False, label="text")
    wanted = gr.JSON(visible=False, label="conversation")
    exported = gr.Textbox(visible=False, label="exported")
    opened = [view, current, system, chats]

    def open_(conversation: object) -> list:
        with form.explained():
            return opening(Thread.read(conversation))

    def rename(conversation: object, title: str, current: object) -> list:
        with form.explained():
            renamed, now = Thread.read(conversation).renamed(title), Thread.read(current)
        return [(renamed if renamed.id == now.id else now).model_dump(mode="json"), told([renamed])]

    def delete(conversation: object, current: object, system: str) -> list:
        with form.explained():
            gone, now = Thread.read(conversation), Thread.read(current)
        if gone.id == now.id:
            return opening(Thread.new(system or ""), drop=[gone.id], note="Deleted.")
        return [gr.skip(), now.model_dump(mode="json"), gr.skip(), told(drop=[gone.id], note="Deleted.")]

    def search(query: str, conversations: object) -> dict:
        with form.explained():
            found = Library.read(conversations).found(query)
        return told(found=[thread.id for thread in found] if query.strip() else None)

    def exporting(text_of: Callable[[Iterable[Thread]], str]) -> Callable[[object], str]:
        def export(conversations: object) -> str:
            with form.explained():
                return text_of(Library.read(conversations).threads)

        return export

    def import_(file: str, conversations: object) -> dict:
        with form.explained():
            new = Library.read(conversations).new_in(file)
        return told(new, note=_came(len(new)))

    chats.keep(None, library, library, js="window.guanacoKeep", api_visibility="private", show_progress="hidden")
    chats.new_chat(None, system, [view, current, chats], js="window.guanacoNew", api_visibility="private", show_progress="hidden")
    chats.open_chat(open_, wanted, opened, js=assets.taking("thread"), api_name="open", **form.QUICK)
    chats.rename_chat(
        rename, [wanted, text, current], [current, chats], js=assets.taking("thread", "text"), api_name="rename", **form.QUICK
    )
    chats.delete_chat(delete, [wanted, current, system], opened, js=assets.taking("thread"), api_name="delete", **form.QUICK)
    chats.search_chats(search, [text, library], chats, js=assets.taking("text"), api_name="search", **form.QUICK)
    for name, text_of in (("export_json", to_json), ("export_markdown", to_markdown)):
        made = getattr(chats, name)(exporting(text_of), library, exported, api_name=name, **form.QUICK)
        made.success(None, exported, None, js=assets.saving(_NAME))
    chats.import_chats(import_, [text, library], chats, js=assets.taking("text"), api_name="import", **form.QUICK)
    current.change(save, current, chats, trigger_mode="always_last", api_name="save", **form.SILENT)

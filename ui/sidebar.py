"""The list of a visitor's conversations: open, search, rename, delete, take out, bring in. The store is the browser's, and
only the page's own script writes it: it gets told what to put in and what to drop, so that two answers of the server that
cross on their way undo nothing of each other."""

import secrets
from collections.abc import Callable, Iterable

import gradio as gr

from engine.library import MAX_DELETED, MAX_IMPORT_BYTES, MAX_LIBRARY_BYTES, MAX_THREADS, Library, to_json, to_markdown
from engine.settings import MAX_SYSTEM_CHARS
from engine.threads import Thread
from ui import assets, form
from ui.render import shown

# The open conversation into the store, after whatever changed it. In the page: a server's answer could come after another was opened.
_SAVED = """thread => ({
  put: thread?.turns.length ? [thread] : [],
  drop: thread && !thread.turns.length ? [thread.id] : [],
  emptied: thread?.updated,
  stamp: `${Math.random()}`,
  open: thread?.id,
})"""
_SOUGHT = "(text, library) => [document.querySelector('#chats .search').value, library]"
_NAME = "`conversations-${new Date().toISOString().slice(0, 10)}.${text.startsWith('<!--') ? 'md' : 'json'}`"


def draw() -> gr.HTML:
    """The list, empty until the page has read what its browser keeps."""
    return gr.HTML(
        {},
        html_template="<div></div>",
        js_on_load=assets.script("sidebar.js"),
        elem_id="chats",
        apply_default_css=False,
        limits={
            "file": MAX_IMPORT_BYTES,
            "store": MAX_LIBRARY_BYTES,
            "threads": MAX_THREADS,
            "deleted": MAX_DELETED,
            "system": MAX_SYSTEM_CHARS,
        },
    )


def told(put: Iterable[Thread] = (), drop: Iterable[str] = (), **more: object) -> dict:
    """What the list is told: conversations to put into the store, ids to drop from it; perhaps `open` (the id of the one
    on the screen), `found` (ids that a search found, None: all), `note` (a line to show), what was `renamed` or is `gone`, that they
    were `imported` (else one that is older than what the page knows of it is left out)."""
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

    def rename(conversation: object, title: str) -> dict:
        with form.explained():
            renamed = Thread.read(conversation).renamed(title)
        return told([renamed], renamed={"id": renamed.id, "title": renamed.title})

    def delete(conversation: object) -> dict:
        with form.explained():
            gone = Thread.read(conversation).id
        return told(drop=[gone], gone=gone, note="Deleted.")

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
        return told(new, note=_came(len(new)), imported=True)

    own = {"fn": None, "api_visibility": "private", "show_progress": "hidden"}
    chats.new_chat(**own, inputs=system, outputs=[view, current, chats], js="window.guanacoNew")
    chats.open_gone(**own, inputs=system, outputs=[view, current, chats], js="window.guanacoNew")
    chats.open_renamed(**own, inputs=current, outputs=current, js="window.guanacoRenamed")
    chats.keep(**own, inputs=library, outputs=library, js="window.guanacoKeep")
    library.change(**own, inputs=None, outputs=None, js="() => window.guanacoKept?.()")
    each = {"trigger_mode": "multiple", **form.QUICK}  # several may be pressed before the first is answered
    opening_one = chats.open_chat(open_, wanted, opened, js=assets.taking("thread"), api_name="open", **each)
    form.afterwards(opening_one, "window.guanacoChanged")
    chats.rename_chat(rename, [wanted, text], chats, js=assets.taking("thread", "text"), api_name="rename", **each)
    chats.delete_chat(delete, wanted, chats, js=assets.taking("thread"), api_name="delete", **each)
    chats.search_chats(search, [text, library], chats, js=_SOUGHT, trigger_mode="always_last", api_name="search", **form.QUICK)
    for name, text_of in (("export_json", to_json), ("export_markdown", to_markdown)):
        made = getattr(chats, name)(exporting(text_of), library, exported, api_name=name, **form.QUICK)
        made.success(None, exported, None, js=assets.saving(_NAME))
    chats.import_chats(import_, [text, library], chats, js=assets.taking("text"), api_name="import", **form.QUICK)
    current.change(**own, inputs=current, outputs=chats, js=_SAVED)

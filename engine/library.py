"""All conversations of one visitor, kept in their own browser: find, take out and bring in.

The host keeps none of it; it only keeps the key with which a browser finds its store again after a restart, or makes the same again.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, ValidationError

from engine import paths
from engine.errors import BadInput, EngineError
from engine.messages import checked_text
from engine.settings import Settings
from engine.threads import Thread, ThreadId, Turn, explained

MAX_THREADS = 1_000
MAX_DELETED = 200
# Browsers keep some 5.2 million characters for a site, and Gradio's encryption makes four of three bytes: so much leaves
# room for the open conversation beside the store.
MAX_LIBRARY_BYTES = 2_600_000
MAX_IMPORT_BYTES = 3_000_000
MAX_QUERY_CHARS = 200
FORMAT = "guanaco-playground conversations"
VERSION = 1
SECRET_BYTES = 24


class Library(Settings):
    """What a browser keeps. The page's own script adds and removes conversations; see `ui/static/sidebar.js`. `deleted` are the ids of
    the last ones that were deleted, by which it knows one that comes late."""

    version: Literal[1] = VERSION
    threads: tuple[Thread, ...] = Field((), max_length=MAX_THREADS)
    deleted: tuple[ThreadId, ...] = Field((), max_length=MAX_DELETED)

    @classmethod
    def read(cls, value: object) -> Self:
        """A browser's store, None for an empty one. Raises BadInput in one line."""
        if value is None:
            return cls()
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise BadInput(f"The conversations kept in this browser cannot be read: {explained(error)}.") from error

    def found(self, query: str) -> tuple[Thread, ...]:
        """Conversations in whose name or messages every word of the query occurs, whatever the case."""
        words = checked_text(query, "The search", MAX_QUERY_CHARS).casefold().split()

        def matches(thread: Thread) -> bool:
            text = "\n".join((thread.name, *(turn.text for turn in thread.turns))).casefold()
            return all(word in text for word in words)

        return tuple(filter(matches, self.threads))

    def new_in(self, text: str) -> list[Thread]:
        """The conversations of an exported file (see `imported`) that are not here yet. One that is here in another
        state comes as a copy under an id of its own, so nothing is overwritten."""
        here = {thread.id: thread for thread in self.threads}
        new = []
        for thread in imported(text):
            if here.get(thread.id) != thread:
                new.append(thread.model_copy(update={"id": secrets.token_hex(8)}) if thread.id in here else thread)
        return new


def to_json(threads: Iterable[Thread]) -> str:
    """Conversations with all their branches, as a file that `imported` reads back exactly."""
    return json.dumps(
        {"format": FORMAT, "version": VERSION, "conversations": [thread.model_dump(mode="json") for thread in threads]},
        ensure_ascii=False,
        indent=1,
    )


_HEAD = f"<!-- {FORMAT} {VERSION} -->"
_SECTIONS = {"user": "### You", "assistant": "### Assistant", "system": "### System text"}
_ROLES = {heading: role for role, heading in _SECTIONS.items()}
_HEADING = "|".join(map(re.escape, [*_ROLES, _HEAD]))
_TO_ESCAPE = re.compile(rf"^(?=\\*(?:{_HEADING})$)", re.MULTILINE)
_ESCAPED = re.compile(rf"^\\(?=\\*(?:{_HEADING})$)", re.MULTILINE)
_SECTION = re.compile(rf"^({'|'.join(map(re.escape, _ROLES))})\n\n", re.MULTILINE)


def to_markdown(threads: Iterable[Thread]) -> str:
    """What is on the screen of each conversation, to read and to print; `imported` reads it back without branches."""
    documents = []
    for thread in threads:
        sections = [("system", thread.system)] if thread.system else []
        sections += [(turn.role, turn.text) for turn in thread.path()]
        body = "".join(f"{_SECTIONS[role]}\n\n{_TO_ESCAPE.sub(chr(92) * 2, text)}\n\n" for role, text in sections)
        documents.append(f"{_HEAD}\n# {' '.join(thread.name.split())}\n\n{body}")
    return "".join(documents)


def imported(text: object) -> list[Thread]:
    """The conversations of an exported file, JSON or Markdown. Raises BadInput in one line for any other file."""
    size = len(text.encode("utf-8", "ignore")) if isinstance(text, str) else 0
    if size > MAX_IMPORT_BYTES:
        raise BadInput(f"The file has {size / 1e6:.1f} MB; the limit is {MAX_IMPORT_BYTES / 1e6:.0f} MB. Import it in parts.")
    text = checked_text(text, "The file", MAX_IMPORT_BYTES).lstrip("\ufeff").replace("\r\n", "\n")
    if text.startswith(_HEAD + "\n"):
        return [_from_markdown(document) for document in re.split(rf"^{re.escape(_HEAD)}\n", text, flags=re.MULTILINE)[1:]]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput("The file is damaged, or no export of this app: it is neither its JSON nor its Markdown.") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BadInput(f"The file is JSON, but no export of this app: it lacks the format {FORMAT!r}.")
    if value.get("version") != VERSION:
        raise BadInput(f"The file is of version {str(value.get('version'))[:20]}; this app reads version {VERSION}.")
    rows = value.get("conversations")
    if not isinstance(rows, list) or not rows:
        raise BadInput("The file holds no conversations.")
    threads = []
    for number, row in enumerate(rows, 1):
        try:
            threads.append(Thread.model_validate(row))
        except ValidationError as error:
            raise BadInput(f"Conversation {number} of the file is damaged: {explained(error)}. Nothing was imported.") from error
    return threads


def _from_markdown(document: str) -> Thread:
    title, _, body = document.partition("\n\n")
    parts = _SECTION.split(body)
    if not title.startswith("# ") or parts[0] or len(parts) < 3:
        raise BadInput("The file is damaged: a conversation in it has no title or no messages. Nothing was imported.")
    system, turns = "", []
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        text = _ESCAPED.sub("", text.removesuffix("\n\n"))
        if _ROLES[heading] == "system":
            system = text
        else:
            turns.append(Turn(id=len(turns), parent=len(turns) - 1, role=_ROLES[heading], text=text).model_dump())
    fields = {**Thread.new().model_dump(), "system": system, "turns": turns, "leaf": len(turns) - 1}
    thread = Thread.read(fields)
    name = title.removeprefix("# ")
    return thread if thread.name == name else thread.renamed(name)


def storage_secret() -> str:
    """The key with which Gradio encrypts a browser's store. It protects nothing from the visitor whose browser it is, and is no
    secret: Gradio sends it to every visitor, so none of the host's may go into it. It must outlive a restart of the app, or the store
    could not be read again; the disk of a Space does not."""
    if (space := os.environ.get("SPACE_ID")) and not os.environ.get("GUANACO_HOME"):
        return hashlib.sha256(f"{FORMAT}, {space}".encode()).hexdigest()
    path = paths.home() / "browser-store-key"
    if not path.exists():
        made = path.with_name(f"{path.name}.{os.getpid()}")
        made.write_text(secrets.token_urlsafe(SECRET_BYTES), encoding="ascii")
        made.chmod(0o600)
        try:
            os.link(made, path)  # whole or not at all, and the first of two apps that start at once wins
            made.unlink()
        except FileExistsError:
            made.unlink()
        except OSError:  # a file system without links
            os.replace(made, path)
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise EngineError(f"Cannot read {path} ({error}). Remove it to make a new one; stored conversations are then lost.") from error
    if not key:
        raise EngineError(f"{path} is empty. Remove it to make a new one; stored conversations are then lost.")
    return key

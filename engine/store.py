"""What the host itself keeps: SQLite under `GUANACO_HOME`. Conversations are not here, they live in visitors' browsers.

Migrations are an appended list of functions, each run once and recorded by name.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator

from engine import paths
from engine.errors import BadInput, EngineError
from engine.messages import checked_text
from engine.threads import Thread

MAX_REASON_CHARS = 500
MAX_BYTES = 500 * 2**20
# Verdicts are kept until the store has so many bytes in all; the rest of its room is for games alone.
MAX_BYTES_WITH_THUMBS = 100 * 2**20
BUSY_SECONDS = 10


def _thumbs(database: sqlite3.Connection) -> None:
    database.execute(
        "CREATE TABLE thumbs (thread TEXT NOT NULL, turn INTEGER NOT NULL, time REAL NOT NULL, thumb INTEGER NOT NULL,"
        " reason TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, system TEXT NOT NULL, facts TEXT NOT NULL,"
        " PRIMARY KEY (thread, turn)) WITHOUT ROWID"
    )


def _game(database: sqlite3.Connection) -> None:
    database.execute(
        "CREATE TABLE games (game TEXT PRIMARY KEY, session TEXT NOT NULL, player TEXT NOT NULL, deck TEXT NOT NULL, found TEXT NOT NULL,"
        " other TEXT NOT NULL, seed INTEGER NOT NULL, length INTEGER NOT NULL, mode TEXT NOT NULL, catches INTEGER NOT NULL,"
        " plan TEXT NOT NULL, replay TEXT NOT NULL, began REAL NOT NULL) WITHOUT ROWID"
    )
    database.execute("CREATE INDEX games_of_session ON games (session, began)")
    database.execute(
        "CREATE TABLE rounds (round TEXT PRIMARY KEY, game TEXT NOT NULL, number INTEGER NOT NULL, question TEXT NOT NULL,"
        " asked TEXT NOT NULL, left TEXT NOT NULL, right TEXT NOT NULL, dealt REAL NOT NULL, seen INTEGER NOT NULL,"
        " skipped INTEGER NOT NULL) WITHOUT ROWID"
    )
    database.execute("CREATE INDEX rounds_of_game ON rounds (game, number)")
    database.execute(
        "CREATE TABLE guesses (round TEXT NOT NULL UNIQUE, session TEXT NOT NULL, game TEXT NOT NULL, player TEXT NOT NULL,"
        " deck TEXT NOT NULL, found TEXT NOT NULL, seed INTEGER NOT NULL, question_id TEXT NOT NULL, asked TEXT NOT NULL, category TEXT NOT NULL,"
        " left TEXT NOT NULL, right TEXT NOT NULL, guess TEXT NOT NULL, confidence INTEGER NOT NULL, preference TEXT NOT NULL,"
        " left_length INTEGER NOT NULL, right_length INTEGER NOT NULL, milliseconds INTEGER NOT NULL, mode TEXT NOT NULL, leak_flags TEXT NOT NULL, time REAL NOT NULL,"
        " schema_version INTEGER NOT NULL)"
    )
    database.execute("CREATE INDEX guesses_of_game ON guesses (game)")
    database.execute("CREATE TABLE sent (place TEXT NOT NULL, round TEXT NOT NULL, PRIMARY KEY (place, round)) WITHOUT ROWID")


# Recorded by name: append, never rename.
MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_thumbs, _game]


def is_full(database: sqlite3.Connection, most: int) -> bool:
    """Whether what the database holds takes so many bytes; what was deleted takes none."""
    pages, free, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size"))
    return (pages - free) * size >= most


def _write_ahead(database: sqlite3.Connection) -> None:
    """Readers and a writer do not wait for each other from here on. Unlike other statements, this one fails at once while somebody else
    has the file, as several do who open it for the first time together."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


class Store:
    """One database; a connection for each call, so that any thread may call."""

    def __init__(self) -> None:
        self._migrated = False

    @contextlib.contextmanager
    def opened(self, reading: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction, one that waits for no writer where it only reads; rows are known by their columns' names. Raises
        EngineError that names the file where it cannot be read or written."""
        path = paths.home() / "playground.db"
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as database:
                if not self._migrated:
                    _write_ahead(database)
                    self._migrate(database)
                    self._migrated = True
                database.row_factory = sqlite3.Row
                database.execute("BEGIN" if reading else "BEGIN IMMEDIATE")
                with database:
                    yield database
        except sqlite3.Error as error:
            raise EngineError(f"The database {path.name} in GUANACO_HOME cannot be used ({error}). Nothing was changed.") from error

    def _migrate(self, database: sqlite3.Connection) -> None:
        database.execute("BEGIN IMMEDIATE")
        with database:
            database.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, time REAL NOT NULL)")
            done = {name for (name,) in database.execute("SELECT name FROM migrations")}
            for migration in MIGRATIONS:
                if migration.__name__ not in done:
                    migration(database)
                    database.execute("INSERT INTO migrations VALUES (?, ?)", (migration.__name__, time.time()))

    def thumb(self, thread: Thread, turn_id: int, thumb: int, reason: str = "") -> None:
        """Keep a verdict on an answer with its question; a later one replaces it, 0 removes it. The reason may come after
        or before the thumb itself: the same thumb without one leaves the reason that is there. Raises BadInput."""
        reason = checked_text(reason, "The reason", MAX_REASON_CHARS).strip()
        answer = thread.thumbed(turn_id, thumb).turn(turn_id)
        with self.opened() as database:
            if not thumb:
                database.execute("DELETE FROM thumbs WHERE thread = ? AND turn = ?", (thread.id, turn_id))
                return
            if is_full(database, MAX_BYTES_WITH_THUMBS):
                raise BadInput("This host keeps no more verdicts: its store is full.")
            facts = answer.facts.model_dump_json() if answer.facts else "{}"
            question = thread.turn(answer.parent).text
            database.execute(
                "INSERT INTO thumbs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET time = excluded.time,"
                " reason = CASE WHEN excluded.reason = '' AND thumb = excluded.thumb THEN reason ELSE excluded.reason END,"
                " thumb = excluded.thumb, question = excluded.question, answer = excluded.answer, system = excluded.system,"
                " facts = excluded.facts",
                (thread.id, turn_id, time.time(), thumb, reason, question, answer.text, thread.system, facts),
            )

    def thumbs(self) -> list[dict]:
        """All verdicts, oldest first: time (seconds since 1970), thumb (1 or -1), reason, question, answer, system, facts."""
        with self.opened() as database:
            rows = database.execute("SELECT time, thumb, reason, question, answer, system, facts FROM thumbs ORDER BY time").fetchall()
        return [{**dict(row), "facts": json.loads(row["facts"])} for row in rows]

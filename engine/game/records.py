"""What the database keeps of the game: games, the rounds dealt in them, and the guesses, one atomic row each."""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from engine import data_files
from engine.data_files import BadRow
from engine.errors import BadInput
from engine.store import MAX_BYTES, Store, is_full

SCHEMA_VERSION = 1
Pick = Literal["left", "right"]
Preference = Literal["left", "right", "tie", "both bad"]
# What SQLite keeps as an integer.
Count = Annotated[int, Field(ge=0, le=2**62)]
_HOUR, _DAY = 3_600, 86_400


@dataclass(frozen=True)
class GameRow:
    """A game as it was begun. `session` is a hash of the visitor's secret; `plan` has the ids of the questions in their order,
    beyond `length` those that skipping leads to; `replay` has the player and the guesses of the game that it repeats, empty for
    none."""

    game: str
    session: str
    player: str
    deck: str
    found: str
    other: str
    seed: int
    length: int
    mode: str
    catches: bool
    plan: tuple[str, ...]
    replay: dict
    began: float


@dataclass(frozen=True)
class RoundRow:
    """A round that was dealt: which system's answer stands left and which right. `asked` is a hash of the question's text."""

    round: str
    game: str
    number: int
    question: str
    asked: str
    left: str
    right: str
    dealt: float
    seen: bool
    skipped: bool = False


@dataclass(frozen=True)
class GuessRow:
    """A guess, as it is exported. `guess` and `preference` are sides, lengths are characters as shown, `asked` is a hash of the question.
    `leak_flags`: "seen" where the session had the question before, "replay" where the game is that of a replay file, "names itself" and
    "broken end" where the texts as shown gave something away."""

    session: str
    round: str
    game: str
    player: str
    deck: str
    found: str
    seed: Count
    question_id: str
    asked: str
    category: str
    left: str
    right: str
    guess: Pick
    confidence: Count
    preference: Preference
    left_length: Count
    right_length: Count
    milliseconds: Count
    mode: str
    leak_flags: tuple[str, ...]
    time: float
    schema_version: int = SCHEMA_VERSION

    @property
    def catch(self) -> bool:
        """Both answers were one system's."""
        return self.left == self.right

    @property
    def correct(self) -> bool:
        return (self.left if self.guess == "left" else self.right) == self.found


class Records:
    """The game's rows in a store. Every method is one transaction."""

    def __init__(self, store: Store):
        self._store = store
        self._pruned = False

    def begin(self, row: GameRow) -> None:
        """Keep a new game. Those that nobody guessed in are forgotten after thirty days, or after an hour where the store is full. Raises
        BadInput where that makes no room."""
        fields = asdict(row) | {"plan": json.dumps(row.plan), "replay": json.dumps(row.replay), "catches": int(row.catches)}
        with self._store.opened() as database:
            if not self._pruned:  # once a start is enough
                self._pruned = True
                _forget(database, row.began - 30 * _DAY)
            if is_full(database, MAX_BYTES):  # whoever begins games without end must not end them for others
                _forget(database, row.began - _HOUR)
                if is_full(database, MAX_BYTES):
                    raise BadInput("This host keeps no more games: its store is full.")
            _insert(database, "games", fields)

    def game(self, game: str) -> GameRow | None:
        with self._store.opened(reading=True) as database:
            return _game(database, game)

    def latest(self, session: str) -> GameRow | None:
        """The game that a session began last."""
        with self._store.opened(reading=True) as database:
            row = database.execute("SELECT game FROM games WHERE session = ? ORDER BY began DESC LIMIT 1", (session,)).fetchone()
            return _game(database, row[0]) if row else None

    def asked(self, session: str) -> set[str]:
        """Hashes of the questions that a session has had."""
        with self._store.opened(reading=True) as database:
            return {
                asked for (asked,) in database.execute("SELECT asked FROM rounds JOIN games USING (game) WHERE session = ?", (session,))
            }

    def played(self, game: str) -> tuple[list[RoundRow], list[GuessRow]]:
        """The rounds of a game in the order they were dealt, and its guesses, oldest first, as of one moment."""
        with self._store.opened(reading=True) as database:
            rounds = database.execute("SELECT * FROM rounds WHERE game = ? ORDER BY number, dealt", (game,)).fetchall()
            guesses = database.execute("SELECT * FROM guesses WHERE game = ? ORDER BY time, rowid", (game,)).fetchall()
        return list(map(_round, rounds)), list(map(_guess, guesses))

    def round(self, round: str) -> RoundRow | None:
        with self._store.opened(reading=True) as database:
            row = database.execute("SELECT * FROM rounds WHERE round = ?", (round,)).fetchone()
            return _round(row) if row else None

    def deal(self, row: RoundRow, session: str) -> RoundRow:
        """Deal a round, unless that number of that game has been dealt meanwhile and not skipped: then it is that one. Notes
        whether the session has had the question before."""
        with self._store.opened() as database:
            there = database.execute(
                "SELECT * FROM rounds WHERE game = ? AND number = ? AND NOT skipped", (row.game, row.number)
            ).fetchone()
            if there:
                return _round(there)
            seen = database.execute(
                "SELECT 1 FROM rounds JOIN games USING (game) WHERE session = ? AND asked = ? LIMIT 1", (session, row.asked)
            ).fetchone()
            row = RoundRow(**asdict(row) | {"seen": bool(seen)})
            _insert(database, "rounds", asdict(row) | {"seen": int(row.seen), "skipped": int(row.skipped)})
            return row

    def skip(self, round: str) -> bool:
        """Pass over a round that has no guess; whether it did."""
        with self._store.opened() as database:
            done = database.execute(
                "UPDATE rounds SET skipped = 1 WHERE round = ? AND NOT skipped AND round NOT IN (SELECT round FROM guesses)", (round,)
            )
            return done.rowcount == 1

    def guess(self, row: GuessRow) -> GuessRow | None:
        """Keep a guess; the first one for a round counts, and is given back (faults, row 28). None for a round that was skipped."""
        fields = asdict(row) | {"leak_flags": json.dumps(row.leak_flags)}
        with self._store.opened() as database:
            if database.execute("SELECT skipped FROM rounds WHERE round = ?", (row.round,)).fetchone()["skipped"]:
                return None
            _insert(database, "guesses", fields, "OR IGNORE")
            return _guess(database.execute("SELECT * FROM guesses WHERE round = ?", (row.round,)).fetchone())

    def guesses(self, game: str = "") -> list[GuessRow]:
        """Those of one game, or all, oldest first."""
        where, values = ("WHERE game = ?", (game,)) if game else ("", ())
        with self._store.opened(reading=True) as database:
            return list(map(_guess, database.execute(f"SELECT * FROM guesses {where} ORDER BY time, rowid", values)))

    def newest(self) -> int:
        """A number that grows with every guess that is kept, 0 where there is none."""
        with self._store.opened(reading=True) as database:
            return database.execute("SELECT max(rowid) FROM guesses").fetchone()[0] or 0

    def unsent(self, where: str, most: int) -> list[GuessRow]:
        """Guesses of this host's finished games that were not sent there yet, at most so many. While a game is under way its seed would
        tell the sides to come."""
        with self._store.opened(reading=True) as database:
            rows = database.execute(
                "SELECT guesses.* FROM guesses JOIN games USING (game) WHERE round NOT IN (SELECT round FROM sent WHERE place = ?)"
                " AND (SELECT count(*) FROM guesses AS made WHERE made.game = games.game) >= length ORDER BY guesses.rowid LIMIT ?",
                (where, most),
            )
            return list(map(_guess, rows))

    def sent(self, where: str, rows: Iterable[GuessRow]) -> None:
        """Note guesses as sent there."""
        with self._store.opened() as database:
            database.executemany("INSERT OR IGNORE INTO sent VALUES (?, ?)", [(where, row.round) for row in rows])

    def add(self, rows: Iterable[GuessRow]) -> int:
        """Take guesses of another machine's export, each round once; how many were new."""
        with self._store.opened() as database:
            before = database.total_changes
            for row in rows:
                _insert(database, "guesses", asdict(row) | {"leak_flags": json.dumps(row.leak_flags)}, "OR IGNORE")
            return database.total_changes - before


def read(path: Path) -> list[GuessRow]:
    """The guesses of an export. Raises BadInput that names the line of one that is none."""
    unit, rows = data_files.opened(path)
    found = []
    for row in rows:
        try:
            if isinstance(row, BadRow):
                raise ValueError(row.reason)
            found.append(_ROW.validate_python(dict(row.fields)))
        except ValueError as error:
            raise BadInput(f"{path.name}, {unit} {row.line}: this is no guess of this app ({str(error).splitlines()[0]}).") from error
    return found


def lines(rows: Iterable[GuessRow]) -> Iterator[str]:
    """Guesses as JSON lines."""
    for row in rows:
        yield json.dumps(asdict(row), ensure_ascii=False)


def _forget(database: sqlite3.Connection, before: float) -> None:
    """Delete the games that were begun before then and that nobody guessed in, with their rounds."""
    old = "SELECT game FROM games WHERE began < ? AND game NOT IN (SELECT game FROM guesses)"
    for table in ("rounds", "games"):
        database.execute(f"DELETE FROM {table} WHERE game IN ({old})", (before,))


def _insert(database: sqlite3.Connection, table: str, fields: Mapping[str, object], how: str = "") -> None:
    database.execute(f"INSERT {how} INTO {table} ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))})", tuple(fields.values()))


def _game(database: sqlite3.Connection, game: str) -> GameRow | None:
    row = database.execute("SELECT * FROM games WHERE game = ?", (game,)).fetchone()
    if not row:
        return None
    fields = dict(row)
    plan, replay = tuple(json.loads(fields["plan"])), json.loads(fields["replay"])
    return GameRow(**fields | {"plan": plan, "replay": replay, "catches": bool(fields["catches"])})


def _round(row: sqlite3.Row) -> RoundRow:
    fields = dict(row)
    return RoundRow(**fields | {"seen": bool(fields["seen"]), "skipped": bool(fields["skipped"])})


def _guess(row: sqlite3.Row) -> GuessRow:
    fields = {name: row[name] for name in GuessRow.__dataclass_fields__}
    return GuessRow(**fields | {"leak_flags": tuple(json.loads(fields["leak_flags"]))})


_ROW = TypeAdapter(GuessRow)


def now() -> float:
    """Seconds since 1970."""
    return time.time()

"""What the host keeps: verdicts on answers, in SQLite, under migrations."""

import contextlib
import sqlite3
import threading

import playing
import pytest

from engine import store
from engine.errors import BadInput, EngineError
from engine.store import Store
from engine.threads import Thread

THREAD = Thread.new("Be brief.").asked("Hi").answered("Hello", None)


def test_a_verdict_is_kept_replaced_and_taken_back(home):
    kept = Store()
    kept.thumb(THREAD, 1, 1)
    kept.thumb(THREAD, 1, -1, " rude ")
    rows = Store().thumbs()
    assert [(row["thumb"], row["reason"], row["question"], row["answer"], row["system"]) for row in rows] == [
        (-1, "rude", "Hi", "Hello", "Be brief.")
    ]
    kept.thumb(THREAD, 1, -1)
    assert kept.thumbs()[0]["reason"] == "rude", "the thumb itself may arrive after its reason"
    kept.thumb(THREAD, 1, 1)
    assert kept.thumbs()[0]["reason"] == ""
    kept.thumb(THREAD, 1, 0)
    assert kept.thumbs() == []


@pytest.mark.parametrize("turn, thumb, reason", [(0, 1, ""), (5, 1, ""), (1, 3, ""), (1, 1, "x" * 501)])
def test_bad_verdicts_are_refused(home, turn, thumb, reason):
    with pytest.raises(BadInput):
        Store().thumb(THREAD, turn, thumb, reason)


def test_a_store_full_of_verdicts_keeps_them_and_leaves_room_for_games(home, monkeypatch):
    kept = Store()
    kept.thumb(THREAD, 1, 1)
    monkeypatch.setattr(store, "MAX_BYTES_WITH_THUMBS", 1)
    with pytest.raises(BadInput, match="full"):
        kept.thumb(THREAD.model_copy(update={"id": "f" * 16}), 1, 1)
    assert len(kept.thumbs()) == 1
    deck = playing.deck()
    assert playing.begun(playing.game(deck), deck)


def test_migrations_run_once_each_and_are_recorded(home, monkeypatch):
    Store().thumb(THREAD, 1, 1)

    def _more(database):
        database.execute("ALTER TABLE thumbs ADD COLUMN more TEXT")

    monkeypatch.setattr(store, "MIGRATIONS", [*store.MIGRATIONS, _more])
    assert len(Store().thumbs()) == 1
    Store().thumbs()
    with sqlite3.connect(home / "playground.db") as database:
        assert [name for (name,) in database.execute("SELECT name FROM migrations ORDER BY time")] == ["_thumbs", "_game", "_more"]
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_failed_migration_changes_nothing(home, monkeypatch):
    def _broken(database):
        database.execute("CREATE TABLE half (x)")
        database.execute("nonsense")

    monkeypatch.setattr(store, "MIGRATIONS", [*store.MIGRATIONS, _broken])
    with pytest.raises(EngineError, match="cannot be used"):
        Store().thumbs()
    with sqlite3.connect(home / "playground.db") as database:
        assert database.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('half', 'thumbs')").fetchone() == (0,)


def test_a_damaged_database_is_named_and_left_alone(home):
    home.mkdir()
    (home / "playground.db").write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(EngineError, match="playground.db"):
        Store().thumbs()
    assert (home / "playground.db").read_bytes().startswith(b"not a database")


def test_a_file_that_somebody_else_begins_just_now_is_waited_for(home, monkeypatch):
    home.mkdir()
    with contextlib.closing(sqlite3.connect(home / "playground.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (name TEXT)")
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(store.time, "sleep", lambda seconds: other.execute("COMMIT"))
        Store().thumb(THREAD, 1, 1)
    assert len(Store().thumbs()) == 1


def test_many_threads_at_once(home):
    kept = Store()
    threads = [threading.Thread(target=kept.thumb, args=(THREAD.model_copy(update={"id": f"{i:016x}"}), 1, 1)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept.thumbs()) == 20

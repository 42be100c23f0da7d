"""Guesses that go to a data set of the owner's, and only there, and only where asked: by the real client against a local server."""

import json

import playing
import pytest
from hub_server import HubServer
from huggingface_hub import constants
from playing import SECRET

from engine.errors import BadInput, EngineError
from engine.game import sharing
from engine.game.sharing import Sharing


@pytest.fixture
def table():
    table = playing.game()
    playing.play(table, playing.begun(table, playing.deck()), 5)
    return table


def use(hub: HubServer, monkeypatch) -> None:
    """The real client on that server; it reads HF_ENDPOINT when it is imported, which may be long ago."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")


def sent(hub: HubServer) -> list[dict]:
    """The rows of all files that were committed."""
    return [json.loads(line) for text in hub.committed.values() for line in text.splitlines()]


def test_what_is_new_is_sent_once_also_after_a_restart(table, tmp_path, monkeypatch):
    (tmp_path / "votes").mkdir()
    with HubServer({}, datasets={"me/votes": tmp_path / "votes"}) as hub:
        use(hub, monkeypatch)
        store = table.records._store
        assert Sharing(store, "me/votes").send() == 10 and Sharing(store, "me/votes").send() == 0
        game = playing.begun(table, playing.deck(), "another" * 4)
        dealt = table.deal("another" * 4, game)
        table.guess("another" * 4, dealt.round, "left", 50, "tie")
        assert Sharing(store, "me/votes").send() == 0  # under way: its seed would tell the sides to come
        playing.play(table, game, 5, "another" * 4)
        with_end = Sharing(type(store)(), "me/votes", seconds=3600)
        with_end.start()
        with_end.close()
        rows = sent(hub)
        assert len(rows) == len({row["round"] for row in rows}) == 20 and SECRET not in json.dumps(rows)
        assert all(name.startswith("guesses/") for name in hub.committed) and len(hub.committed) == 2


@pytest.mark.long
def test_a_hub_that_fails_loses_nothing(table, tmp_path, monkeypatch):
    (tmp_path / "votes").mkdir()
    with HubServer({}, status=500, datasets={"me/votes": tmp_path / "votes"}) as hub:
        use(hub, monkeypatch)
        sending = Sharing(table.records._store, "me/votes")
        with pytest.raises(EngineError):
            sending.send()
        hub.status = None
        assert sending.send() == 10 and len(sent(hub)) == 10


def test_nothing_is_sent_unless_the_owner_asks(table, monkeypatch):
    monkeypatch.setattr(Sharing, "start", lambda self: pytest.fail("it was started"))
    monkeypatch.delenv(sharing.VARIABLE, raising=False)
    with sharing.as_wanted(table.records._store):
        pass
    monkeypatch.setenv(sharing.VARIABLE, "not a name")
    with pytest.raises(BadInput, match="owner/name"), sharing.as_wanted(table.records._store):
        pass

"""The decks there are to play: the starter pack, the published pairs once they are on this machine, and those made here."""

import functools
import threading

from engine.errors import EngineError
from engine.game import decks, published, starter_pack
from engine.game.decks import Deck

# Who is to be told from ChatGPT; the first is the pair of the original game.
PUBLISHED = ("Guanaco-65B", "Guanaco-33B", "Guanaco-13B", "Guanaco-7B")


class Shelf:
    """Thread-safe. What is known is not read again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Deck] = {}

    def decks(self) -> list[Deck]:
        """All that can be played, the most interesting first."""
        found = [*_published(), _starter_pack(), *decks.kept()]
        with self._lock:
            self._known = {deck.id: deck for deck in found}
            return list(self._known.values())

    def find(self, id: str) -> Deck | None:
        """The deck of that id."""
        with self._lock:
            known = self._known.get(id)
        return known or next((deck for deck in self.decks() if deck.id == id), None)

    def add(self, deck: Deck) -> None:
        """Keep a deck that was made here."""
        decks.keep(deck)
        with self._lock:
            self._known[deck.id] = deck


@functools.cache
def _starter_pack() -> Deck:
    return starter_pack.deck()


def _published() -> list[Deck]:
    """The published pairs, none where the files are not here or not the published ones."""
    try:
        return [published.deck(other=name) for name in PUBLISHED] if published.available() else []
    except EngineError:
        return []

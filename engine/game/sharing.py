"""Guesses sent to a data set on the Hub, where the host's owner asks for it by `GUANACO_VOTES=owner/name`; nothing is sent otherwise.
A game is sent when it is over.

What has been sent is noted in the database, so that after a restart neither a guess is lost nor one sent twice. A host whose disk
does not outlive a restart loses at most what was guessed since the last time.
"""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator

from engine import hub
from engine.errors import BadInput, EngineError
from engine.game import records
from engine.game.records import Records
from engine.store import Store

VARIABLE = "GUANACO_VOTES"
SECONDS = 300
MAX_ROWS = 10_000


class Sharing:
    """Sends what is new every five minutes, and once more at the end."""

    def __init__(self, store: Store, repo: str, seconds: float = SECONDS):
        self._records, self._repo, self._seconds = Records(store), repo, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sharing", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Send what is left and end."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(30)

    def _run(self) -> None:
        while True:
            ended = self._ended.wait(self._seconds)
            try:
                while self.send():
                    pass
            except EngineError as error:  # it is tried again the next time
                print(f"The guesses were not sent: {error}", file=sys.stderr)
            if ended:
                return

    def send(self) -> int:
        """Send the guesses of finished games that were not sent yet, up to MAX_ROWS, as one file; how many there were. Raises
        EngineError."""
        rows = self._records.unsent(self._repo, MAX_ROWS)
        if not rows:
            return 0
        data = io.BytesIO("".join(f"{line}\n" for line in records.lines(rows)).encode())
        # Two hosts that share one data set do not write the same file: rounds are random.
        name = f"guesses/{int(rows[0].time)}-{rows[0].round}.jsonl"
        with hub.explained(self._repo, name, hub.DATA_SET):
            from huggingface_hub import HfApi

            message = f"{len(rows)} guess{'' if len(rows) == 1 else 'es'} of the blind game"
            HfApi().upload_file(path_or_fileobj=data, path_in_repo=name, repo_id=self._repo, repo_type="dataset", commit_message=message)
        self._records.sent(self._repo, rows)
        return len(rows)


def wanted() -> str:
    """The data set that the owner's environment names, empty for none. Raises BadInput for what is no data set's name."""
    repo = os.environ.get(VARIABLE, "")
    if repo and not hub.HUB_ID.fullmatch(repo):
        raise BadInput(f"{VARIABLE} is {repo!r}; it must name a data set on the Hub, owner/name.")
    return repo


@contextlib.contextmanager
def as_wanted(store: Store) -> Iterator[None]:
    """Send guesses within the block, if the owner's environment asks for it. Raises BadInput as `wanted`."""
    repo = wanted()
    if not repo:
        yield
        return
    with contextlib.closing(Sharing(store, repo)) as sharing:
        sharing.start()
        yield

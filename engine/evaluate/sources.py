"""The rows of a measure's data, from a local file or the Hub, all of them, with a hash of what was read."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from engine import datasets, hub, paths
from engine.data_files import BadRow, Row, Unit
from engine.data_hub import RowsChecksum


@dataclass(frozen=True)
class Source:
    """Rows as they stand in their data, good and bad; `sha256` is that of the file, or of a Hub data set's rows as canonical JSON."""

    name: str
    unit: Unit
    rows: tuple[Row | BadRow, ...]
    sha256: str


def read(name: str, report: hub.Report) -> Source:
    """All rows of a file or of a Hub data set `owner/name[@config][:split]`. Raises BadInput where there is no such thing or no row,
    EngineError where the Hub does not answer."""
    head = datasets.head(name, report=report)
    checksum = RowsChecksum()

    def counted() -> Iterator[Row | BadRow]:
        for row in chain(head.rows, head.rest):
            checksum.add(row)
            yield row

    rows = tuple(counted())
    shown = head.path.name if head.path else head.name
    return Source(shown, head.unit, rows, paths.sha256(head.path) if head.path else checksum.hexdigest())

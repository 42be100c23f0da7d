"""The rows of a data set on the Hugging Face Hub, through the `datasets` library: `owner/name[@config][:split]`.

Only plain data files of that one repository are read. What the library fetches and builds lies under `GUANACO_HOME` and in the
Hub client's own cache.
"""

import hashlib
import json
import re

from engine import hub, paths
from engine.data_files import BadRow, Row, Rows, Unit, arrow_rows
from engine.errors import BadInput, EngineError
from engine.events import Progress

NAME = re.compile(rf"(?P<repo>{hub.HUB_ID.pattern}?)(?:@(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+(?:\[[\d:%-]*\])?))?")
BUILDERS = ("arrow", "csv", "json", "parquet", "text")
ENDINGS = (".arrow", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt")


class RowsChecksum:
    """SHA-256 of rows as canonical JSON, one a line: keys sorted, what JSON has not as Python writes it."""

    def __init__(self):
        self._digest = hashlib.sha256()

    def add(self, row: Row | BadRow) -> None:
        fields = row.fields if isinstance(row, Row) else None
        self._digest.update(json.dumps(fields, sort_keys=True, default=repr).encode() + b"\n")

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def opened(name: str, report: hub.Report) -> tuple[Unit, Rows]:
    """What the rows of a data set are counted in, and the rows. Raises BadInput for a data set, configuration or split that is
    not there or cannot be read, EngineError where the Hub does not answer."""
    parts = NAME.fullmatch(name)
    repo, config, split = parts["repo"], parts["config"], parts["split"] or "train"
    with hub.explained(repo, "the list of files", hub.DATA_SET):
        commit, files = _listed(repo)
    if not any(file.removesuffix(".gz").removesuffix(".zst").lower().endswith(ENDINGS) for file in files):
        raise BadInput(f"{repo} has no data files this can read. It reads {', '.join(ENDINGS)}; code of data sets is never run.")
    report(Progress(f"Fetching {repo} from the Hub"))
    with hub.explained(repo, f"the split {split}", hub.DATA_SET):
        table = _table(repo, commit, config, split)

    def rows() -> Rows:
        first = 1
        for batch in table.to_batches(1_000):
            yield from arrow_rows(batch, first)
            first += len(batch)

    return "row", rows()


def _listed(repo: str) -> tuple[str, list[str]]:
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(repo, timeout=15)
    return info.sha, [file.rfilename for file in info.siblings or ()]


def _table(repo: str, commit: str, config: str | None, split: str):
    """A split as an Arrow table: its values as they are, so that no column is decoded or fetched."""
    import datasets
    from datasets.exceptions import DatasetsError

    datasets.disable_progress_bars()
    try:
        # The prefix keeps a local folder of the same name from being meant.
        builder = datasets.load_dataset_builder(f"hf://datasets/{repo}", config, revision=commit, cache_dir=str(paths.home() / "datasets"))
        _check_files(builder, repo, commit)
        builder.download_and_prepare()
        return builder.as_dataset(split=split).data.table
    except DatasetsError as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and not isinstance(error, OSError):
            raise cause from error
        raise BadInput(f"The rows of {repo} cannot be read: {_line(cause)}") from error
    except ValueError as error:  # unknown configurations and splits; the message names those there are
        raise BadInput(f"{repo} cannot be read as asked: {_line(error)}") from error


def _check_files(builder, repo: str, commit: str) -> None:
    """A data set's card may name any file of this machine or address on the net; only those of its own repository are read."""
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in BUILDERS:
        raise BadInput(f"{repo} holds data of the kind {kind}, which this does not read. It reads {', '.join(BUILDERS)}.")
    for files in (builder.config.data_files or {}).values():
        for file in files:
            if not str(file).startswith(f"hf://datasets/{repo}@{commit}/"):
                raise EngineError(f"{repo} names the file {str(file)[:80]!r}, which lies outside of it. Nothing was read.")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

"""The rows of a data set on the Hugging Face Hub, through the `datasets` library: `owner/name[@config][:split]`.

Only plain data files of that one repository are read. What the library fetches and builds lies under `GUANACO_HOME` and in the
Hub client's own cache. What a visitor of a public host names is read without the host's token, and is limited in size.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping

from engine import hub, paths
from engine.data_files import BadRow, Row, Rows, Unit, arrow_rows
from engine.destinations import size_text
from engine.errors import BadInput, EngineError
from engine.events import Progress

NAME = re.compile(rf"(?P<repo>{hub.HUB_ID.pattern}?)(?:@(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+(?:\[[\d:%-]*\])?))?")
BUILDERS = ("arrow", "csv", "json", "parquet", "text")
ENDINGS = (".arrow", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt")
# The library unpacks these as it reads them, all others onto the disk first.
STREAMED = tuple(ending for ending in ENDINGS if ending != ".arrow")
# What a visitor of a public host may have fetched, and what may become of it on the disk.
MOST_BYTES, MOST_BUILT_BYTES = 200_000_000, 1_000_000_000


class RowsChecksum:
    """SHA-256 of rows as canonical JSON, one a line: keys sorted, what JSON has not as Python writes it."""

    def __init__(self):
        self._digest = hashlib.sha256()

    def add(self, row: Row | BadRow) -> None:
        fields = row.fields if isinstance(row, Row) else None
        self._digest.update(json.dumps(fields, sort_keys=True, default=repr).encode() + b"\n")

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def opened(name: str, report: hub.Report, public: bool = False) -> tuple[Unit, Rows]:
    """What the rows of a data set are counted in, and the rows. `public`: for a visitor of a public host, who gets what everybody may
    read and no more than `MOST_BYTES`. Raises BadInput for a data set, configuration or split that is not there or cannot be read,
    EngineError where the Hub does not answer."""
    parts = NAME.fullmatch(name)
    repo, config, split = parts["repo"], parts["config"], parts["split"] or "train"
    with hub.explained(repo, "the list of files", hub.DATA_SET):
        commit, sizes = _listed(repo, public)
    if not any(_readable(file, ENDINGS) for file in sizes):
        raise BadInput(f"{repo} has no data files this can read. It reads {', '.join(ENDINGS)}; code of data sets is never run.")
    with hub.explained(repo, f"the split {split}", hub.DATA_SET):
        builder = _builder(repo, commit, config, public)
        files = _files(builder, repo, commit, sizes)
        size = sum(sizes[file] for file in files)
        if public:
            _check_public(repo, files, size)
            _bound(builder, repo)
        report(Progress(f"Fetching {repo} from the Hub: {size_text(size)}"))
        table = _table(builder, repo, split)

    def rows() -> Rows:
        first = 1
        for batch in table.to_batches(1_000):
            yield from arrow_rows(batch, first)
            first += len(batch)

    return "row", rows()


def _listed(repo: str, public: bool) -> tuple[str, dict[str, int]]:
    """The newest commit, and its files with their bytes."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    closed = BadInput(
        f"{repo} is not on the Hub, or it is private or gated; on this public host only data sets that everybody may read are fetched. "
        "Check the spelling, or run the app on your own machine."
    )
    try:
        info = HfApi().dataset_info(repo, timeout=15, files_metadata=True, token=False if public else None)
    except RepositoryNotFoundError as error:  # a gated one is of this kind
        if public:
            raise closed from error
        raise
    if public and (info.private or info.gated):
        raise closed
    return info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _readable(file: str, endings: tuple[str, ...]) -> bool:
    return file.removesuffix(".gz").removesuffix(".zst").lower().endswith(endings)


def _builder(repo: str, commit: str, config: str | None, public: bool):
    """What knows the data set's files; none of them is fetched yet."""
    import datasets

    datasets.disable_progress_bars()
    token = False if public else None
    with _refusals_told(repo):
        # The prefix keeps a local folder of the same name from being meant.
        return datasets.load_dataset_builder(
            f"hf://datasets/{repo}", config, revision=commit, cache_dir=str(paths.home() / "datasets"), token=token
        )


def _table(builder, repo: str, split: str):
    """A split as an Arrow table: its values as they are, so that no column is decoded or fetched."""
    with _refusals_told(repo):
        builder.download_and_prepare()
        return builder.as_dataset(split=split).data.table


@contextlib.contextmanager
def _refusals_told(repo: str) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    except DatasetsError as error:
        cause = error.__cause__ or error
        if isinstance(cause, EngineError) or (isinstance(cause, OSError) and not isinstance(error, OSError)):
            raise cause from error
        raise BadInput(f"The rows of {repo} cannot be read: {_line(cause)}") from error
    except ValueError as error:  # unknown configurations and splits; the message names those there are
        raise BadInput(f"{repo} cannot be read as asked: {_line(error)}") from error


def _files(builder, repo: str, commit: str, sizes: Mapping[str, int]) -> list[str]:
    """The names of the files that would be fetched. A data set's card may name any file of this machine or address on the net; only
    those of its own repository are read."""
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in BUILDERS:
        raise BadInput(f"{repo} holds data of the kind {kind}, which this does not read. It reads {', '.join(BUILDERS)}.")
    named = [str(file) for files in (builder.config.data_files or {}).values() for file in files]
    own = f"hf://datasets/{repo}@{commit}/"
    for file in named:
        if not file.startswith(own) or file.removeprefix(own) not in sizes:
            raise EngineError(f"{repo} names the file {file[:80]!r}, which lies outside of it. Nothing was read.")
    return [file.removeprefix(own) for file in named]


def _check_public(repo: str, files: Iterable[str], size: int) -> None:
    """Raises BadInput where a visitor may not have these files fetched, EngineError where the host's disk is nearly full."""
    if size > MOST_BYTES:
        raise BadInput(_too_large(repo, f"has {size / 1e6:,.1f} MB of data files", MOST_BYTES))
    if packed := next((file for file in files if not _readable(file, STREAMED)), None):
        raise BadInput(
            f"{repo} holds {packed[:80]!r}; on this public host {', '.join(STREAMED)} are read. Run the app on your own machine."
        )
    if hub.free_bytes(paths.home() / "datasets") < MOST_BUILT_BYTES + MOST_BYTES:
        raise EngineError("The disk of this public host is nearly full, so no data sets are fetched now. Upload or paste rows instead.")


def _bound(builder, repo: str) -> None:
    """Let no more be built than `MOST_BUILT_BYTES`: packed well, a small file holds any number of rows."""
    tables, built = builder._generate_tables, 0

    def bounded(*asked, **named):
        nonlocal built
        for key, table in tables(*asked, **named):
            built += table.nbytes
            if built > MOST_BUILT_BYTES:
                raise BadInput(_too_large(repo, "unpacks to more", MOST_BUILT_BYTES))
            yield key, table

    builder._generate_tables = bounded


def _too_large(repo: str, what: str, most: int) -> str:
    return f"{repo} {what}; on this public host at most {most / 1e6:,.0f} MB are read. Upload a part of it, or run the app on your own machine."


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

"""The rows of a data set on the Hugging Face Hub, through the `datasets` library: `owner/name[@config][:split]`.

Only plain data files of that one repository are read. What the library fetches and builds lies under `GUANACO_HOME` and in the
Hub client's own cache. What a visitor of a public host names is read without the host's token, and is limited in size.
"""

import contextlib
import hashlib
import itertools
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from engine import hub, paths
from engine.data_files import BadRow, Row, Rows, Unit, arrow_rows, parquet_batches
from engine.destinations import size_text
from engine.errors import BadInput, EngineError
from engine.events import Progress

NAME = re.compile(rf"(?P<repo>{hub.HUB_ID.pattern}?)(?:@(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+(?:\[[\d:%-]*\])?))?")
BUILDERS = ("arrow", "csv", "json", "parquet", "text")
ENDINGS = (".arrow", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt")
# Those that are read for visitors of a public host, and none packed.
PUBLIC_ENDINGS = tuple(ending for ending in ENDINGS if ending != ".arrow")
# What a visitor of a public host may have fetched, and what may become of it on the disk.
MOST_BYTES, MOST_BUILT_BYTES = 200_000_000, 1_000_000_000
# Where a data set says how it is to be read, and how long that may be.
CARDS, MOST_CARD_BYTES = ("README.md", ".huggingface.yaml", "dataset_infos.json"), 2_000_000
# What leads out of a repository, where the library would look for files: roots, homes, parents, addresses, archives.
_OUTSIDE = re.compile(r"[/~]|.*[:\\]|(.*/)?\.\.(/|$)", re.DOTALL)


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
    if not any(_readable(file) for file in sizes):
        raise BadInput(f"{repo} has no data files this can read. It reads {', '.join(ENDINGS)}; code of data sets is never run.")
    with hub.explained(repo, f"the split {split}", hub.DATA_SET):
        _check_card(repo, commit, sizes, public)
        builder = _builder(repo, commit, config, public)
        files = _files(builder, repo, commit, sizes)
        size = sum(sizes[file] for file in files)
        if public:
            _check_public(repo, files, size)
            _bound(builder, repo, files)
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


def _readable(file: str) -> bool:
    return file.removesuffix(".gz").removesuffix(".zst").lower().endswith(ENDINGS)


def _check_card(repo: str, commit: str, sizes: Mapping[str, int], public: bool) -> None:
    """Raises EngineError where the data set's card names files outside of it: the library looks for them wherever that is, on this machine
    or the net. Raises BadInput for a card that cannot be read."""
    import yaml
    from huggingface_hub import DatasetCard, hf_hub_download

    if large := next((name for name in CARDS if sizes.get(name, 0) > MOST_CARD_BYTES), None):
        raise BadInput(f"{large} of {repo} has {sizes[large]:,} bytes, far too many to say how a data set is read.")
    for name in (name for name in CARDS[:2] if name in sizes):
        path = Path(hf_hub_download(repo, name, repo_type="dataset", revision=commit, token=False if public else None))
        try:
            said = vars(DatasetCard.load(path).data) if name.endswith(".md") else yaml.safe_load(path.read_bytes())
            configs = said.get("configs") if isinstance(said, dict) else None
            places = [[each.get("data_files"), each.get("data_dir")] for each in configs or () if isinstance(each, dict)]
            _check_length(said)
            for place in _named(places):
                if _OUTSIDE.match(place):
                    raise _outside(repo, place)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise BadInput(f"The card of {repo} cannot be read: {_line(error)}") from error


def _check_length(said: object) -> None:
    """Raises ValueError where what a card says is far longer than its file: YAML may name a part of itself again and again."""
    left, parts = 2 * MOST_CARD_BYTES, [said]
    while parts:
        part = parts.pop()
        left -= len(part) if isinstance(part, str) else 1
        if left < 0:
            raise ValueError("it is far longer than it looks")
        parts += [*part, *part.values()] if isinstance(part, dict) else part if isinstance(part, list) else ()


def _named(value: object) -> Iterator[str]:
    """All that a value of a card names."""
    if isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _named(each)
    elif value is not None:
        yield str(value)


def _outside(repo: str, place: str) -> EngineError:
    return EngineError(f"{repo} names {place[:80]!r}, which lies outside of it. Nothing was read.")


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
    if _kind(builder) not in BUILDERS:
        raise BadInput(f"{repo} holds data of the kind {_kind(builder)}, which this does not read. It reads {', '.join(BUILDERS)}.")
    named = [str(file) for files in (builder.config.data_files or {}).values() for file in files]
    own = f"hf://datasets/{repo}@{commit}/"
    for file in named:
        if not file.startswith(own) or file.removeprefix(own) not in sizes:
            raise _outside(repo, file)
    return [file.removeprefix(own) for file in named]


def _kind(builder) -> str:
    """What the library takes all files of a data set for, by its name for it."""
    return type(builder).__module__.rpartition(".")[2]


def _check_public(repo: str, files: Iterable[str], size: int) -> None:
    """Raises BadInput where a visitor may not have these files fetched, EngineError where the host's disk is nearly full."""
    if size > MOST_BYTES:
        raise BadInput(_too_large(repo, f"has {size / 1e6:,.1f} MB of data files", MOST_BYTES))
    if other := next((file for file in files if not file.lower().endswith(PUBLIC_ENDINGS)), None):
        raise _packed(repo, other)
    if hub.free_bytes(paths.home() / "datasets") < MOST_BUILT_BYTES + MOST_BYTES:
        raise EngineError("The disk of this public host is nearly full, so no data sets are fetched now. Upload or paste rows instead.")


def _packed(repo: str, file: str) -> BadInput:
    return BadInput(
        f"{repo} holds {file[:80]!r}; on this public host {', '.join(PUBLIC_ENDINGS)} are read, not packed ones. Run the app on your own machine."
    )


def _bound(builder, repo: str, files: Sequence[str]) -> None:
    """Let no more be built than `MOST_BUILT_BYTES`, and nothing be unpacked, whatever a file is called: packed well, a small one holds any
    number of rows."""
    from datasets.utils.extract import Extractor

    splits, tables, built = builder._split_generators, builder._generate_tables, 0

    def fetched(manager, *asked):
        download = manager.download

        def checked(data_files):
            found = download(data_files)
            for file, path in zip(files, itertools.chain.from_iterable(found.values()), strict=True):
                if Extractor.infer_extractor_format(path):
                    raise _packed(repo, file)
                if _kind(builder) == "parquet":  # the library would build many rows before they are counted
                    deque(parquet_batches(Path(path), MOST_BUILT_BYTES), maxlen=0)
            return found

        manager.download = checked
        return splits(manager, *asked)

    def bounded(*asked, **named):
        nonlocal built
        for key, table in tables(*asked, **named):
            built += table.nbytes
            if built > MOST_BUILT_BYTES:
                raise BadInput(_too_large(repo, "unpacks to more", MOST_BUILT_BYTES))
            yield key, table

    builder._split_generators, builder._generate_tables = fetched, bounded


def _too_large(repo: str, what: str, most: int) -> str:
    return f"{repo} {what}; on this public host at most {most / 1e6:,.0f} MB are read. Upload a part of it, or run the app on your own machine."


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

"""The rows of a data file, one after the other: CSV, TSV, JSON, JSON Lines, Parquet and plain text.

A row that cannot be read is given as a BadRow with its number and the reason, and reading goes on behind it. Files are read
and nothing else: no pickle, no code, nothing that a row names is fetched.
"""

import codecs
import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import BadInput
from engine.model_files import PICKLES

MAX_ROW_BYTES = 1_000_000
TOO_LONG = f"it is longer than {MAX_ROW_BYTES:,} bytes"
_BATCH_ROWS = 1_000
# Parquet holds a value that comes again and again but once. A file may unpack to so many times its bytes, a small one to so many bytes.
_UNPACKED_TIMES, _UNPACKED_BYTES = 20, 200_000_000
# Of its types, in bytes; texts are read as their numbers in a list of the different ones.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
# What pyarrow raises for values that Python has not.
_UNREADABLE = (ValueError, OverflowError, KeyError)

Unit = Literal["line", "row"]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its line in the file, or its number where the file has no lines, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Row:
    """What a row holds by field, and its line in the file, or its number where the file has no lines."""

    line: int
    fields: Mapping[str, object]


Rows = Iterator[Row | BadRow]


def opened(path: Path) -> tuple[Unit, Rows]:
    """What the rows of a file are counted in, and the rows. Raises BadInput, then or while they are read, where the file as a
    whole cannot be: it is missing, of a kind that is not known, or damaged."""
    kind = path.suffix.lower()
    if not path.is_file():
        there = f"{path} is a folder; name one file in it."
        none = f"There is no file {path}. Check the spelling; a data set of the Hub is named owner/name."
        raise BadInput(there if path.is_dir() else none)
    if kind in PICKLES:
        raise BadInput(f"{path.name} is a pickle file, which can run code when it is opened. Save the rows as JSON Lines or Parquet.")
    if kind not in KINDS:
        raise BadInput(f"{path.name} is no data file this can read. It reads {', '.join(KINDS)}; unpack archives first.")
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and kind != ".parquet":
            raise BadInput(f"{path.name} is text in UTF-16. Save it as UTF-8 and try again.")
        return KINDS[kind](path)
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read: {error.strerror or error}.") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of every line, without its end; None for one that is too long, which is never held in memory."""
    with open(path, "rb") as file:
        for number in itertools.count(1):
            line = piece = file.readline(MAX_ROW_BYTES + 2)
            if not line:
                return
            while len(piece) == MAX_ROW_BYTES + 2 and not piece.endswith(b"\n"):
                piece = file.readline(MAX_ROW_BYTES + 2)
            line = line.rstrip(b"\r\n")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line if len(line) <= MAX_ROW_BYTES else None


def _json_lines(path: Path) -> tuple[Unit, Rows]:
    def rows() -> Rows:
        for number, line in _lines(path):
            if line is None:
                yield BadRow(number, TOO_LONG)
            elif line.strip():
                yield _json_row(number, line)

    return "line", rows()


def _json_row(number: int, line: bytes) -> Row | BadRow:
    try:
        return _object(number, json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return BadRow(number, _not_utf8(error))
    except json.JSONDecodeError as error:
        return BadRow(number, f"it is not JSON ({error.msg}, column {error.colno})")
    except RecursionError:
        return BadRow(number, "it is nested too deeply")
    except ValueError as error:  # a number of thousands of digits
        return BadRow(number, f"it is not JSON this can read ({error})")


def _object(number: int, value: object) -> Row | BadRow:
    if isinstance(value, Mapping):
        return Row(number, value)
    return BadRow(number, "it is no JSON object with named fields")


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"it is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start + 1})"


def _json(path: Path) -> tuple[Unit, Rows]:
    """A list of rows, or an object that has it as `data`; many a file of JSON Lines has this ending too."""
    first = next((line for _, line in _lines(path) if line is None or line.strip()), b"")
    row = _json_row(1, first) if first else None
    if isinstance(row, Row) and not isinstance(row.fields.get("data"), list):
        return _json_lines(path)
    return "row", _json_list(path)


def _json_list(path: Path) -> Rows:
    try:
        # Bytes that are not UTF-8 become lone surrogates, so that only the rows that hold them are lost.
        value = json.loads(path.read_bytes().decode("utf-8-sig", "surrogateescape"))
    except json.JSONDecodeError as error:
        if not path.stat().st_size:
            return
        raise BadInput(f"{path.name} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path.name} is not JSON this can read ({error}).") from error
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise BadInput(f'{path.name} must hold a list of rows, or an object with that list as "data".')
    for number, row in enumerate(rows, 1):
        yield _object(number, row)


def _comma_separated(path: Path) -> tuple[Unit, Rows]:
    """A file whose header has no comma is taken to be separated by what it has more of, semicolons or tabs."""
    header = next((line for _, line in _lines(path)), b"") or b""
    return "line", _table(path, "," if b"," in header else max(";", "\t", key=lambda each: header.count(each.encode())))


def _tab_separated(path: Path) -> tuple[Unit, Rows]:
    return "line", _table(path, "\t")


# Bytes that are no UTF-8 are lone surrogates where text is read with `surrogateescape`.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def _table(path: Path, separator: str) -> Rows:
    """Rows below a header. A row's number is that of its first line: quoted fields may hold line ends."""
    csv.field_size_limit(MAX_ROW_BYTES)  # of the whole process; the library's own limit is lower
    too_long: set[int] = set()

    def texts() -> Iterator[str]:
        for number, line in _lines(path):
            if line is None:
                too_long.add(number)
            yield (line or b"").decode("utf-8", "surrogateescape") + "\n"

    reader = csv.reader(texts(), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise BadInput(f"The header of {path.name} cannot be read: {error}.") from error
    if any(_NO_TEXT.search(name) for name in header):
        raise BadInput(f"The header of {path.name} is no text in UTF-8. Save the file as UTF-8, which spreadsheets call CSV UTF-8.")
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice:
        raise BadInput(f"The header of {path.name} names the column {twice!r} twice. Rename one of them.")
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(first, f"its columns cannot be told apart ({error})")
            continue
        if too_long.intersection(range(first, reader.line_num + 1)) or sum(map(len, values)) > MAX_ROW_BYTES:
            yield BadRow(first, TOO_LONG)
        elif values and len(values) != len(header):
            yield BadRow(first, f"it has {len(values)} columns, the header has {len(header)}")
        elif values:
            yield Row(first, dict(zip(header, values, strict=True)))


def _parquet(path: Path) -> tuple[Unit, Rows]:
    def rows() -> Rows:
        first = 1
        for batch in parquet_batches(path, max(_UNPACKED_BYTES, _UNPACKED_TIMES * path.stat().st_size)):
            yield from arrow_rows(batch, first)
            first += len(batch)

    return "row", rows()


def parquet_batches(path: Path, most: int) -> Iterator:
    """Arrow record batches of a Parquet file. Raises BadInput where it is damaged, and before what it holds takes more than `most` bytes."""
    import pyarrow
    import pyarrow.parquet

    too_much = BadInput(f"{path.name} unpacks to more than {most / 1e6:,.0f} MB. Take fewer rows, or save them as JSON Lines.")
    try:
        metadata = pyarrow.parquet.read_metadata(path)
        columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
        if _declared_bytes(metadata, columns) > most:
            raise too_much
        texts = [each.path for each in columns if each.physical_type == "BYTE_ARRAY"]
        size, kinds = 0, pyarrow.parquet.read_schema(path).types
        # Whoever reads a text that is repeated as such has it as often at once.
        with pyarrow.parquet.ParquetFile(path, metadata=metadata, read_dictionary=texts) as file:
            # A batch across two groups would have two lists of texts, which Arrow cannot read where they are nested.
            for batch in itertools.chain.from_iterable(file.iter_batches(_BATCH_ROWS, [at]) for at in range(metadata.num_row_groups)):
                size += sum(map(_unpacked_bytes, batch.columns))
                if size > most:
                    raise too_much
                yield pyarrow.RecordBatch.from_arrays(list(map(_cast, batch.columns, kinds)), names=batch.schema.names)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path.name} is not a Parquet file, or damaged ({str(error)[:160]}).") from error


def _cast(array, kind):
    """As what the file says that it is, which is read far more quickly; where it cannot be, as it came."""
    import pyarrow

    try:
        return array.cast(kind)
    except pyarrow.ArrowException:
        return array


def _declared_bytes(metadata, columns: list) -> int:
    """What a file says that its values take, decompressed and as numbers."""
    size = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for index, each in enumerate(columns):
            chunk, width = group.column(index), _WIDTHS.get(each.physical_type, each.length)
            size += max(chunk.total_uncompressed_size, chunk.num_values * width, 0)
    return size


def _unpacked_bytes(array) -> int:
    """What an Arrow array takes, each text counted as often as it stands there."""
    import pyarrow.compute as compute
    from pyarrow import types

    kind = array.type
    if types.is_dictionary(kind):
        if not _is_text(kind.value_type):
            return _unpacked_bytes(array.dictionary_decode())
        lengths = compute.binary_length(array.dictionary)
        return compute.sum(compute.take(lengths, array.indices)).as_py() or 0
    if _is_text(kind):
        return compute.sum(compute.binary_length(array)).as_py() or 0
    if types.is_struct(kind):
        return sum(map(_unpacked_bytes, array.flatten()))
    if types.is_map(kind):
        begin, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return sum(_unpacked_bytes(each.slice(begin, end - begin)) for each in (array.keys, array.items))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _unpacked_bytes(array.flatten())
    return _unpacked_bytes(array.storage) if hasattr(array, "storage") else array.nbytes


def _is_text(kind) -> bool:
    from pyarrow import types

    return any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary))


def arrow_rows(batch, first: int) -> Rows:
    """The rows of an Arrow record batch, the first of which has the number `first`."""
    try:
        values = batch.to_pylist()
    except _UNREADABLE:  # text that is not UTF-8, a date or a time zone that Python has not, somewhere: only those rows are lost
        for index in range(len(batch)):
            try:
                yield Row(first + index, batch.slice(index, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                yield BadRow(first + index, _not_utf8(error))
            except _UNREADABLE as error:
                yield BadRow(first + index, f"it cannot be read ({str(error)[:160]})")
        return
    for index, fields in enumerate(values):
        yield Row(first + index, fields)


def _paragraphs(path: Path) -> tuple[Unit, Rows]:
    """Blank lines part the rows; each has its one text in the field `text`."""

    def rows() -> Rows:
        for blank, group in itertools.groupby(_lines(path), key=lambda numbered: numbered[1] is not None and not numbered[1].strip()):
            if not blank:
                yield _paragraph(group)

    return "line", rows()


def _paragraph(lines: Iterator[tuple[int, bytes | None]]) -> Row | BadRow:
    first, size, held = 0, 0, []
    for number, line in lines:
        first = first or number
        size += MAX_ROW_BYTES + 1 if line is None else len(line) + 1
        if size <= MAX_ROW_BYTES + 1:
            held.append(line)
    if size > MAX_ROW_BYTES + 1:
        return BadRow(first, TOO_LONG)
    try:
        return Row(first, {"text": b"\n".join(held).decode("utf-8")})
    except UnicodeDecodeError as error:
        return BadRow(first, _not_utf8(error))


KINDS: dict[str, Callable[[Path], tuple[Unit, Rows]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".parquet": _parquet,
    ".txt": _paragraphs,
}

"""Data files: the rows of every kind, bad rows with their lines, detection, splits (faults, rows 11 and 12)."""

import csv
import itertools
import json
from pathlib import Path

import pytest
from builders import conversation
from conftest import SHARED, shared
from hypothesis import given
from hypothesis import strategies as st

from engine import data_files, datasets, paths
from engine.data_files import Row
from engine.errors import BadInput

EVERY_FILE = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def write(path: Path, rows: list[dict]) -> Path:
    """The rows in the kind of file that the path's ending names."""
    kind = path.suffix
    if kind in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, rows[0], delimiter="\t" if kind == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return path


ROWS = [{"instruction": f"Question {number}?", "output": f'Answer,\n"{number}" 🦙'} for number in range(4)]


@pytest.mark.parametrize("kind", EVERY_FILE)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    path = write(tmp_path / f"rows{kind}", ROWS)
    data = datasets.load(path)
    assert data.conversations == tuple(conversation([(row["instruction"], row["output"])]) for row in ROWS)
    assert (data.format, data.rows, data.bad, data.source, data.sha256) == ("alpaca", 4, (), str(path), paths.sha256(path))
    assert data.reason == "the rows have the fields instruction and output"
    assert (data.unit, data.lines) == {
        ".json": ("row", (1, 2, 3, 4)),
        ".parquet": ("row", (1, 2, 3, 4)),
        ".csv": ("line", (2, 4, 6, 8)),
        ".tsv": ("line", (2, 4, 6, 8)),
    }.get(kind, ("line", (1, 2, 3, 4)))


@pytest.mark.parametrize("kind", EVERY_FILE)
def test_columns_are_renamed_before_conversion(tmp_path, kind):
    path = write(tmp_path / f"rows{kind}", [{"my question": row["instruction"], "output": "old", "answer": row["output"]} for row in ROWS])
    data = datasets.load(path, columns={"instruction": "my question", "output": "answer"})
    assert data.conversations == tuple(conversation([(row["instruction"], row["output"])]) for row in ROWS)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(BadInput, match="no column 'nope' to take as instruction. The columns are 'instruction', 'output'"):
        datasets.load(write(tmp_path / "rows.jsonl", ROWS), columns={"instruction": "nope", "output": "output"})


def test_columns_may_change_places(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"input": "said", "output": "asked"}])
    assert datasets.load(path, columns={"input": "output", "output": "input"}).conversations == (conversation([("asked", "said")]),)


def bad_rows(path: Path, content: bytes, name: str = "auto") -> dict[int, str]:
    path.write_bytes(content)
    data = datasets.load(path, name)
    assert data.rows == len(data.bad) + len(data.conversations)
    return {bad.line: bad.reason for bad in data.bad}


GOOD = b'{"instruction": "q", "output": "a"}\n'


def test_each_bad_line_of_json_lines_is_reported(tmp_path):
    long = b'{"instruction": "q", "output": "%s"}\n' % (b"a" * 1_000_000)
    lines = [
        b"\xef\xbb\xbf" + GOOD,
        b"\n",
        b"not json\n",
        b'{"instruction": "q", "output": "\xff"}\n',
        b"[1, 2]\n",
        long,
        b'{"instruction": "q", "output": NaN}\n',
        b'{"instruction": "q", "output": "\\ud800"}\n',
        b'{"instruction": "q", "output": "\\u0000"}\n',
        b"[" * 100_000 + b"\n",
        b'{"instruction": "q", "output": ' + b"9" * 5_000 + b"}\n",
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.rstrip(),
    ]
    found = bad_rows(tmp_path / "rows.jsonl", b"".join(lines))
    assert list(found) == [3, 4, 5, 6, 7, 8, 9, 10, 11]
    for line, words in {
        3: "not JSON (Expecting value, column 1)",
        4: "not UTF-8 (byte 0xff at 33)",
        5: "no JSON object",
        6: "longer than 1,000,000 bytes",
        7: "output is NaN",
        8: "half of a surrogate pair",
        9: "NUL",
        10: "",
        11: "",
    }.items():
        assert words in found[line], found[line]


def test_each_bad_row_of_a_table_is_reported_by_its_first_line(tmp_path):
    content = (
        b'\xef\xbb\xbfinstruction,output\nq,"two\nlines"\nq\nq,a,b\n\nq,"'
        + b"a" * 1_100_000
        + b'"\nq,\xffa\nq,"quoted" more\nq,\nq,a\nq,"never closed\n'
    )
    found = bad_rows(tmp_path / "rows.csv", content)
    assert list(found) == [4, 5, 7, 8, 9, 10, 12]
    assert "1 columns, the header has 2" in found[4] and "3 columns" in found[5] and "longer than" in found[7]
    assert "not UTF-8" in found[8] and "told apart" in found[9] and "output is empty" in found[10] and "told apart" in found[12]
    assert datasets.load(tmp_path / "rows.csv").lines == (2, 11)


def test_a_table_may_be_separated_by_semicolons(tmp_path):
    (tmp_path / "rows.csv").write_text("instruction;output\nq, and more;a\n")
    assert datasets.load(tmp_path / "rows.csv").conversations == (conversation([("q, and more", "a")]),)


def test_each_bad_row_of_a_json_list_is_reported_by_its_number(tmp_path):
    content = (
        b'\xef\xbb\xbf{"data": [{"instruction": "q", "output": "a"}, 7, {"instruction": "q", "output": "\xff"}, {"instruction": "q"}]}'
    )
    found = bad_rows(tmp_path / "rows.json", content)
    assert list(found) == [2, 3, 4] and "no JSON object" in found[2] and "not UTF-8" in found[3] and "missing" in found[4]


def test_json_lines_may_be_called_json(tmp_path):
    (tmp_path / "rows.json").write_bytes(b"\n" + GOOD + b"nonsense\n")
    data = datasets.load(tmp_path / "rows.json")
    assert (data.unit, data.lines, data.bad[0].line) == ("line", (2,), 3)


def test_each_bad_row_of_parquet_is_reported_by_its_number(tmp_path):
    import pyarrow
    import pyarrow.parquet

    raw = pyarrow.array([b"a", b"\xff", None, b"a"], pyarrow.binary())
    strings = pyarrow.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    pyarrow.parquet.write_table(pyarrow.table({"instruction": ["q"] * 4, "output": strings}), tmp_path / "rows.parquet")
    data = datasets.load(tmp_path / "rows.parquet")
    assert [(bad.line, bad.reason) for bad in data.bad] == [(2, "it is not UTF-8 (byte 0xff at 1)"), (3, "output is null, not text")]
    assert (data.unit, data.lines) == ("row", (1, 4))


def test_a_date_that_python_has_not_costs_its_row_alone(tmp_path):
    import pyarrow
    import pyarrow.parquet

    dates = pyarrow.array([0, 2**40], pyarrow.timestamp("s"))
    table = pyarrow.table({"instruction": ["q", "q"], "output": ["a", "b"], "made": dates})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    data = datasets.load(tmp_path / "rows.parquet")
    assert len(data.conversations) == 1 and [bad.line for bad in data.bad] == [2]


def repeated(count: int):
    """A value that Parquet writes once."""
    import pyarrow

    return pyarrow.DictionaryArray.from_arrays([0] * count, ["a" * 50_000])


@pytest.mark.parametrize(
    "made",
    [
        lambda pyarrow: repeated(1_000),
        lambda pyarrow: pyarrow.ListArray.from_arrays([0, 900, 1_000], repeated(1_000)),
        lambda pyarrow: pyarrow.StructArray.from_arrays([repeated(1_000)], ["role"]),
        lambda pyarrow: pyarrow.MapArray.from_arrays([0, 1_000], pyarrow.array(map(str, range(1_000))), repeated(1_000)),
        lambda pyarrow: pyarrow.ListArray.from_arrays([0, 1_000_000], pyarrow.array([0] * 1_000_000)),
    ],
)
def test_a_small_parquet_file_does_not_fill_the_memory(made, tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"output": made(pyarrow)}), path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(data_files, "_UNPACKED_BYTES", 5_000_000)
    pool, before = pyarrow.proxy_memory_pool(pyarrow.default_memory_pool()), pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pool)
    try:
        with pytest.raises(BadInput, match="rows.parquet unpacks to more than 5 MB. Take fewer rows, or save them as JSON Lines"):
            list(data_files.opened(path)[1])
    finally:
        pyarrow.set_memory_pool(before)
    assert pool.max_memory() < 2_000_000


def test_what_repeats_in_parquet_is_read_whole(tmp_path):
    import pyarrow
    import pyarrow.parquet

    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "é" * 500}]
    rows = [{"messages": messages, "tags": ["a", None], "kind": "k"}, {"messages": None, "tags": [], "kind": None}] * 3_000
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(
        table.set_column(2, "kind", table["kind"].dictionary_encode()), tmp_path / "rows.parquet", row_group_size=700
    )
    unit, found = data_files.opened(tmp_path / "rows.parquet")
    assert unit == "row" and [each.fields for each in found] == rows
    texts = 3_000 * (len("userqassistantak") + 2 * 500)
    list(data_files.parquet_batches(tmp_path / "rows.parquet", texts))
    with pytest.raises(BadInput, match="unpacks"):
        list(data_files.parquet_batches(tmp_path / "rows.parquet", texts - 1))


@pytest.mark.long
def test_for_a_visitor_reading_ends_at_the_first_row_too_many(monkeypatch):
    read = []

    def endless(fields):
        for number in itertools.count(1):
            read.append(number)
            yield Row(number, fields)

    several = {"instruction": "q", "instances": [{"input": "", "output": "a"}] * 9}
    for fields, most in (({"text": "a"}, 10_001), (several, 1_200)):
        read.clear()
        monkeypatch.setattr("engine.data_hub.opened", lambda *asked: ("row", endless(fields)))
        with pytest.raises(BadInput, match="at most 10,000 rows of data; this one has more. Bring fewer rows"):
            datasets.load("owner/name", public=True)
        assert len(read) <= most
    assert datasets.load("owner/name", limit=20_000).rows == 20_000


def test_paragraphs_of_a_text_file_are_rows(tmp_path):
    path = tmp_path / "story.txt"
    path.write_bytes(
        b"\xef\xbb\xbfOnce\r\nupon a time.\r\n\r\n \nBad \xff\nparagraph.\n\n\n" + b"a" * 600_000 + b"\n" + b"b" * 600_000 + b"\n\nThe end."
    )
    data = datasets.load(path)
    assert [each.messages[0].text for each in data.conversations] == ["Once\nupon a time.", "The end."]
    assert (data.format, data.lines, [bad.line for bad in data.bad]) == ("text", (1, 12), [5, 9])


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("rows.jsonl", b"", "has no rows"),
        ("rows.json", b"", "has no rows"),
        ("rows.json", b"[]", "has no rows"),
        ("rows.csv", b"instruction,output\n", "has no rows"),
        ("rows.txt", b"\n \n", "has no rows"),
        ("rows.jsonl", b"nonsense\n", "no rows that can be read: in line 1, it is not JSON"),
        ("rows.jsonl", b'{"instruction": "q", "output": 7}\n', "no rows that can be used as alpaca: in line 1, output is a number"),
        ("rows.json", b'{\n"rows": []\n}', 'must hold a list of rows, or an object with that list as "data"'),
        ("rows.json", b'[\n{"a": }]', "not JSON: Expecting value in line 2, column 7"),
        ("rows.json", b"[" * 100_000, "is not JSON"),
        ("rows.csv", b"a,a\n1,2\n", "names the column 'a' twice"),
        ("rows.parquet", b"PAR1 no", "not a Parquet file, or damaged"),
        ("rows.parquet", b"", "not a Parquet file, or damaged"),
        ("rows.jsonl", '{"instruction": "q"}\n'.encode("utf-16"), "UTF-16"),
        ("rows.jsonl.gz", b"", "no data file this can read. It reads .jsonl"),
        ("rows.pkl", b"", "pickle file, which can run code"),
        (
            "rows.jsonl",
            b'{"Frage": "q", "Antwort": "a"}\n',
            "The columns are 'Frage', 'Antwort'. Say which.*--column instruction=Frage.*alpaca",
        ),
    ],
)
def test_a_file_that_gives_nothing_says_why(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=words):
        datasets.load(tmp_path / name)


def test_names_that_mean_nothing_are_refused(tmp_path):
    for source, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.jsonl", "no file"),
        ("data/none.csv", "no file"),
        ("what", "no file"),
    ):
        with pytest.raises(BadInput, match=words):
            datasets.load(source)
    with pytest.raises(BadInput, match="no data format 'nope'. There are: auto, messages"):
        datasets.load(write(tmp_path / "rows.jsonl", ROWS), "nope")


def test_nothing_in_a_row_or_file_is_run(tmp_path):
    """A pickle is refused by its name, and one under another name is only bytes."""
    import pickle

    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (canary,))

    for name in ("a.pkl", "a.jsonl", "a.json", "a.csv", "a.parquet", "a.txt"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(BadInput):
            datasets.load(tmp_path / name, "alpaca")
    assert not canary.exists()


def test_one_row_is_enough_and_a_limit_ends_reading(tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS)
    assert datasets.load(path, limit=1).rows == len(datasets.load(path, limit=1).conversations) == 1
    with pytest.raises(BadInput, match="limit of rows is 0"):
        datasets.load(path, limit=0)


@given(count=st.integers(1, 60), wanted=st.integers(1, 40), last=st.integers(0, 8), seed=st.integers(0, 9))
def test_rows_are_drawn_once_each_in_order_with_the_last_ones(count, wanted, last, seed, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("draw") / "rows.jsonl", [{"instruction": str(number), "output": "a"} for number in range(count)])
    data = datasets.load(path, draw=datasets.Draw(wanted, last, seed))
    drawn = [int(each.messages[0].text) for each in data.conversations]
    assert drawn == sorted(set(drawn)) and len(drawn) == min(count, wanted + last) and (data.there, data.rows) == (count, len(drawn))
    assert drawn[len(drawn) - min(last, count) :] == list(range(count - min(last, count), count))
    again = datasets.load(path, draw=datasets.Draw(wanted, last, seed))
    assert again == data and again.sha256 == datasets.load(path).sha256


def test_every_row_is_drawn_about_equally_often():
    rows = [datasets.Row(number, {}) for number in range(10)]
    seen = [row.line for seed in range(3_000) for row in datasets._drawn(rows, datasets.Draw(3, 0, seed))]
    # 900 expected, with a standard deviation of 25.
    assert all(abs(seen.count(number) - 900) < 125 for number in range(10))


def test_detection_goes_by_most_rows():
    rows = [{"text": "only this"}, {"text": "### Human: a ### Assistant: b"}, {"text": "### Human: c ### Assistant: d"}, {}]
    assert datasets.detect(rows) == ("oasst", "the field text holds turns marked ### Human: and ### Assistant:")
    with pytest.raises(BadInput, match="No known format"):
        datasets.detect([{}])


@shared
@pytest.mark.parametrize(
    "name, form, count",
    [
        ("instruct/alpaca.json", "alpaca", 187),
        ("instruct/oasst_text.jsonl", "oasst", 500),
        ("instruct/short.jsonl", "alpaca", 64),
        ("self-instruct/seed_tasks.jsonl", "self-instruct", 175),
    ],
)
def test_real_files_are_read_whole(name, form, count):
    data = datasets.load(SHARED / name)
    assert (data.format, data.rows, len(data.conversations), data.bad) == (form, count, count, ())
    if form == "oasst":
        written = [json.loads(line)["text"] for line in (SHARED / name).read_text(encoding="utf-8").splitlines()]
        for row, each in zip(written, data.conversations, strict=True):
            spoken = " ".join(f"### {'Human' if message.role == 'user' else 'Assistant'}: {message.text}" for message in each.messages)
            assert " ".join(spoken.split()) == " ".join(row.split())


@given(st.integers(1, 200), st.integers(0, 250), st.integers(0, 2**31 - 1), st.sampled_from(["random", "last"]))
def test_a_split_is_whole_disjoint_and_the_same_again(count, held_out, seed, order):
    if held_out >= count:
        with pytest.raises(BadInput, match="leaves none to train on"):
            datasets.split(count, held_out, seed, order)
        return
    train, kept = datasets.split(count, held_out, seed, order)
    assert sorted(train + kept) == list(range(count)) and len(kept) == held_out
    assert (train, kept) == datasets.split(count, held_out, seed, order)
    assert order == "random" or kept == list(range(count - held_out, count))


def test_shares_and_seeds_of_splits():
    assert len(datasets.split(200, 0.05, 1, "random")[1]) == 10
    assert len(datasets.split(10, 0.01, 1, "random")[1]) == 1
    assert datasets.split(3, 0, 1, "random") == datasets.split(3, 0.0, 1, "last") == ([0, 1, 2], [])
    assert datasets.split(100, 50, 1, "random") != datasets.split(100, 50, 2, "random")
    for held_out in (-1, 1.0, 1.5, -0.1, float("nan")):
        with pytest.raises(BadInput):
            datasets.split(10, held_out, 1, "random")
    with pytest.raises(BadInput, match="1 of 1 rows"):
        datasets.split(1, 0.1, 1, "random")


def test_a_header_with_characters_that_are_not_printed_is_text(tmp_path):
    (tmp_path / "rows.csv").write_text("my\u00a0question,an\u200bswer\nq,a\n", encoding="utf-8")
    columns = {"instruction": "my\u00a0question", "output": "an\u200bswer"}
    assert len(datasets.load(tmp_path / "rows.csv", columns=columns).conversations) == 1

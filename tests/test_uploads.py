"""What visitors bring is kept once, whole, by a name they know; what nobody trains on or measures goes after a month."""

import errno
import json
import os
import threading
import time

import pytest
import training
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import datasets, paths, runs, uploads, visitors
from engine.errors import BadInput, EngineError
from engine.evaluate import measurements
from engine.evaluate.measurements import MeasurementSettings
from engine.store import Store
from engine.threads import Thread

ROW = {"instruction": "q, and more", "output": "a"}


def brought(tmp_path, content: bytes, name: str = "rows.jsonl"):
    path = tmp_path / "brought"
    path.write_bytes(content)
    return uploads.keep(path, name)


def test_a_file_is_copied_and_the_same_content_is_there_once(home, tmp_path):
    content = json.dumps(ROW).encode()
    kept = brought(tmp_path, content)
    (tmp_path / "brought").unlink()
    assert kept.read_bytes() == content and kept.name == "rows.jsonl" and kept.is_relative_to(paths.uploads())
    assert brought(tmp_path, content, "again.jsonl") == kept
    assert brought(tmp_path, content, "rows.txt") != kept, "another kind of file is read in another way"
    assert brought(tmp_path, content + b"\n") != kept
    assert datasets.load(kept).rows == 1


@pytest.mark.parametrize(
    "name, safe",
    [
        ("Meine Fragen (2).JSONL", "Meine Fragen (2).jsonl"),
        ("../../etc/passwd.csv", "passwd.csv"),
        (r"C:\Users\me\données.csv", "données.csv"),
        ("a<b>:\x00|?*\n.json", "a_b.json"),
        ("con.txt", "data-con.txt"),
        ("...csv", "data.csv"),
        ("質問" * 60 + ".tsv", "質問" * 30 + ".tsv"),
    ],
)
def test_names_stay_readable_and_are_safe(name, safe, home, tmp_path):
    assert brought(tmp_path, b"x", name).name == safe


@settings(max_examples=50)
@given(st.text(max_size=300))
def test_any_name_becomes_one_that_a_disk_takes(name):
    safe = uploads._safe(f"{name}.csv")
    assert safe.endswith(".csv") and len(safe.encode()) <= 255 and not safe.startswith(".")
    assert safe.isprintable() and not set(safe) & set('/\\:*?"<>|')


@pytest.mark.parametrize(
    "content, name, words",
    [
        (b"", "rows.jsonl", "rows.jsonl is empty"),
        (b" \n\n", "rows.csv", "rows.csv is empty"),
        (b"x", "model.pkl", r"no data file this can read. It reads \.jsonl, .*\.parquet.*unpack archives"),
        (b"x", "rows", "no data file"),
        (b"x" * 20_000_001, "rows.txt", r"rows.txt has 20.0 MB; the limit is 20 MB"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(content, name, words, home, tmp_path):
    with pytest.raises(BadInput, match=words):
        brought(tmp_path, content, name)
    assert not home.exists() or not [path for path in home.rglob("*") if path.suffix in (".jsonl", ".csv", ".txt")]


def test_a_full_disk_is_told_and_nothing_is_left(home, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(paths, "_sync", full)
    with pytest.raises(EngineError, match="the disk of this host is full. Nothing was changed") as told:
        brought(tmp_path, b"x", "rows.txt")
    assert str(home) not in str(told.value)
    assert [path.name for path in paths.uploads().iterdir()] == [".lock"]


def test_many_may_bring_the_same_at_once(home, tmp_path):
    found = []
    path = tmp_path / "rows.txt"
    path.write_text("a\n\nb")
    workers = [threading.Thread(target=lambda: found.append(uploads.keep(path, "rows.txt"))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 8 and len(set(found)) == 1 and found[0].read_text() == "a\n\nb"


@pytest.mark.parametrize(
    "text, suffix, format",
    [
        (json.dumps([ROW, ROW], indent=1), ".json", "alpaca"),
        (json.dumps({"data": [ROW, ROW]}), ".json", "alpaca"),
        (json.dumps(ROW) + "\n" + json.dumps(ROW), ".jsonl", "alpaca"),
        (json.dumps(ROW, indent=2), ".jsonl", "alpaca"),
        ("{broken}\n".replace("{", '{"a" ') + json.dumps(ROW), ".jsonl", "alpaca"),
        ('\ufeffinstruction,output\r\n"q, and\r\nmore",a\r\nb,c\r\n', ".csv", "alpaca"),
        ("question;answer\nWas; das?\nWie, bitte?;So.", ".csv", "input-output"),
        ("question\tanswer\nq, really\ta\n", ".tsv", "input-output"),
        ("### Human: q ### Assistant: a\n\n### Human: b ### Assistant: c", ".txt", "oasst"),
        ("Hello, world\nThis, too, is text", ".txt", "text"),
        ("[Intro] Once upon a time,\nthere was", ".txt", "text"),
        ("{name}, said the king", ".txt", "text"),
        ("one line\twith a tab", ".txt", "text"),
    ],
)
def test_pasted_text_is_kept_as_what_it_looks_like(text, suffix, format, home):
    kept = uploads.paste(text)
    assert kept.suffix == suffix and uploads.paste(text) == kept
    data = datasets.load(kept)
    assert data.format == format and data.conversations


def test_broken_json_is_told_by_its_place(home):
    with pytest.raises(BadInput, match="is not JSON: .* in line 2"):
        datasets.load(uploads.paste('[{"instruction": "a",\n"output" "b"}]'))


def test_nothing_and_too_much_are_refused(home):
    with pytest.raises(BadInput, match="There is no text"):
        uploads.paste(" \r\n ")
    with pytest.raises(BadInput, match=r"the limit is 20 MB.*On a machine of your own `python -m engine train RECIPE --data FILE`"):
        uploads.paste("x" * 20_000_001)


@given(st.text(max_size=200))
def test_any_text_can_be_sniffed(text):
    kind, content = uploads._sniffed(text)
    assert kind in (".json", ".jsonl", ".csv", ".tsv", ".txt") and isinstance(content, str)


def test_answers_with_a_thumb_up_are_chat_messages(home):
    store = Store()
    with pytest.raises(BadInput, match="No answer has a thumb up yet. Give some in the chat tab"):
        uploads.thumbs_up(store)
    for number, thumb in enumerate((1, -1, 1)):
        thread = Thread.new("Be brief." * (number == 0)).asked(f"q{number}").answered(f"a{number}", None)
        store.thumb(thread, 1, thumb)
    data = datasets.load(uploads.thumbs_up(store))
    assert data.format == "messages" and not data.bad
    assert [(each.system, *(message.text for message in each.messages)) for each in data.conversations] == [
        ("Be brief.", "q0", "a0"),
        ("", "q2", "a2"),
    ]


def test_of_too_many_thumbs_the_latest_are_taken(home, monkeypatch):
    store = Store()
    for number in range(3):
        store.thumb(Thread.new().asked(f"q{number}").answered("a", None), 1, 1)
    monkeypatch.setattr(uploads, "MAX_BYTES", 200)
    assert [each.messages[0].text for each in datasets.load(uploads.thumbs_up(store)).conversations] == ["q1", "q2"]


def test_what_comes_with_the_app_can_be_read():
    ((title, path),) = uploads.bundled().items()
    assert f" {datasets.load(path).rows} " in title


def test_the_sweep_keeps_what_is_young_or_trained_on(home, tiny, tmp_path):
    old, used, young, again = (brought(tmp_path, name.encode(), f"{name} é.txt") for name in ("old", "used", "young", "again"))
    for each in (old, used, again):
        os.utime(each.parent, (time.time() - uploads.KEPT_SECONDS - 10,) * 2)
    brought(tmp_path, b"again", "again.txt")
    runs.create(runs.fresh_folder("a run"), training.plan(tiny, used))
    assert uploads.sweep() == 1
    assert not old.parent.exists() and used.exists() and young.exists() and again.exists()
    assert uploads.sweep() == 0


def test_visitors_fill_so_much_and_the_oldest_makes_room(home, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_OF_VISITORS", 3_500_000)
    used, old, older = (uploads.paste(name, public=True) for name in ("used", "old", "older"))
    runs.create(runs.fresh_folder("a run"), training.plan(tiny, used), public=True)
    with pytest.raises(BadInput, match="no room for more now. Try again in an hour"):
        uploads.paste("one more", public=True)
    assert used.exists() and old.exists() and older.exists(), "what is new makes no way for others"
    for each, hours in ((used, 9), (old, 2), (older, 3)):
        os.utime(each.parent, (time.time() - hours * 3600,) * 2)
    assert uploads.paste("one more", public=True).exists()
    assert used.exists() and old.exists() and not older.exists()
    assert uploads.paste("the owner's").exists() and old.exists()


def test_visitors_leave_some_of_the_disk_free(home, tmp_path, monkeypatch):
    monkeypatch.setattr(visitors, "LEAST_FREE", 2**60)
    (tmp_path / "rows.txt").write_text("x")
    for bring in (lambda **more: uploads.paste("y", **more), lambda **more: uploads.keep(tmp_path / "rows.txt", "rows.txt", **more)):
        with pytest.raises(EngineError, match="The disk of this host is nearly full"):
            bring(public=True)
        assert bring().exists()


def test_the_sweep_keeps_what_a_measurement_goes_on_with(home, tmp_path):
    data, shots, old = (brought(tmp_path, name.encode(), f"{name}.jsonl") for name in ("data", "shots", "old"))
    for each in (data, shots, old):
        os.utime(each.parent, (0, 0))
    measurements.create(MeasurementSettings(measure="mmlu", model="scripted", data=str(data), shots_from=str(shots)))
    assert uploads.sweep() == 1
    assert data.exists() and shots.exists() and not old.exists()


def test_the_sweep_believes_a_recipe_that_it_cannot_read(home, tmp_path):
    kept = brought(tmp_path, b"x", "rows.txt")
    os.utime(kept.parent, (0, 0))
    run = runs.fresh_folder("broken")
    (run / runs.RECIPE).write_text(f"modell: x\ndata: {{source: {kept}}}\n")
    assert uploads.sweep() == 0 and kept.exists()

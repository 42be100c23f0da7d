"""What was exported, fetched through the browser: what was offered and nothing else, and from a public host only visitors' own adapters."""

import io
import urllib.error
import urllib.request
import zipfile

import pytest
from pages import Page

from engine import offers
from engine.backends.scripted import ScriptedBackend
from engine.offers import Offers
from ui import downloads


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "mine-adapter"
    folder.mkdir()
    (folder / "card.md").write_text("hello")
    (tmp_path / "mine.gguf").write_bytes(b"weights")
    (folder / "link").symlink_to(tmp_path / "mine.gguf")
    return folder


def fetched(page, address: str) -> bytes:
    return urllib.request.urlopen(f"{page.url}/{address}").read()


def test_a_file_comes_as_it_is_and_a_folder_as_a_zip(home, made):
    page = Page(ScriptedBackend())
    try:
        address, name = downloads.address(page.services.offers, made.parent / "mine.gguf")
        assert fetched(page, address) == b"weights" and name == "mine.gguf"
        address, name = downloads.address(page.services.offers, made)
        archive = zipfile.ZipFile(io.BytesIO(fetched(page, address)))
        assert name == "mine-adapter.zip" and archive.namelist() == ["mine-adapter/card.md"]
        for other in ("download/x/card.md", "download/../app.py", f"download/{made}/card.md", address.replace("/mine", "x/mine")):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetched(page, other)
    finally:
        page.close()


def test_a_public_host_that_does_not_train_gives_nothing(home, made):
    page = Page(ScriptedBackend(), read_only=True)
    try:
        address, _ = downloads.address(page.services.offers, made)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetched(page, address)
    finally:
        page.close()


def test_offers_end(made, monkeypatch):
    monkeypatch.setattr(offers, "_MOST", 2)
    there = Offers()
    keys = [there.add(made) for _ in range(3)]
    assert len(set(keys)) == 3 and [there.find(key) for key in keys] == [None, made, made]
    for path in made.iterdir():
        path.unlink()
    made.rmdir()
    assert there.find(keys[2]) is None

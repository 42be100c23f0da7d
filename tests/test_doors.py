"""The foot of the page on each kind of host, with and without addresses to point to."""

import contextlib
import re

import browser
import pytest
from pages import Page

from engine import hardware, links
from engine.backends.scripted import ScriptedBackend
from engine.hardware import GIB, Gpu, Machine
from ui import doors
from ui.finetune import LABELS


def on(host: str, *gpus: Gpu) -> Machine:
    return Machine(host, "Linux x86_64", 2, 16 * GIB, 12 * GIB, gpus)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setattr(links, "REPOSITORY", None)
    monkeypatch.setattr(links, "SPACE", None)


@browser.needs_chromium
@pytest.mark.long
def test_an_address_may_name_a_tab():
    page = Page(ScriptedBackend())
    with browser.opened(page.url) as tab:
        for address, name in (("?tab=game", "Blind game"), ("?tab=nowhere", "Chat")):
            tab.goto(f"{page.url}/{address}")
            tab.get_by_role("tab", name=name, selected=True).wait_for()
    page.close()


def test_a_computer_of_ones_own_needs_no_foot():
    assert doors.told(True, on("computer")) == ""


def test_every_host_is_known_and_says_what_works(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "me/playground")
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    said = doors.told(False, on("space", Gpu("NVIDIA H200", 70 * GIB, (9, 0))))
    assert "Hugging Face Space (NVIDIA H200 (70 GB), lent for one answer" in said and "finetuning is off" in said
    assert "ratings from its guesses work here" in said, "the published ones may not be there"
    assert re.findall('href="(.*?)"', said) == ["https://huggingface.co/spaces/me/playground?duplicate=true"]
    monkeypatch.delenv("SPACES_ZERO_GPU")
    monkeypatch.delenv("SPACE_ID")
    said = doors.told(True, on("colab"))
    assert "Colab (CPU only" in said and "finetuning," in said and "gone with the runtime" in said and "href" not in said


def test_a_space_says_that_its_disk_forgets_what_visitors_train(monkeypatch):
    assert "is gone 3 days after the run has ended: take" in doors.told(True, on("space")), "its owner has named a folder"
    monkeypatch.delenv("GUANACO_HOME")
    said = doors.told(True, on("space"))
    assert "gone when the Space restarts, or 3 days after the run has ended: take your adapter along before, in step 7" in said
    assert LABELS[7 - 1] == "Try it"
    assert "restarts" not in doors.told(False, on("space")), "visitors leave nothing there"


def test_doors_open_where_they_have_addresses(monkeypatch):
    monkeypatch.setattr(links, "REPOSITORY", "owner/playground")
    monkeypatch.setattr(links, "SPACE", "owner/space")
    said = doors.told(True, on("computer"))
    addresses = re.findall('href="(.*?)"', said)
    assert len(addresses) == 5 and addresses[0].startswith("https://huggingface.co/spaces/owner/space")
    assert {address.rpartition("/")[2] for address in addresses[2:]} == set(doors.NOTEBOOKS.values())


def test_the_notebooks_that_are_pointed_to_are_there():
    from conftest import ROOT

    assert all((ROOT / "notebooks" / name).is_file() for name in doors.NOTEBOOKS.values())
    assert hardware.machine().host in ("computer", "colab", "space")


@pytest.mark.long
@browser.needs_chromium
def test_on_a_phone_its_bullets_stand_on_the_page(monkeypatch):
    monkeypatch.setattr(links, "REPOSITORY", "owner/playground")
    with contextlib.closing(Page(ScriptedBackend())) as made, browser.opened(made.url, 390, 844) as page:
        text, line = (page.locator(f"#doors {each}").first.bounding_box()["x"] for each in ("p", "li"))
        assert line >= text + 12, "a bullet stands left of its line"

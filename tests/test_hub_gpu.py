"""The wizard's panel that starts a training as a Hugging Face Job."""

import threading

import browser
import gradio as gr
import jobs_server
import pytest
import training
from jobs_server import STARTED, STEPS, done_by, say
from pages import Page

from engine import preview, runs
from engine.backends.scripted import ScriptedBackend
from engine.drafts import Draft, read
from engine.errors import BadInput
from engine.runtime import Runtime
from engine.services import Services
from ui.finetune.hub_gpu import HubGpu
from ui.finetune.workshop import Workshop, kept


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    with jobs_server.asked(tiny, tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def page(hub):
    served = Page(ScriptedBackend())
    yield served
    served.close()


@pytest.mark.long
@browser.needs_chromium
def test_the_panel_starts_one_and_follows_it(page, hub, rows, whole, tmp_path, monkeypatch):
    go, counting, other = threading.Event(), preview.counting, tmp_path / "other.jsonl"
    other.write_bytes(rows.read_bytes() + rows.read_bytes())
    hub.act = lambda job: (say(job, STARTED, *STEPS), done_by(hub, whole[0], job))
    with browser.opened(page.url) as tab:
        tab.get_by_role("tab", name="Finetune").click()
        tab.wait_for_function("document.querySelector('#ft-bases')?.innerText.includes('1,000 rows')")
        tab.fill("#ft-base input", "me/tiny")
        tab.keyboard.press("Enter")
        tab.wait_for_function("document.querySelector('#ft-bases').innerText.includes('me/tiny')")
        tab.click("#ft-next-0")
        tab.wait_for_selector("#ft-data-told p")
        tab.set_input_files("#ft-upload input[type=file]", rows)
        tab.wait_for_selector("#ft-lengths svg")
        tab.click("#ft-to-5")
        tab.wait_for_selector("#ft-start:not([disabled])")
        tab.click("#ft-job button")
        tab.wait_for_function("document.querySelector('#ft-job-told').innerText.includes('at most')")
        told = tab.inner_text("#ft-job-told")
        assert "t4-small: T4, 16 GB, $0.40 an hour" in told and "$0.80 at most" in told and "updates" in told and "rows.jsonl" in told
        tab.click("#ft-job-start")
        tab.wait_for_function("document.body.innerText.includes('Nothing was sent')")
        assert not hub.jobs
        tab.check("#ft-job-agreed input")
        monkeypatch.setattr(preview, "counting", lambda *rows, **options: go.wait(60) and counting(*rows, **options))
        tab.click("#ft-step-1-button")
        tab.locator("#ft-upload button[aria-label='Clear']").first.click()
        tab.set_input_files("#ft-upload input[type=file]", other)
        tab.wait_for_function("document.querySelector('#ft-data-told').innerText.includes('other.jsonl')")
        tab.click("#ft-to-5")
        tab.wait_for_function("document.querySelector('#ft-job-told').innerText.includes('other.jsonl')")
        assert not tab.is_checked("#ft-job-agreed input") and "rows.jsonl" not in tab.inner_text("#ft-job-told")
        assert "How long it takes is told once the rows are counted." in tab.inner_text("#ft-job-told")
        go.set()
        tab.wait_for_function("document.querySelector('#ft-job-told').innerText.includes('updates')")
        tab.check("#ft-job-agreed input")
        tab.click("#ft-job-start")
        tab.wait_for_function("document.querySelector('#run').innerText.includes('Done: 6 steps')", timeout=120_000)
        assert not tab.errors and not tab.outside
    (run,) = runs.every()
    assert runs.finished(run) and run.id.startswith("other-")


def test_visitors_of_a_public_host_start_none(hub, home):
    served = Page(ScriptedBackend(), read_only=True, training=True)
    try:
        assert not [block for block in served.blocks.blocks.values() if getattr(block, "elem_id", None) == "ft-job"]
    finally:
        served.close()


def test_the_panel_says_what_is_missing(hub, rows):
    def name(draft: Draft) -> str:
        return "mine"

    panel = HubGpu(Workshop(Services(Runtime(isolated=False))), name)
    draft = Draft(recipe=training.plan("me/tiny", rows))
    assert "once the rows are counted" in panel.cost(draft, "t4-small", "2h") and panel.cost(draft, None, "2h") == ""
    assert "no time limit" in panel.cost(draft, "t4-small", "soon")
    for flavor, agreed, match in (("t4-small", False, "Nothing was sent"), (None, True, "Choose a machine")):
        with pytest.raises(BadInput, match=match):
            panel.start(draft, flavor, "2h", agreed)
    hub.away.set()
    assert "could not be fetched: the Hub answered 503" in panel.opened(draft, None, "2h", None)[1]


@pytest.mark.long
def test_what_is_agreed_to_is_one_recipe_on_one_machine_for_one_time(hub, rows):
    with gr.Blocks() as blocks:
        panel = HubGpu(Workshop(Services(Runtime(isolated=False))), lambda draft: "mine").draw()
        panel.wire(gr.BrowserState(), gr.Textbox(), gr.HTML())
    start, told = (next(each.fn for each in blocks.fns.values() if each.name == name) for name in ("start", "told"))
    draft = kept(Draft(recipe=training.plan("me/tiny", rows)))
    _, _, of = told(draft, "t4-small", "2h", None)
    assert told(draft, "t4-small", "2h", of)[1:] == [gr.skip(), of]
    other = kept(Draft(recipe=training.plan("me/tiny", rows, lora={"r": 3})))
    for changed in ((other, "t4-small", "2h"), (draft, "a10g-small", "2h"), (draft, "t4-small", "3h")):
        with pytest.raises(gr.Error, match="Nothing was sent: what stands above was of"):
            next(start(*changed, True, of))
        said, agreed, now = told(*changed, of)
        assert agreed is False and now != of
        assert panel.again(of, read(changed[0]), *changed[1:]) == [said, False, now]
    assert not hub.jobs


def test_unfolding_keeps_a_tick_for_the_same_job_alone_and_leaving_the_list_changes_nothing(hub, rows):
    with gr.Blocks() as blocks:
        panel = HubGpu(Workshop(Services(Runtime(isolated=False))), lambda draft: "mine").draw()
        panel.wire(gr.BrowserState(), gr.Textbox(), gr.HTML())

    def on(component, event: str):
        (found,) = (each for each in blocks.fns.values() if (component._id, event) in each.targets)
        assert panel.agreed in found.outputs and panel.of in found.outputs
        return found.fn

    unfold, leave = on(panel.panel, "expand"), on(panel.flavor, "input")
    draft, other = (kept(Draft(recipe=training.plan("me/tiny", rows, lora={"r": r}))) for r in (2, 3))
    machines, told, agreed, of = unfold(draft, None, "2h", None)
    assert machines.value == "t4-small" and "at most" in told and agreed is False, "nothing stood there when it was ticked"
    asked = draft, "t4-small", "2h"
    machines, _, agreed, same = unfold(*asked, of)
    assert (agreed, same) == (gr.skip(), of)
    assert "value" not in machines.constructor_args, "another machine may be chosen before this comes"
    assert unfold(other, *asked[1:], of)[2] is False
    assert leave(*asked, of) == leave(draft, None, "2h", None) == [gr.skip()] * 3
    assert leave(draft, "a10g-small", "2h", of)[1] is False
    hub.away.set()
    assert unfold(*asked, of)[2:] == [False, None]

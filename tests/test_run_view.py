"""A training as a person watches it: live, after a reload, in a second tab, after a restart of the app, stopped, killed and resumed."""

import contextlib
import json
import os
import random
import re
import signal
from pathlib import Path

import browser
import builders
import pytest
import training
from builders import until
from pages import Page
from playwright.sync_api import expect
from test_history import _started, _step, recorded, write, written_here

from engine import jobs, paths, runs
from engine.backends.scripted import ScriptedBackend
from engine.events import Adjusted, Ended, Evaluated, Notice, Progress, Queued, Sample, Saved
from engine.runs import Run
from ui.finetune.training import Views

HOSTILE = "<img src=x onerror=\"document.title='run'\"><b>bold</b>"


@pytest.fixture
def served():
    page = Page(ScriptedBackend())
    yield page
    page.close()


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    return builders.model(tmp_path_factory.mktemp("tiny") / "tiny-letters", letters=True)


def long_plan(model: Path, rows: Path, steps: int = 40_000):
    cadence = {"save_every": 10, "eval_every": 10}
    return training.plan(model, rows, optimization={"steps": steps}, cadence=cadence, samples={"prompts": ["Count 1", HOSTILE]})


@contextlib.contextmanager
def under_way(plan, name: str = "live"):
    """A run in a process of its own that is gone after the block."""
    run = jobs.start(plan, name)
    try:
        yield run
    finally:
        with contextlib.suppress(Exception):
            jobs.kill(run)


def open_tab(page) -> None:
    page.get_by_role("tab", name="Finetune").click()
    page.wait_for_selector("#ft-bases table", state="attached")
    page.click("#ft-to-5")
    page.wait_for_selector("#run :is(.of-run, .lead) >> visible=true")


def to_list(page) -> None:
    """To the step that lists all runs."""
    page.click("#ft-to-7")
    page.wait_for_selector("#runs .list >> visible=true")


def wait_step(page, step: int) -> int:
    """Until the page tells of that step or a later one."""
    page.wait_for_function(
        "step => Number((document.querySelector('#run .counted b')?.innerText.match(/Step ([\\d,]+)/) || [])[1]?.replace(',', '')) >= step",
        arg=step,
    )
    return int(page.inner_text("#run .counted b").split()[1].replace(",", ""))


def wait_phase(page, phase: str) -> None:
    try:
        page.wait_for_selector(f"#run .of-run[data-phase={phase}]")
    except browser.TimeoutError as error:
        raise AssertionError(f"not {phase}: {page.inner_text('#run')}") from error


def points(page) -> list[int]:
    """The steps in the table of numbers."""
    if not page.locator("#run .numbers[open]").count():
        page.click("#run .numbers summary")
        page.wait_for_selector("#run .numbers td")
    return [int(each.replace(",", "")) for each in page.locator("#run .numbers td:first-child").all_inner_texts()]


def long_run(name: str, steps: int = 5_000) -> Run:
    """The folder of a run of many steps, as if it had been made."""
    folder = paths.runs() / name
    folder.mkdir()
    (folder / runs.RECIPE).write_text(training.plan(Path("starter"), "rows.jsonl", optimization={"steps": steps}).to_yaml())
    dice = random.Random(0)
    losses = [_step(step, 1 + 2 / (1 + step / 500) + dice.gauss(0, 0.2)) for step in range(1, steps + 1)]
    return write(Run(folder), _started(steps), Evaluated(0, 3.0, 9), *losses, Evaluated(steps, 1.4, 9), Ended("done", steps, "Done.", 9.0))


def test_what_is_told_is_only_what_is_new_and_steps_made_again_are_named():
    views, run = Views(_Owner()), recorded("healthy", "a-run")
    whole = views.follow()
    assert (
        whole["run"] == "a-run"
        and whole["phase"] == "done"
        and len(whole["steps"]["loss"]) == 24
        and whole["offset"] == run.events.stat().st_size
    )
    assert whole["findings"] == [] and whole["resume_from"] is None and not whole["more"]
    later = views.follow("a-run", whole["offset"])
    assert later["steps"]["step"] == [] and later["log"] == [] and "findings" not in later
    write(run, _started(30, 20), _step(21), _step(22), Saved(22, 10**6, 0.5), Notice("Look"), _started(30, 21), _step(22, 1.0))
    later = views.follow("a-run", whole["offset"])
    assert later["resumed_from"] == 20 and later["steps"]["step"] == [21, 22] and later["steps"]["loss"][-1] == 1.0
    assert [line["kind"] for line in later["log"]] == ["started", "saved", "notice", "started"] and "findings" in later
    assert views.follow("a-run", 10**9)["again"]


def test_what_is_being_done_is_told_until_a_step_comes():
    views, run = Views(_Owner()), recorded("healthy", "a-run")
    run.events.write_text("")
    written_here(run, Queued("another", 2), Progress("Loading", 0.5))
    told = views.follow("")
    assert told["waiting"] == {"holder": "another", "place": 2} and told["doing"] == {"text": "Loading", "fraction": 0.5}
    write(run, _started(), Adjusted(0, {}, "Less"), _step(1))
    told = views.follow("a-run", told["offset"])
    assert told["phase"] == "training" and told["doing"] == {} and told["now"]["eta_seconds"] == 5.0 and told["waiting"] is None


def test_a_name_that_is_none_is_refused_in_words(served):
    def refused(name: str, *data) -> str:
        import urllib.error
        import urllib.request

        body = json.dumps({"data": data}).encode()
        request = urllib.request.Request(f"{served.url}/gradio_api/run/finetune_{name}", body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=60)
        return json.loads(error.value.read())["error"]

    for wrong in ("gone", "..", None, 3, ["a"], {"a": 1}, "\ud800"):
        for name in ("stop", "kill", "resume", "recipe"):
            assert refused(name, wrong), wrong
    assert refused("delete", wrong, True) and refused("compare", [wrong])


def test_a_client_follows_compares_and_deletes(served):
    recorded("overfitting", "first")
    recorded("healthy", "second")
    client = served.client()
    told = client.predict(run="first", offset=0, api_name="/finetune_follow")
    assert told["findings"][0]["kind"] == "overfitting" and "more rows" in told["findings"][0]["advice"].lower()
    assert {row["name"] for row in client.predict(api_name="/finetune_runs")["runs"]} == {"first", "second"}
    assert client.predict(["first", "second"], api_name="/finetune_compare")["recipes"]
    assert "model: starter" in client.predict("first", api_name="/finetune_recipe")
    asked = client.predict("first", False, api_name="/finetune_delete")
    assert not asked["deleted"] and "36 steps" in asked["text"] and (paths.runs() / "first").exists()
    assert client.predict("first", True, api_name="/finetune_delete")["deleted"] and not (paths.runs() / "first").exists()
    with pytest.raises(Exception, match="no run 'first'"):
        client.predict("first", True, api_name="/finetune_delete")
    with pytest.raises(Exception, match="is done"):
        client.predict("second", api_name="/finetune_resume")


@pytest.mark.long
def test_a_public_host_without_training_has_nothing_that_tells_of_runs():
    recorded("healthy", "secret-run")
    page = Page(ScriptedBackend(), read_only=True)
    try:
        client = page.client()
        named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
        assert {name for name in named if "finetune" in name} == {
            f"/finetune_{name}" for name in ("preview", "estimate", "start", "status")
        }
        with pytest.raises(Exception, match="Training is off on this public host"):
            client.predict("secret-run", api_name="/finetune_status")
    finally:
        page.close()


@pytest.mark.long
@browser.needs_chromium
def test_a_run_is_the_same_after_a_reload_in_a_second_tab_and_after_a_restart(letters, rows):
    port = builders.free_port()
    page_of = Page(ScriptedBackend(), port=port)
    try:
        with under_way(long_plan(letters, rows)) as run, browser.opened(page_of.url) as page:
            open_tab(page)
            page.wait_for_function(f"document.querySelector('#run h2').innerText === {run.id!r}")
            step = wait_step(page, 12)
            page.reload()
            page.wait_for_selector("#message textarea")
            open_tab(page)
            assert wait_step(page, step) >= step
            page.wait_for_selector("#run .watched article")
            assert points(page)[:2] == [0, 1]
            second = page.context.new_page()
            second.goto(page_of.url)
            open_tab(second)
            wait_step(second, step + 1)
            shown = points(second)  # of many steps not every one is drawn
            assert shown[:2] == [0, 1] and shown == sorted(shown) and shown[-1] >= step and "Training" in second.inner_text("#run .state")
            second.close()
            # What models and data say is text.
            page.wait_for_function("text => document.querySelector('#run .watched').innerText.includes(text)", arg=HOSTILE)
            assert page.title() != "run" and not page.locator("#run .watched img").count()
            assert page.get_attribute("#run .chart svg", "role") == "img" and "Held-out rows" in page.get_attribute(
                "#run .chart svg", "aria-label"
            )
            # The app goes, the run does not.
            page_of.close()
            page.wait_for_function("document.querySelector('#run .trouble')?.innerText.includes('does not answer')")
            page_of = Page(ScriptedBackend(), port=port)
            browser.go_back_to(page, page_of.url)
            open_tab(page)
            wait_step(page, wait_step(page, step) + 1)
            steps = points(page)  # of many only every so many-th is listed
            gaps = [later - earlier for earlier, later in zip(steps, steps[1:])]
            assert steps[0] == 0 and max(gaps) <= 1 + steps[-1] // 100
            assert not page.errors and not page.outside
    finally:
        page_of.close()


@pytest.mark.long
@browser.needs_chromium
def test_a_run_is_stopped_killed_and_resumed_and_another_waits(served, letters, rows):
    with under_way(long_plan(letters, rows)) as run, browser.opened(served.url) as page:
        open_tab(page)
        wait_step(page, 3)
        page.click("#run [data-act=finetune_stop]")
        wait_phase(page, "stopped")
        saved = run.steps_saved()[-1]
        button = page.locator("#run [data-act=finetune_resume]")
        assert button.inner_text() == f"Resume from step {saved}" and "Stopped after step" in page.inner_text("#run .doing")
        button.click()
        wait_step(page, saved + 11)
        process = run.process
        os.kill(process.pid, signal.SIGKILL)
        wait_phase(page, "interrupted")
        saved = run.steps_saved()[-1]
        assert button.inner_text() == f"Resume from step {saved}" and "without a word" in page.inner_text("#run .doing")
        button.click()
        wait_step(page, saved + 3)
        wait_phase(page, "training")
        steps = points(page)
        assert steps == sorted(set(steps)) and steps[:5] == [0, 1, 2, 3, 4]
        with under_way(long_plan(letters, rows), "next-one") as later:
            to_list(page)
            until(lambda: later.id in json.dumps(page.locator("#runs .list li").all_inner_texts()), 30)
            page.click(f"#runs [data-run='{later.id}'] button.link")
            wait_phase(page, "waiting")
            page.wait_for_function(f"document.querySelector('#run .doing').innerText.includes({run.id!r})")
            page.click("#run [data-act=finetune_stop]")
            wait_phase(page, "stopped")
            assert page.inner_text("#run .other").startswith(f"{run.id} is under way")
            page.click("#run .other button")
            page.wait_for_function(f"document.querySelector('#run h2').innerText === {run.id!r}")
        page.click("#run [data-act=finetune_kill]")
        assert "press again" in page.inner_text("#run [data-act=finetune_kill]") and run.process
        page.click("#run [data-act=finetune_kill]")
        wait_phase(page, "stopped")
        said = page.inner_text("#run .doing")
        assert re.fullmatch(r"Ended at once after step \d+\. Resume goes on from step \d+\.", said), "not taken for a crash"
        assert not run.process and not page.errors


@pytest.mark.long
@browser.needs_chromium
def test_a_run_opens_again_after_another_was_shown_and_a_press_that_failed_is_told_for_a_while(served):
    shown = "name => document.querySelector('#run h2').innerText === name"
    run = recorded("healthy", "done-one")
    going = recorded("healthy", "going-one")
    going.events.write_text("")
    written_here(going, _started(), _step(1))
    with browser.opened(served.url) as page:
        open_tab(page)
        for _ in range(2):
            to_list(page)
            page.click(f"#runs [data-run='{run.id}'] button.link")
            page.wait_for_function(shown, arg=run.id)
            page.click("#run .other button")
            page.wait_for_function(shown, arg=going.id)
        page.evaluate(
            "const real = window.setTimeout; window.setTimeout = (act, wait, ...more) => real(act, wait === 8000 ? 50 : wait, ...more)"
        )
        page.route("**/finetune_stop*", lambda route: route.abort())
        page.click("#run [data-act=finetune_stop]")
        told = "text => document.querySelector('#run .trouble')?.innerText === text"
        page.wait_for_function(told, arg="The app does not answer. Try again in a moment.")
        page.wait_for_function(told, arg="")
        assert not page.errors


@pytest.mark.long
@browser.needs_chromium
def test_the_bar_moves_between_slow_steps(served):
    """Each step takes half a minute, and one was made just now."""
    run = long_run("slow", 10)
    run.events.write_text("")
    written_here(run, _started(), _step(1))
    lines = run.events.read_text().replace('"eta_seconds": 5.0', '"eta_seconds": 270.0')
    run.events.write_text(lines)
    with browser.opened(served.url) as page:
        open_tab(page)
        wait_step(page, 1)
        seen = []
        for _ in range(2):
            seen.append((page.evaluate("document.querySelector('#run progress').value"), page.inner_text("#run .counted")))
            page.wait_for_timeout(5_000)
        assert seen[1][0] > seen[0][0] and seen[0][1] != seen[1][1] and "left" in seen[0][1]


@pytest.mark.long
@browser.needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_run_of_5000_steps_is_drawn_in_time_and_only_new_events_are_asked_for(served, width, scheme):
    run = long_run("long")
    with browser.opened(served.url, width, 844, color_scheme=scheme) as page:
        answers = []
        page.on("response", lambda response: answers.append(response) if "finetune_follow" in response.url else None)
        open_tab(page)
        wait_step(page, 5_000)
        assert len(points(page)) <= 210 and page.evaluate("document.documentElement.scrollWidth") <= width
        # The best of some, as the machine may have other things to do.
        times = []
        for view in ("grad_norm", "loss") * 4:
            page.click(f"#run [data-view={view}]")
            times.append(page.evaluate("performance.getEntriesByName('guanaco-chart')[0].duration"))
        assert min(times[1::2]) < 16
        chart = page.locator("#run .chart")
        chart.focus()
        page.keyboard.press("End")
        assert page.inner_text("#run .tip b") == "Step 5,000"
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#run .tip b") == "Step 4,999"
        chart.hover(position={"x": 200, "y": 80})
        assert "Training, smoothed" in page.inner_text("#run .tip")
        count = len(answers)
        write(run, _started(6_000, 4_990), *(_step(step, 0.25) for step in range(4_991, 5_002)))
        wait_step(page, 5_001)
        told = [response.json()["data"][0] for response in answers[count:]]
        assert sum(len(each["steps"]["step"]) for each in told) == 11
        assert points(page)[-1] == 5_001 and not page.errors


@pytest.mark.long
@browser.needs_chromium
def test_answers_are_watched_by_step_and_findings_and_the_log_are_told(served):
    run = recorded("overfitting", "a-run")
    write(run, *(Sample(step, "Hi?", f"answer {step}") for step in (0, 6, 12)), Sample(12, HOSTILE, ""))
    with browser.opened(served.url) as page:
        open_tab(page)
        page.wait_for_selector("#run .findings li.problem")
        assert "learns its rows by heart" in page.inner_text("#run .findings")
        slider = page.locator("#run .at-step input")
        assert "answer 0" in page.inner_text("#run .watched") and "answer 12" in page.inner_text("#run .watched")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#run .at-step output")).to_have_text("After step 6")
        assert "answer 6" in page.inner_text("#run .watched") and "Not asked" in page.inner_text("#run .watched")
        page.keyboard.press("Home")
        assert page.inner_text("#run .watched").count("Before training") == 2
        page.click("#run .log summary")
        assert "Beginning: 36 steps on 8 rows" in page.inner_text("#run .log")
        page.click("#run .commands summary")
        page.click("#run .copy >> nth=0")
        page.wait_for_selector("#run .copy.done")
        assert "python -m engine runs a-run" in page.inner_text("#run .commands")


class _Owner:
    read_only, may_train = False, True

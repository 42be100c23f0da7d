"""The wizard as a person walks it, from a file to the run's end; as a program calls it; and what a public host refuses of it."""

import browser
import pytest
import training
from gradio_client.exceptions import AppError
from pages import Page

from engine import drafts, jobs, models, pace, runs, uploads
from engine.backends.scripted import ScriptedBackend
from engine.drafts import Draft
from engine.errors import BadInput
from engine.runtime import Runtime
from engine.services import Services
from ui.finetune import views
from ui.finetune.workshop import Workshop

BAD = '{"instruction": "Say one.", "output": null}'


@pytest.fixture
def page(home):
    served = Page(ScriptedBackend())
    yield served
    for run in runs.every():
        if run.process:
            jobs.kill(run)
    served.close()


def recipe_of(tiny, rows, **sections) -> str:
    return training.plan(tiny, rows, **sections).to_yaml()


def test_a_program_previews_estimates_and_starts(page, tiny, rows):
    client, recipe = page.client(), recipe_of(tiny, rows)
    seen = client.predict(recipe, api_name="/finetune_preview")
    assert (seen["format"], seen["learnable"], seen["bad"]) == ("alpaca", 12, []) and seen["rows"][0]["line"] == 1
    assert "updates" in seen["means"]
    needs = client.predict(recipe, api_name="/finetune_estimate")
    assert list(needs)[0] == "This machine" and needs["T4"]["fits"] and needs["T4"]["resident"] > 0
    run = client.predict(recipe, "mine", api_name="/finetune_start")
    assert run.startswith("mine-") and runs.find(run).recipe == training.plan(tiny, rows).with_absolute_data()


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("optimization: {steps: 3}", "Choose the data first"),
        ("nothing: here\noptimization: {steps: 3}", "no key 'nothing'"),
        ("[", "no YAML"),
    ],
)
def test_what_a_program_may_not_start_is_told(page, recipe, said):
    with pytest.raises(AppError, match=said):
        page.client().predict(recipe, "", api_name="/finetune_start")
    assert not runs.every()


def test_one_row_is_too_few(page, tiny, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"instruction": "Say one.", "output": "One."}\n')
    with pytest.raises(AppError, match="at least 2"):
        page.client().predict(recipe_of(tiny, tmp_path / "one.jsonl"), api_name="/finetune_start")


@pytest.mark.parametrize("allowed", [False, True])
def test_a_public_host_trains_only_where_its_owner_allows_it(home, tiny, rows, allowed):
    page = Page(ScriptedBackend(), read_only=True, training=allowed)
    try:
        client = page.client()
        for endpoint in ("preview", "estimate", "start"):
            said = "public host the bases|public host rows" if allowed else "Training is off on this public host"
            with pytest.raises(AppError, match=said):
                client.predict(recipe_of(tiny, rows), api_name=f"/finetune_{endpoint}")
        if allowed:
            with pytest.raises(AppError, match="public host rows"):
                client.predict(recipe_of(tiny, rows).replace(str(tiny), "starter"), "", api_name="/finetune_start")
        assert not runs.every()
    finally:
        page.close()


def walk(page, number: int, selector: str) -> None:
    """Press Next, and wait until the step behind it shows what it has."""
    page.click(f"#ft-next-{number}")
    page.wait_for_selector(selector)


@pytest.mark.long
@browser.needs_chromium
def test_from_a_file_to_a_finished_run(page, tiny, rows, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(rows.read_text() + BAD + "\n")
    with browser.opened(page.url) as tab:
        tab.get_by_role("tab", name="Finetune").click()
        tab.wait_for_selector("#ft-bases table")
        tab.fill("#ft-base input", str(tiny))
        tab.keyboard.press("Enter")
        tab.wait_for_function("name => document.querySelector('#ft-bases').innerText.includes(name)", arg=tiny.name)
        walk(tab, 0, "#ft-data-told p")
        tab.set_input_files("#ft-upload input[type=file]", file)
        tab.wait_for_selector("#ft-lengths svg")
        preview = tab.inner_text("#ft-preview")
        assert "alpaca" in preview
        tab.wait_for_selector("#ft-lengths .bad")
        assert "line 13" in tab.inner_text("#ft-lengths") and "1 row cannot be read" in tab.inner_text("#ft-lengths")
        assert "0 of 12 rows are cut" in tab.inner_text("#ft-lengths")
        tab.fill("#ft-limit input[type=number]", "16")
        tab.keyboard.press("Tab")
        tab.wait_for_function("document.querySelector('#ft-lengths').innerText.includes('no answer within the limit')")
        tab.fill("#ft-limit input[type=number]", "256")
        tab.keyboard.press("Tab")
        tab.wait_for_function("!document.querySelector('#ft-lengths').innerText.includes('no answer within the limit')")
        walk(tab, 1, "#ft-lens .learnt.end")
        walk(tab, 2, "#ft-means p")
        tab.locator("#ft-simple").get_by_label("Steps").fill("2")
        tab.keyboard.press("Tab")
        tab.wait_for_function("document.querySelector('#ft-means').innerText.includes('2 updates')")
        walk(tab, 3, "#ft-bars .machine")
        assert tab.locator("#ft-bars .machine").count() == 7
        walk(tab, 4, "#ft-start:not([disabled])")
        tab.click("#ft-start")
        tab.wait_for_function("document.querySelector('#run').innerText.includes('mine-')")
        tab.reload()
        tab.wait_for_selector("#status .chip")
        tab.get_by_role("tab", name="Finetune").click()
        tab.wait_for_function("document.querySelector('#run')?.innerText.includes('mine-')")
        tab.wait_for_function("document.querySelector('#run').innerText.includes('Done: 2 steps')", timeout=240_000)
        (run,) = runs.every()
        assert run.recipe.optimization.steps == 2 and run.recipe.model == str(tiny)
        tab.click("#ft-to-6")
        tab.wait_for_selector("#ft-changes p")
        assert run.id in tab.input_value("#ft-run input")
        tab.click("#ft-export-go")
        tab.wait_for_selector("#ft-exported .good")
        assert (run.folder.parents[1] / "exports" / f"{run.id}-adapter" / "adapter_model.safetensors").is_file()
        assert not tab.errors and not tab.outside


@pytest.mark.long
@browser.needs_chromium
def test_start_waits_for_data_and_bad_files_change_nothing(page, tiny, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "what.exe").write_text("x")
    with browser.opened(page.url) as tab:
        tab.get_by_role("tab", name="Finetune").click()
        tab.wait_for_selector("#ft-bases table")
        tab.click("#ft-to-5")
        tab.wait_for_selector("#ft-start[disabled]")
        assert "Choose the data first" in tab.inner_text("#ft-start-means")
        tab.click("#ft-step-1-button")
        for name, said in (("empty.jsonl", "is empty"), ("what.exe", "no data file")):
            tab.set_input_files("#ft-upload input[type=file]", tmp_path / name)
            tab.wait_for_function("said => document.body.innerText.includes(said)", arg=said)
            tab.locator("#ft-upload button[aria-label='Clear']").first.click()
        assert "No rows yet" in tab.inner_text("#ft-data-told")
        tab.get_by_role("tab", name="Paste").click()
        tab.fill("#ft-paste textarea", "frage,antwort\nWas ist eins?,Eins.\nUnd zwei?,Zwei.\n")
        tab.click("#ft-take-pasted")
        tab.wait_for_selector("#ft-preview .wrong")
        assert "frage" in tab.inner_text("#ft-preview"), "its columns are named"
        tab.click("#ft-format input")
        tab.get_by_role("option", name="Alpaca").first.click()
        for field, column in (("instruction", "frage"), ("output", "antwort")):
            tab.get_by_label(f"Column of “{field}”").fill(column)
            tab.keyboard.press("Enter")
        tab.click("#ft-remap")
        tab.wait_for_selector("#ft-preview .good")
        assert "Was ist eins?" in tab.inner_text("#ft-preview")
        tab.wait_for_selector("#ft-lengths svg")
        tab.click("#ft-remap")  # the columns are still offered by their own names
        tab.wait_for_timeout(300)
        tab.wait_for_selector("#ft-preview .good")
        assert not tab.errors


def test_every_base_says_how_long_it_takes_here(home, tiny):
    shop = Workshop(Services(Runtime(isolated=False)))
    found = {base.id: base for base in shop.bases(shop.spec(drafts.changed(Draft(), {"model": str(tiny)})))}
    assert {*models.MODELS, str(tiny)} == set(found), "one that was typed is compared with the others"
    seconds = [found[name].seconds for name in (str(tiny), "starter", "guanaco-7b", "guanaco-65b")]
    assert seconds == sorted(seconds) and seconds[0] > 0
    shown = views.bases(list(found.values()))
    assert "Time for 1,000 rows" in shown
    assert f"<td>{pace.duration_words(found['guanaco-7b'].seconds)}</td>" in shown


@pytest.mark.parametrize("source", ["engine/guanaco_mini/adapter", "README.md", "ui/form.py", "../secret.jsonl", "/etc/passwd"])
def test_a_visitor_names_no_file_of_the_host(home, source):
    shop = Workshop(Services(Runtime(isolated=False), read_only=True, training=True))
    with pytest.raises(BadInput, match="its own files are not for visitors"):
        shop.allowed(drafts.with_data(Draft(), source, "x"))
    shop.allowed(drafts.with_data(Draft(), "owner/name:train", "x"))
    shop.allowed(drafts.with_data(Draft(), str(uploads.paste('{"text": "a"}')), "x"))


def test_quick_events_wait_for_no_slow_one(page):
    """Gradio holds a group of events to the lowest limit that one of them names."""
    limits = {each.concurrency_limit for each in page.blocks.fns.values() if each.concurrency_id == "quick"}
    assert limits == {8}


def test_on_a_public_host_that_trains_visitors_are_kept_apart(home, tiny, rows):
    page = Page(ScriptedBackend(), read_only=True, training=True)
    try:
        with pytest.raises(BadInput, match="bases in the list"):
            Workshop(page.services).spec(drafts.changed(Draft(), {"model": "/etc"}))
        run = training.fresh(training.plan(tiny, rows), runs.fresh_folder("secret"))
        client = page.client()
        assert client.predict("", 0, api_name="/finetune_follow") == {"run": ""}
        told = client.predict(run.id, 0, api_name="/finetune_follow")
        assert str(home) not in str(told) and str(rows.parent) not in str(told)
        with pytest.raises(BadInput, match="not all yours"):
            Workshop(page.services).clone(run.id, Draft())
        assert client.predict(api_name="/finetune_runs")["runs"] == []
    finally:
        page.close()

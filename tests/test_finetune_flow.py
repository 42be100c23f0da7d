"""What a person does out of order in the wizard: half-typed numbers, choices beside what takes long, counts that come late."""

import shutil
import threading
import zipfile

import browser
import pytest
import training
from playwright.sync_api import expect

from engine import preview, probing, recipe_paths, runs
from engine.errors import EngineError
from engine.events import Progress
from engine.services import Services


def bring(tab, tiny, file) -> None:
    """Open the wizard, choose the tiny base and bring the rows."""
    tab.get_by_role("tab", name="Finetune").click()
    tab.wait_for_selector("#ft-bases table")
    choose_base(tab, tiny)
    tab.click("#ft-next-0")
    tab.wait_for_selector("#ft-upload input[type=file]", state="attached")
    tab.set_input_files("#ft-upload input[type=file]", file)


def brought(tab, tiny, file) -> None:
    """The same, until the rows are counted."""
    bring(tab, tiny, file)
    tab.wait_for_selector("#ft-lengths svg")


def choose_base(tab, folder) -> None:
    """Name a base in step 1, until it is the one chosen."""
    tab.fill("#ft-base input", str(folder))
    tab.keyboard.press("Enter")
    has(tab, "#ft-bases", folder.name)


def to_recipe(tab) -> None:
    """From step 2 to step 4, with all of its fields."""
    tab.click("#ft-next-1")
    tab.wait_for_selector("#ft-lens p")
    tab.click("#ft-next-2")
    tab.wait_for_selector("#ft-means p")
    yaml(tab)


def yaml(tab) -> str:
    """The recipe as step 4 shows it, once that is open and filled."""
    if not tab.locator("#ft-yaml textarea").is_visible():
        tab.locator("#ft-advanced button").first.click()
    tab.wait_for_function("document.querySelector('#ft-yaml textarea')?.value")
    return tab.input_value("#ft-yaml textarea")


def has(tab, selector: str, text: str) -> None:
    """Wait until that part of the page says so."""
    tab.wait_for_function("([part, text]) => document.querySelector(part)?.innerText.includes(text)", arg=[selector, text])


@browser.needs_chromium
def test_a_bundled_set_is_taken_however_often_gradio_says_that_it_was_chosen(page):
    with browser.opened(page.url) as tab:
        tab.get_by_role("tab", name="Finetune").click()
        tab.wait_for_selector("#ft-bases table")
        tab.click("#ft-next-0")
        has(tab, "#ft-data-told", "No rows yet")
        tab.get_by_role("tab", name="Bundled").click()
        tab.click("#ft-bundled input")
        tab.get_by_role("option").first.click()
        tab.wait_for_selector("#ft-preview table")
        has(tab, "#ft-data-told", tab.input_value("#ft-bundled input"))
        assert not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_half_typed_numbers_are_not_taken_and_no_message_pops_up(page, tiny, rows):
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        tab.evaluate(
            """() => { window.toasts = 0; new MutationObserver(seen => { for (const each of seen) for (const node of each.addedNodes)
            if (node.querySelector?.('.toast-body') || node.classList?.contains('toast-body')) window.toasts++ }).observe(document.body,
            { childList: true, subtree: true }); }"""
        )
        limit = tab.locator("#ft-limit input[type=number]")
        for typed in ("", "3", "99999"):
            limit.fill(typed)
            has(tab, "#ft-limit-wrong", "Longest row: a whole number from 8 to 2,048.")
        limit.fill("16")
        has(tab, "#ft-lengths", "no answer within the limit")
        limit.fill("3")
        has(tab, "#ft-limit-wrong", "a whole number from 8")
        tab.keyboard.press("Tab")
        tab.wait_for_function("!document.querySelector('#ft-limit-wrong').innerText")
        assert "no answer within the limit" in tab.inner_text("#ft-lengths")
        assert limit.input_value() == "8", "what the box shows when it is left is what is taken"
        limit.fill("256")
        has(tab, "#ft-lengths", "0 of 12 rows are cut")
        tab.click("#ft-next-1")
        has(tab, "#ft-lens", "Row 1")
        row = tab.locator("#ft-row input[type=number]")
        row.fill("")
        has(tab, "#ft-lens", "Row: a whole number from 1 to 12.")
        row.fill("5")
        has(tab, "#ft-lens", "Row 5")
        tab.click("#ft-step-1-button")
        tab.click("#ft-next-1")
        has(tab, "#ft-lens", "Row 5")
        assert row.input_value() == "5"
        tab.click("#ft-next-2")
        yaml(tab)
        rank = tab.get_by_label("number input for Rank")
        rank.fill("0")
        has(tab, "#ft-recipe-wrong", "Rank: a whole number from 1 to 1,024.")
        tab.keyboard.press("Tab")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('r: 1\\n')")
        tab.locator("#ft-simple").get_by_label("Steps").fill("2")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('steps: 2')")
        has(tab, "#ft-means", "2 updates")
        rank.fill("4")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('r: 4\\n')")
        assert tab.evaluate("window.toasts") == 0 and not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_rows_are_counted_wherever_counts_are_missing(page, tiny, rows, home, monkeypatch):
    """After another system text, another preset, a run that is cloned; meanwhile it is told how far that is."""
    go, real = threading.Event(), preview.counting

    def slowly(data, tokenizer, form, system="", stop=lambda: False):
        *_, whole = real(data, tokenizer, form, system, stop)
        yield preview.Measured(data, (), whole.shapes[:4], frozenset(), whole.anew)
        while not go.wait(0.05):
            if stop():
                return
        yield whole

    run = training.fresh(recipe_paths.absolute(training.plan(tiny, rows)), runs.fresh_folder("kept"))
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        to_recipe(tab)
        has(tab, "#ft-means", "passes over")
        monkeypatch.setattr(preview, "counting", slowly)
        box = tab.locator("#ft-step-3").get_by_label("System text")
        box.press_sequentially("Be brief.")
        has(tab, "#ft-step-3 .ft-counting", "4 of 12 rows are counted.")
        assert "known once the rows are counted" in tab.inner_text("#ft-means")
        tab.get_by_label("number input for Rank").fill("3")  # a quick choice waits for no count, and is not undone by its end
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('r: 3\\n')")
        go.set()
        has(tab, "#ft-means", "passes over")
        tab.wait_for_function("!document.querySelector('#ft-step-3 .ft-counting p')")
        assert "r: 3\n" in yaml(tab)
        go.clear()
        box.fill("Be long.")  # as if pasted
        tab.keyboard.press("Tab")
        has(tab, "#ft-step-3 .ft-counting", "4 of 12 rows are counted.")
        tab.click("#ft-next-3")
        has(tab, "#ft-step-4 .ft-counting", "4 of 12 rows are counted.")
        tab.click("#ft-next-4")
        has(tab, "#ft-step-5 .ft-counting", "4 of 12 rows are counted.")
        go.set()
        has(tab, "#ft-start-means", "passes over")
        tab.click("#ft-to-7")
        tab.wait_for_selector(f"#runs :text('{run.id}')")
        tab.locator("#runs").get_by_role("button", name="Clone").first.click()
        has(tab, "#ft-means", "updates")
        assert not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_what_ends_late_speaks_of_the_recipe_as_it_is_by_then(page, tiny, rows, monkeypatch):
    """A probe whose recipe was changed while it ran, also when its step is entered again; a count in step 2 whose cutoff was moved."""
    ended = []
    monkeypatch.setattr(probing, "start", lambda *_: training.fresh(training.plan(tiny, rows), runs.fresh_folder("probe")))
    monkeypatch.setattr(probing, "outcome", lambda run: ended[0] if ended else None)
    monkeypatch.setattr(probing, "stop", lambda run: None)
    go, real = threading.Event(), preview.counting

    def late(*data, **options):
        go.wait(60)
        yield from real(*data, **options)

    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        to_recipe(tab)
        tab.click("#ft-next-3")
        has(tab, "#ft-fit-told", "It fits")
        tab.click("#ft-probe")
        has(tab, "#ft-fit-told", "so far")
        tab.click("#ft-step-3-button")
        tab.get_by_label("number input for Rank").fill("3")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('r: 3\\n')")
        expect(tab.locator("#ft-preset input")).to_have_value("")  # it is none of the presets now
        ended.append(probing.Probe("done", 10, 10**9, 2.0, 90.0, 10**9, {}, "Ten steps took 20 seconds."))
        tab.click("#ft-next-3")
        said = "The recipe was changed since the probe began. Of what it was: Ten steps took 20 seconds."
        has(tab, "#ft-fit-told", said)
        tab.evaluate("document.querySelectorAll('#ft-fit-told p').forEach(told => { told.textContent = ''; })")
        tab.click("#ft-step-3-button")
        tab.click("#ft-next-3")
        has(tab, "#ft-fit-told", said)
        monkeypatch.setattr(preview, "counting", late)
        tab.click("#ft-step-3-button")
        tab.locator("#ft-step-3").get_by_label("System text").fill("Be brief.")  # other rows than were counted
        tab.keyboard.press("Tab")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('Be brief.')")
        tab.click("#ft-step-1-button")
        has(tab, "#ft-lengths", "are counted when they are read")
        tab.get_by_label("number input for Longest row").fill("104")
        has(tab, "#ft-lengths", "are counted when they are read")
        go.set()
        has(tab, "#ft-lengths", "the limit is 104.")
        assert not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_rows_that_come_late_undo_nothing_that_was_chosen_meanwhile(page, tiny, rows, monkeypatch):
    go, real = threading.Event(), preview.first

    def slow(source, *others):
        if source.startswith("owner/slow"):
            assert go.wait(60)
        return real(rows if source.startswith("owner/") else source, *others)

    monkeypatch.setattr(preview, "first", slow)
    with browser.opened(page.url) as tab:
        brought(tab, tiny, rows)
        tab.get_by_role("tab", name="Hub").click()
        tab.fill("#ft-hub textarea, #ft-hub input", "owner/slow")
        tab.click("#ft-fetch")
        to_recipe(tab)
        tab.get_by_label("number input for Rank").fill("3")
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('r: 3\\n')")
        go.set()
        tab.click("#ft-step-1-button")
        has(tab, "#ft-data-told", "owner/slow")
        to_recipe(tab)
        tab.wait_for_function("document.querySelector('#ft-yaml textarea')?.value.includes('source: owner/slow')")
        assert "r: 3\n" in yaml(tab)
        go.clear()
        tab.click("#ft-step-1-button")
        tab.fill("#ft-hub textarea, #ft-hub input", "owner/slower")
        tab.click("#ft-fetch")
        tab.get_by_role("tab", name="Paste").click()
        tab.fill("#ft-paste textarea", rows.read_text())
        tab.click("#ft-take-pasted")
        has(tab, "#ft-data-told", "Pasted rows")
        go.set()
        has(tab, "#ft-lengths", "passes over")
        tab.get_by_role("tab", name="Hub").click()
        tab.wait_for_function("!document.querySelector('#ft-step-1 .progress-text, #ft-step-1 .generating')")
        assert "Pasted rows" in tab.inner_text("#ft-data-told"), "what was asked for last is what is taken"
        go.clear()
        for name in ("owner/slowest", "owner/mended"):
            tab.fill("#ft-hub textarea, #ft-hub input", name)
            tab.click("#ft-fetch")
        has(tab, "#ft-data-told", "owner/mended")
        go.set()
        tab.wait_for_function("!document.querySelector('#ft-step-1 .progress-text, #ft-step-1 .generating')")
        assert "owner/mended" in tab.inner_text("#ft-data-told")
        assert not tab.errors


@pytest.mark.long
@browser.needs_chromium
def test_what_is_exported_is_drawn_and_downloaded_and_failures_are_told(page, spelling, home, monkeypatch):
    run, _ = spelling
    shutil.copytree(run.folder, home / "runs" / run.id)
    with browser.opened(page.url) as tab:
        tab.get_by_role("tab", name="Finetune").click()
        tab.wait_for_selector("#ft-bases table")
        tab.click("#ft-to-6")
        tab.wait_for_function("run => document.querySelector('#ft-run input')?.value === run", arg=run.id)
        tab.click("#ft-export-go")
        has(tab, "#ft-exported", "Exported as adapter")
        assert "adapter_model.safetensors" in tab.inner_text("#ft-exported table")
        place = home / "exports" / f"{run.id}-adapter"
        assert tab.input_value("#ft-export-place textarea, #ft-export-place input") == str(place)
        assert "engine chat --model" in tab.input_value("#ft-export-use textarea, #ft-export-use input")
        with tab.expect_download() as coming:
            tab.click("#ft-exported .links a")
        archive = zipfile.ZipFile(coming.value.path())
        assert archive.read(f"{place.name}/adapter_model.safetensors") == (place / "adapter_model.safetensors").read_bytes()
        with tab.expect_download() as coming:
            tab.click("#ft-save-recipe")
        assert coming.value.suggested_filename == "recipe.yaml" and run.recipe.model in coming.value.path().read_text()
        reads = "([part, value]) => document.querySelector(`${part} :is(textarea, input)`)?.value === value"
        command = f"python -m engine export {run.id} --to adapter {place}"
        tab.wait_for_function(reads, arg=["#ft-export-command", f"{command}-2"])  # the first folder is taken
        tab.click("#ft-export-go")
        tab.wait_for_function(reads, arg=["#ft-export-place", f"{place}-2"])
        tab.wait_for_function(reads, arg=["#ft-export-command", f"{command}-3"])
        tab.click("#ft-export-kind input")
        tab.get_by_role("option", name="hub", exact=True).click()
        tab.wait_for_function(reads, arg=["#ft-export-command", ""])
        for typed, said in (("me/mine", f"python -m engine export {run.id} --to hub me/mine"), ("", "")):
            tab.fill("#ft-export-where :is(textarea, input)", typed)
            tab.keyboard.press("Tab")
            tab.wait_for_function(reads, arg=["#ft-export-command", said])
        tab.click("#ft-export-go")
        has(tab, "#ft-exported", "what the repository on the Hub is to be called: owner/name")
        assert not tab.locator("#ft-export-place").is_visible()

        def duel(error):
            def begins(*arguments):
                yield Progress("Both have answered 1 of 3 questions")
                raise error

            return begins

        monkeypatch.setattr(Services, "duel", duel(EngineError("The second model does not fit. Choose a smaller one.")))
        tab.click("#ft-duel")
        has(tab, "#ft-try-told", "There is no duel: The second model does not fit.")
        assert not tab.locator("#ft-stop-duel").is_visible()
        monkeypatch.setattr(Services, "duel", duel(RuntimeError("a bug")))
        tab.click("#ft-duel")
        has(tab, "#ft-try-told", "The duel broke off. Try again")
        assert not tab.locator("#ft-stop-duel").is_visible() and not tab.errors


# Of all texts that are seen inside an element: those with less contrast to what is behind them than WCAG AA asks for.
FAINT = r"""part => {
  const parsed = colour => { const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = (top, under) => top.slice(0, 3).map((each, at) => each * top[3] + under[at] * (1 - top[3]));
  const light = colour => { const [r, g, b] = colour.map(each => { const part = each / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = element => { const layers = [];
    for (let each = element; each; each = each.parentElement) layers.unshift(parsed(getComputedStyle(each).backgroundColor));
    return layers.reduce((under, top) => over(top, under), [255, 255, 255]); };
  const faint = [];
  for (const element of document.querySelectorAll(`${part} *`)) {
    const text = [...element.childNodes].filter(each => each.nodeType === 3).map(each => each.textContent.trim()).join('');
    if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (element.closest('[disabled], .visually-hidden, .wrap.hide, .sr-only')) continue;
    const style = getComputedStyle(element), back = behind(element);
    let through = 1;
    for (let each = element; each; each = each.parentElement) through *= Number(getComputedStyle(each).opacity);
    const colour = parsed(element instanceof SVGElement ? style.fill : style.color);
    const front = over([...colour.slice(0, 3), colour[3] * through], back);
    const [high, low] = [light(front), light(back)].sort((one, other) => other - one);
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(`${text.slice(0, 30)} ${((high + 0.05) / (low + 0.05)).toFixed(2)}`);
  }
  return faint;
}"""
MARKED = """() => { const style = getComputedStyle(document.activeElement);
  return document.activeElement === document.body || style.outlineStyle !== 'none' || style.boxShadow !== 'none'; }"""


@pytest.mark.long
@browser.needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_step_can_be_read_heard_and_walked_by_keyboard(page, tiny, rows, scheme):
    with browser.opened(f"{page.url}/?__theme={scheme}") as tab:
        brought(tab, tiny, rows)
        assert tab.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
        faint = {1: tab.evaluate(FAINT, "#ft-step-1")}
        heard = tab.get_attribute("#ft-lengths svg", "aria-label")
        assert "tokens, half of the rows up to" in heard and "0 of 12 rows are cut" in heard
        tab.locator("#ft-limit input[type=number]").focus()
        reached = set()
        for _ in range(12):
            tab.keyboard.press("Tab")
            reached.add(tab.evaluate("document.activeElement.id"))
            assert tab.evaluate(MARKED), tab.evaluate("document.activeElement.outerHTML.slice(0, 300)")
        assert {"ft-next-1", "ft-hurry"} <= reached
        for number, filled in ((1, "#ft-lens p"), (2, "#ft-means p"), (3, "#ft-bars .machine"), (4, "#ft-start-means p")):
            tab.click(f"#ft-next-{number}")
            tab.wait_for_selector(filled)
            if number == 2:
                yaml(tab)
            faint[number + 1] = tab.evaluate(FAINT, f"#ft-step-{number + 1}")
            assert "[object" not in tab.inner_text(f"#ft-step-{number + 1}")
        tab.click("#ft-step-0-button")
        tab.wait_for_selector("#ft-bases table")
        faint[0] = tab.evaluate(FAINT, "#ft-step-0")
        assert not {number: texts for number, texts in faint.items() if texts}
        assert not tab.errors

"""The wizard as a person walks it, from a file to the run's end; as a program calls it; and what a public host refuses of it."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import browser
import builders
import gradio as gr
import numpy
import pytest
import training
from builders import conversation, until
from gradio_client.exceptions import AppError
from pages import Page, wired

from engine import drafts, fitting, jobs, memory, models, pace, presets, probing, recipe_paths, runs, uploads
from engine.backends.scripted import ScriptedBackend
from engine.data_files import Row
from engine.drafts import Draft
from engine.errors import BadInput
from engine.events import Progress
from engine.hardware import GIB
from engine.preview import First
from engine.probing import Probe
from engine.runtime import Runtime
from engine.services import Services
from engine.tokenizers import PretrainedTokenizer
from ui.finetune import views
from ui.finetune.recipe import OWN, RecipeStep
from ui.finetune.start import TrainStep
from ui.finetune.workshop import Workshop, kept

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
    assert run.startswith("mine-") and runs.find(run).recipe == recipe_paths.absolute(training.plan(tiny, rows))


def test_what_a_program_may_not_start_is_told(page):
    client = page.client()
    for recipe, said in (
        ("optimization: {steps: 3}", "Choose the data first"),
        ("nothing: here\noptimization: {steps: 3}", "no key 'nothing'"),
        ("[", "no YAML"),
    ):
        with pytest.raises(AppError, match=said):
            client.predict(recipe, "", api_name="/finetune_start")
        assert not runs.every()


def test_one_row_is_too_few(page, tiny, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"instruction": "Say one.", "output": "One."}\n')
    with pytest.raises(AppError, match="at least 2"):
        page.client().predict(recipe_of(tiny, tmp_path / "one.jsonl"), api_name="/finetune_start")


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.long
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
        tab.click("#run [data-act=try]")
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
        tab.fill("#ft-base input", str(tiny))  # the starter would be fetched and converted before rows are counted
        tab.keyboard.press("Enter")
        tab.wait_for_function("name => document.querySelector('#ft-bases').innerText.includes(name)", arg=tiny.name)
        tab.click("#ft-to-5")
        tab.wait_for_selector("#ft-start[disabled]")
        assert "Choose the data first" in tab.inner_text("#ft-start-means")
        tab.click("#ft-step-1-button")
        for name, said in (("empty.jsonl", "is empty"), ("what.exe", "no data file")):
            tab.set_input_files("#ft-upload input[type=file]", tmp_path / name)
            tab.wait_for_function("said => document.querySelector('#ft-data-told').innerText.includes(said)", arg=said)
            assert tab.inner_text("#ft-data-told").endswith("No rows yet.")
            tab.locator("#ft-upload button[aria-label='Clear']").first.click()
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
        for column, shown in (("frage", "false"), ("antwort", "true")):  # they are still offered by their own names
            tab.get_by_label("Column of “output”").fill(column)
            tab.keyboard.press("Enter")
            tab.click("#ft-remap")
            tab.wait_for_function(f"document.querySelector('#ft-preview').innerText.includes('Zwei.') === {shown}")
        tab.wait_for_selector("#ft-preview .good")
        tab.fill("#ft-paste textarea", "instruction,output,output_clean\nWas ist eins?,Eins!,Sauber.\nUnd zwei?,Zwei!,Rein.\n")
        tab.click("#ft-take-pasted")
        tab.wait_for_function("document.querySelector('#ft-format input').value === 'find out'")
        tab.wait_for_function("document.querySelector('#ft-preview').innerText.includes('Zwei!')")
        tab.get_by_label("Column of “output”").fill("output_clean")
        tab.keyboard.press("Enter")
        tab.click("#ft-remap")
        tab.wait_for_function("document.querySelector('#ft-preview').innerText.includes('Rein.')")
        assert tab.get_by_label("Column of “output”").input_value() == "output_clean", "of a format that was found, too"
        assert not tab.errors


def test_all_eyes_can_tell_the_parts_of_a_memory_bar(home):
    """Every part has a colour of its own, apart from the others also as eyes without one kind of cones see it (Machado, Oliveira and
    Fernandes, 2009: no red, no green, no blue cones)."""
    plans = [
        memory.training_plan(spec.shape, recipe.changed(changes), machine)
        for spec in models.MODELS.values()
        if spec.shape
        for recipe in [presets.of_model(spec.id)]
        for changes in ({}, {"quantization.kind": "none"}, {"memory.base_weights": "packed"})
        for machine in fitting.MACHINES.values()
    ]
    colours = [views._COLOURS[name] for name in dict.fromkeys(part.name for plan in plans for part in plan.parts)]
    values = numpy.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in colours])
    linear = numpy.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    for eyes in (
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    ):
        seen = numpy.clip(linear @ numpy.array(eyes).T, 0, 1)
        white = numpy.array([0.9505, 1, 1.089])
        xyz = seen @ numpy.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T / white
        root = numpy.where(xyz > 0.008856, numpy.cbrt(xyz), 7.787 * xyz + 16 / 116)
        lab = numpy.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], 1)
        assert min(numpy.linalg.norm(one - other) for one, other in itertools.combinations(lab, 2)) > 8


def test_what_a_memory_bar_marks_is_in_its_legend(home):
    shape, recipe = models.MODELS["starter"].shape, Draft().recipe
    shown = views.memory_bars(fitting.plans(shape, recipe), None)
    assert 'class="peak"' not in shown and 'class="limit"' not in shown
    probe = Probe("done", 10, 3 * GIB, 1.0, 100.0, 3 * GIB, {}, "10 steps")
    shown = views.memory_bars(fitting.plans(models.MODELS["guanaco-65b"].shape, recipe), probe)
    legend = shown.partition('class="legend"')[2]
    assert "Measured by the probe: " in legend and 'class="peak"' in legend and 'class="limit"' in legend


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


@pytest.mark.parametrize("training", [False, True])
def test_a_visitor_cannot_ask_what_the_host_has(home, tiny, training, monkeypatch):
    shop = Workshop(Services(Runtime(isolated=False), read_only=True, training=training))
    for one, other in (("/etc/passwd", "/no/such"), ("~root/x", "~nobody.here/x")):
        told = []
        for source in (one, other):
            with pytest.raises(BadInput) as refused:
                shop.allowed(drafts.with_data(Draft(), source, "x"))
            told.append(str(refused.value))
        assert told[0] == told[1]
    step = RecipeStep(shop)
    begin_with = wired(step, "begin_with")
    for model in (str(tiny), "/no/such"):
        with pytest.raises(gr.Error, match="bases and adapters in the lists" if training else "Training is off"):
            begin_with(OWN, kept(drafts.changed(Draft(), {"model": model})))
    monkeypatch.setattr(drafts, "in_force", lambda draft, own: pytest.fail("the base was looked up"))
    assert step.shown(drafts.changed(Draft(), {"model": str(tiny)}))[1] is None


def test_what_a_visitor_names_is_read_as_everybody_may_read_it(home, monkeypatch):
    heard = []

    def opened(name, report, public=False):
        heard.append(public)
        return "row", iter([Row(number, {"text": "a"}) for number in range(9)])

    monkeypatch.setattr("engine.data_hub.opened", opened)
    monkeypatch.setattr("engine.tokenizer_files.opened", lambda *asked: PretrainedTokenizer(builders.byte_tokenizer()))
    monkeypatch.setattr("engine.jobs.start", lambda plan, name, public=False: heard.append(public) or runs.Run(home))
    for visitors in (True, False):
        shop = Workshop(Services(Runtime(isolated=False), read_only=visitors, training=True))
        draft = drafts.changed(drafts.with_data(Draft(), "owner/name", "x"), {"optimization.steps": 3})
        assert shop.first(draft).rows == 9
        TrainStep(shop).begin(draft)
        probing._longest(draft.recipe, lambda progress: None, visitors)
        assert heard == [visitors] * (4 if visitors else 3), "the first rows, all rows where visitors are limited, the run, the probe"
        heard.clear()


def test_a_visitor_chooses_no_base_that_the_owner_alone_may_fetch(home):
    shop = Workshop(Services(Runtime(isolated=False), read_only=True, training=True))
    gated = drafts.changed(Draft(), {"model": "llama-3.2-1b"})
    for refused in (shop.allowed, shop.spec):
        with pytest.raises(BadInput, match="llama-3.2-1b is gated"):
            refused(gated)
    assert "llama-3.2-1b" not in [base.id for base in shop.bases()]
    folder = models.MODELS["llama-3.2-1b"].folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")  # its owner has fetched it
    shop.allowed(gated)
    assert shop.spec(gated).id in [base.id for base in shop.bases()]


class Watched:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self):
        self.lock, self.waited = threading.Lock(), threading.Event()
        self.release = self.lock.release

    def acquire(self, timeout: float) -> bool:
        if self.lock.acquire(timeout=0.01):
            return True
        self.waited.set()
        return False


@pytest.mark.parametrize("visitors", [True, False])
def test_rows_are_read_for_one_visitor_at_a_time(home, monkeypatch, visitors):
    begun, lock = [], Watched()

    def measuring(source, *asked, stop, public):
        begun.append(source)
        yield Progress(source)
        while not stop():
            threading.Event().wait(0.01)

    monkeypatch.setattr("engine.preview.measuring", measuring)
    monkeypatch.setattr(Workshop, "form", lambda self, draft: None)
    shop = Workshop(Services(Runtime(isolated=False), read_only=visitors, training=True), _reading=lock)
    first, second, third = (shop.measuring(drafts.with_data(Draft(), f"owner/{name}", "x"), name) for name in "abc")
    assert next(first).text == "owner/a"
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(next, second)
        if visitors:
            assert lock.waited.wait(10) and begun == ["owner/a"]
            first.close()  # and it is no longer read
        assert told.result(timeout=10).text == "owner/b"
    second.close()
    assert next(third).text == "owner/c" and begun == ["owner/a", "owner/b", "owner/c"]
    for each in (first, third):
        each.close()
    until(lambda: not shop.counts._going)


def test_on_a_public_host_few_long_texts_are_kept(home, monkeypatch):
    monkeypatch.setattr("ui.finetune.workshop._KEPT_CHARACTERS", 100)
    long, short = (First("f", "r", "row", (1,), (conversation([("q", "a" * size)]),), (), 1, False, (), ()) for size in (60, 10))
    for visitors, there in ((True, ["short", "last"]), (False, ["first", "short", "last"])):
        shop = Workshop(Services(Runtime(isolated=False), read_only=visitors, training=True))
        for name, made in (("first", long), ("short", short), ("last", long)):
            shop._once((name,), lambda: made)
        assert [name for name in ("first", "short", "last") if shop._peek((name,))] == there


def test_quick_events_wait_for_no_slow_one(page):
    """Gradio holds a group of events to the lowest limit that one of them names."""
    limits = {each.concurrency_limit for each in page.blocks.fns.values() if each.concurrency_id == "quick"}
    assert limits == {8}


@pytest.mark.long
def test_on_a_public_host_that_trains_visitors_are_kept_apart(home, tiny, rows):
    page = Page(ScriptedBackend(), read_only=True, training=True)
    try:
        with pytest.raises(BadInput, match="bases in the list"):
            Workshop(page.services).spec(drafts.changed(Draft(), {"model": "/etc"}))
        run = runs.create(runs.fresh_folder("secret"), training.plan(tiny, rows), public=True)
        client = page.client()
        assert client.predict("", 0, api_name="/finetune_follow") == {"run": ""}
        told = client.predict(run.id, 0, api_name="/finetune_follow")
        assert str(home) not in str(told) and str(rows.parent) not in str(told)
        with pytest.raises(BadInput, match="not all yours"):
            Workshop(page.services).clone(run.id, Draft())
        assert client.predict(api_name="/finetune_runs")["runs"] == []
    finally:
        page.close()

"""What goes wrong in a finetuning, as the person at the page meets it. What the page shows comes from events that the engine wrote.

Rows of the list of faults, and where each is proved as it looks on the page:

4  an architecture that is not trained     test_trainable.py (the first step refuses before weights are fetched)
5  no layer as the LoRA targets say        test_layers_that_are_not_there
10 an adapter that learnt nothing          test_a_run_that_fails_says_why
11 bad rows                                test_rows_that_cannot_be_used, test_finetune_tab (line numbers)
12 no data, one row                        test_too_few_rows_to_start, test_finetune_tab (no data, an empty file)
13 rows that are too long                  test_rows_that_cannot_be_used
14 an upload over the limit                test_an_upload_over_the_limit
17 out of memory in a step                 test_trouble_that_a_run_survives_is_told
18 out of memory in an evaluation          test_trouble_that_a_run_survives_is_told
19 a loss that is not a number             test_a_paused_run_goes_on_from_its_last_good_step
20 a full disk                             test_a_run_that_fails_says_why, test_a_full_disk_at_the_start
21 kill -9                                 test_a_killed_run_is_resumed_to_the_same_end, test_run_view (live)
22 the newest checkpoint damaged           test_a_damaged_checkpoint_gives_way_to_the_one_before
23 two Starts at once                      test_two_starts_at_once, test_run_view (leaving the line)
24 the lock of a dead process              test_a_killed_run_is_resumed_to_the_same_end
25 a reload, a second tab                  test_run_view
35 a base larger than memory               test_trainable.py (what does not fit is told with numbers and what to do)
"""

import contextlib
import errno
import os
import signal
import subprocess
import sys

import browser
import pytest
import torch
import training
from builders import until
from pages import Page
from test_finetune_flow import yaml
from test_jobs import _MORTAL, MOMENTS
from test_run_view import open_tab, wait_phase
from training import adapter_bytes, fresh, plan, written

from engine import checkpoints, jobs, passes, paths, runs, uploads
from engine.backends.scripted import ScriptedBackend
from engine.errors import EngineError
from engine.events import Adjusted, Saved
from engine.runs import Run

pytestmark = [pytest.mark.long, browser.needs_chromium]


@pytest.fixture
def page(home):
    served = Page(ScriptedBackend())
    yield served
    for run in runs.every():
        with contextlib.suppress(EngineError):  # it is over
            jobs.kill(run)
    served.close()


def in_list(name: str, recipe) -> Run:
    """A fresh run among those of this home."""
    return fresh(recipe, paths.runs() / name)


def worked(run: Run) -> None:
    """Train it in this process to its end, as its own process would, whatever that is."""
    with contextlib.suppress(EngineError):
        while isinstance(jobs.work(run, lambda event: None), Adjusted):
            pass


def with_base(tab, base) -> None:
    """To the step of the data, on this base."""
    tab.get_by_role("tab", name="Finetune").click()
    tab.wait_for_selector("#ft-bases table")
    tab.fill("#ft-base input", str(base))
    tab.keyboard.press("Enter")
    tab.wait_for_function("name => document.querySelector('#ft-bases').innerText.includes(name)", arg=base.name)
    tab.click("#ft-next-0")
    tab.wait_for_selector("#ft-data-told p")


def upload(tab, file) -> None:
    if tab.locator("#ft-upload button[aria-label='Clear']").count():
        tab.locator("#ft-upload button[aria-label='Clear']").first.click()
    tab.set_input_files("#ft-upload input[type=file]", file)


def lengths(tab, said: str) -> str:
    tab.wait_for_function("said => document.querySelector('#ft-lengths').innerText.includes(said)", arg=said)
    return tab.inner_text("#ft-lengths")


def wait_done(tab) -> None:
    """Until a run in a process of its own, before which everything else on the machine goes, has ended well."""
    tab.wait_for_selector("#run .of-run[data-phase=done]", timeout=400_000)


def log(tab) -> str:
    if not tab.locator("#run .log[open]").count():
        tab.click("#run .log summary")
    return tab.inner_text("#run .log")


def test_rows_that_cannot_be_used(page, tiny, rows, tmp_path):
    """Rows 11 and 13: which lines are bad and what will be done with them; how many rows are cut."""
    file = tmp_path / "mine.jsonl"
    file.write_bytes(rows.read_bytes() + b'{"instruction": "Say one.", "output": null}\n\xff\xfe\nno json\n')
    with browser.opened(page.url) as tab:
        with_base(tab, tiny)
        upload(tab, file)
        told = lengths(tab, "cannot be read")
        assert "3 rows cannot be read and will be left out" in told
        assert all(f"line {line}:" in told for line in (13, 14, 15)), told
        # The other choice is said, and it can be made.
        assert "“Skip bad rows”" in told
        tab.click("#ft-next-1")
        tab.click("#ft-next-2")
        yaml(tab)
        tab.get_by_label("Skip bad rows").uncheck()
        tab.wait_for_function("document.querySelector('#ft-yaml textarea').value.includes('skip_bad_rows: false')")
        tab.click("#ft-step-1-button")
        assert "will stop the run" in lengths(tab, "will stop the run")
        tab.fill("#ft-limit input[type=number]", "208")
        tab.keyboard.press("Tab")
        told = lengths(tab, "tokens to learn are lost")
        assert "of 12 rows are cut" in told and not told.startswith("0 of 12"), told
        assert not tab.errors


def test_too_few_rows_to_start(page, tiny, tmp_path):
    """Row 12: one row does not start and says so, two do."""
    for count in (1, 2):
        (tmp_path / f"{count}.jsonl").write_text('{"instruction": "Say one.", "output": "One."}\n' * count)
    with browser.opened(page.url) as tab:
        with_base(tab, tiny)
        upload(tab, tmp_path / "1.jsonl")
        lengths(tab, "at least 2")
        tab.click("#ft-hurry")
        tab.wait_for_selector("#ft-start[disabled]")
        assert "1 row can be learnt from; at least 2 are needed" in tab.inner_text("#ft-start-means")
        tab.click("#ft-step-1-button")
        upload(tab, tmp_path / "2.jsonl")
        lengths(tab, "0 of 2 rows are cut")
        tab.click("#ft-hurry")
        tab.wait_for_selector("#ft-start:not([disabled])")


@pytest.mark.parametrize(
    ("size", "said"), [(uploads.MAX_BYTES + 1, "the limit is 20 MB"), (20 * 2**20 + 1, "exceed the maximum allowed size of 20")]
)
def test_an_upload_over_the_limit(page, tiny, tmp_path, size, said):
    """Row 14: over our own limit, and over the one for what is sent at all."""
    row = b'{"instruction": "Say one.", "output": "One."}\n'
    (tmp_path / "large.jsonl").write_bytes((row * (size // len(row) + 1))[: size - 1] + b"\n")
    with browser.opened(page.url) as tab:
        with_base(tab, tiny)
        upload(tab, tmp_path / "large.jsonl")
        tab.wait_for_function("said => document.body.innerText.includes(said)", arg=said)
        # The step may still be filled when the page refuses what is too much to send.
        tab.wait_for_function("() => document.querySelector('#ft-data-told').innerText.includes('No rows yet')")
        assert not [each for each in paths.uploads().rglob("*") if each.is_file() and each.stat().st_size]


def nothing_learnt(patch, run: Run) -> None:
    patch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    worked(run)


def disk_full(patch, run: Run) -> None:
    """From the second checkpoint on there is no room for one."""
    honest = checkpoints.write_tensors

    def write(path, tensors):
        if run.steps_saved():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(path, tensors)

    patch.setattr(checkpoints, "write_tensors", write)
    worked(run)


@pytest.mark.parametrize(
    ("fault", "said", "step"),
    [
        (nothing_learnt, ["The adapter learnt nothing: in the end", "No adapter is handed over"], 6),
        (disk_full, ["is full", "MB are needed", "MB are free", "What was saved before is kept"], 2),
    ],
)
def test_a_run_that_fails_says_why(page, tiny, rows, fault, said, step):
    """Rows 10 and 20."""
    run = in_list("mine", plan(tiny, rows))
    with pytest.MonkeyPatch.context() as patch:
        fault(patch, run)
    with browser.opened(page.url) as tab:
        open_tab(tab)
        wait_phase(tab, "failed")
        told = tab.inner_text("#run .doing")
        assert all(each in told for each in said) and tab.inner_text("#run .state") == "Failed", told
        assert tab.inner_text("#run [data-act=finetune_resume]") == f"Resume from step {step}"
        assert checkpoints.damaged(run.checkpoints / f"step-{step}") is None
        tab.click("#ft-to-6")
        tab.wait_for_function("document.querySelector('#ft-try-told')?.innerText.includes('Nothing has been trained yet')")
        assert not run.adapter.exists() and not tab.errors


def test_layers_that_are_not_there(page, tiny, gpt2, rows):
    """Row 5: of Llama's kin Start knows the layers, of GPT-2's the run says which there are."""
    with browser.opened(page.url) as tab:
        with_base(tab, tiny)
        upload(tab, rows)
        lengths(tab, "rows are cut")
        tab.click("#ft-next-1")
        tab.click("#ft-next-2")
        mine = yaml(tab).replace("targets: all-linear", "targets: [c_attn]")
        tab.fill("#ft-yaml textarea", mine)
        tab.click("#ft-take-yaml")
        tab.wait_for_function("/targets:\\s+- c_attn/.test(document.querySelector('#ft-yaml textarea').value)")
        tab.click("#ft-to-5")
        tab.wait_for_selector("#ft-start[disabled]")
        told = tab.inner_text("#ft-start-means")
        assert "no layers called c_attn" in told and "q_proj" in told
        run = in_list("mine", plan(gpt2, rows, lora={"targets": ["q_proj", "v_proj"]}))
        worked(run)
        wait_phase(tab, "failed")
        told = tab.inner_text("#run .doing")
        assert "no layers called q_proj, v_proj (lora.targets). It has: c_attn, c_fc, c_proj" in told
        assert not run.adapter.exists() and not tab.errors


def out_of_memory(patch) -> None:
    """Passes of more than two rows do not fit memory, nor does any test."""
    honest = passes.summed_loss

    def scarce(learner, part, *rest):
        if not learner.model.training or len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return honest(learner, part, *rest)

    patch.setattr(passes, "summed_loss", scarce)


def test_trouble_that_a_run_survives_is_told(page, tiny, rows):
    """Rows 17 and 18: out of memory in a step and in every evaluation."""
    run = in_list("mine", plan(tiny, rows))
    with pytest.MonkeyPatch.context() as patch:
        out_of_memory(patch)
        worked(run)
    with browser.opened(page.url) as tab:
        open_tab(tab)
        wait_phase(tab, "done")
        assert "Step 6 of 6" in tab.inner_text("#run .counted")
        found = tab.inner_text("#run .findings")
        assert "Memory ran out once" in found and "Micro-batch 4 → 2, still 4 rows in all a step" in found
        assert "evaluations: the held-out loss is not known there" in found
        told = log(tab)
        assert "skipped, training goes on" in told and told.count("Beginning") == 2 and "2 rows a pass" in told


def test_a_paused_run_goes_on_from_its_last_good_step(page, tiny, rows):
    """Row 19: step 4 is no number, once."""
    run = in_list("mine", plan(tiny, rows))
    with pytest.MonkeyPatch.context() as patch:
        honest = passes.summed_loss

        def broken(learner, part):
            fourth = learner.model.training and getattr(learner.dropout, "key", (0, 0))[1] == 4
            return honest(learner, part) * (float("nan") if fourth else 1)

        patch.setattr(passes, "summed_loss", broken)
        worked(run)
    with browser.opened(page.url) as tab:
        open_tab(tab)
        wait_phase(tab, "paused")
        told = tab.inner_text("#run .doing")
        assert "Paused: the loss of step 4 is not a number" in told and "The checkpoint of step 2 is sound" in told
        assert "learning_rate" in tab.inner_text("#run .findings")
        button = tab.locator("#run [data-act=finetune_resume]")
        assert button.inner_text() == "Resume from step 2"
        button.click()
        wait_done(tab)
        assert "Going on after step 2" in log(tab)
        assert [event.step for event in runs.in_force(runs.all_events(run)) if type(event).__name__ == "Step"] == [1, 2, 3, 4, 5, 6]


def full(honest):
    """A call that makes something new, on a full disk."""

    def call(path, *given, **options):
        if not path.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return honest(path, *given, **options)

    return call


def test_a_full_disk_at_the_start(page, tiny, rows, monkeypatch):
    """Row 20: where not even the folder of a run can be made."""
    with browser.opened(page.url) as tab:
        with_base(tab, tiny)
        upload(tab, rows)
        lengths(tab, "rows are cut")
        tab.click("#ft-hurry")
        tab.wait_for_selector("#ft-start:not([disabled])")

        for name in ("mkdir", "write_text"):
            with monkeypatch.context() as patch:
                patch.setattr(paths.Path, name, full(getattr(paths.Path, name)))
                tab.click("#ft-start")
                tab.wait_for_function("document.body.innerText.includes('MB are needed')")
                assert "is full" in tab.inner_text("body") and "MB are free" in tab.inner_text("body")
            tab.get_by_test_id("toast-close").first.click()
            tab.wait_for_function("!document.body.innerText.includes('MB are needed')")
        assert not [run for run in runs.every() if run.process]
        tab.click("#ft-start")  # there is room again
        tab.wait_for_function("document.querySelector('#run').innerText.includes('rows-')")


def test_a_killed_run_is_resumed_to_the_same_end(home, tiny, rows, whole, tmp_path):
    """Rows 21 and 24: killed while it saved, its locks left behind; the app is started again and goes on with it."""
    file, run = written(plan(tiny, rows), tmp_path / "recipe.yaml"), Run(paths.runs() / "mine")
    moment = MOMENTS["a checkpoint is written but not there yet"]
    command = [sys.executable, "-c", _MORTAL, *moment, "train", str(file), "--run-dir", str(run.folder)]
    killed = subprocess.run(command, cwd=training.ROOT, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (paths.runs() / ".machine.lock").exists() and (run.folder / runs.LOCK).exists()
    served = Page(ScriptedBackend())
    try:
        with browser.opened(served.url) as tab:
            open_tab(tab)
            wait_phase(tab, "interrupted")
            assert "without a word" in tab.inner_text("#run .doing")
            button = tab.locator("#run [data-act=finetune_resume]")
            assert button.inner_text() == "Resume from step 2"
            button.click()
            wait_done(tab)
            told = log(tab)
            assert "Going on after step 2" in told and "In line" not in told
            assert "Step 6 of 6" in tab.inner_text("#run .counted") and not tab.errors
        assert adapter_bytes(run) == adapter_bytes(whole[0])
    finally:
        with contextlib.suppress(EngineError):
            jobs.kill(run)
        served.close()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(page, tiny, rows, whole):
    """Row 22: bytes of the newest are flipped."""
    run = in_list("mine", plan(tiny, rows))

    def killed(event):
        if isinstance(event, Saved) and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.work(run, killed)
    weights = run.checkpoints / "step-4" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 0xFF
    weights.write_bytes(content)
    with browser.opened(page.url) as tab:
        open_tab(tab)
        wait_phase(tab, "interrupted")
        assert tab.inner_text("#run [data-act=finetune_resume]") == "Resume from step 2"
        tab.click("#run [data-act=finetune_resume]")
        wait_done(tab)
        assert "The checkpoint of step 4 is damaged" in tab.inner_text("#run .findings")
        assert "Going on after step 2" in log(tab)
    assert adapter_bytes(run) == adapter_bytes(whole[0])


def test_two_starts_at_once(page, tiny, rows):
    """Row 23: in two tabs of a browser that share what was chosen."""
    with browser.opened(page.url) as tab:
        with_base(tab, tiny)
        upload(tab, rows)
        lengths(tab, "rows are cut")
        tab.click("#ft-hurry")
        tab.wait_for_selector("#ft-start:not([disabled])")
        second = tab.context.new_page()
        second.goto(page.url)
        second.get_by_role("tab", name="Finetune").click()
        second.wait_for_selector("#ft-start:not([disabled])")
        for each in (tab, second):
            each.evaluate("setTimeout(() => document.querySelector('#ft-start').click(), 500)")
        until(lambda: len(runs.every()) == 2, 60)
        second.wait_for_selector("#run h2")
        tabs = (tab, second)
        until(lambda: any("has the machine. Place 1 in line." in each.inner_text("#run") for each in tabs), 120)
        waiting = next(each for each in tabs if "in line" in each.inner_text("#run"))
        holder = next(each for each in tabs if each is not waiting)
        name = holder.inner_text("#run h2")
        assert f"{name} has the machine. Place 1 in line." in waiting.inner_text("#run .doing")
        assert waiting.inner_text("#run h2") != name and not tab.errors

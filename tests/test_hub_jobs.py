"""Trainings as Hugging Face Jobs: the Hub's real client against a server here, which runs what it is sent; and all that goes wrong there."""

import json
import os
import re
import threading
import zipfile

import builders
import jobs_server
import pytest
import training
from jobs_server import REPO, STARTED, STEPS, Job, done_by, say, sent

from engine import adapters, history, hub_jobs, job_bundle, job_offer, job_script, jobs, runs, trainable
from engine.errors import BadInput, EngineError
from engine.events import Ended, Notice, Progress, Saved, Started, Step
from engine.runs import Run

HOUR = 3600.0


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    with jobs_server.asked(tiny, tmp_path, monkeypatch) as server:
        yield server


def begun(rows, **sections) -> Run:
    return hub_jobs.start(training.plan("me/tiny", rows, **sections), "counting", "t4-small", HOUR, lambda progress: None)


def followed(run: Run) -> tuple[Ended, list]:
    told = []
    return hub_jobs.follow(run, told.append), told


def in_background(run: Run) -> threading.Thread:
    thread = threading.Thread(target=followed, args=(run,), daemon=True)
    thread.start()
    return thread


def events_of(run: Run, kind: type) -> list:
    return [event for event in runs.all_events(run) if isinstance(event, kind)]


@pytest.mark.long
def test_a_recipe_becomes_an_adapter_here_that_chats(hub, rows, run_engine, tmp_path, home):
    plan = training.plan("me/tiny", rows, optimization={"steps": 3, "learning_rate": 0.02})
    recipe = training.written(plan, tmp_path / "counting.yaml")
    done = run_engine("job", str(recipe), "--flavor", "t4-small", "--timeout", "30m", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    for said in ("$0.40 an hour", "$0.20 at most", "rows.jsonl", "private data set guanaco-jobs", "as a secret of the job"):
        assert said in done.stderr
    row = json.loads(done.stdout)
    run = runs.find(row["id"])
    assert row["status"] == "done" and row["step"] == 3 and row["adapter"] == str(run.adapter) and str(run.adapter) in row["text"]
    assert [event.step for event in events_of(run, Step)] == [1, 2, 3] and events_of(run, Started)[0].run == run.id
    assert adapters.read(run.adapter, run.id).base == "me/tiny" and run.recipe == plan
    assert not run.hub_job_goes_on and runs.finished(run) and hub.private == {REPO}
    # The token is the job's secret and stands nowhere else; no folder of this machine is sent.
    spec = hub.job.spec
    assert spec["secrets"] == {"HF_TOKEN": "hf_test"} and spec["flavor"] == "t4-small" and spec["timeoutSeconds"] == 1800
    kept = [path.read_bytes() for folder in (run.folder, hub.datasets[REPO]) for path in folder.rglob("*") if path.is_file()]
    assert not any(b"hf_test" in data for data in (*kept, done.stdout.encode(), done.stderr.encode()))
    assert "hf_test" not in json.dumps({**spec, "secrets": {}}) + json.dumps(hub.job.lines)
    with zipfile.ZipFile(hub.datasets[REPO] / run.id / job_bundle.NAME) as packed:
        assert str(rows.parent) not in packed.read("recipe.yaml").decode() and packed.read("data/rows.jsonl") == rows.read_bytes()
    said = [
        run_engine("chat", "--model", "me/tiny", "--adapter", each, "--backend", "transformers", "--temperature", "0", "Count 1", "--json")
        for each in ("none", run.id)
    ]
    assert all(each.returncode == 0 for each in said), said[1].stderr
    assert json.loads(said[0].stdout)["text"] != json.loads(said[1].stdout)["text"]


@pytest.mark.long
def test_one_that_is_stopped_saves_and_goes_on_here(hub, rows):
    run = begun(rows, optimization={"steps": 100_000}, cadence={"save_every": 100_000, "eval_every": 100_000})
    thread = in_background(run)
    builders.until(lambda: events_of(run, Step))
    run.ask_to_stop(os.getpid())
    thread.join(120)
    ended = runs.all_events(run)[-1]
    assert isinstance(ended, Ended) and ended.status == "stopped" and run.steps_saved() == [ended.step], hub.job.lines[-5:]
    assert ended.text.startswith(f"Stopped after step {ended.step} of 100000.") and "on this machine" in ended.text
    assert not run.hub_job_goes_on and history.phase(run) == "stopped" and jobs._command(run)[3] == "train"
    again, told = training.trained(run, training.stop_after(run, ended.step + 1))
    assert next(event for event in told if isinstance(event, Started)).resumed_from == ended.step and again.step == ended.step + 1


@pytest.mark.long
def test_what_it_costs_is_said_before_anything_is_sent(hub, rows, run_engine, tmp_path):
    recipe = training.written(training.plan("me/tiny", rows), tmp_path / "counting.yaml")
    asked = run_engine("job", str(recipe), "--flavor", "a100-large", "--timeout", "2h", "--json")
    offer = json.loads(asked.stdout)
    assert asked.returncode == 0 and offer["limit"] == 7200 and offer["most"] == pytest.approx(5.0, rel=1e-3)
    assert 0 < offer["likely"] == pytest.approx(offer["seconds"] * 2.5 / 3600, rel=1e-3)
    assert "312 TFLOP/s" in str(job_offer.pace.pace(*shape_and(recipe), job_offer.flavor("a100-large").machine, "me/tiny").text)
    words = re.search(r"<!-- job command -->\n```bash\npython -m engine (.*?)\n```", (training.ROOT / "README.md").read_text())[1]
    refused = run_engine(*words.replace("recipe.yaml", str(recipe)).replace("rows.jsonl", str(rows)).split())
    assert refused.returncode == 2 and "at most" in refused.stderr and "Add --yes" in refused.stderr
    assert "What will be sent to Hugging Face: this program" in refused.stderr
    assert not hub.jobs and not hub.datasets and not runs.every() and not any(method == "POST" for method, _, _ in hub.requests)


def shape_and(recipe):
    plan = runs.recipe.read(recipe)
    return trainable.looked_at(job_offer.models.resolve("me/tiny")).shape, plan


def test_machines_without_a_price_say_where_prices_are(hub, monkeypatch):
    monkeypatch.setitem(job_offer._AN_HOUR, "minute", None)
    assert job_offer.flavor("t4-small").price == "price on https://huggingface.co/pricing"
    assert [each.name for each in job_offer.flavors()][-1] == "cpu-basic"
    with pytest.raises(BadInput, match="no machine 'tpu' for jobs. There are: .*t4-small"):
        job_offer.flavor("tpu")


@pytest.mark.parametrize("text", ["2", "2x", "", "1s", "1000d", "-1h"])
def test_a_time_limit_that_is_none_is_told(text):
    with pytest.raises(BadInput, match="no time limit"):
        job_offer.limit_of(text)


@pytest.mark.long
def test_nothing_is_left_where_no_job_was_started(hub, rows, monkeypatch):
    def refused(match: str, error: type = EngineError, **sections) -> None:
        with pytest.raises(error, match=match):
            begun(rows, **sections)
        assert not runs.every() and not list(runs.paths.runs().iterdir()) and not hub.jobs

    monkeypatch.setenv("HF_TOKEN", "hf_other")
    refused("nothing was sent: the Hub does not accept the token")
    monkeypatch.delenv("HF_TOKEN")
    refused("there is no token.*hf auth login", BadInput)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    hub.refuses = 402
    refused("was not started: the account has no credit.*billing")
    hub.refuses = 403
    refused("was not started: the token may not")
    refused("adapter to start from", BadInput, lora={"start_from": str(rows.parent)})
    hub.away.set()
    refused("nothing was sent: the Hub answered 503")
    hub.away.clear()
    hub.private.clear()
    refused("is public", BadInput)


def test_a_base_of_this_machine_is_refused(hub, tiny, rows):
    with pytest.raises(BadInput, match="fetches its base from the Hub"):
        hub_jobs.start(training.plan(tiny, rows), "counting", "t4-small", HOUR, lambda progress: None)
    assert not hub.requests


def test_a_job_that_fails_says_why(hub, rows):
    def act(job: Job) -> None:
        job.say("error: no such package")
        job.turn("ERROR", None)

    hub.act = act
    run = begun(rows)
    ended, told = followed(run)
    assert ended.status == "failed" and "error: no such package" in ended.text and hub_jobs.read(run).url in ended.text
    assert runs.all_events(run)[-1] == ended and history.phase(run) == "failed" and not run.hub_job_goes_on


def test_a_job_that_failed_in_training_keeps_its_own_words(hub, rows):
    def act(job: Job) -> None:
        say(job, STARTED, STEPS[0], Ended("failed", 1, "Memory ran out.", 3.0))
        job.turn("ERROR", "Job failed with exit code: 1")

    hub.act = act
    ended, _ = followed(begun(rows))
    assert ended == Ended("failed", 1, "Memory ran out.", 3.0)


@pytest.mark.long
def test_a_job_whose_time_is_up_leaves_its_checkpoint(hub, rows, whole):
    def act(job: Job) -> None:
        say(job, STARTED, *STEPS[:5])
        sent(hub, job, whole[0], "checkpoints/step-4")
        job.turn("ERROR", "Job timeout")

    hub.act = act
    run = begun(rows)
    ended, _ = followed(run)
    assert ended.status == "failed" and "Job timeout" in ended.text and "Step 4 was fetched" in ended.text and ended.step == 5
    again, told = training.trained(run)
    assert again.status == "done" and next(event for event in told if isinstance(event, Started)).resumed_from == 4
    assert adapters.WEIGHTS in os.listdir(run.adapter)


def test_a_job_that_is_cancelled_on_the_hub_is_stopped(hub, rows):
    hub.act = lambda job: say(job, STARTED, *STEPS[:2])
    run = begun(rows)
    thread = in_background(run)
    builders.until(lambda: len(events_of(run, Step)) == 2)
    hub.end(hub.job)
    thread.join(30)
    ended = runs.all_events(run)[-1]
    assert (ended.status, ended.step) == ("stopped", 2) and "cancelled" in ended.text


def test_stopping_one_that_waits_for_a_machine_cancels_it(hub, rows):
    hub.act = lambda job: None
    run = begun(rows)
    thread = in_background(run)
    builders.until(lambda: run.process)
    jobs.stop(run)
    thread.join(30)
    assert hub.job.stage == "CANCELED" and runs.all_events(run)[-1].status == "stopped"


@pytest.mark.long
def test_ending_one_at_once_cancels_it(hub, rows):
    hub.act = lambda job: (job.turn("RUNNING"), say(job, STARTED))
    run = begun(rows)
    with pytest.raises(BadInput, match="Resume follows it"):
        history.delete(run)
    with pytest.raises(BadInput, match="job --follow"):
        jobs.work(run, print)
    thread = in_background(run)
    builders.until(lambda: events_of(run, Started))
    hub.away.set()
    with pytest.raises(EngineError, match="was not cancelled and goes on"):
        jobs.kill(run)
    hub.away.clear()
    jobs.kill(run)
    thread.join(30)
    assert hub.job.stage == "CANCELED" and runs.all_events(run)[-1].status == "stopped"


def test_a_hub_that_goes_away_is_waited_for(hub, rows, whole):
    back = threading.Event()

    def act(job: Job) -> None:
        job.turn("RUNNING")
        job.say("Installed 90 packages")
        say(job, STARTED, *STEPS[:3])
        job.say("step 3/6: loss 1.700")
        back.wait(60)
        say(job, Notice("twice"), Notice("twice"), *STEPS[3:], Saved(6, 10, 0.1))
        done_by(hub, whole[0], job)

    hub.act = act
    run = begun(rows)
    thread = in_background(run)
    builders.until(lambda: len(events_of(run, Step)) == 3)
    hub.away.set()
    builders.until(lambda: any("does not answer" in event.text for event in events_of(run, Notice)))
    back.set()
    hub.away.clear()
    thread.join(60)
    assert events_of(run, Step) == STEPS and events_of(run, Started) == [STARTED] and len(events_of(run, Saved)) == 1
    assert [event.text for event in events_of(run, Progress)].count("On the Hub: Installed 90 packages") == 1
    assert not any("step 3/6" in event.text for event in events_of(run, Progress)), "what is told in events is not told in words"
    assert [event.text for event in events_of(run, Notice)].count("twice") == 2
    ended = runs.all_events(run)[-1]
    assert ended.text == f"Done: 6 steps. The adapter is in {run.adapter}." and runs.finished(run) == ended
    assert (run.adapter / adapters.WEIGHTS).read_bytes() == (whole[0].adapter / adapters.WEIGHTS).read_bytes()


@pytest.mark.long
def test_a_follower_that_was_killed_is_followed_by_another(hub, rows, whole):
    """As where the machine was shut down: the app, opened again, follows on."""
    on = threading.Event()

    def act(job: Job) -> None:
        job.turn("RUNNING")
        say(job, STARTED, *STEPS[:3])
        on.wait(120)
        say(job, *STEPS[3:])
        done_by(hub, whole[0], job)

    hub.act = act
    run = begun(rows)
    jobs.resume(run)
    builders.until(lambda: len(events_of(run, Step)) == 3)
    follower = run.process
    with pytest.raises(BadInput, match="under way already"):
        followed(run)
    follower.kill()
    builders.until(lambda: not run.process)
    assert history.phase(run) == "interrupted" and "job --follow" in str(history.commands(run.id, run, "interrupted"))
    on.set()
    jobs.follow_hub_jobs()
    builders.until(lambda: runs.finished(run))
    builders.until(lambda: not run.process)
    assert events_of(run, Step) == STEPS and events_of(run, Started) == [STARTED] and history.phase(run) == "done"
    jobs.follow_hub_jobs()
    assert not run.process
    assert "hf_test" not in (run.folder / runs.OUTPUT).read_text()


def test_an_adapter_that_comes_damaged_is_fetched_again(hub, rows, whole):
    hub.act = lambda job: (say(job, STARTED, *STEPS), done_by(hub, whole[0], job))
    run = begun(rows)
    hub.lie = True
    with pytest.raises(EngineError, match="did not come whole.*Resume fetches it again"):
        followed(run)
    assert run.hub_job_goes_on and not run.adapter.exists() and history.phase(run) == "interrupted"
    hub.lie = False
    ended, _ = followed(run)
    assert ended.status == "done" and events_of(run, Step) == STEPS and not list(run.folder.glob(".fetched-*"))


def test_a_token_that_is_taken_back_ends_the_following_and_not_the_run(hub, rows, monkeypatch):
    hub.act = lambda job: job.turn("RUNNING")
    run = begun(rows)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(EngineError, match="cannot be followed, and goes on: the Hub does not accept the token"):
        followed(run)
    assert run.hub_job_goes_on and not run.process


class Process:
    """A training that ends when it is asked to."""

    returncode = None

    def __init__(self):
        self.signals = []

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        self.signals.append(number)
        self.returncode = 1


def test_the_script_saves_before_its_time_is_up(tmp_path, capsys):
    assert job_script.time_for_training(600) == 480 and job_script.time_for_training(36_000) == 35_100
    process, why = Process(), job_script.reasons("me/none", "run", deadline=0)
    (tmp_path / "events.jsonl").write_text('{"event": 1}\n{"half')
    assert job_script.attend(process, tmp_path / "events.jsonl", why) == 1 and len(process.signals) == 1
    assert capsys.readouterr().out == 'guanaco-event {"event": 1}\nThe job\'s time limit is near: saving.\n'


def test_the_client_takes_the_script_as_an_argument():
    assert len(job_script.BOOTSTRAP) <= 255


def test_a_job_that_the_hub_forgot_is_over(hub, rows):
    hub.act = lambda job: say(job, STARTED, STEPS[0])
    run = begun(rows)
    forgotten = hub.jobs.pop("job0")
    ended, _ = followed(run)
    assert (ended.status, ended.step) == ("stopped", 0) and "does not know it any more" in ended.text and forgotten.stage == "SCHEDULING"
    assert not run.hub_job_goes_on

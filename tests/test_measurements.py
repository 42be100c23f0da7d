"""Measurements in their folders: stopped, killed, resumed to the same figures, in line for the machine, compared."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock
from test_measures import question, written

from engine import evaluate_commands, hardware, jobs, paths, runs
from engine.backends import pretrained, transformers_scoring
from engine.backends.scripted import ScriptedBackend
from engine.errors import BadInput, EngineError
from engine.evaluate import comparing, expectations, measurements, measuring
from engine.evaluate.measurements import MeasurementSettings
from engine.events import Ended, Notice, Progress, Queued
from engine.settings import LoadSettings
from ui.measure import history

SUBJECTS = ("anatomy", "astronomy", "virology")
PLAIN = LoadSettings(backend="transformers", quantization="none")


@pytest.fixture
def data(tmp_path) -> str:
    rows = [question(subject, number, "ABCD"[number % 4]) for subject in SUBJECTS for number in range(8)]
    return written(tmp_path / "mmlu.jsonl", rows)


def plan(data: str, **changes) -> MeasurementSettings:
    return MeasurementSettings(**{"measure": "mmlu", "model": "scripted", "data": data, "shots": 0, **changes})


def of_tiny(tiny, data: str, **changes) -> MeasurementSettings:
    return plan(data, model=str(tiny), load=PLAIN, **changes)


def measured(settings: MeasurementSettings, watch=lambda event: None):
    """A new measurement, made in this process, and what it told."""
    made, told = measurements.create(settings), []

    def tell(event) -> None:
        told.append(event)
        watch(event)

    measuring.work(made, tell)
    return made, told


def figures(measurement) -> dict:
    return {name: value for name, value in measurement.result.items() if name != "pace"}


def test_a_measurement_keeps_what_it_was_made_with_and_of(data, home):
    made, told = measured(plan(data))
    assert isinstance(told[-1], Ended) and told[-1].status == "done" and "the mean over 3 subjects, 24 questions" in told[-1].text
    assert [row["key"] for row in made.read_rows()] == [str(line) for line in range(1, 25)]
    assert made.result["questions"] == 24 and made.facts["data_sha256"] == paths.sha256(Path(data))
    facts = made.facts
    assert (facts["backend"], facts["items"], facts["there"], facts["adapter"]) == ("scripted", 24, 24, "none")
    row = measurements.summary(made)
    assert (row["status"], row["done"], row["result"]["questions"]) == ("done", 24, 24)
    assert measurements.every() == [made] and measurements.find(made.id) == made
    assert runs.all_events(made)[-1] == told[-1] and made.process is None


def test_a_sample_is_the_same_for_base_and_adapter_and_they_are_compared(data):
    base, _ = measured(plan(data, limit=12, seed=3))
    tuned, _ = measured(plan(data, limit=12, seed=3, adapter="scripted-one"))
    assert [row["key"] for row in base.read_rows()] == [row["key"] for row in tuned.read_rows()]
    found = comparing.compared(base, tuned)
    right = [sum(row["right"] for row in each.read_rows()) for each in (base, tuned)]
    assert found.paired.items == 12 and round(found.paired.difference.value * 12) == right[1] - right[0]
    assert found.counted == {"better": found.paired.higher, "worse": found.paired.lower, "the same": found.paired.same}
    assert sum(found.counted.values()) == 12 and json.dumps(found.plain()) and "12 items" in found.words


def test_what_is_not_alike_is_not_compared(data, tmp_path):
    base, _ = measured(plan(data))
    other, _ = measured(plan(written(tmp_path / "other.jsonl", [question("anatomy", 1, "A")])))
    with pytest.raises(BadInput, match="not measured on the same data"):
        comparing.compared(base, other)
    shots, _ = measured(plan(data, shots=5))
    with pytest.raises(BadInput, match="number of shots"):
        comparing.compared(base, shots)
    rows = written(tmp_path / "rows.jsonl", [{"instruction": "a", "output": "b"}] * 4)
    perplexity, _ = measured(plan(rows, measure="perplexity"))
    with pytest.raises(BadInput, match="differ in their measure"):
        comparing.compared(base, perplexity)
    same, _ = measured(plan(rows, measure="perplexity"))
    assert comparing.compared(perplexity, same).words == "Both are the same on all 4 items."


@pytest.mark.long
def test_stopped_within_and_resumed_it_ends_with_the_same_figures(tiny, data, monkeypatch):
    monkeypatch.setattr(transformers_scoring, "_TOKENS", 400)
    monkeypatch.setattr(measuring, "_TELL_SECONDS", 0)
    whole, _ = measured(of_tiny(tiny, data))
    made = measurements.create(of_tiny(tiny, data))

    def stop(event) -> None:
        if isinstance(event, Progress) and 0 < (event.fraction or 0) < 1:
            made.ask_to_stop(os.getpid())

    ended = measuring.work(made, stop)
    assert ended.status == "stopped" and 0 < ended.step < 24 and made.result is None
    assert measurements.summary(made)["status"] == "stopped"
    assert measuring.work(made, lambda event: None).status == "done"
    assert figures(made) == figures(whole)
    assert sorted(made.read_rows(), key=lambda row: int(row["key"])) == sorted(whole.read_rows(), key=lambda row: int(row["key"]))


# The command, in a process that kills itself in the middle of writing its tenth row.
_MORTAL = """
import os, signal, sys
from engine import line_files
from engine.backends import transformers_scoring
transformers_scoring._TOKENS = 400
honest, written = line_files.LineFile.write, [0]
def write(self, text):
    if text.startswith('{"key"'):
        written[0] += 1
        if written[0] == 10:
            os.write(self._file, text[:20].encode())
            os.kill(os.getpid(), signal.SIGKILL)
    honest(self, text)
line_files.LineFile.write = write
from engine.__main__ import main
main()
"""


@pytest.mark.long
def test_killed_in_the_middle_of_a_row_it_loses_no_other(tiny, data, home, monkeypatch):
    monkeypatch.setattr(transformers_scoring, "_TOKENS", 400)
    whole, _ = measured(of_tiny(tiny, data))
    made = measurements.create(of_tiny(tiny, data))
    command = [sys.executable, "-c", _MORTAL, "evaluate", "mmlu", "--resume", made.id]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(made.read_rows()) == 9 and measurements.summary(made)["status"] == "interrupted"
    assert measuring.work(made, lambda event: None).status == "done"
    assert figures(made) == figures(whole) and len(made.rows.read_bytes().splitlines()) == 24


@pytest.mark.long
def test_the_app_starts_it_in_a_process_of_its_own_that_others_follow(tiny, data, home):
    made = measurements.start(of_tiny(tiny, data))
    process = made.process
    assert process and measurements.summary(made)["status"] in ("starting", "measuring", "done")
    with pytest.raises(BadInput, match="under way"):
        measurements.resume(made)
    with pytest.raises(BadInput, match="under way"):
        jobs.remove(made)
    process.wait(300)  # it lets go of its folder last
    seen, offset = jobs.follow(made)
    assert seen[-1].status == "done" and jobs.follow(made, offset) == ([], offset)
    with pytest.raises(BadInput, match="is done"):
        measurements.resume(made)
    jobs.remove(made)
    assert measurements.every() == [] and not made.folder.exists()


def stopped(tiny, data, monkeypatch, **changes):
    """A measurement that was stopped on its way."""
    monkeypatch.setattr(transformers_scoring, "_TOKENS", 400)
    monkeypatch.setattr(measuring, "_TELL_SECONDS", 0)
    made = measurements.create(of_tiny(tiny, data, **changes))
    ended = measuring.work(made, lambda event: isinstance(event, Progress) and event.fraction and made.ask_to_stop(os.getpid()))
    assert ended.status == "stopped"
    return made


@pytest.mark.long
def test_it_does_not_go_on_with_other_data(tiny, data, monkeypatch):
    made = stopped(tiny, data, monkeypatch)
    before = made.rows.read_bytes()
    with open(data, "a") as file:
        file.write(json.dumps(question("anatomy", 99, "A")) + "\n")
    with pytest.raises(BadInput, match="cannot go on: since it began the data and the number of items changed"):
        measuring.work(made, lambda event: None)
    assert made.rows.read_bytes() == before and runs.all_events(made)[-1].status == "failed"


def room(monkeypatch, tokens: int) -> None:
    """From now on a backend has a context of so many tokens."""
    monkeypatch.setattr(measuring, "open_backend", lambda *asked: ScriptedBackend(context=tokens))


def test_it_goes_on_with_the_context_that_it_began_with_and_tells_of_shots_that_did_not_fit(data, monkeypatch, capsys):
    """Memory may allow another one later; then some questions would stand behind more shots than others."""
    questions = measuring.read(plan(data, shots=5), lambda progress: None).items(None)
    four = max(len(each.content.prompt(4)) for each in questions) + 2
    monkeypatch.setattr(measuring, "_TELL_SECONDS", 0)
    room(monkeypatch, four)
    whole, _ = measured(plan(data, shots=5))
    made = measurements.create(plan(data, shots=5))
    ended = measuring.work(made, lambda event: isinstance(event, Progress) and event.fraction and made.ask_to_stop(os.getpid()))
    assert ended.status == "stopped" and made.facts["context"] == four
    before = made.rows.read_bytes()
    room(monkeypatch, four - 1)
    with pytest.raises(BadInput, match="since it began the length of the context changed"):
        measuring.work(made, lambda event: None)
    assert made.rows.read_bytes() == before
    room(monkeypatch, 32_768)
    assert measuring.work(made, lambda event: None).status == "done" and figures(made) == figures(whole)
    assert [row["shots"] for row in made.read_rows()] == [4] * 9
    said = f"Of 9 questions 9 stand behind fewer shots than there are: only 4 fitted the context of {four:,} tokens."
    assert made.result["told"] == [said] == history.about(made)["told"]
    evaluate_commands._print(made)
    assert said in capsys.readouterr().out
    more, _ = measured(plan(data, shots=5))
    with pytest.raises(BadInput, match="different numbers of shots before the same questions"):
        comparing.compared(made, more)


@pytest.mark.long
def test_it_does_not_go_on_with_another_adapter_or_model(tiny, two_adapters, data, monkeypatch):
    made = stopped(tiny, data, monkeypatch, adapter=two_adapters[0])
    facts = made.facts
    assert len(facts["adapter_sha256"]) == 64 and facts["weights"]
    for key, words in (("adapter_sha256", "the adapter changed"), ("weights", "the model changed")):
        made.folder.joinpath(measurements.FACTS).write_text(json.dumps({**facts, key: "other"}))
        with pytest.raises(BadInput, match=words):
            measuring.work(made, lambda event: None)
    made.folder.joinpath(measurements.FACTS).write_text(json.dumps(facts))
    assert measuring.work(made, lambda event: None).status == "done"


def test_it_waits_for_the_machine_and_can_be_stopped_in_line(data):
    made, told = measurements.create(plan(data)), []

    def tell(event) -> None:
        told.append(event)
        if isinstance(event, Queued):
            assert measurements.phase(made, told) == "waiting"
            made.ask_to_stop(os.getpid())

    with FileLock(paths.runs() / ".machine.lock"):
        assert measuring.work(made, tell).status == "stopped"
    assert [type(event) for event in told] == [Queued, Ended] and "Resume puts it in line" in told[-1].text
    assert measuring.work(made, tell).status == "done"


def test_a_training_that_is_planned_counts_on_the_memory_that_it_gives_back(data, monkeypatch):
    now = replace(hardware.machine(), memory=2**40, memory_free=2**30, gpus=())
    monkeypatch.setattr(hardware, "machine", lambda: now)
    monkeypatch.setattr(hardware, "process_memory", lambda pid: 5_000_000 * (pid == os.getpid()))
    made, seen = measurements.create(plan(data)), []
    measuring.work(made, lambda event: seen.append(jobs.machine().memory_free - now.memory_free))
    assert set(seen) == {5_000_000} and jobs.machine() == now


def test_two_processes_never_make_the_same_one(data):
    made = measurements.create(plan(data))
    with FileLock(made.folder / runs.LOCK), pytest.raises(BadInput, match="under way already"):
        measuring.work(made, lambda event: None)


def test_a_model_larger_than_memory_is_refused_before_it_is_loaded(tiny, data, monkeypatch):
    small = replace(hardware.machine(), memory=2**20, memory_free=2**20, gpus=())
    monkeypatch.setattr(hardware, "machine", lambda: small)
    monkeypatch.setattr(pretrained, "_load_model", lambda *_: pytest.fail("it was loaded"))
    made = measurements.create(of_tiny(tiny, data))
    with pytest.raises(BadInput, match="on this machine"):
        measuring.work(made, lambda event: None)
    assert runs.all_events(made)[-1].status == "failed" and measurements.summary(made)["status"] == "failed"


def test_a_full_disk_is_told_and_the_rows_before_it_stay(data, monkeypatch):
    honest, count = os.write, [0]

    def write(file, line):
        count[0] += line.startswith(b'{"key"')
        if line.startswith(b'{"key"') and count[0] > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(file, line)

    made = measurements.create(plan(data))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(EngineError, match="disk .* is full"):
            measuring.work(made, lambda event: None)
    assert len(made.read_rows()) == 5
    assert measuring.work(made, lambda event: None).status == "done" and len(made.read_rows()) == 24


def test_a_mangled_row_is_scored_again(data):
    made, _ = measured(plan(data))
    lines = made.rows.read_bytes().splitlines(keepends=True)
    made.rows.write_bytes(b"".join([*lines[:3], b"\x00garbage\n", b"[1]\n", *lines[4:], lines[-1][:10]]))
    before = figures(made)
    made.folder.joinpath(measurements.RESULT).unlink()
    assert len(made.read_rows()) == 23
    assert measuring.work(made, lambda event: None).status == "done" and figures(made) == before


def test_what_a_person_should_know_is_told_and_kept(data, tmp_path):
    rows = [question("anatomy", 1, "A"), "nonsense", *(question("virology", number, "A") for number in range(7))]
    made, told = measured(plan(written(tmp_path / "some.jsonl", rows), shots=5))
    notices = [event.text for event in told if isinstance(event, Notice)]
    assert "line 2: it is not JSON" in notices[0] and "No question is left of anatomy" in notices[1]
    assert made.result["told"] == notices


def test_width_and_time_are_foretold(tiny, data):
    settings = of_tiny(tiny, data, limit=12)
    before = expectations.expected(settings, measuring.read(settings, lambda progress: None))
    assert (before.items, before.there, before.source) == (12, 24, "estimated") and 0.2 < before.half_width < 0.3 and before.seconds > 0
    assert "12 of 24" in before.text and "within ±28.3 points" in before.text
    made, _ = measured(settings)
    average = made.result["average"]
    assert 0.8 * before.half_width < (average["high"] - average["low"]) / 2 <= before.half_width
    after = expectations.expected(settings, measuring.read(settings, lambda progress: None))
    assert after.source == "measured" and after.seconds == pytest.approx(made.result["pace"]["seconds"], rel=0.01)
    perplexity = settings.model_copy(update={"measure": "perplexity", "read_as": "text"})
    found = expectations.expected(perplexity.model_copy(update={"limit": None}), measuring.read(perplexity, lambda progress: None))
    assert found.half_width is None and found.text.startswith(f"All, about {found.there}, "), "of a text that is no tokens yet"


def test_the_base_is_measured_in_the_adapters_prompt_format(data, two_adapters, tmp_path):
    """So that the same tokens are compared, whatever the base's own format is."""
    folder = shutil.copytree(two_adapters[0], tmp_path / "adapter")
    told = {"prompt_format": "guanaco", "system": "Be brief."}
    (folder / "playground.json").write_text(json.dumps(told))
    settings = measuring.of_base(plan(data, measure="perplexity", adapter=str(folder)))
    assert (settings.adapter, settings.prompt_format, settings.system) == ("none", "guanaco", "Be brief.")
    chosen = measuring.of_base(plan(data, measure="perplexity", adapter=str(folder), prompt_format="alpaca", system=""))
    assert (chosen.prompt_format, chosen.system) == ("alpaca", "")
    with pytest.raises(BadInput, match="There is no adapter"):
        measuring.of_base(plan(data, adapter="no such adapter"))


def test_perplexity_of_rows_is_what_training_would_call_their_loss(tiny, rows):
    """Against the loss that a run evaluates on the very same rows."""
    made, _ = measured(of_tiny(tiny, str(rows), measure="perplexity", prompt_format="chat", max_length=96))
    import torch
    from transformers import AutoModelForCausalLM

    from engine import datasets, prompts
    from engine.examples import Lengths, example
    from engine.tokenizers import PretrainedTokenizer
    from engine.toy import byte_tokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), PretrainedTokenizer(byte_tokenizer())
    lost = count = 0
    for conversation in datasets.load(rows).conversations:
        row = example(tokenizer, conversation, prompts.prompt_format("chat"), Lengths(96))
        labels = torch.tensor([[token if learn else -100 for token, learn in zip(row.ids, row.learn, strict=True)]])
        targets = int((labels[:, 1:] != -100).sum())
        lost += float(model(torch.tensor([row.ids]), labels=labels).loss) * targets
        count += targets
    assert made.result["tokens"] == count and made.result["loss"] == pytest.approx(lost / count, abs=1e-3)

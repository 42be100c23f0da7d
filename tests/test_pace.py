"""How long a training takes, in figures and in words: what earlier runs tell, what is estimated, what is never said."""

import itertools
import json
import re
import shutil
from dataclasses import replace
from statistics import median
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import fitting, hardware, models, pace, paths, presets, runs
from engine.errors import BadInput
from engine.events import Adjusted, Started, Step, to_json
from engine.hardware import GIB, Machine
from engine.pace import Pace

CPU = Machine("computer", "Linux x86_64", 2, 24 * GIB, 20 * GIB, ())
SHAPE = models.MODELS["starter"].shape
STARTER = presets.preset("starter").changed({"data.source": "rows.jsonl"})


@pytest.fixture(autouse=True)
def here(monkeypatch) -> Machine:
    """This machine, and how fast it is."""
    monkeypatch.setattr(hardware, "machine", lambda: CPU)
    monkeypatch.setattr(pace, "cpu_speed", lambda: 100e9)
    return CPU


def recorded(recipe, speeds, device="CPU", changes=None) -> runs.Run:
    """A run that made steps at these speeds."""
    run = runs.create(runs.fresh_folder("earlier"), recipe)
    events = [Adjusted(0, changes, "changed")] if changes else []
    events.append(Started(run.id, len(speeds), 0, 10, 0, 1000, device, "float32", "nf4", 1))
    events += [Step(number, 1.0, 1.0, 0.1, 0.5, speed, 1000, 1.0) for number, speed in enumerate(speeds, 1)]
    run.events.write_text("".join(f"{to_json(event)}\n" for event in events))
    return run


def test_a_token_costs_what_it_was_counted_to():
    """tests/benchmarks/README.md: about 0.53 GFLOP on the starter with rank 16, without attention."""
    assert pace.flops_per_token(SHAPE, STARTER) == pytest.approx(0.53e9, rel=0.07)
    again = pace.flops_per_token(SHAPE, STARTER.changed({"memory.activation_checkpointing": True}))
    assert 1.35 < again / pace.flops_per_token(SHAPE, STARTER) < 1.5


def test_without_earlier_runs_it_is_estimated(home):
    found = pace.pace(SHAPE, STARTER, CPU, "starter")
    assert (found.source, found.place) == ("estimated", "here") and "100 GFLOP/s" in found.text and "estimated from" in found.text
    assert found.tokens_per_second == pytest.approx(pace.CPU_EFFICIENCY * 100e9 / pace.flops_per_token(SHAPE, STARTER))
    packed = pace.pace(SHAPE, STARTER.changed({"memory.base_weights": "packed"}), CPU, "starter")
    assert packed.tokens_per_second < found.tokens_per_second
    checkpointed = pace.pace(SHAPE, STARTER.changed({"memory.activation_checkpointing": True}), CPU, "starter")
    assert checkpointed.tokens_per_second < found.tokens_per_second
    single = STARTER.changed({"memory.base_weights": "packed", "optimization.accumulation": 4})
    assert pace.pace(SHAPE, single, CPU, "starter").tokens_per_second < packed.tokens_per_second, "fewer rows share what is unpacked"


def test_gpus_are_told_by_name(home):
    recipe, shape = presets.preset("guanaco-7b"), models.MODELS["guanaco-7b"].shape
    speeds = {title: pace.pace(shape, recipe, machine, "guanaco-7b") for title, machine in fitting.MACHINES.items()}
    assert all(each.source == "estimated" for each in speeds.values())
    order = ["Laptop, 16 GB", "T4", "A10G", "L4", "A100 40 GB"]
    figures = [speeds[title].tokens_per_second for title in order]
    assert figures == sorted(figures) and figures[-1] == speeds["A100 80 GB"].tokens_per_second
    assert speeds["T4"].place == "on Tesla T4 (15 GB)" and "65 TFLOP/s of this GPU" in speeds["T4"].text
    unknown = replace(fitting.MACHINES["T4"], gpus=(hardware.Gpu("Mystery 9000", 8 * GIB, (9, 0)),))
    workstation = replace(unknown, gpus=(hardware.Gpu("NVIDIA RTX A4000", 16 * GIB, (8, 6)),))
    assert "A4000 is not known" in pace.pace(shape, recipe, workstation, "guanaco-7b").text, "it is no A40"
    assert "Mystery 9000 is not known" in pace.pace(shape, recipe, unknown, "guanaco-7b").text


def test_earlier_runs_of_the_same_kind_count(home):
    recorded(STARTER, [1.0, 50.0, 51.0, 52.0, 53.0, 54.0])
    found = pace.pace(SHAPE, STARTER.changed({"optimization.steps": 7}), CPU, "starter")
    assert (found.tokens_per_second, found.source) == (52.0, "measured") and "an earlier run of this base here" in found.text
    recorded(STARTER, [60.0])
    assert pace.pace(SHAPE, STARTER, CPU, "starter").tokens_per_second == 56.0
    # By the name its lineage has for the base, too.
    run = recorded(STARTER.changed({"data.system": "x"}), [90.0])
    (run.folder / runs.PLAYGROUND).write_text(json.dumps({"base": "someone/base", "base_id": None}))
    assert pace.pace(SHAPE, STARTER.model_copy(update={"model": "someone/base"}), CPU, "someone/base").tokens_per_second == 90.0


def test_a_probe_counts_as_an_earlier_run(home):
    pace.note_probe(STARTER.changed({"optimization.steps": 10}), "CPU", 50.0)
    found = pace.pace(SHAPE, STARTER, CPU, "starter")
    assert (found.tokens_per_second, found.source) == (50.0, "measured") and "measured in a probe of this base here" in found.text
    pace.note_probe(STARTER.changed({"memory.base_weights": "packed"}), "CPU", 20.0)  # of another kind
    pace.note_probe(STARTER, "Tesla T4", 900.0)
    assert pace.pace(SHAPE, STARTER, CPU, "starter") == found
    recorded(STARTER, [60.0])
    told = pace.pace(SHAPE, STARTER, CPU, "starter")
    assert told.tokens_per_second == 55.0 and "2 earlier runs and probes" in told.text
    kept = home / "probes.jsonl"
    kept.write_text('[]\n{"recipe": {}}\n' + kept.read_text() + "no json\n")
    assert pace.pace(SHAPE, STARTER, CPU, "starter") == told
    for _ in range(200):
        pace.note_probe(STARTER, "CPU", 70.0)
    assert len(kept.read_text().splitlines()) == 40 and pace.pace(SHAPE, STARTER, CPU, "starter").tokens_per_second == 70.0


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": {"memory.activation_checkpointing": True}},
        {"recipe": {"quantization.kind": "none"}},
        {"recipe": {"memory.base_weights": "packed"}},
        {"device": "Tesla T4"},
        {"changes": {"memory.activation_checkpointing": True}},
        {"speeds": []},
    ],
)
def test_runs_of_another_kind_do_not(home, other):
    recorded(STARTER.changed(other.get("recipe", {})), other.get("speeds", [50.0]), other.get("device", "CPU"), other.get("changes"))
    (runs.fresh_folder("broken") / runs.RECIPE).write_text("model: [")
    assert pace.pace(SHAPE, STARTER, CPU, "starter").source == "estimated"


def test_other_machines_and_bases_are_not_measured_here(home):
    recorded(STARTER, [50.0])
    assert pace.pace(SHAPE, STARTER, fitting.MACHINES["Laptop, 16 GB"], "starter").source == "estimated"
    qwen = STARTER.model_copy(update={"model": "qwen2.5-0.5b"})
    assert pace.pace(models.MODELS["qwen2.5-0.5b"].shape, qwen, CPU, "qwen2.5-0.5b").source == "estimated"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "under a minute"),
        (59.9, "under a minute"),
        (60, "about 1 minute"),
        (100, "about 2 minutes"),
        (360, "about 6 minutes"),
        (3_580, "about 1 hour"),
        (3_600, "about 1 hour"),
        (7_800, "about 2 hours 10 minutes"),
        (4_140, "about 1 hour 10 minutes"),
        (36_100, "about 10 hours"),
        (86_400, "about 24 hours"),
        (259_200, "about 3 days"),
        (192_001, "about 2 days 5 hours"),
        (1_000_000, "about 12 days"),
        (float("inf"), "longer than can be told"),
    ],
)
def test_durations_in_words(seconds, words):
    assert pace.duration_words(seconds) == words


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_words_are_near_what_they_stand_for(one, other):
    def read(words):
        sizes = {"minute": 60, "hour": 3600, "day": 86400}
        return sum(int(count) * sizes[unit] for count, unit in re.findall(r"(\d+) (minute|hour|day)", words))

    low, high = sorted((one, other))
    assert read(pace.duration_words(low)) <= read(pace.duration_words(high))
    if low >= 60:
        assert abs(read(pace.duration_words(low)) - low) <= max(30, low / 10)


def plan(**optimization):
    data = {"data.held_out": optimization.pop("held_out", 0), "data.held_out_from": "random"}
    defaults = {"optimization.steps": None, "optimization.epochs": None, "optimization.batch": 16}
    return STARTER.changed({**defaults, **data, **{f"optimization.{key}": value for key, value in optimization.items()}})


@pytest.mark.parametrize(
    ("recipe", "rows", "words"),
    [
        (plan(epochs=3), 412, "3 passes over 412 rows, 78 updates, about 7 minutes here."),
        (plan(epochs=3, held_out=12), 424, "3 passes over 412 rows, 78 updates, about 7 minutes here, 12 more are held out to test on."),
        (plan(epochs=3, held_out=1), 413, "3 passes over 412 rows, 78 updates, about 7 minutes here, 1 more is held out to test on."),
        (plan(epochs=1), 16, "1 pass over 16 rows, 1 update, under a minute here."),
        (plan(steps=10), 400, "1 pass over 160 rows drawn from 400, 10 updates, under a minute here."),
        (plan(steps=1), 1_000, "1 pass over 16 rows drawn from 1,000, 1 update, under a minute here."),
        (plan(steps=24), 400, "1 pass over 384 rows drawn from 400, 24 updates, about 2 minutes here."),
        (plan(steps=25), 400, "1 pass over 400 rows, 25 updates, about 2 minutes here."),
        (plan(steps=77), 412, "About 3 passes over 412 rows, 77 updates, about 7 minutes here."),
        (plan(steps=10, epochs=0.5), 400, "0.4 passes over 400 rows, 10 updates, under a minute here."),
        (plan(steps=1, epochs=0.5), 1_000, "Less than one pass over 1,000 rows, 1 update, under a minute here."),
        (
            plan(steps=10, held_out=0.2),
            5_000,
            "1 pass over 160 rows drawn from 5,000, 10 updates, about 1 minute here, 40 more are held out to test on.",
        ),
        (plan(epochs=100, steps=10), 16, "10 passes over 16 rows, 10 updates, under a minute here."),
        (plan(epochs=1), 3, "About 5.3 passes over 3 rows, 1 update, under a minute here."),
    ],
)
def test_what_a_run_does_in_a_sentence(recipe, rows, words):
    assert pace.sentence(recipe, rows, 60, Pace(180, "estimated", "")) == words


def test_a_measured_pace_is_called_so():
    assert pace.sentence(plan(epochs=3), 412, 60, Pace(180, "measured", "")).endswith("about 7 minutes here (measured).")


def test_a_sentence_that_cannot_be():
    with pytest.raises(BadInput, match="leaves none"):
        pace.sentence(plan(steps=1), 0, 60, Pace(180, "estimated", ""))


@settings(max_examples=50)
@given(
    rows=st.integers(2, 5000),
    batch=st.sampled_from([1, 4, 16]),
    steps=st.none() | st.integers(1, 2000),
    epochs=st.none() | st.floats(0.05, 20),
    held_out=st.sampled_from([0, 1, 200, 0.05, 0.5]),
)
def test_the_sentence_is_true(rows, batch, steps, epochs, held_out):
    if steps is None and epochs is None:
        return
    said = pace.sentence(plan(steps=steps, epochs=epochs, batch=batch, held_out=held_out), rows, 100, Pace(1000, "measured", ""))
    shown, learnt, updates = re.match(r"(.+) over ([\d,]+) rows?(?: drawn from [\d,]+)?, ([\d,]+) updates?,", said).groups()
    times = int(updates.replace(",", "")) * batch / int(learnt.replace(",", ""))
    if shown == "Less than one pass":
        assert times < 1
    else:
        number = float(re.search(r"[\d.,]+", shown)[0].replace(",", ""))
        assert abs(number - times) <= 0.1 * times + 0.051, "nearly the recipe's own number, rounded"


def test_a_real_run_is_measured(whole, tiny):
    run, _, told = whole
    shutil.copytree(run.folder, paths.runs() / run.id)
    found = pace.pace(models.resolve(str(tiny)).shape, run.recipe, CPU, str(tiny))
    steps = [event for event in told if isinstance(event, Step)]
    assert found.source == "measured"
    assert found.tokens_per_second == median(step.tokens_per_second for step in steps[-5:])
    assert sum(step.seconds for step in steps) > 0 and all(step.seconds > 0 for step in steps)


def test_the_processor_is_measured_in_a_moment(monkeypatch):
    monkeypatch.undo()
    assert 1e8 < pace.cpu_speed() == pace.cpu_speed() < 1e14


def test_a_look_goes_by_the_processor_time_of_one_core(monkeypatch):
    """The clock on the wall says little while other threads want the cores as well."""
    clock = itertools.count(step=60)
    monkeypatch.setattr(pace, "time", SimpleNamespace(thread_time=lambda: next(clock) / 1000))
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 3)
    assert pace._measured_speed() == pytest.approx(2 * 512**3 * 2 / 0.24 * min(CPU.cores, 3))


def test_a_look_at_a_busy_processor_does_not_last(monkeypatch):
    monkeypatch.undo()
    looks, now = iter([2e9, 9e9, 5e9]), [1_000.0]
    monkeypatch.setattr(pace, "_seen", pace._Seen())
    monkeypatch.setattr(pace, "_measured_speed", lambda: next(looks))
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))
    told = []
    for later in (0, 1, 600, 600):
        now[0] += later
        told.append(pace.cpu_speed())
    assert told == [2e9, 2e9, 9e9, 9e9], "looked at again in a while; what was seen once it can do"

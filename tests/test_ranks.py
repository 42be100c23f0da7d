"""Several processes that share one training: the same steps as in one, agreed ends, clear words where they cannot find each other."""

import os
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from training import ROOT, begun, fresh, plan, trained, wait_for, written

from engine import ranks, recipe_paths, runs
from engine.errors import EngineError
from engine.events import Adjusted, Ended, Evaluated, Notice, Started, Step


def launched(launcher: list[str], recipe, tmp_path, name: str, *options: str, **environment: str) -> tuple[subprocess.Popen, runs.Run]:
    """`python -m engine train` in two processes."""
    run = runs.Run(tmp_path / name)
    command = [sys.executable, "-m", *launcher, "-m", "engine", "train", str(written(recipe, tmp_path / f"{name}.yaml"))]
    return begun([*command, "--run-dir", str(run.folder), *options], OMP_NUM_THREADS="1", **environment), run


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def torchrun(*options: str) -> list[str]:
    return ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port(), *options]


def accelerate() -> list[str]:
    return ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", free_port()]


def figures(run: runs.Run) -> tuple[list[float], list[float]]:
    events = runs.all_events(run)
    return [event.loss for event in events if isinstance(event, Step)], [event.loss for event in events if isinstance(event, Evaluated)]


@pytest.mark.long
@pytest.mark.parametrize(("micro", "launcher"), [(1, torchrun), (4, torchrun), (1, accelerate)])
def test_two_processes_are_one(micro, launcher, home, tiny, rows, tmp_path):
    recipe = plan(tiny, rows, optimization={"batch": 4, "accumulation": 4 // micro}, data={"held_out": 4})
    alone = fresh(recipe, tmp_path / "alone")
    trained(alone)
    process, run = launched(launcher(), recipe, tmp_path, "together")
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert output.count("Done: 6 steps") == 1 and errors.count("Beginning: 6 steps") == 1, "only the first process speaks"
    for mine, theirs in zip(figures(run), figures(alone), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    mine, theirs = (load_file(each.adapter / "adapter_model.safetensors") for each in (run, alone))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert (tensor - theirs[name]).norm() <= 0.02 * theirs[name].norm(), name


@pytest.mark.long
def test_they_stop_together_and_go_on(home, tiny, rows, tmp_path):
    recipe = plan(tiny, rows, optimization={"steps": 400}, cadence={"save_every": 500, "eval_every": 500})
    process, run = launched(torchrun(), recipe, tmp_path, "run")
    wait_for(lambda: any(isinstance(event, Step) for event in runs.all_events(run)), process)
    run.ask_to_stop(run.process.pid)
    _, errors = process.communicate(timeout=120)
    ended = runs.all_events(run)[-1]
    assert isinstance(ended, Ended) and ended.status == "stopped" and run.steps_saved() == [ended.step], errors
    assert f"Go on with: torchrun --nproc_per_node 2 -m engine train {run.folder}/recipe.yaml --run-dir {run.folder} --resume" in errors
    short = recipe.model_copy(update={"optimization": recipe.optimization})
    process, _ = launched(torchrun(), short, tmp_path, "run", "--resume")
    wait_for(lambda: len([event for event in runs.all_events(run) if isinstance(event, Started)]) == 2, process)
    assert [event.resumed_from for event in runs.all_events(run) if isinstance(event, Started)] == [0, ended.step]
    wait_for(lambda: isinstance(runs.all_events(run)[-1], Step), process)
    run.ask_to_stop(run.process.pid)
    process.communicate(timeout=120)


def short_of_memory(tmp_path, when: str) -> dict[str, str]:
    """Variables by which the second process has no memory for passes of two rows, `when` it trains or does not."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import torch\n"
        "    from engine import passes\n"
        "    real = passes.summed_loss\n"
        "    def scarce(learner, part):\n"
        f"        if {when} learner.model.training and len(part) > 1:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory.')\n"
        "        return real(learner, part)\n"
        "    passes.summed_loss = scarce\n"
    )
    return {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}"}


@pytest.mark.long
def test_memory_that_runs_out_in_one_starts_both_again(home, tiny, rows, tmp_path):
    recipe = plan(tiny, rows, optimization={"batch": 4, "accumulation": 2})
    process, run = launched(torchrun("--max-restarts", "2"), recipe, tmp_path, "run", "--resume", **short_of_memory(tmp_path, ""))
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    events = runs.all_events(run)
    assert [event.changes for event in events if isinstance(event, Adjusted)] == [{"optimization.accumulation": 4}]
    assert events[-1].status == "done"


@pytest.mark.long
def test_an_evaluation_that_runs_out_of_memory_in_one_is_made_smaller_in_both(home, tiny, rows, tmp_path):
    recipe = plan(tiny, rows, data={"held_out": 6})
    process, run = launched(torchrun(), recipe, tmp_path, "run", **short_of_memory(tmp_path, "not"))
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    events = runs.all_events(run)
    assert len([event for event in events if isinstance(event, Evaluated)]) == 3 and events[-1].status == "done"
    assert any(isinstance(event, Notice) and "The evaluation after step 0 ran out of memory" in event.text for event in events)


@pytest.mark.long
def test_a_finished_run_ends_all_of_them(home, tiny, rows, tmp_path):
    recipe = plan(tiny, rows)
    trained(fresh(recipe_paths.absolute(recipe), tmp_path / "run"))
    process, _ = launched(torchrun(), recipe, tmp_path, "run", "--resume")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and output.count("Done: 6 steps") == 1, errors


@pytest.mark.long
def test_without_a_folder_they_would_not_find_each_other(home, tiny, rows, tmp_path, run_engine):
    done = run_engine("train", str(written(plan(tiny, rows), tmp_path / "recipe.yaml")), WORLD_SIZE="2", RANK="1")
    assert done.returncode == 2 and "--run-dir" in done.stderr


@pytest.mark.parametrize(
    ("gpus", "said"), [(1, "there is one GPU here.*--nproc-per-node 1,"), (2, "there are 2 GPUs here.*--num_processes 2")]
)
def test_more_processes_than_gpus_are_refused(gpus, said, monkeypatch, tiny, rows, tmp_path):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    with pytest.raises(EngineError, match=said):
        trained(fresh(plan(tiny, rows), tmp_path / "run"))


def test_passes_are_dealt_out_with_their_places(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    dealt = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        dealt += ranks.share("abcdefgh")
    assert sorted(dealt) == list(enumerate("abcdefgh"))

"""What a Hugging Face Job runs: the training of a bundle, its events told line by line in the job's log, the adapter sent back.

It begins inside the bundle (`engine.job_bundle`) as `python -c` with BOOTSTRAP and three arguments: the data set that holds the
bundle, the bundle's name in it, `RUN/bundle.zip`, and the job's time limit in seconds. HF_TOKEN is a secret of the job.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

# The Hub's client takes no longer argument that is no file: 255 characters.
BOOTSTRAP = (
    "import sys,runpy,huggingface_hub as h;"
    "sys.path.insert(0,h.hf_hub_download(*sys.argv[1:3],repo_type='dataset'));"
    "runpy.run_module('engine.job_script',run_name='__main__')"
)
# Before each event in the log.
MARK = "guanaco-event "
# A file of this name beside the bundle asks the job to save and end.
STOP = "stop"
_LOOK, _ASK_SECONDS = 0.2, 3
# So much of the time limit, and no more than so many seconds, is kept for installing before this and for saving at the end.
_KEPT_SHARE, _MOST_KEPT = 0.2, 900
# Seconds before each further attempt to send what was paid for.
_AGAIN = (1, 10, 60, 120)


def main(repo: str, bundle: str, limit: float) -> int:
    """Train, tell, send; the exit code of the training is given back."""
    began, name = time.monotonic(), bundle.partition("/")[0]
    place = Path(tempfile.mkdtemp(prefix="guanaco-"))
    with zipfile.ZipFile(sys.path[0]) as packed:
        packed.extractall(place)
    run = place / "runs" / name
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "train", "recipe.yaml", "--run-dir", str(run)],
        cwd=place,
        env={**os.environ, "GUANACO_HOME": str(place / "home"), "PYTHONPATH": str(place)},
    )
    code = attend(process, run / "events.jsonl", reasons(repo, name, began + time_for_training(limit)))
    send(repo, name, run)
    return code


def time_for_training(limit: float) -> float:
    """Of a job's time limit what its training may take, in seconds."""
    return limit - min(limit * _KEPT_SHARE, _MOST_KEPT)


def reasons(repo: str, name: str, deadline: float) -> Callable[[], str]:
    """A function that says why to stop, empty while there is no reason: time is up (`time.monotonic`), or somebody asked for it."""
    from huggingface_hub import HfApi

    asked = time.monotonic()

    def why() -> str:
        nonlocal asked
        now = time.monotonic()
        if now >= deadline:
            return "The job's time limit is near: saving."
        if now - asked >= _ASK_SECONDS:
            asked = now
            with contextlib.suppress(Exception):  # a Hub that does not answer asks for nothing
                if HfApi().file_exists(repo, f"{name}/{STOP}", repo_type="dataset"):
                    return "Asked to stop: saving."
        return ""

    return why


def attend(process: subprocess.Popen, events: Path, why: Callable[[], str]) -> int:
    """Tell a training's events until its process ends, whose exit code is given back; ask it once to save and end when there is a
    reason."""
    offset, asked = 0, False
    while True:
        ended = process.poll() is not None  # looked at before its last lines are
        offset = _tell(events, offset)
        if ended:
            return process.returncode
        # It takes a signal for a wish to save from when it keeps a log.
        if not asked and offset and (reason := why()):
            print(reason, flush=True)
            process.send_signal(signal.SIGINT)
            asked = True
        time.sleep(_LOOK)


def _tell(events: Path, offset: int) -> int:
    """Print the whole lines behind byte `offset` of a file, each with the mark; the offset to go on from."""
    if not events.exists():
        return offset
    with open(events, "rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode("utf-8", "replace").splitlines():
        print(f"{MARK}{line}", flush=True)
    return offset + len(whole)


def send(repo: str, name: str, run: Path) -> None:
    """Put the finished adapter, or the newest checkpoint of a run that did not finish, beside the bundle."""
    from huggingface_hub import HfApi

    steps = [int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")]
    if (run / "adapter").is_dir():
        wanted = ["adapter/*"]
    elif steps:
        wanted = [f"checkpoints/step-{max(steps)}/*", "playground.json"]
    else:
        return
    for pause in (*_AGAIN, None):
        try:
            HfApi().upload_folder(
                repo_id=repo,
                repo_type="dataset",
                folder_path=run,
                path_in_repo=name,
                allow_patterns=wanted,
                commit_message=f"From the job of {name}",
            )
            return
        except Exception as error:
            if pause is None:
                raise
            print(f"The Hub did not take what was trained ({type(error).__name__}). Trying again in {pause} s.", flush=True)
            time.sleep(pause)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))

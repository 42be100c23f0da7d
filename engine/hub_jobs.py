"""Runs that a Hugging Face Job trains: started there, followed here as any other run, stopped, their adapters fetched back.

The job's log tells the run's events; a run's follower (`follow`) writes them where a training here would, so that whatever shows runs
shows these. It may be killed at any moment: the next one goes on behind the last event that is written. The Hub is spoken to by its own client.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from engine import adapters, checkpoints, hub, job_bundle, job_script, jobs, paths, pushing, recipe_paths, runs
from engine.errors import BadInput, EngineError
from engine.events import Ended, Event, Notice, Progress, Step, from_json
from engine.line_files import full_disk_told
from engine.recipe import Recipe
from engine.runs import EventLog, Run

T = TypeVar("T")
# Seconds between looks: whether somebody wants to stop; whether the Hub answers again, twice as many each time up to the last.
_LOOK, _FIRST_WAIT, _LONGEST_WAIT = 0.5, 2.0, 60.0
# How much of a line of the log is told, where it is no event.
_TOLD_CHARS = 160
_FETCHED = ".fetched-"
# How the Hub calls a job that somebody ended, and one that is over.
_CANCELLED = ("CANCELED", "DELETED")
_OVER = (*_CANCELLED, "COMPLETED", "ERROR")


@dataclass(frozen=True)
class HubJob:
    """A job of the Hub as a run's folder notes it, and the `folder` of its data set for what is sent. `ended` is the stage it ended in,
    empty before that was seen and what it gave was fetched."""

    id: str
    owner: str
    repo: str
    folder: str
    url: str
    flavor: str
    ended: str = ""

    def write(self, run: Run) -> None:
        with full_disk_told(run.folder, 1_000):
            partial = run.folder / f".{runs.HUB_JOB}"
            partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
            os.replace(partial, run.folder / runs.HUB_JOB)

    @property
    def place(self) -> dict:
        """It, as the Hub's client wants it named."""
        return {"job_id": self.id, "namespace": self.owner}


def read(run: Run) -> HubJob:
    """The job of a run. Raises BadInput where it has none."""
    path = run.folder / runs.HUB_JOB
    if not path.is_file():
        raise BadInput(f"{run.id} is no job of the Hub. Jobs are started by: python -m engine job RECIPE --flavor NAME")
    try:
        return HubJob(**paths.read_object(path, f"{path.name} of {run.id}"))
    except TypeError as error:
        raise BadInput(f"{path} is damaged: it does not say which job of the Hub trains {run.id}.") from error


def start(plan: Recipe, name: str, flavor: str, limit: float, report: hub.Report) -> Run:
    """Send a recipe with what it takes, and start its job on a machine of the Hub for at most `limit` seconds. Nobody follows it yet.

    Raises BadInput or EngineError with what to do; then there is no run, and no job that would cost anything.
    """
    from huggingface_hub import HfApi

    plan = recipe_paths.absolute(plan)
    job_bundle.check(plan)
    token, api = pushing.token(), HfApi()
    with pushing.explained("Your account", "could not be looked up, so nothing was sent"):
        owner = api.whoami()["name"]
    repo = f"{owner}/{job_bundle.REPOSITORY}"
    run = runs.create(runs.fresh_folder(name), plan)
    try:
        bundle = f"{run.id}/{job_bundle.NAME}"
        report(Progress(f"Sending the recipe and its data to {repo}"))
        with tempfile.TemporaryDirectory(dir=paths.home()) as place, pushing.explained(repo, "was not written, so no job was started"):
            packed = Path(place) / job_bundle.NAME
            job_bundle.write(plan, packed)
            api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
            if not api.dataset_info(repo).private:
                raise BadInput(
                    f"{repo} on the Hub is public: everybody would see your data. Make it private in its settings, then try again."
                )
            api.upload_file(
                path_or_fileobj=packed, path_in_repo=bundle, repo_id=repo, repo_type="dataset", commit_message=f"For the job of {run.id}"
            )
        report(Progress("Starting the job"))
        with pushing.explained(f"A job of {owner}", "was not started"), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the client says that this may change
            made = api.run_uv_job(
                "python",
                script_args=["-c", job_script.BOOTSTRAP, repo, bundle, str(limit)],
                dependencies=job_bundle.dependencies(),
                env={"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONUNBUFFERED": "1"},
                secrets={"HF_TOKEN": token},
                flavor=flavor,
                timeout=int(limit),
                name=re.sub(r"[^A-Za-z0-9_-]", "-", run.id),
                namespace=owner,
            )
        try:
            HubJob(made.id, owner, repo, run.id, made.url, flavor).write(run)
        except BaseException:  # a job that nobody knows of would cost until its time is up
            api.cancel_job(job_id=made.id, namespace=owner)
            raise
    except BaseException:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    return run


def ask_to_stop(job: HubJob) -> None:
    """Ask a job to save and end; one that has not begun is cancelled. What the Hub's client raises is let through."""
    from huggingface_hub import HfApi

    api = HfApi()
    if api.inspect_job(**job.place).status.stage == "SCHEDULING":
        api.cancel_job(**job.place)
        return
    api.upload_file(path_or_fileobj=b"stop", path_in_repo=f"{job.folder}/{job_script.STOP}", repo_id=job.repo, repo_type="dataset")


def cancel(run: Run) -> None:
    """End a run's job at once; what it has not sent is lost. Raises EngineError where the Hub does not do so."""
    from huggingface_hub import HfApi

    job = read(run)
    with pushing.explained(f"The job {job.url}", "was not cancelled and goes on"):
        HfApi().cancel_job(**job.place)


def follow(run: Run, tell: Callable[[Event], None]) -> Ended:
    """Write what a run's job tells into the run's log, and to `tell`, until the job is over and what it gave lies in the run's folder.

    A Hub that does not answer is waited for. Raises BadInput where another process follows it; EngineError where the Hub refuses or
    what it gives is damaged: then the run can be followed again.
    """
    job = read(run)
    with jobs.owned(run):
        run.claim(os.getpid())
        log, lock = EventLog(run), threading.Lock()

        def both(event: Event) -> None:
            with lock:
                log.append(event)
                tell(event)

        try:
            return _Follower(run, job, both).to_the_end()
        except EngineError as error:
            with contextlib.suppress(EngineError):  # a full disk takes not even this
                both(Notice(str(error)))
            raise
        finally:
            log.close()
            run.disclaim()


class _Unknown(Exception):
    """The Hub has no such job, or no log of it, or not for this token."""


@contextlib.contextmanager
def _unknown() -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        if getattr(error.response, "status_code", None) != 404:
            raise
        raise _Unknown from error


class _Follower:
    """One following of a job. `_held` is the end that the job told, which counts only when its adapter is here; `_before` are the
    events that are written already, while the log tells them again."""

    def __init__(self, run: Run, job: HubJob, tell: Callable[[Event], None]):
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # the run's own events say what is under way
        self._run, self._job, self._tell, self._api = run, job, tell, HfApi()
        self._held: Ended | None = None
        self._before: list[Event] | None = None
        self._at = self._line = self._lines = 0
        self._words: deque[str] = deque(maxlen=3)
        self._over = threading.Event()
        self._stop_asked = self._trains = False

    def to_the_end(self) -> Ended:
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            self._tell(Progress(f"The job is {self._job.url}. It waits for a machine, then installs what it needs"))
            while (status := self._patiently(self._followed))[0] not in _OVER:
                self._over.wait(_FIRST_WAIT)
            if not self._held:  # the log may have been cut off before its end
                with contextlib.suppress(_Unknown):
                    self._patiently(lambda: self._read_log(follow=False))
            ended = self._brought_back(*status)
        finally:
            self._over.set()
            watcher.join()
        self._tell(ended)
        replace(self._job, ended=status[0]).write(self._run)
        return ended

    def _followed(self) -> tuple[str, str]:
        """The job's stage, and what the Hub says of it, when its log ends."""
        with contextlib.suppress(_Unknown):  # a job that waits may have none yet
            self._read_log(follow=True)
        try:
            with _unknown():
                status = self._api.inspect_job(**self._job.place).status
        except _Unknown:
            if self._api.whoami()["name"] != self._job.owner:
                raise EngineError(
                    f"The job {self._job.url} is {self._job.owner}'s, and the token is somebody else's. Set HF_TOKEN."
                ) from None
            return "DELETED", "the Hub does not know it any more"
        return str(status.stage), status.message or ""

    def _read_log(self, follow: bool) -> None:
        """Take the whole log, which begins anew with every request. Raises _Unknown where there is none."""
        self._before, self._at, self._line = runs.all_events(self._run), 0, 0
        with _unknown():
            for text in self._api.fetch_job_logs(**self._job.place, follow=follow):
                self._take(text.strip("\r\n"))

    def _take(self, text: str) -> None:
        self._line += 1
        if not text.startswith(job_script.MARK):
            self._take_words(text.strip())
            return
        try:
            event = from_json(text.removeprefix(job_script.MARK))
        except ValueError:  # half a line of a log that was cut
            return
        self._trains = True
        if isinstance(event, Ended):
            self._held = event
            return
        if self._before is not None:
            with contextlib.suppress(ValueError):
                self._at = self._before.index(event, self._at) + 1
                return
            self._before = None
        self._tell(event)

    def _take_words(self, text: str) -> None:
        """What is no event: shown while the job installs what it needs, and the last of it kept for where it fails."""
        new, self._lines = self._line > self._lines, max(self._lines, self._line)
        if text and new:
            self._words.append(text[:_TOLD_CHARS])
            if not self._trains:
                self._tell(Progress(f"On the Hub: {text[:_TOLD_CHARS]}"))

    def _patiently(self, call: Callable[[], T]) -> T:
        """What a call of the Hub gives, however long the Hub is away. Raises EngineError where it refuses."""
        wait, told = _FIRST_WAIT, False
        while True:
            with pushing.explained(f"The job {self._job.url}", "cannot be followed, and goes on"):
                try:
                    with full_disk_told(self._run.folder, 0):
                        return call()
                except Exception as error:
                    if not _passes(error):
                        raise
            if not told:
                self._tell(Notice("The Hub does not answer. The job goes on there; this run is told further when the Hub is back."))
                told = True
            self._over.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _watch(self) -> None:
        """Pass on that somebody asks to stop."""
        wait = _LOOK
        while not self._over.wait(wait):
            if not self._run.asked_to_stop:
                continue
            try:
                ask_to_stop(self._job)
                self._stop_asked = True
                self._tell(Notice("The job was asked to save and end."))
                return
            except Exception as error:
                wait = _FIRST_WAIT
                if not _passes(error):
                    self._tell(Notice(f"The job could not be asked to stop ({type(error).__name__}). Cancel it on {self._job.url}."))
                    return

    def _brought_back(self, stage: str, message: str) -> Ended:
        """Fetch what a job that is over gave, and say how it ended."""
        steps = [event.step for event in runs.in_force(runs.all_events(self._run)) if isinstance(event, Step)]
        step, held = steps[-1] if steps else 0, self._held
        self._tell(Progress("Fetching what the job gave"))
        for stale in self._run.folder.glob(f"{_FETCHED}*"):
            shutil.rmtree(stale, ignore_errors=True)
        with full_disk_told(self._run.folder, 0), tempfile.TemporaryDirectory(dir=self._run.folder, prefix=_FETCHED) as place:
            sent = self._patiently(lambda: self._fetch(Path(place)))
            if held and held.status == "done" and (sent / runs.ADAPTER).is_dir():
                self._keep_adapter(sent / runs.ADAPTER)
                done = held.text.partition(" The adapter is in ")[0]
                return replace(held, text=f"{done} The adapter is in {self._run.adapter}.")
            saved = self._keep_checkpoints(sent)
        further = f" Step {saved} was fetched: Resume goes on from there on this machine." if saved else ""
        why = message or " / ".join(self._words) or "it said nothing"
        if held and held.status == "done":
            return Ended("failed", step, f"The job trained to its end, but its adapter did not come to the Hub: {why}", held.seconds)
        if held:
            return replace(held, text=held.text.removesuffix(" Resume goes on from there.") + further)
        if stage in _CANCELLED or self._stop_asked:
            return Ended("stopped", step, f"The job was cancelled on the Hub{f' ({message})' if message else ''}.{further}", 0.0)
        return Ended("failed", step, f"The job failed on the Hub: {why}. Its log: {self._job.url}{further}", 0.0)

    def _fetch(self, place: Path) -> Path:
        """The folder of what the job sent, without its bundle."""
        from huggingface_hub import snapshot_download

        wanted = [f"{self._job.folder}/{each}" for each in (f"{runs.ADAPTER}/*", f"{runs.CHECKPOINTS}/*", runs.PLAYGROUND)]
        snapshot_download(self._job.repo, repo_type="dataset", local_dir=place, allow_patterns=wanted)
        return place / self._job.folder

    def _keep_adapter(self, folder: Path) -> None:
        try:
            if not (folder / paths.MANIFEST).is_file():
                raise BadInput(f"it has no {paths.MANIFEST}")
            adapters.load_arrays(adapters.read(folder, self._run.id))
        except BadInput as error:
            raise EngineError(f"The adapter of {self._run.id} did not come whole: {error} Resume fetches it again.") from error
        shutil.rmtree(self._run.adapter, ignore_errors=True)
        os.replace(folder, self._run.adapter)

    def _keep_checkpoints(self, sent: Path) -> int:
        """The step of the checkpoint that came and is sound, 0 where none is."""
        came = False
        for folder in sorted((sent / runs.CHECKPOINTS).glob("step-*")):
            if checkpoints.damaged(folder):
                continue
            target = self._run.checkpoints / folder.name
            self._run.checkpoints.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)
            came = True
        if came and (sent / runs.PLAYGROUND).is_file():
            os.replace(sent / runs.PLAYGROUND, self._run.folder / runs.PLAYGROUND)
        return checkpoints.sound_step(self._run) if came else 0


def _passes(error: BaseException) -> bool:
    """Whether the Hub only does not answer at the moment."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return True
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        return status is None or status >= 500 or status in (408, 429)
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.partition(".")[0] in hub.HTTP_LIBRARIES

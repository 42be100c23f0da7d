"""A local stand-in for Hugging Face Jobs beside that for the Hub: takes jobs of the real client and runs them, in a process here."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlparse

from hub_server import HubServer
from huggingface_hub import constants

from engine import hub_jobs, job_script
from engine.events import Ended, Started, Step, to_json
from engine.runs import Run

HARDWARE = [
    {
        "name": "cpu-basic",
        "prettyName": "CPU Basic",
        "cpu": "2 vCPU",
        "ram": "16 GB",
        "unitCostMicroUSD": 167,
        "unitCostUSD": 0.000167,
        "unitLabel": "minute",
    },
    *(
        {
            "name": name,
            "prettyName": name,
            "cpu": "4 vCPU",
            "ram": "15 GB",
            "accelerator": {"type": "gpu", "model": model, "quantity": "1", "vram": vram, "manufacturer": "Nvidia"},
            "unitCostMicroUSD": round(1e6 * dollars),
            "unitCostUSD": dollars,
            "unitLabel": "minute",
        }
        for name, model, vram, dollars in (("a100-large", "A100", "80 GB", 0.041667), ("t4-small", "T4", "16 GB", 0.006667))
    ),
]
REPO = "me/guanaco-jobs"
OVER = ("COMPLETED", "ERROR", "CANCELED")


class Job:
    """A job as it was asked for in `spec`, and what it has said in `lines`."""

    def __init__(self, name: str, spec: dict):
        self.name, self.spec, self.lines, self.stage, self.message = name, spec, [], "SCHEDULING", None
        self.changed = threading.Condition()
        self.process: subprocess.Popen | None = None

    def say(self, line: str) -> None:
        with self.changed:
            self.lines.append({"data": line, "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")})
            self.changed.notify_all()

    def turn(self, stage: str, message: str | None = None) -> None:
        """Come to another stage, but not from one that is the last."""
        with self.changed:
            if self.stage not in OVER:
                self.stage, self.message = stage, message
                self.changed.notify_all()

    def answer(self) -> dict:
        status = {"stage": self.stage, "message": self.message}
        return {"id": self.name, "status": status, "owner": {"id": "1", "name": "me", "type": "user"}, "flavor": self.spec["flavor"]}


class JobsServer(HubServer):
    """`act` is what a job does, in a thread of its own: by default it runs in a process with this Python in place of uv's. `refuses`
    answers the wish for a job with that code; `away` as long as it is set, no request is answered but by 503. `jobs` has all, by id."""

    def __init__(self, repos: dict[str, Path], owned: Path, act: Callable[[Job], None] | None = None):
        super().__init__(repos, owned=owned)
        self.act = act or self.run
        self.refuses: int | None = None
        self.away = threading.Event()
        self.jobs: dict[str, Job] = {}

    def __exit__(self, *error) -> None:
        for job in self.jobs.values():
            self.end(job)
        super().__exit__(*error)

    @property
    def job(self) -> Job:
        """The only job."""
        (job,) = self.jobs.values()
        return job

    def run(self, job: Job) -> None:
        """As the Hub does: uv's dependencies are this environment's own, and nothing of this process reaches it but what was asked for."""
        arguments = job.spec["command"]
        assert arguments[:2] == ["uv", "run"]
        place = self.owned / f".{job.name}"
        place.mkdir()
        kept = {name: os.environ[name] for name in ("PATH", "OMP_WAIT_POLICY") if name in os.environ}
        asked = {**job.spec["environment"], **job.spec["secrets"]}
        job.process = subprocess.Popen(
            [sys.executable, *arguments[arguments.index("python") + 1 :]],
            cwd=place,
            env={**kept, "HOME": str(place), "TMPDIR": str(place), "HF_ENDPOINT": self.url, **asked},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        job.turn("RUNNING")
        for line in job.process.stdout:
            job.say(line.rstrip("\n"))
        code = job.process.wait()
        job.turn(*(("ERROR", f"Job failed with exit code: {code}") if code else ("COMPLETED",)))

    def end(self, job: Job, stage: str = "CANCELED", message: str | None = None) -> None:
        job.turn(stage, message)
        if job.process:
            job.process.kill()

    def _answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = unquote(urlparse(request.path).path)
        authorization = request.headers.get("authorization")
        if self.away.is_set():
            return self._send(request, 503, b"{}", {}, body)
        if not path.startswith(("/api/whoami-v2", "/api/jobs/")):
            return super()._answer(request, body)
        self.requests.append((request.command, path, authorization))
        if path == "/api/jobs/hardware":
            return self._json(request, 200, HARDWARE)
        if authorization != "Bearer hf_test":
            return self._json(request, 401, {"error": "Invalid username or password."})
        if path == "/api/whoami-v2":
            return self._json(request, 200, {"type": "user", "name": "me"})
        owner, *rest = path.removeprefix("/api/jobs/").split("/")
        if owner != "me" or (rest and rest[0] not in self.jobs):
            return self._json(request, 404, {"error": "not found"})
        if not rest:
            return self._begin(request)
        job = self.jobs[rest[0]]
        if rest[1:] == ["logs"]:
            return self._stream(request, job)
        if rest[1:] == ["cancel"]:
            self.end(job)
        return self._json(request, 200, job.answer())

    def _begin(self, request: BaseHTTPRequestHandler) -> None:
        spec = json.loads(request.rfile.read(int(request.headers["content-length"])))
        if self.refuses:
            return self._json(request, self.refuses, {"error": "Pre-paid credit balance is insufficient"})
        job = Job(f"job{len(self.jobs)}", spec)
        self.jobs[job.name] = job
        threading.Thread(target=self.act, args=(job,), daemon=True).start()
        return self._json(request, 200, job.answer())

    def _stream(self, request: BaseHTTPRequestHandler, job: Job) -> None:
        """All lines so far and every further one as it comes, until the job is over or the Hub goes away."""
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Connection", "close")
        request.end_headers()
        request.close_connection = True
        told = 0
        while not (self.away.is_set() or self._closing.is_set()):
            with job.changed:
                job.changed.wait_for(lambda: len(job.lines) > told or job.stage in OVER, 0.05)
                new, over = job.lines[told:], job.stage in OVER
            told += len(new)
            try:
                request.wfile.write("".join(f"data: {json.dumps(line)}\n\n" for line in new).encode())
                request.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                return
            if over and not new:
                return

    def _json(self, request: BaseHTTPRequestHandler, status: int, answer: object) -> None:
        length = int(request.headers.get("content-length") or 0)
        if length and request.command == "POST" and status >= 400:
            request.close_connection = True
        self._send(request, status, json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)


@contextlib.contextmanager
def asked(tiny: Path, folder: Path, monkeypatch) -> Iterator[JobsServer]:
    """A server with the tiny model that this process's client and those of its children ask. No answer is waited for long."""
    (folder / "owned").mkdir()
    with JobsServer({"me/tiny": tiny}, folder / "owned") as server:
        # The client reads HF_ENDPOINT when it is imported, which may be long ago.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        for name, value in {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_test", "HF_HOME": str(folder / "hf")}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(hub_jobs, "_FIRST_WAIT", 0.05)
        monkeypatch.setattr(hub_jobs, "_LOOK", 0.02)
        yield server


def step(number: int) -> Step:
    return Step(number, 2.0 - number / 10, 1.0, 0.01, 0.1, 100.0, 1, 1.0, 0.1)


STARTED = Started("counting", 6, 0, 9, 3, 100, "Tesla T4", "float16", "nf4", 4)
STEPS = [step(number) for number in range(1, 7)]


def say(job: Job, *events) -> None:
    for event in events:
        job.say(job_script.MARK + to_json(event))


def sent(server: JobsServer, job: Job, run: Run, what: str) -> None:
    """As the job's script sends it: a folder of a run that was trained here."""
    name = job.spec["command"][-2].partition("/")[0]
    shutil.copytree(run.folder / what, server.datasets[REPO] / name / what)


def done_by(server: JobsServer, source: Run, job: Job) -> None:
    say(job, Ended("done", 6, "Done: 6 steps. The adapter is in /tmp/there/adapter.", 9.0))
    sent(server, job, source, "adapter")
    job.turn("COMPLETED")

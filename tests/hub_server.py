"""A local stand-in for the Hub: serves folders as repositories to the real client, and misbehaves on demand."""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlparse

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = (".safetensors", ".bin", ".gguf")
DATA = (".jsonl", ".csv", ".parquet")


class HubServer:
    """`repos`: id -> folder. `status` answers everything with that code, and with `message` where there is one; `lie` breaks one byte of every weights file;
    `hang` never answers for weights, a number only after so many bytes; `gated` asks for a token, "everybody" lets
    nobody in, "listed" tells everybody what there is; `private` has the names of what nobody without a token may know of.
    `datasets`: the same for repositories of data sets, whose data files count as weights where they hang.
    `owned`: a folder in which repositories may be made by whoever has the token `hf_test`, owner `me`; `spaces` has the folders of these
    Spaces. `requests` records (method, path, authorization), `ranges` the first bytes that were asked for, `committed` the texts
    of files that were sent to other data sets, by name."""

    def __init__(
        self,
        repos: dict[str, Path],
        status: int | None = None,
        lie: bool = False,
        hang: bool | int = False,
        gated: bool | Literal["everybody", "listed"] = False,
        datasets: dict[str, Path] | None = None,
        owned: Path | None = None,
        message: str = "",
    ):
        self.repos, self.status, self.lie, self.hang, self.gated = repos, status, lie, hang, gated
        self.datasets, self.message = datasets or {}, message
        self.owned, self.private = owned, set()
        self.spaces: dict[str, Path] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.ranges: list[int] = []
        self.committed: dict[str, str] = {}
        self._closing = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub._answer(self, body=True)

            def do_POST(self):
                hub._answer(self, body=True)

            def do_HEAD(self):
                hub._answer(self, body=False)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *error) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fetched(self) -> list[str]:
        """Names of the files whose contents were asked for."""
        return [path.rpartition("/")[2] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]

    def _answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = unquote(urlparse(request.path).path)
        self.requests.append((request.command, path, request.headers.get("authorization")))
        if self.status:
            return self._send(request, self.status, b"{}", {"X-Error-Message": self.message} if self.message else {}, body)
        if self.owned and request.command == "POST" and path in ("/api/repos/create", "/api/validate-yaml"):
            status, answer = self._made(request) if path.endswith("create") else self._read_card(request)
            return self._send(request, status, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)
        served = [("models", repo, f"/{repo}", folder) for repo, folder in self.repos.items()]
        served += [("spaces", repo, f"/spaces/{repo}", folder) for repo, folder in self.spaces.items()]
        served += [("datasets", repo, f"/datasets/{repo}", folder) for repo, folder in self.datasets.items()]
        for kind, repo, root, folder in served:
            if request.command == "POST" and path.startswith((f"/api/{kind}/{repo}/preupload/", f"/api/{kind}/{repo}/commit/")):
                answer = self._committed(
                    request, f"{self.url}{root}", path.split("/")[5], folder if kind != "datasets" or self._owns(folder) else None
                )
                return self._send(request, 200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)
            if path.startswith(f"/api/{kind}/{repo}"):
                if self.gated == "everybody" or (self.gated is True and not request.headers.get("authorization")):
                    return self._send(request, 401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"}, body)
                if repo in self.private and not request.headers.get("authorization"):
                    return self._send(request, 401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"}, body)
                answer = self._listing(request, path.removeprefix(f"/api/{kind}/{repo}"), repo, folder)
                return self._send(request, 200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)
            for prefix in (f"{root}/resolve/{COMMIT}/", f"{root}/resolve/main/"):
                if path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                    return self._file(request, folder / path.removeprefix(prefix), body)
        self._send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound" if "/resolve/" in path else "RepoNotFound"}, body)

    def _made(self, request: BaseHTTPRequestHandler) -> tuple[int, dict]:
        """A repository made, or why not."""
        wanted = json.loads(request.rfile.read(int(request.headers["content-length"])))
        repo = f"{wanted['organization']}/{wanted['name']}"
        if request.headers.get("authorization") != "Bearer hf_test":
            return 401, {"error": "Invalid username or password."}
        if wanted["organization"] != "me":
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        repos = {"space": self.spaces, "dataset": self.datasets}.get(wanted.get("type"), self.repos)
        if repo in repos:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{repo}"}
        repos[repo] = self.owned / wanted["name"]
        repos[repo].mkdir()
        if wanted.get("visibility") == "private":
            self.private.add(repo)
        return 200, {"url": f"{self.url}/{repo}", "name": repo}

    def _owns(self, folder: Path) -> bool:
        return self.owned is not None and folder.parent == self.owned

    def _read_card(self, request: BaseHTTPRequestHandler) -> tuple[int, dict]:
        """The front matter of a card, refused where it is no YAML object."""
        content = json.loads(request.rfile.read(int(request.headers["content-length"])))["content"]
        sound = isinstance(yaml.safe_load(content.split("---\n")[1]), dict)
        return (200, {"errors": [], "warnings": []}) if sound else (400, {"errors": [{"message": "no YAML"}], "warnings": []})

    def _committed(self, request: BaseHTTPRequestHandler, address: str, step: str, folder: Path | None) -> dict:
        """Both steps of a commit: how each file is to be sent, and the files, kept in `folder` or as texts."""
        sent = request.rfile.read(int(request.headers["content-length"])).decode()
        if step == "preupload":
            return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(sent)["files"]]}
        for line in map(json.loads, sent.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                if folder:
                    path = folder / line["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                else:
                    self.committed[line["value"]["path"]] = content.decode()
            elif line["key"] == "deletedFile":
                (folder / line["value"]["path"]).unlink()
        return {"commitUrl": f"{address}/commit/{COMMIT}", "commitOid": COMMIT, "hookOutput": "", "success": True}

    def _listing(self, request: BaseHTTPRequestHandler, question: str, repo: str, folder: Path) -> dict | list:
        """What is asked of a repository: all about it, a folder's files, or the files named in the request's body."""
        entries = [
            {
                "type": "directory" if path.is_dir() else "file",
                "oid": "0" * 40,
                "size": path.stat().st_size,
                "path": path.relative_to(folder).as_posix(),
            }
            for path in sorted(folder.rglob("*"))
        ]
        if question.startswith("/paths-info/"):
            fields = parse_qs(request.rfile.read(int(request.headers.get("content-length") or 0)).decode())
            return [entry for entry in entries if entry["path"] in fields.get("paths", ())]
        if question.startswith("/tree/"):
            within = question.removeprefix(f"/tree/{COMMIT}").removeprefix("/tree/main").strip("/")
            return [entry for entry in entries if not within or entry["path"].startswith(f"{within}/")]
        return self._info(repo, folder)

    def _info(self, repo: str, folder: Path) -> dict:
        siblings = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            data = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            entry = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
            if path.suffix in WEIGHTS:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return {
            "id": repo,
            "sha": COMMIT,
            "siblings": siblings,
            "gated": "manual" if self.gated else False,
            "private": repo in self.private,
            "tags": [],
            "cardData": {"license": "mit"},
        }

    def _file(self, request: BaseHTTPRequestHandler, path: Path, body: bool) -> None:
        data = path.read_bytes()
        weights = path.suffix in (*WEIGHTS, *DATA)
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if weights and self.lie:
            data = data[:-1] + bytes([data[-1] ^ 1])
        first = int((request.headers.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            self.ranges.append(first)
        sent = int(self.hang) - first if weights and self.hang else None
        if sent is None or not body:
            self._send(request, 206 if first else 200, data[first:], headers, body)
            return
        if sent > 1:
            self._send(request, 206 if first else 200, data[first:], headers, body, sent)
        while not self._closing.wait(0.1):
            time.sleep(0)

    def _send(self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict, body: bool, sent: int | None = None) -> None:
        try:
            request.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                request.send_header(name, value)
            request.end_headers()
            if body:
                request.wfile.write(data[:sent])
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True  # the client has gone, as some tests make it

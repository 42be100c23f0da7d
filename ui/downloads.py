"""What was exported, fetched through the browser: a file as it is, a folder as a zip."""

import tempfile
import zipfile
from pathlib import Path
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from engine.offers import Offers

_FOLDER = "download"


def address(offers: Offers, path: Path) -> tuple[str, str]:
    """Offer a file or a folder: its address from the page's own, and the name that the browser saves it by."""
    name = f"{path.name}.zip" if path.is_dir() else path.name
    return f"{_FOLDER}/{offers.add(path)}/{quote(name)}", name


def route(offers: Offers) -> Route:
    """Where the offers are fetched; nothing else of the machine is."""

    async def answer(request: Request) -> Response:
        path = offers.find(request.path_params["key"])
        if path is None:
            return PlainTextResponse("This download is no longer offered. Export once more for a new one.", 404)
        if path.is_file():
            return FileResponse(path, filename=path.name, media_type="application/octet-stream")
        try:
            made = await run_in_threadpool(_zipped, path)
        except OSError as error:
            return PlainTextResponse(f"The zip could not be made: {error.strerror or error}. Take the folder itself: {path}", 507)
        done = BackgroundTask(made.unlink, missing_ok=True)
        return FileResponse(made, filename=f"{path.name}.zip", media_type="application/zip", background=done)

    return Route(f"/{_FOLDER}/{{key}}/{{name}}", answer)


def _zipped(folder: Path) -> Path:
    """The files of a folder as a zip in the system's folder for such, to be removed when it is sent. Weights do not get smaller."""
    file = tempfile.NamedTemporaryFile(suffix=".zip", delete=False)
    try:
        with file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    archive.write(path, f"{folder.name}/{path.relative_to(folder)}")
    except OSError:
        Path(file.name).unlink(missing_ok=True)
        raise
    return Path(file.name)

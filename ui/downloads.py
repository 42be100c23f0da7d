"""What was exported, fetched through the browser: a file as it is, a folder as a zip."""

import tempfile
from pathlib import Path
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from engine.offers import Offers, pack

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
    """A folder packed in the system's folder for such, to be removed when it is sent."""
    with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as made:
        file = Path(made.name)
    try:
        pack(folder, file)
    except OSError:
        file.unlink(missing_ok=True)
        raise
    return file

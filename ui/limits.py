"""What every visitor is held to before Gradio reads a byte, the size of a request; and what a page may load: only what
this host serves, whatever an answer or a name contains."""

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 8 * 2**20  # a browser's whole store and a file to import, both at their limits
UPLOADS = "/gradio_api/upload"  # has a limit of its own
FORM = 2**16  # what a form says besides its file
# Gradio's templates are compiled in the page, hence unsafe-eval; nothing but this host's own files is ever a script.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)


class ContentPolicy:
    """ASGI middleware: the browser loads nothing from elsewhere (faults, row 30)."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


class BodyLimit:
    """ASGI middleware: answers 413 to a body above `MAX_BODY` bytes, announced or not (faults, row 16). An upload may have `most` bytes in
    all, which it has to announce (411): what Gradio has written of one that breaks off stays on the disk. 403 to any where `most` is 0.
    Forms are for uploads alone (415): Gradio writes the files of others to the disk as well."""

    def __init__(self, app: ASGIApp, most: int):
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        limit = MAX_BODY
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if scope["path"] == UPLOADS:
            if not self.most:
                return await PlainTextResponse("This public host takes no uploads.", 403)(scope, receive, send)
            if not announced:
                return await PlainTextResponse("Send the length of the upload with it.", 411)(scope, receive, send)
            limit = self.most + FORM
        elif any(name == b"content-type" and b"multipart" in value.lower() for name, value in scope["headers"]):
            return await PlainTextResponse("Files are taken as uploads alone.", 415)(scope, receive, send)
        too_large = PlainTextResponse(f"The request is too large; the limit is {limit / 2**20:.0f} MB.", 413)
        if announced and (not announced.isdigit() or int(announced) > limit):
            return await too_large(scope, receive, send)
        seen = 0
        begun = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _TooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _TooLarge:
            if not begun:
                await too_large(scope, receive, send)


class _TooLarge(Exception):
    """A body that did not announce its size went over the limit."""

"""What every visitor is held to before Gradio reads a byte, the size of a request; and what a page may load: only what
this host serves, whatever an answer or a name contains."""

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 8 * 2**20  # a browser's whole store and a file to import, both at their limits
UPLOADS = "/upload"  # has a limit of its own, `max_file_size`
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
    """ASGI middleware: answers 413 to a body above `MAX_BODY` bytes, announced or not (faults, row 16), and 403 to any
    upload where `uploads` is False."""

    def __init__(self, app: ASGIApp, uploads: bool = True):
        self.app = app
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"].endswith(UPLOADS):
            if self.uploads:
                return await self.app(scope, receive, send)
            return await PlainTextResponse("This public host takes no uploads.", 403)(scope, receive, send)
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        too_large = PlainTextResponse(f"The request is too large; the limit is {MAX_BODY // 2**20} MB.", 413)
        if not announced.isdigit() or int(announced) > MAX_BODY:
            return await too_large(scope, receive, send)
        seen = 0
        begun = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
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

"""What every visitor is held to before Gradio reads a byte: the size of a request that is no upload."""

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 4 * 2**20
UPLOADS = "/upload"  # has a limit of its own, `max_file_size`


class BodyLimit:
    """ASGI middleware: answers 413 to a body above `MAX_BODY` bytes, announced or not (faults, row 16)."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].endswith(UPLOADS):
            return await self.app(scope, receive, send)
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

"""A client of servers that stream answers as server-sent events: llama.cpp's own, and any OpenAI-compatible one.

An answer that is no longer wanted ends with its connection, at any moment. No message ever holds the key.
"""

import asyncio
import concurrent.futures
import contextlib
import email.utils
import functools
import json
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import httpx

from engine.errors import BadInput, EngineError

CONNECT_SECONDS = 10
ANSWER_SECONDS = 600
CHECK_SECONDS = 0.02
MAX_ERROR_CHARS = 300
_END = object()


class Passing(EngineError):
    """What may be over in a moment: a busy server, one that fails, a connection that broke. `after` are the seconds that the server
    asks to wait, None where it does not say."""

    def __init__(self, text: str, after: float | None = None):
        super().__init__(text)
        self.after = after


class Unreachable(Passing):
    """Nobody answers at the address."""


class Refused(BadInput):
    """The server takes requests, but not this one."""


_beginning = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The one loop of all clients. It runs as long as the process: a request whose loop had stopped would never end."""
    with _beginning:  # a cache alone would give two threads that come first a loop each
        return _begun_loop()


@functools.cache
def _begun_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


class ServerClient:
    """Speaks to one server. `name` is what people know it by, `key_name` the environment variable that its key comes from;
    `proxies` says whether to heed those of the environment, `seconds` how long the server may be silent."""

    def __init__(
        self, base_url: str, key: str | None, name: str, key_name: str = "", proxies: bool = False, seconds: float = ANSWER_SECONDS
    ):
        self._name, self._key, self._key_name = name, key, key_name
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        self._client = httpx.AsyncClient(base_url=base_url.rstrip("/") + "/", headers=headers, timeout=timeout, trust_env=proxies)
        self._under_way: set[asyncio.Task] = set()  # touched on the loop alone

    def get(self, path: str) -> Any:
        """The JSON value at `path`. Raises BadInput or EngineError in words for people."""
        return self._call("GET", path, None)

    def post(self, path: str, body: dict) -> Any:
        """As `get`, for a request with a body."""
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict | None) -> Any:
        async def call() -> Any:
            async with self._sent(method, path, body) as response:
                await response.aread()
                await self._check(response)
                return response.json()

        with self._explained():
            return self._start(call()).result()

    def _start(self, work: Coroutine) -> concurrent.futures.Future:
        """Let `work` run on the loop, where `close` finds it."""

        async def known() -> Any:
            task = asyncio.current_task()
            self._under_way.add(task)
            try:
                return await work
            finally:
                self._under_way.discard(task)

        return asyncio.run_coroutine_threadsafe(known(), _loop())

    def stream(self, path: str, body: dict) -> Iterator[dict | None]:
        """Post a request and yield the events of its answer, None whenever none has come for a moment. Closing the iterator
        ends the request."""
        arrived: queue.SimpleQueue = queue.SimpleQueue()
        task = self._start(self._events(path, body, arrived.put))
        task.add_done_callback(lambda _: arrived.put(_END))
        try:
            while True:
                try:
                    event = arrived.get(timeout=CHECK_SECONDS)
                except queue.Empty:
                    yield None
                    continue
                if event is _END:
                    break
                if not isinstance(event, dict) or event.get("error"):
                    raise EngineError(f"{self._name} ended the answer: {self.without_key(_message(json.dumps(event)))}")
                yield event
            with self._explained():
                task.result()
        finally:
            task.cancel()

    @contextlib.asynccontextmanager
    async def _sent(self, method: str, path: str, body: dict | None) -> AsyncIterator[httpx.Response]:
        """Send a request; once more where the connection ended before a byte of the answer came: a server that closes a connection it
        kept does so without looking whether a request is on its way."""
        try:
            response = await self._client.send(self._client.build_request(method, path, json=body), stream=True)
        except httpx.RemoteProtocolError:
            response = await self._client.send(self._client.build_request(method, path, json=body), stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    async def _events(self, path: str, body: dict, put: Callable) -> None:
        async with self._sent("POST", path, body) as response:
            await self._check(response)
            async for line in response.aiter_lines():
                if line.startswith("data:") and line != "data: [DONE]":
                    put(json.loads(line[5:]))

    async def _check(self, response: httpx.Response) -> None:
        """Raise what an error status means, with what the server says of it."""
        if response.is_success:
            return
        await response.aread()
        said = self.without_key(_message(response.text))
        status = response.status_code
        if status in (401, 403):
            if not self._key:
                raise EngineError(f"{self._name} asks for a key. Name the environment variable that holds it with --api-key-env.")
            raise EngineError(f"{self._name} does not accept the key in the environment variable {self._key_name} (status {status}).")
        if status == 404:
            raise BadInput(f"{self._name} has no such model or address ({said}). Check --base-url and --model.")
        after = _seconds(response.headers.get("retry-after", ""))
        if status in (429, 503):
            raise Passing(f"{self._name} is busy ({said}). Try again in a moment.", after)
        text = f"{self._name} refused the request with status {status}: {said}"
        raise Refused(text) if status < 500 and status != 408 else Passing(text, after)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise Unreachable(f"{self._name} cannot be reached. Check that it runs and that the address is right.") from error
        except httpx.TimeoutException as error:
            raise Passing(f"{self._name} did not answer in time. Try again later.") from error
        except httpx.HTTPError as error:
            raise Passing(f"The connection to {self._name} broke ({type(error).__name__}). Try again.") from error
        except (RuntimeError, concurrent.futures.CancelledError) as error:  # RuntimeError: what httpx raises once its client is closed
            raise EngineError(f"The connection to {self._name} was closed. Try again.") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise BadInput(f"{self._name} has an address that is none: {error}") from error
        except ValueError as error:
            raise Passing(
                f"{self._name} sent something that is no JSON. Check that --base-url names an OpenAI-compatible server."
            ) from error

    def without_key(self, text: str) -> str:
        """What a server said, should it repeat the key."""
        return text.replace(self._key, "***") if self._key else text

    def close(self) -> None:
        """Let go of all connections: what is under way ends with an error."""

        async def close() -> None:
            for task in self._under_way:  # httpx itself would miss a connection that is being made
                task.cancel()
            await self._client.aclose()

        asyncio.run_coroutine_threadsafe(close(), _loop()).result(CONNECT_SECONDS)


def _seconds(header: str) -> float | None:
    """What a Retry-After header says, seconds or a date; None where it says nothing that can be understood."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if header.strip().isdigit():
            return float(header)
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    return None


def _message(text: str) -> str:
    """What an error body says, in the forms that OpenAI-compatible servers use, as one line."""
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        body = json.loads(text)
        error = body.get("error") or body.get("detail") or body.get("message") or text
        text = error.get("message") if isinstance(error, dict) else str(error)
    return " ".join(str(text).split())[:MAX_ERROR_CHARS] or "no reason given"

"""The asyncio client."""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

import numpy as np

from posegate.client.http import HttpTransport
from posegate.client.rpc import GrpcTransport
from posegate.client.tls import Tls
from posegate.client.transport import Document, Frames, Outgoing, Picture, Transport, encoded
from posegate.errors import BadOption, DeadlineExceeded, PosegateError

T = TypeVar("T")
FIRST_WAIT_S = 0.1
CLOSED = "this client is closed; make another"


class AsyncClient:
    """Asks a posegate service over HTTP (http://, https://) or gRPC (grpc://, grpcs://).

    Refusals raise the errors of `posegate.errors`. A call is tried again, at most `retries`
    times and within `timeout_s`, only where that makes sense: the service is overloaded, its
    backend is down, or nobody answers. Streams are never tried again, since frames grow old. They
    may last for ever, but where an event is due and none comes for `timeout_s` they end with
    DeadlineExceeded.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
        tls: Tls | None = None,
    ) -> None:
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise BadOption(f"timeout_s is {timeout_s}; it must be a finite time above 0")
        self._transport = _transport(url, api_key, tls)
        self._timeout_s = timeout_s
        self._retries = retries
        self._closed = False
        self._streams: WeakSet[Events] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the connections go; streams end with a RuntimeError."""
        self._closed = True
        await asyncio.gather(*(events.leave() for events in self._streams))
        await self._transport.close()

    async def estimate(self, image: Picture, **options: Any) -> Document:
        """The `Poses` document of one encoded picture; options as in the HTTP query, as values.

        Over gRPC there is no `format`, and no number as text. Here and in `stream` an option that
        is None counts as not given, and boxes may be lists, tuples or an array.
        """
        data, given = encoded(image, "image"), _given(options)
        return await self._insist(lambda left_s: self._transport.estimate(data, given, left_s))

    async def models(self) -> list[Document]:
        """The model cards."""
        return await self._insist(self._transport.models)

    def stream(self, frames: Frames, **options: Any) -> AsyncGenerator[Document]:
        """One event per encoded frame, in order, then the summary.

        `frames` may be asynchronous or plain; options as in the HTTP query, and `mode`,
        `track` and `detect_every`. Raises TypeError where they are one picture, or not encoded.
        """
        return self._answered(self.begin(frames, options))

    def begin(self, frames: Frames, options: Document) -> "Events":
        """The events of a stream, for a caller that may leave it while waiting for the next one."""
        if not isinstance(frames, Iterable | AsyncIterable) or isinstance(frames, str | bytes):
            raise TypeError(
                f"frames is {type(frames).__name__}; it must be an iterable of encoded pictures"
            )
        self._check_open()
        outgoing = Outgoing(frames)
        stream = self._transport.stream(outgoing, _given(options))
        events = Events(stream, outgoing, self._timeout_s)
        self._streams.add(events)
        return events

    async def _answered(self, events: "Events") -> AsyncGenerator[Document]:
        try:
            self._check_open()
            while (event := await events.next()) is not None:
                yield event
                self._check_open()
        except asyncio.CancelledError:
            self._check_open()
            raise
        finally:
            await events.leave()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(CLOSED)

    async def _insist(self, call: Callable[[float], Awaitable[T]]) -> T:
        self._check_open()
        ends = time.monotonic() + self._timeout_s
        for attempt in range(self._retries + 1):
            left_s = ends - time.monotonic()
            if left_s <= 0:
                break
            try:
                async with asyncio.timeout(left_s):
                    return await call(left_s)
            except TimeoutError:
                break
            except PosegateError as error:
                if error.retry_after_s is None or attempt == self._retries:
                    raise
                wait_s = max(error.retry_after_s, FIRST_WAIT_S * 2**attempt)
                wait_s *= random.uniform(1.0, 1.25)  # noqa: S311  spreads clients, hides nothing
                if time.monotonic() + wait_s >= ends:
                    raise
                await asyncio.sleep(wait_s)
        raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s")


class Events:
    """The events of one stream, left by its reader or by a client that is closed."""

    def __init__(
        self, events: AsyncGenerator[Document], outgoing: Outgoing, timeout_s: float
    ) -> None:
        self._events = events
        self._outgoing = outgoing
        self._timeout_s = timeout_s
        self._asked: asyncio.Task[Document | None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def next(self) -> Document | None:
        """The next event, None after the last; DeadlineExceeded where it is due for too long."""
        asked = self._asked = asyncio.create_task(self._next())
        try:
            while not (await asyncio.wait({asked}, timeout=self._timeout_s))[0]:
                if self._outgoing.silence_s >= self._timeout_s:
                    raise DeadlineExceeded(
                        f"no event for {self._timeout_s:g} s, {self._outgoing.due}"
                    )
            event = asked.result()
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        if event is not None:
            self._outgoing.heard(event)
        return event

    async def leave(self) -> None:
        """Wait for nothing more and let the stream go, once."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave())
        await asyncio.shield(self._leaving)

    async def _next(self) -> Document | None:
        return await anext(self._events, None)

    async def _leave(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.wait({self._asked})
        await self._events.aclose()


def _given(options: Document) -> Document:
    return {name: _plain(value) for name, value in options.items() if value is not None}


def _plain(value: Any) -> Any:
    """Arrays and tuples as lists, numbers of numpy as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _transport(url: str, api_key: str | None, tls: Tls | None) -> Transport:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise BadOption(f"url is {url!r}: {error}") from error
    encrypted = parts.scheme in ("https", "grpcs")
    if tls is not None and not encrypted:
        raise BadOption(f"url is {url!r}; TLS files need https:// or grpcs://")
    tls = (tls or Tls()) if encrypted else None
    if parts.scheme in ("http", "https") and parts.netloc:
        return HttpTransport(parts.geturl(), api_key, tls)
    if parts.scheme in ("grpc", "grpcs") and parts.netloc:
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise BadOption(f"url is {url!r}; gRPC has no paths: give host and port alone")
        return GrpcTransport(parts.netloc, api_key, tls)
    raise BadOption(
        f"url is {url!r}; it must look like http://127.0.0.1:8080 or grpc://127.0.0.1:8081 "
        "(encrypted: https://, grpcs://)"
    )

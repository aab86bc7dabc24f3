"""The seam between the client and a wire, and what went wrong as the project's own errors."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

import numpy as np

from posegate.errors import (
    BY_SLUG,
    BackendDown,
    BadOption,
    PosegateError,
)

Document = dict[str, Any]
Picture = bytes | bytearray | memoryview
Frames = AsyncIterable[Picture] | Iterable[Picture]
RETRYABLE = ("unavailable", "overloaded")
LEAVE_S = 1.0
"""How long a stream that is closed waits for the frame that is being read."""
_NO_MORE = object()
_Asked = Future[object]


class Transport(Protocol):
    """One way to talk to the service; documents look the same whichever it is."""

    async def estimate(self, image: bytes, options: Document, timeout_s: float) -> Document:
        """The `Poses` document of one encoded picture; the caller waits for `timeout_s` at most."""
        ...

    async def models(self, timeout_s: float) -> list[Document]:
        """The model cards."""
        ...

    def stream(self, outgoing: "Outgoing", options: Document) -> AsyncGenerator[Document]:
        """One event per frame, in order, and the summary."""
        ...

    async def close(self) -> None:
        """Let the connection go."""
        ...


def bearer(api_key: str | None) -> str | None:
    """The value of the header that holds the key, without the end of line of a key from a file.

    Raises BadOption where no header can hold it.
    """
    if api_key is None or not (key := api_key.strip()):
        return None
    if not key.isprintable():
        raise BadOption("the API key holds a line break or another control character")
    return f"Bearer {key}"


def error_of(slug: str, detail: str, retry_after_s: float | None = None) -> PosegateError:
    """The error that the service meant; `retry_after_s` is set where trying again makes sense."""
    return BY_SLUG.get(slug, PosegateError)(detail, retry_after_s=retry_after_s)


def unreachable(url: str, reason: object, hint: str = "") -> BackendDown:
    """Nobody answers there. Trying again makes no sense where certificates are at fault."""
    retry_after_s = None if _is_about_certificates(reason) else 0.2
    said = str(reason) or type(reason).__name__
    return BackendDown(f"no answer from {url}: {said}{hint}", retry_after_s=retry_after_s)


def encoded(picture: object, name: str) -> bytes:
    """The picture as bytes; raises TypeError, which calls it `name`, for anything else."""
    if isinstance(picture, Picture):
        return bytes(picture)
    how = "as open(path, 'rb').read() gives"
    if isinstance(picture, np.ndarray):
        how = "as cv2.imencode('.jpg', pixels)[1].tobytes() gives"
    raise TypeError(
        f"{name} is {type(picture).__name__}; it must be the bytes of a picture's file, {how}"
    )


async def each(frames: Frames) -> AsyncGenerator[bytes]:
    """The frames one by one, each when it is asked for.

    A plain iterator is read in a thread of its own, as a camera may block. When the stream is
    closed, a read under way is waited for, as decoders crash where a program ends inside of them;
    after `LEAVE_S` it is left alone with its thread. Raises TypeError for what is not the bytes of
    a picture.
    """
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield encoded(frame, "a frame")
        return
    asked: SimpleQueue[_Asked | None] = SimpleQueue()
    Thread(target=_read, args=(iter(frames), asked), daemon=True).start()
    try:
        while True:
            reading: _Asked = Future()
            asked.put(reading)
            data = await asyncio.wrap_future(reading)
            if data is _NO_MORE:
                return
            yield encoded(data, "a frame")
    finally:
        asked.put(None)
        if not reading.done():
            await _settled(reading)


class Outgoing:
    """The frames of a stream as they leave, and whether the service took and answered them all."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._count = 0
        self._all = False
        self._answered = 0
        self._taken = False
        self._owing_since = time.monotonic()

    async def each(self) -> AsyncGenerator[bytes]:
        """See `each`."""
        async with aclosing(each(self._frames)) as read:
            async for frame in read:
                if self._count == self._answered:
                    self._owing_since = time.monotonic()
                self._count += 1
                yield frame
        self._all = True

    def taken(self) -> None:
        """The service has taken the stream."""
        self._taken = True
        self._owing_since = time.monotonic()

    def heard(self, event: Document) -> None:
        """The service has answered with this."""
        self._answered += event.get("frame") is not None
        self._owing_since = time.monotonic()

    @property
    def silence_s(self) -> float:
        """How long the service has said nothing while its answer is due."""
        owing = not self._taken or self._all or self._count > self._answered
        return time.monotonic() - self._owing_since if owing else 0.0

    @property
    def due(self) -> str:
        """What the service is silent about."""
        return "though frames wait for theirs" if self._taken else "nor was the stream taken"

    def check(self, summary: Document) -> None:
        """Raises BackendDown where the service summed up before it had every frame."""
        if not self._all or summary["frames"] < self._count:
            raise BackendDown(
                f"the service ended the stream after {summary['frames']} frames, before it had "
                "all of them; it is stopping",
                retry_after_s=1.0,
            )


def failure(sending: "asyncio.Task[None]") -> BaseException | None:
    """What the frames themselves raised, if that is why the stream ended."""
    return sending.exception() if sending.done() and not sending.cancelled() else None


async def _settled(reading: _Asked) -> None:
    """Wait a while for what is being read, whatever comes of it."""
    settled = asyncio.wrap_future(reading)
    await asyncio.wait([settled], timeout=LEAVE_S)
    if not settled.cancel() and not settled.cancelled():
        settled.exception()  # nobody else asks for it


def _read(iterator: Iterator[Picture], asked: "SimpleQueue[_Asked | None]") -> None:
    while (future := asked.get()) is not None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(next(iterator, _NO_MORE))
            except BaseException as error:
                future.set_exception(error)


def _is_about_certificates(reason: object) -> bool:
    while isinstance(reason, BaseException):
        if isinstance(reason, ssl.SSLError):
            return True
        reason = reason.__cause__ or reason.__context__
    return False

"""The same client for code without asyncio: an event loop of its own in a thread."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from threading import RLock, Thread, current_thread
from types import TracebackType
from typing import Any, Self, TypeVar

from posegate.client.asynchronous import CLOSED, AsyncClient, Events
from posegate.client.tls import Tls
from posegate.client.transport import Document, Picture

Result = TypeVar("Result")


class Client:
    """See AsyncClient; use it as a context manager, or close it.

    A client that is never closed does not keep the program from ending. A forked process needs a
    client of its own, as the thread stays behind in its parent; over gRPC even that hangs while the
    parent has a client open, so start processes by `spawn` there.
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
        async def connect() -> AsyncClient:
            return AsyncClient(url, api_key=api_key, timeout_s=timeout_s, retries=retries, tls=tls)

        self._loop = _Loop()
        try:
            self._client = self._loop.call(connect)
        except BaseException:
            self._loop.close(None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections and the thread go; a second call does nothing."""
        self._loop.close(self._client.close)

    def estimate(self, image: Picture, **options: Any) -> Document:
        """The `Poses` document of one encoded picture; options as in the HTTP query."""
        return self._loop.call(lambda: self._client.estimate(image, **options))

    def models(self) -> list[Document]:
        """The model cards."""
        return self._loop.call(self._client.models)

    def stream(self, frames: Iterable[Picture], **options: Any) -> Generator[Document]:
        """One event per encoded frame, in order, then the summary."""

        async def begin() -> Events:
            return self._client.begin(frames, options)

        events = self._loop.call(begin)
        try:
            while (event := self._loop.call(events.next)) is not None:
                yield event
        finally:
            self._loop.leave(events.leave)


class _Loop:
    """An event loop in a thread that ends with the program."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._closed = False
        self._taking = RLock()  # the garbage collector may leave a stream inside of it
        self._ended = asyncio.Event()
        begun: Future[asyncio.AbstractEventLoop] = Future()
        life = self._live(begun)
        self._thread = Thread(target=asyncio.run, args=(life,), name="posegate client", daemon=True)
        self._thread.start()
        self._loop = begun.result()

    def call(self, function: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run the coroutine there and wait for it; when the wait is interrupted, it goes on."""
        if self._process != os.getpid():
            raise RuntimeError("this client is of another process; make one after the fork")
        with self._taking:
            if self._closed:
                raise RuntimeError(CLOSED)
            asked = asyncio.run_coroutine_threadsafe(function(), self._loop)
        try:
            return asked.result()
        except CancelledError:
            if self._closed:
                raise RuntimeError(CLOSED) from None
            raise

    def leave(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """As `call`, but does nothing where the loop is gone, nor waits in the loop's own thread.

        The garbage collector may leave a stream there, and would wait for what it holds up.
        """
        if sys.is_finalizing() or self._process != os.getpid():
            return
        with self._taking:
            if self._closed:
                return
            leaving = asyncio.run_coroutine_threadsafe(function(), self._loop)
        if current_thread() is not self._thread:
            with suppress(CancelledError):  # by a close meanwhile
                leaving.result()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        """Run the last coroutine, cancel what still runs there and end the thread; only once."""
        with self._taking:
            if self._closed or self._process != os.getpid():
                return
            self._closed = True
        try:
            if last is not None:
                asyncio.run_coroutine_threadsafe(last(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    async def _live(self, begun: "Future[asyncio.AbstractEventLoop]") -> None:
        begun.set_result(asyncio.get_running_loop())
        await self._ended.wait()

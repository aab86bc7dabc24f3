"""The same client for code without asyncio: an event loop of its own in a thread."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import start_blocking_portal

from posegate.client.asynchronous import AsyncClient
from posegate.client.tls import Tls
from posegate.client.transport import Document


class Client:
    """See AsyncClient; use it as a context manager."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
        tls: Tls | None = None,
    ) -> None:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._client = self._portal.call(
                lambda: AsyncClient(
                    url, api_key=api_key, timeout_s=timeout_s, retries=retries, tls=tls
                )
            )
            self._stack = stack.pop_all()

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
        """Let the connections and the thread go."""
        self._portal.call(self._client.close)
        self._stack.close()

    def estimate(self, image: bytes, **options: Any) -> Document:
        """The `Poses` document of one encoded picture; options as in the HTTP query."""
        return self._portal.call(lambda: self._client.estimate(image, **options))

    def models(self) -> list[Document]:
        """The model cards."""
        return self._portal.call(self._client.models)

    def stream(self, frames: Iterable[bytes], **options: Any) -> Iterator[Document]:
        """One event per encoded frame, in order, then the summary."""
        events = _Events(self._client.stream(frames, **options))
        try:
            while (event := self._portal.call(events.next)) is not None:
                yield event
        finally:
            self._portal.call(events.close)


class _Events:
    """Events that can be closed while the next one is waited for, as an interrupt does."""

    def __init__(self, events: AsyncGenerator[Document]) -> None:
        self._events = events
        self._asked: asyncio.Task[Document | None] | None = None

    async def next(self) -> Document | None:
        """The next event, None after the last."""
        self._asked = asyncio.create_task(self._next())
        return await self._asked

    async def close(self) -> None:
        """Wait for nothing more and let the stream go."""
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.wait([self._asked])
        await self._events.aclose()

    async def _next(self) -> Document | None:
        return await anext(self._events, None)

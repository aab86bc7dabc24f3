"""How many requests are worked on at a time, for how long, and only while somebody waits."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from posegate.errors import DeadlineExceeded, Overloaded

Result = TypeVar("Result")

MESSAGE_ROOM = 2
"""Messages of gRPC and WebSocket up to so many times `max_body_bytes` are read, so that a picture
over the limit costs one clear error and not the whole stream."""


class Slots:
    """Bounds the requests in flight. Taken before the body is read, so it bounds memory as well."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._coming = 0

    @property
    def spoken_for(self) -> bool:
        """True while every slot is taken or has somebody on the way to it."""
        return self._taken + self._coming >= self._count

    def expect(self) -> None:
        """Somebody is on the way to a slot, and takes it in the next turn of the event loop."""
        self._coming += 1
        asyncio.get_running_loop().call_soon(self._came)

    def refusal(self) -> Overloaded:
        """What a caller is told while all slots are taken."""
        return Overloaded(
            f"{self._count} requests are already in flight, the most this service takes "
            "(max_images); try again later"
        )

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one slot; Overloaded at once when all are held."""
        if self._taken >= self._count:
            raise self.refusal()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def _came(self) -> None:
        self._coming -= 1


@dataclass(frozen=True, slots=True)
class Deadline:
    """Moment `at` (on `time.monotonic`'s clock), `timeout_s` after the request began."""

    at: float
    timeout_s: float

    @classmethod
    def after(cls, asked_s: float | None, *, limit_s: float) -> "Deadline":
        """The client may ask for less time than the service's own limit, never for more."""
        timeout_s = limit_s if asked_s is None else min(asked_s, limit_s)
        return cls(time.monotonic() + timeout_s, timeout_s)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Cancel the work inside when the moment has come."""
        try:
            async with asyncio.timeout(self.at - time.monotonic()):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no answer within {self.timeout_s:g} s; ask for more time with X-Request-Timeout "
                "(the service's own limit is request_timeout_s) or send less work"
            ) from error


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Result of `work`, which is cancelled when the client hangs up. The body must be read."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_hung_up(request))
    watcher.add_done_callback(lambda done: None if done.cancelled() else task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        if watcher.done() and not watcher.cancelled():
            raise ClientDisconnect from None
        task.cancel()
        raise
    finally:
        watcher.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue

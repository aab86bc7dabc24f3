"""The seam between the client and a wire, and what went wrong as the project's own errors."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import Any, Protocol

from posegate.errors import (
    BackendDown,
    BadImage,
    BadOption,
    DeadlineExceeded,
    Overloaded,
    PosegateError,
    TooLarge,
    Unauthenticated,
    UnknownModel,
)

Document = dict[str, Any]
Frames = AsyncIterable[bytes] | Iterable[bytes]

BY_SLUG: dict[str, type[PosegateError]] = {
    "bad-image": BadImage,
    "too-large": TooLarge,
    "bad-option": BadOption,
    "unknown-model": UnknownModel,
    "overloaded": Overloaded,
    "deadline": DeadlineExceeded,
    "unavailable": BackendDown,
    "unauthenticated": Unauthenticated,
}


class Transport(Protocol):
    """One way to talk to the service; documents look the same whichever it is."""

    async def estimate(self, image: bytes, options: Document, timeout_s: float) -> Document:
        """The `Poses` document of one encoded picture."""
        ...

    async def models(self, timeout_s: float) -> list[Document]:
        """The model cards."""
        ...

    def stream(self, frames: Frames, options: Document) -> AsyncGenerator[Document]:
        """One event per frame, in order, and the summary."""
        ...

    async def close(self) -> None:
        """Let the connection go."""
        ...


def error_of(slug: str, detail: str, retry_after_s: float | None = None) -> PosegateError:
    """The error that the service meant; `retry_after_s` is set where trying again makes sense."""
    return BY_SLUG.get(slug, PosegateError)(detail, retry_after_s=retry_after_s)


def unreachable(url: str, reason: object) -> BackendDown:
    """Nobody answers there. Trying again makes no sense where certificates are at fault."""
    retry_after_s = None if _is_about_certificates(reason) else 0.2
    return BackendDown(f"no answer from {url}: {reason}", retry_after_s=retry_after_s)


async def each(frames: Frames) -> AsyncIterator[bytes]:
    """The frames one by one; a plain iterator is asked in a thread, as a camera may block."""
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
        return
    iterator = iter(frames)
    while (data := await asyncio.to_thread(next, iterator, None)) is not None:
        yield data


def failure(sending: "asyncio.Task[None]") -> BaseException | None:
    """What the frames themselves raised, if that is why the stream ended."""
    return sending.exception() if sending.done() and not sending.cancelled() else None


def _is_about_certificates(reason: object) -> bool:
    while isinstance(reason, BaseException):
        if isinstance(reason, ssl.SSLError):
            return True
        reason = reason.__cause__ or reason.__context__
    return False

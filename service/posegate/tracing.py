"""The seam for traces: a span per request, and below it one per stretch of a stage.

A request's clocks are collected in a context variable, so that no handler needs to know whether
anybody listens.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from posegate.stages import StageClock

_clocks: ContextVar[list[StageClock] | None] = ContextVar("clocks", default=None)


@dataclass(slots=True)
class About:
    """What is known of a request once it has been answered."""

    name: str = ""
    attributes: dict[str, str | int] = field(default_factory=dict)
    failed: bool = False


class Tracing(Protocol):
    """Where requests and frames are reported."""

    def request(self, headers: Mapping[str, str]) -> AbstractContextManager[About]:
        """Trace what happens inside; header names are in lower case (W3C traceparent)."""
        ...

    def frame(self, clock: StageClock, number: int | None, event: str) -> None:
        """Report a frame that was just answered, in the context of its stream."""
        ...

    def close(self) -> None:
        """Send what was not sent yet; may take seconds."""
        ...


class Untraced:
    """Nobody listens."""

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[About]:
        yield About()

    def frame(self, clock: StageClock, number: int | None, event: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def follow(clock: StageClock) -> StageClock:
    """Make the clock's stages spans of the request in whose context this is called."""
    clocks = _clocks.get()
    if clocks is not None:
        clocks.append(clock)
    return clock


@contextmanager
def followed() -> Iterator[list[StageClock]]:
    """The clocks that are followed in the context inside."""
    clocks: list[StageClock] = []
    token = _clocks.set(clocks)
    try:
        yield clocks
    finally:
        _clocks.reset(token)

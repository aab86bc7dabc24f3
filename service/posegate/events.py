"""What a stream tells its sender: one event per frame, and a summary at the end."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from posegate.metrics import DROP_REASONS
from posegate.pipeline import Estimate
from posegate.tracking import Tracks


@dataclass(frozen=True, slots=True)
class Result:
    """One frame's people; `tracks` is None unless tracking was asked for."""

    kind: ClassVar[str] = "result"
    frame: int
    age_ms: float
    estimate: Estimate
    tracks: Tracks | None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that was not estimated; `reason` is one of DROP_REASONS."""

    kind: ClassVar[str] = "dropped"
    frame: int
    age_ms: float
    stages_ms: dict[str, float]
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A frame with an error; `frame` is None for a message that was no frame."""

    kind: ClassVar[str] = "error"
    frame: int | None
    age_ms: float
    stages_ms: dict[str, float]
    error: Exception


@dataclass(frozen=True, slots=True)
class Summary:
    """The last event. Ages are those of the results, None where there was none."""

    frames: int
    results: int
    errors: int
    dropped: dict[str, int]
    age_p50_ms: float | None
    age_p95_ms: float | None


FrameEvent = Result | Dropped | Failed
Event = FrameEvent | Summary

SMALLEST_MS = 0.1
STEP = 1.02
BINS = 900
"""Ages from 0.1 ms to more than an hour, told apart to 2 %."""


class Tally:
    """Counts of one stream, in memory that does not grow with its length."""

    def __init__(self) -> None:
        self._results = 0
        self._errors = 0
        self._dropped = dict.fromkeys(DROP_REASONS, 0)
        self._ages = np.zeros(BINS, np.int64)
        self._oldest_ms = 0.0

    def add(self, event: FrameEvent) -> None:
        """Count the event of one frame; a message that was no frame does not count."""
        match event:
            case Result():
                self._results += 1
                self._ages[_age_bin(event.age_ms)] += 1
                self._oldest_ms = max(self._oldest_ms, event.age_ms)
            case Dropped():
                self._dropped[event.reason] += 1
            case Failed():
                self._errors += event.frame is not None

    def summary(self) -> Summary:
        frames = self._results + self._errors + sum(self._dropped.values())
        return Summary(
            frames=frames,
            results=self._results,
            errors=self._errors,
            dropped=dict(self._dropped),
            age_p50_ms=self._age_ms(0.5),
            age_p95_ms=self._age_ms(0.95),
        )

    def _age_ms(self, share: float) -> float | None:
        if not self._results:
            return None
        index = int(np.searchsorted(self._ages.cumsum(), share * self._results))
        return min(float(SMALLEST_MS * STEP ** (index + 0.5)), self._oldest_ms)


def _age_bin(age_ms: float) -> int:
    steps = np.log(max(age_ms, SMALLEST_MS) / SMALLEST_MS) / np.log(STEP)
    return min(int(steps), BINS - 1)

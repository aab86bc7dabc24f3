"""Where the time of one request goes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from posegate.metrics import STAGES


@dataclass(frozen=True, slots=True)
class Stretch:
    """Time spent on one stage without a break, from `after_s` after the start."""

    stage: str
    after_s: float
    seconds: float


class StageClock:
    """Splits the time since it was made over the stages, without gaps or overlaps.

    >>> times = iter([0.0, 2.0, 5.0])
    >>> clock = StageClock(now=lambda: next(times))
    >>> clock.mark("decode")
    >>> clock.attribute("queue", 1.0)
    >>> clock.mark("infer")
    >>> clock.stages_ms
    {'decode': 2000.0, 'queue': 1000.0, 'infer': 2000.0}
    >>> clock.total_ms
    5000.0
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._began = self._marked = now()
        self._stretches: list[Stretch] = []

    def mark(self, stage: str) -> None:
        """Give the time since the last mark to a stage."""
        now = self._now()
        self.attribute(stage, now - self._marked)
        self._marked = now

    def attribute(self, stage: str, seconds: float) -> None:
        """Give a part of the time since the last mark to a stage; the next mark gets the rest."""
        assert stage in STAGES, stage
        self._stretches.append(Stretch(stage, self._marked - self._began, seconds))
        self._marked += seconds

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """What the time went to, in order and without gaps."""
        return tuple(self._stretches)

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of each stage that took part, in the order of the contract."""
        seconds = dict.fromkeys(STAGES, 0.0)
        for stretch in self._stretches:
            seconds[stretch.stage] += stretch.seconds
        met = {stretch.stage for stretch in self._stretches}
        return {stage: seconds[stage] * 1000 for stage in STAGES if stage in met}

    @property
    def total_ms(self) -> float:
        """Milliseconds from the start to the last mark."""
        return sum(stretch.seconds for stretch in self._stretches) * 1000

    @property
    def age_s(self) -> float:
        """Seconds since the start."""
        return self._now() - self._began

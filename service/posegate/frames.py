"""Frames of one stream -> their outcomes, in order: who is estimated, who waits, who is dropped."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from posegate.errors import PosegateError, TooLarge
from posegate.image import check_size
from posegate.pipeline import Estimate
from posegate.stages import StageClock

log = logging.getLogger(__name__)

MAX_UNDELIVERED = 1024
"""Outcomes that may wait for a slow reader, or for an older frame, before the sender is held up."""
BURST_S = 0.25
"""How much earlier than the rate cap says a frame may come, so that jitter costs no frame."""

Outcome = Estimate | str | Exception
"""What became of a frame: an estimate, the reason why it was dropped, or an error."""
Work = Callable[[bytes, StageClock, float], Awaitable[Estimate]]


@dataclass(slots=True, eq=False)
class Frame:
    """One message of the sender; `number` is None where it was no frame. Times are monotonic."""

    number: int | None
    data: bytes | None
    arrived: float = field(default_factory=time.monotonic)
    clock: StageClock = field(default_factory=StageClock)
    outcome: Outcome | None = None
    worked_on: bool = False

    def settle(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.data = None


class RateCap:
    """At most `per_second` frames a second in the long run, with a short burst allowed."""

    def __init__(self, per_second: float) -> None:
        self._interval_s = 1 / per_second
        self._due = float("-inf")

    def admits(self, now: float) -> bool:
        """Whether a frame may come now; if so, it counts."""
        if self.wait_s(now) > 0:
            return False
        self.count(now)
        return True

    def count(self, now: float) -> None:
        """A frame has come."""
        self._due = max(self._due, now - BURST_S) + self._interval_s

    def wait_s(self, now: float) -> float:
        """Seconds until the next frame may come."""
        return max(self._due - now, 0.0)


class FrameQueue:
    """At most `max_in_flight` frames are worked on at a time.

    As many more may be done and not yet delivered: a slow reader slows the work, so that few
    pictures are held for it. While it is `live`, one more frame waits, and a newer one takes its
    place; else the sender has to wait.
    """

    def __init__(self, work: Work, *, max_in_flight: int, max_fps: float, max_bytes: int) -> None:
        self._work = work
        self._max_bytes = max_bytes
        self.live = True
        self._max_in_flight = max_in_flight
        self._rate = RateCap(max_fps)
        self._count = 0
        self._undelivered: deque[Frame] = deque()
        self._waiting: deque[Frame] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._undelivered_work = 0
        self._ended = False
        self._error: Exception | None = None

    async def offer(self, item: bytes | PosegateError) -> None:
        """Take one message; returns when the sender may send the next.

        An error stands for a message that was no frame.
        """
        while len(self._undelivered) >= MAX_UNDELIVERED:
            await self._change()
        if isinstance(item, PosegateError):
            self._undelivered.append(Frame(None, None, outcome=item))
            self._changed.set()
            return
        frame = Frame(self._count, item)
        self._count += 1
        self._undelivered.append(frame)
        try:
            check_size(item, self._max_bytes)
        except TooLarge as error:  # it must not wait: that takes memory
            frame.settle(error)
            self._changed.set()
            return
        if self.live:
            self._take_newest(frame)
        else:
            self._waiting.append(frame)
            self._start_waiting()
            await self._held_up(frame)

    def end(self, error: Exception | None = None) -> None:
        """No more frames will come; those taken are finished, unless an error ended the stream."""
        self._ended = True
        self._error = error
        self._changed.set()

    async def settled(self) -> AsyncIterator[Frame]:
        """Every frame in order, once its outcome is known; raises what ended the stream."""
        while True:
            if self._error is not None:
                raise self._error
            if self._undelivered and self._undelivered[0].outcome is not None:
                frame = self._undelivered.popleft()
                self._undelivered_work -= frame.worked_on
                self._start_waiting()
                self._changed.set()
                yield frame
            elif self._ended and not self._undelivered:
                return
            else:
                await self._change()

    async def close(self) -> None:
        """Give up what is being worked on."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _take_newest(self, frame: Frame) -> None:
        if not self._rate.admits(frame.arrived):
            frame.settle("rate")
        else:
            if self._waiting:
                self._waiting.popleft().settle("busy")
            self._waiting.append(frame)
            self._start_waiting()
        self._changed.set()

    async def _held_up(self, frame: Frame) -> None:
        """Return when the rate allows another frame and this one no longer waits."""
        self._rate.count(frame.arrived)  # even where a timer woke its sender a moment too early
        await asyncio.sleep(self._rate.wait_s(time.monotonic()))
        while self._waiting:
            await self._change()

    def _start_waiting(self) -> None:
        limit = self._max_in_flight
        while self._waiting and len(self._running) < limit and self._undelivered_work < limit:
            task = asyncio.create_task(self._run(self._waiting.popleft()))
            self._running.add(task)
            task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._start_waiting()
        self._changed.set()

    async def _run(self, frame: Frame) -> None:
        assert frame.data is not None
        frame.clock.mark("queue")
        try:
            frame.settle(await self._work(frame.data, frame.clock, frame.arrived))
        except PosegateError as error:
            frame.settle(error)
        except Exception as error:  # one frame's failure must not end the stream
            log.exception("frame failed")
            frame.settle(error)
        frame.worked_on = True
        self._undelivered_work += 1

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

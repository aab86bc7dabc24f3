"""Frames in, one event per frame out, then a summary: the stream contract, for both faces."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from posegate.errors import (
    BackendDown,
    BadOption,
    DeadlineExceeded,
    Overloaded,
    PosegateError,
    status_of,
)
from posegate.events import Dropped, Event, Failed, FrameEvent, Result, Tally
from posegate.following import Follower
from posegate.frames import Frame, FrameQueue
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.pipeline import Estimate, Pipeline
from posegate.settings import Settings
from posegate.stages import StageClock
from posegate.tracing import Tracing, Untraced

MODES = ("live", "every")
MAX_DETECT_EVERY = 1000


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What the first message of a stream may ask.

    With `detect_every` N the detector looks at one of N frames; in between, the people it found
    are followed by their keypoints.
    """

    estimate: EstimateOptions = field(default_factory=EstimateOptions)
    mode: str = "live"
    track: bool = False
    detect_every: int = 1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BadOption(f"mode is {self.mode!r}; it must be one of {', '.join(MODES)}")
        if not 1 <= self.detect_every <= MAX_DETECT_EVERY:
            raise BadOption(
                f"detect_every is {self.detect_every}; it must be 1 to {MAX_DETECT_EVERY}"
            )
        if self.detect_every > 1 and not self.track:
            raise BadOption("detect_every above 1 needs track: in between, tracks carry the boxes")
        if self.detect_every > 1 and self.estimate.boxes_xywh is not None:
            raise BadOption("detect_every above 1 and boxes exclude each other: leave one out")


Send = Callable[[Event], Awaitable[None]]
Incoming = AsyncIterator[StreamOptions | bytes | PosegateError]
"""Options, frames, and errors that stand for messages that were neither."""


class Streams:
    """All streams of the process: their number is bounded, and they can be asked to finish."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing or Untraced()
        self._open = 0
        self._finish = asyncio.Event()
        self._none_open = asyncio.Event()
        self._none_open.set()

    @property
    def finishing(self) -> bool:
        """True once no new stream is taken."""
        return self._finish.is_set()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold the right to one stream; Overloaded at once when all are held."""
        if self.finishing:
            raise BackendDown("the service is stopping; connect again", retry_after_s=1.0)
        if self._open >= self._settings.max_streams:
            raise Overloaded(
                f"{self._open} streams are open, the most this service takes (max_streams); "
                "try again later"
            )
        self._open += 1
        self._none_open.clear()
        try:
            yield
        finally:
            self._open -= 1
            if self._open == 0:
                self._none_open.set()

    async def run(self, incoming: Incoming, send: Send) -> None:
        """Send one event per frame, in order, then the summary; the caller holds a slot.

        Ends when `incoming` does, or when all streams are asked to finish. Raises what is wrong
        with the first message, and DeadlineExceeded when the client does not read its events.
        """
        stream = _Stream(self._pipeline, self._settings, self._metrics, self._tracing)
        await stream.run(incoming, send, self._finish)

    async def finish(self) -> None:
        """Take no more frames, and wait until every stream has sent its summary."""
        self._finish.set()
        await self._none_open.wait()


class _Stream:
    """One stream: its queue, its tracker, its counts."""

    def __init__(
        self, pipeline: Pipeline, settings: Settings, metrics: Metrics, tracing: Tracing
    ) -> None:
        self._pipeline = pipeline
        self._tracing = tracing
        self._options = StreamOptions()
        self._timeout_s = settings.request_timeout_s
        self._metrics = metrics
        self._follower: Follower | None = None
        self._tally = Tally()
        self._queue = FrameQueue(
            self._estimate,
            max_in_flight=settings.max_in_flight,
            max_fps=settings.max_stream_fps,
            max_bytes=settings.max_body_bytes,
        )

    async def run(self, incoming: Incoming, send: Send, finish: asyncio.Event) -> None:
        feeding = asyncio.create_task(self._feed(incoming, finish))
        try:
            async for frame in self._queue.settled():
                event = await self._event(frame)
                await self._send(event, send)
                self._record(event)
                self._tracing.frame(frame.clock, frame.number, event.kind)
            await self._send(self._tally.summary(), send)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            await self._queue.close()

    async def _feed(self, incoming: Incoming, finish: asyncio.Event) -> None:
        """Offer what comes until there is no more or all streams are to finish."""
        offering = asyncio.create_task(self._offer(incoming))
        asked = asyncio.create_task(finish.wait())
        try:
            await asyncio.wait((offering, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            offering.cancel()
            asked.cancel()
            outcome, _ = await asyncio.gather(offering, asked, return_exceptions=True)
            self._queue.end(outcome if isinstance(outcome, Exception) else None)

    async def _offer(self, incoming: Incoming) -> None:
        begun = False
        async for item in incoming:
            if not begun:
                begun = True
                if self._begin(item):
                    continue
            if isinstance(item, StreamOptions):
                item = BadOption("options may only be the first message of a stream")
            await self._queue.offer(item)

    def _begin(self, first: StreamOptions | bytes | PosegateError) -> bool:
        """Take the options from the first message; False when it is a frame."""
        if isinstance(first, PosegateError):
            raise first
        if isinstance(first, StreamOptions):
            self._options = first
            self._queue.live = first.mode == "live"
            if first.track:
                self._follower = Follower(
                    first.estimate, live=self._queue.live, detect_every=first.detect_every
                )
        self._pipeline.check(self._options.estimate)
        return isinstance(first, StreamOptions)

    async def _estimate(self, data: bytes, clock: StageClock, arrived: float) -> Estimate:
        options = self._options.estimate
        if self._follower is not None:
            options = await self._follower.ask(arrived)
            clock.mark("queue")
        return await self._pipeline.estimate(
            data, options, deadline=arrived + self._timeout_s, clock=clock
        )

    async def _send(self, event: Event, send: Send) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await send(event)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no event was read for {self._timeout_s:g} s; read events while sending frames"
            ) from error

    async def _event(self, frame: Frame) -> FrameEvent:
        outcome, stages_ms = frame.outcome, frame.clock.stages_ms
        if isinstance(outcome, Estimate):
            frame.clock.mark("queue")  # the wait for older frames and for the reader
        tracks = None
        if self._follower is not None and frame.worked_on:
            assert isinstance(outcome, Estimate | Exception)
            outcome, tracks = await self._follower.settle(outcome, frame.arrived)
        age_ms = (time.monotonic() - frame.arrived) * 1000
        if isinstance(outcome, Exception):
            return Failed(frame.number, age_ms, stages_ms, outcome)
        assert frame.number is not None
        if isinstance(outcome, Estimate):
            return Result(frame.number, age_ms, outcome, tracks)
        assert isinstance(outcome, str)
        return Dropped(frame.number, age_ms, stages_ms, outcome)

    def _record(self, event: FrameEvent) -> None:
        self._tally.add(event)
        if isinstance(event, Result):
            self._metrics.observe_image(
                event.estimate.model, event.estimate.clock.stages_ms, len(event.estimate.poses)
            )
        elif isinstance(event, Dropped):
            self._metrics.frames_dropped.labels(reason=event.reason).inc()
        else:
            error = event.error
            slug = status_of(error).slug if isinstance(error, PosegateError) else "internal"
            self._metrics.rejected.labels(reason=slug).inc()

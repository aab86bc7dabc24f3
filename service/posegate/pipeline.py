"""bytes -> image -> boxes -> crops -> heatmaps -> keypoints: the only place that sees the whole."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from posegate.backends.workers import Workers
from posegate.budget import Budget
from posegate.catalog import Catalog
from posegate.detector import Detector
from posegate.errors import BackendDown, DeadlineExceeded, PosegateError
from posegate.estimator import Estimator, nobody
from posegate.headers import ImageHeader, is_jpeg
from posegate.image import ImageLimits, decode_image, read_header
from posegate.networks import Networks
from posegate.options import EstimateOptions
from posegate.people import surest_of_both
from posegate.pool import Pool
from posegate.stages import StageClock
from posegate.types import Boxes, Image, Poses

Draw = Callable[[Image, Poses], bytes]
"""Makes a file of the picture and its people."""

_BOXES_IN_PLACE = 4
"""Looked at together, or more, in place of boxes that held nobody: one after the other they would
take a crowd of things a turn each."""


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Of the upright picture, in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer for one image, without its pixels; `detector` is None when boxes were given.

    `network_s` is the part of the time that was spent inside the networks, in seconds. `drawn` is
    the file that was drawn, if any.
    """

    model: str
    detector: str | None
    image: ImageSize
    poses: Poses
    clock: StageClock
    network_s: float = 0.0
    drawn: bytes | None = None


class Pipeline:
    """Every network of the catalogue behind one call; owns all that `start` and `stop` touch."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        detectors: Mapping[str, Detector],
        estimators: Mapping[str, Estimator],
        networks: Networks,
        workers: Workers,
        pool: Pool,
        limits: ImageLimits,
        decoded: Budget,
        max_people: int = 100,
    ) -> None:
        self.catalog = catalog
        self._detectors = detectors
        self._estimators = estimators
        self.networks = networks
        self._workers = workers
        self._pool = pool
        # A PNG of 12 megapixels takes 0.9 s of a core to draw. Decoding must not wait for that, nor
        # may pictures that wait for it take all the pixels.
        self._drawing = Pool(max(1, pool.threads // 2))
        self._drawn_turns = asyncio.Semaphore(pool.threads + self._drawing.threads)
        self._limits = limits
        self._decoded = decoded
        self._max_people = max_people
        self._working: set[asyncio.Task[Estimate]] = set()

    async def estimate(
        self,
        data: bytes,
        options: EstimateOptions,
        *,
        deadline: float | None = None,
        clock: StageClock | None = None,
        draw: Draw | None = None,
    ) -> Estimate:
        """Every person's keypoints in an encoded image, in the frame of the upright image.

        `deadline` is a `time.monotonic()` value. `clock` may have begun before, to count reading.
        `draw` makes the answer's `drawn`. A caller that is cancelled does not wait for threads that
        still work on the image.
        """
        work = self._estimate(data, options, deadline, clock or StageClock(), draw)
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                return await self._result_of(work)
        except TimeoutError as error:
            raise DeadlineExceeded(
                "the deadline passed before the poses were ready; allow more time"
            ) from error
        except PosegateError as error:
            error.__traceback__ = None  # its frames hold the picture
            raise

    def check(self, options: EstimateOptions) -> None:
        """Refuse what cannot work before an image is read: unknown networks, too many people,
        networks that are not ready.

        Raises UnknownModel, BadOption or BackendDown. A detector that is named must be there, also
        where given boxes leave it without work.
        """
        self.catalog.get(options.model, "pose")
        if options.boxes_xywh is None or options.detector is not None:
            self.catalog.get(options.detector, "detect")
        options.most_people(self._max_people)
        reason = self.networks.reasons(self._networks_for(options))
        if reason is not None:
            raise BackendDown(f"the service is not ready: {reason}; see /readyz and try again")

    async def find_people(self, data: bytes, options: EstimateOptions) -> Boxes:
        """The first half of `estimate` alone: the people the detector sees, best first."""
        image = await self._pool.run(partial(decode_image, data, self._limits))
        _, boxes, _ = await self._find_people(image, options, None, StageClock())
        return boxes[: options.most_people(self._max_people)]

    async def start(self) -> None:
        """Load every network and warm it up."""
        try:
            await self.networks.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finish what runs, then let networks and threads go."""
        await self.networks.stop()
        await asyncio.gather(*self._working, return_exceptions=True)
        self._workers.close()
        self._pool.close()
        self._drawing.close()

    def ready(self) -> str | None:
        """None when requests that name no network can be answered, else the reasons why not."""
        return self.networks.ready()

    async def _result_of(self, work: Coroutine[Any, Any, Estimate]) -> Estimate:
        """Wait for the work; a cancelled caller does not wait for its end, which threads delay."""
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        finally:
            task.cancel()

    def _ended(self, task: asyncio.Task[Estimate]) -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled does not fetch it

    async def _estimate(
        self,
        data: bytes,
        options: EstimateOptions,
        deadline: float | None,
        clock: StageClock,
        draw: Draw | None,
    ) -> Estimate:
        """Estimate with room for the pixels, taken once the networks can run, held to the end."""
        header = await self._read_header(data)
        pixels = header.width * header.height
        asked = time.monotonic()
        for name in self._networks_for(options):
            await self.networks[name].awake(deadline=deadline)
        async with self._drawn_turns if draw else nullcontext():
            await self._decoded.take(pixels)
            clock.attribute("queue", time.monotonic() - asked)
            try:
                return await self._estimate_in_turn(data, options, deadline, clock, draw)
            finally:
                self._decoded.give_back(pixels)

    async def _read_header(self, data: bytes) -> ImageHeader:
        """A JPEG's is read within microseconds, a PNG's may take 4 ms."""
        read = partial(read_header, data, self._limits)
        return read() if is_jpeg(data) else await self._pool.run(read)

    def _networks_for(self, options: EstimateOptions) -> Iterator[str]:
        if options.boxes_xywh is None:
            yield self.catalog.get(options.detector, "detect").name
        yield self.catalog.get(options.model, "pose").name

    async def _estimate_in_turn(
        self,
        data: bytes,
        options: EstimateOptions,
        deadline: float | None,
        clock: StageClock,
        draw: Draw | None,
    ) -> Estimate:
        model = self.catalog.get(options.model, "pose").name
        image = await self._pool.run(partial(decode_image, data, self._limits))
        clock.mark("decode")
        detector, boxes, network_s = await self._find_people(image, options, deadline, clock)
        poses, infer_s = await self._estimate_boxes(
            image,
            boxes,
            options,
            deadline,
            clock,
            min_score=None if detector is None else options.min_score,
        )
        network_s += infer_s
        drawn = None
        if draw is not None:
            drawn = await self._drawing.run(partial(draw, image, poses))
            clock.mark("encode")
        size = ImageSize(image.width, image.height)
        return Estimate(model, detector, size, poses, clock, network_s, drawn)

    async def _estimate_boxes(
        self,
        image: Image,
        boxes: Boxes,
        options: EstimateOptions,
        deadline: float | None,
        clock: StageClock,
        *,
        min_score: float | None,
    ) -> tuple[Poses, float]:
        """The people in the boxes, no more than were asked for, and the network's seconds.

        Where boxes turn out to hold nobody, or somebody already found, the next ones are looked at.
        """
        estimator = self._estimators[self.catalog.get(options.model, "pose").name]
        most = turn = options.most_people(self._max_people)
        poses, network_s = nobody(estimator.names), 0.0
        while len(boxes) and len(poses) < most:
            found, infer_s = await estimator.estimate(
                image,
                boxes[:turn],
                decode=options.decode,
                flip_test=options.flip_test,
                deadline=deadline,
                clock=clock,
                min_score=min_score,
            )
            network_s += infer_s
            if min_score is not None and (len(poses) or len(found) > most):
                surest = partial(surest_of_both, poses, found, min_score, most)
                found = await self._pool.run(surest)
                clock.mark("keypoints")
            poses, boxes = found, boxes[turn:]
            turn = max(most - len(poses), _BOXES_IN_PLACE)
        return poses, network_s

    async def _find_people(
        self, image: Image, options: EstimateOptions, deadline: float | None, clock: StageClock
    ) -> tuple[str | None, Boxes, float]:
        """The detector's name, the people to look at, best first, and its network's seconds."""
        if options.boxes_xywh is not None:
            return None, options.given_boxes(image), 0.0
        name = self.catalog.get(options.detector, "detect").name
        detection = await self._detectors[name].detect(
            image, min_score=options.min_score, deadline=deadline
        )
        clock.attribute("queue", detection.queue_s)
        clock.mark("detect")
        return name, detection.boxes[: self._max_people], detection.infer_s

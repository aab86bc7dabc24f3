"""Frames of a tracked stream: what to ask about each of them, and who is who in its answer."""

import asyncio
from dataclasses import replace

from posegate.options import EstimateOptions
from posegate.people import sure_people
from posegate.pipeline import Estimate, ImageSize
from posegate.tracking import Tracker, Tracks
from posegate.types import Poses

FRAME_S = 1 / 30
"""How far apart in time frames are taken to be where all of them are estimated."""


class Follower:
    """The tracker of one stream, and the turns of its detector.

    The detector looks at one of `detect_every` frames; in the others people are sought where their
    tracks carried them. `ask` and `settle` are called for the same frames in the same order.
    """

    def __init__(self, options: EstimateOptions, *, live: bool, detect_every: int) -> None:
        self._options = options
        self._live = live
        self._detect_every = detect_every
        self._tracker: Tracker | None = None
        self._asked = 0
        self._settled = 0
        self._detection: int | None = None
        self._size: ImageSize | None = None
        self._in_order = asyncio.Lock()
        self._changed = asyncio.Event()

    async def ask(self, arrived: float) -> EstimateOptions:
        """What to ask about the next frame, which came at `arrived` (monotonic).

        A frame between detections waits until the last one's people are known; where every frame is
        estimated, until all before it are, so that the answers do not depend on the sender's pace.
        A detection that failed is made up for by the next frame; so is a frame that lost everybody,
        as a black one does.
        """
        number = self._asked
        self._asked += 1
        async with self._in_order:  # an earlier frame may yet be the one to be detected
            while (last := self._detection) is not None and number - last < self._detect_every:
                needed = last if self._live else number - 1
                if self._settled <= needed:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                now_s = self._time_s(number, arrived)
                boxes = self._tracker.carry(now_s) if self._tracker else None
                if boxes is None:
                    break
                return replace(self._options, boxes_xywh=boxes, guessed=True)
            self._detection = number
            return self._options

    async def settle(
        self, outcome: Estimate | Exception, arrived: float
    ) -> tuple[Estimate | Exception, Tracks | None]:
        """Update the tracks with a frame's outcome, and the outcome's boxes with the tracks'."""
        try:
            if not isinstance(outcome, Estimate):
                if self._settled == self._detection:
                    self._detect_again()
                return outcome, None
            tracker = self._tracker = self._tracker or Tracker(outcome.poses.names)
            carried = outcome.detector is None and self._options.boxes_xywh is None
            self._heed_size(tracker, outcome.image, carried=carried)
            now_s = self._time_s(self._settled, arrived)
            someone = tracker.sees_someone
            if carried:
                tracks = await asyncio.to_thread(self._carried, tracker, outcome.poses, now_s)
            else:
                tracks = await asyncio.to_thread(tracker.update, outcome.poses, now_s)
            if someone and not tracker.sees_someone:
                self._detect_again()
            outcome.clock.mark("keypoints")
            return replace(outcome, poses=tracks.poses), tracks
        finally:
            self._settled += 1
            self._changed.set()

    def _heed_size(self, tracker: Tracker, size: ImageSize, *, carried: bool) -> None:
        """Scale the tracks where frames change their size.

        Boxes that were carried into such a frame were of the old size: the next one is detected.
        """
        former, self._size = self._size, size
        if former is None or former == size:
            return
        tracker.resize(size.width / former.width, size.height / former.height)
        if carried:
            self._detect_again()

    def _detect_again(self) -> None:
        """Let the detector look at the next frame, unless it was asked about a later one."""
        if self._detection is not None and self._detection <= self._settled:
            self._detection = None

    def _carried(self, tracker: Tracker, poses: Poses, now_s: float) -> Tracks:
        """The tracks after a frame where only joints tell who is still there."""
        sure = sure_people(poses, self._options.min_score)
        return tracker.update(sure, now_s, carried=True)

    def _time_s(self, number: int, arrived: float) -> float:
        """When a frame was taken: when it came, or by its number.

        Where no frame is dropped the sender is held up, so that frames come at our pace in bursts.
        """
        return arrived if self._live else number * FRAME_S

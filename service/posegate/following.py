"""Frames of a tracked stream: what to ask about each of them, and who is who in its answer."""

import asyncio
from dataclasses import replace

from posegate.options import EstimateOptions
from posegate.people import sure_people
from posegate.pipeline import Estimate
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
        self._changed = asyncio.Event()

    async def ask(self, arrived: float) -> EstimateOptions:
        """What to ask about the next frame, which came at `arrived` (monotonic).

        A frame between detections waits until the last one's people are known; where every frame is
        estimated, until all before it are, so that the answers do not depend on the sender's pace.
        """
        number = self._asked
        self._asked += 1
        last = self._detection
        if last is not None and number - last < self._detect_every:
            needed = last if self._live else number - 1
            while self._settled <= needed:
                self._changed.clear()
                await self._changed.wait()
            boxes = self._tracker.carry(self._time_s(number, arrived)) if self._tracker else None
            if boxes is not None:
                return replace(self._options, boxes_xywh=boxes, guessed=True)
        self._detection = number
        return self._options

    async def settle(
        self, outcome: Estimate | Exception, arrived: float
    ) -> tuple[Estimate | Exception, Tracks | None]:
        """Take a frame's outcome to the tracks; carried boxes in it become the tracks' own."""
        try:
            if not isinstance(outcome, Estimate):
                return outcome, None
            tracker = self._tracker = self._tracker or Tracker(outcome.poses.names)
            now_s = self._time_s(self._settled, arrived)
            if outcome.detector is None and self._options.boxes_xywh is None:
                tracks = await asyncio.to_thread(self._carried, tracker, outcome.poses, now_s)
            else:
                tracks = await asyncio.to_thread(tracker.update, outcome.poses, now_s)
            outcome.clock.mark("keypoints")
            return replace(outcome, poses=tracks.poses), tracks
        finally:
            self._settled += 1
            self._changed.set()

    def _carried(self, tracker: Tracker, poses: Poses, now_s: float) -> Tracks:
        """The tracks after a frame where only joints tell who is still there."""
        sure = sure_people(poses, self._options.min_score)
        return tracker.update(sure, now_s, carried=True)

    def _time_s(self, number: int, arrived: float) -> float:
        """When a frame was taken: when it came, or by its number.

        Where no frame is dropped the sender is held up, so that frames come at our pace in bursts.
        """
        return arrived if self._live else number * FRAME_S

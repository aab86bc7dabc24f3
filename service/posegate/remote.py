"""A service somewhere else in the place of the pipeline, for commands that take --url."""

import asyncio
import math
import time
from itertools import chain, repeat
from typing import Any

import numpy as np

from posegate.client import AsyncClient
from posegate.client.transport import Document
from posegate.errors import BackendDown
from posegate.image import ImageLimits, decode_image
from posegate.options import EstimateOptions
from posegate.pipeline import Draw, Estimate, ImageSize
from posegate.skeleton import COCO_KEYPOINTS
from posegate.stages import StageClock
from posegate.types import Boxes, Keypoints, Poses

HERE = ImageLimits(max_bytes=2**31, max_pixels=2**31)
"""The service judges pictures; what it took is decoded here whatever its size."""
RESTART_S = 60.0
"""How long a service that has answered before is waited for; where it never has, it is not."""


class RemotePipeline:
    """Answers `estimate` as a pipeline does, by asking a service."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._answered = -math.inf

    async def estimate(
        self,
        data: bytes,
        options: EstimateOptions,
        *,
        clock: StageClock | None = None,
        draw: Draw | None = None,
    ) -> Estimate:
        """Every person's keypoints; the stage times are those of the service."""
        document = await self._ask(data, as_query(options))
        poses, drawn = poses_of(document), None
        if draw is not None:
            drawn = await asyncio.to_thread(lambda: draw(decode_image(data, HERE), poses))
        seconds = {stage: ms / 1000 for stage, ms in document["stages_ms"].items()}
        times = chain([0.0], repeat(sum(seconds.values())))
        clock = StageClock(now=lambda: next(times))  # what comes after takes no time
        for stage, spent in seconds.items():
            clock.attribute(stage, spent)
        return Estimate(
            document["model"],
            document["detector"],
            ImageSize(**document["image"]),
            poses,
            clock,
            drawn=drawn,
        )

    async def _ask(self, data: bytes, query: Document) -> Document:
        """The service's answer, by the next one in its place where it is restarted meanwhile."""
        while True:
            try:
                document = await self._client.estimate(data, **query)
            except BackendDown as error:
                waited_s = time.monotonic() - self._answered
                if error.retry_after_s is None or waited_s > RESTART_S:
                    raise
                await asyncio.sleep(error.retry_after_s)
            else:
                self._answered = time.monotonic()
                return document


def as_query(options: EstimateOptions) -> Document:
    """The options as the client takes them, defaults left out.

    `min_keypoint_score` is left out as well, as it acts where keypoints are written out, later.
    """
    default = EstimateOptions()
    names = ("model", "detector", "min_score", "max_people", "flip_test", "decode")
    query: dict[str, Any] = {
        name: getattr(options, name)
        for name in names
        if getattr(options, name) != getattr(default, name)
    }
    if options.boxes_xywh is not None:
        query["boxes"] = options.boxes_xywh.tolist()
    return query


def poses_of(document: Document, *, keypoints: str = "keypoints") -> Poses:
    """The people of a `Poses` document, joints in its order; one that a person lacks has score 0.

    `keypoints` names the field: `keypoints` or `smoothed`.
    """
    people = document["people"]
    named = dict.fromkeys(name for person in people for name in person["keypoints"])
    names = tuple(named) or COCO_KEYPOINTS
    nowhere = [0.0, 0.0, 0.0]
    rows = [[person[keypoints].get(name, nowhere) for name in names] for person in people]
    joints = np.array(rows, np.float32).reshape(len(people), len(names), 3)
    xywh = np.array([person["box"] for person in people], np.float32).reshape(-1, 4)
    scores = np.array([person["score"] for person in people], np.float32)
    return Poses(Boxes.from_xywh(xywh, scores), Keypoints(joints[..., :2], joints[..., 2]), names)

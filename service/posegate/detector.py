"""image -> boxes: letterbox, run, non-maximum suppression."""

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np

from posegate.backends.base import Network
from posegate.card import LetterboxSpec, NmsSpec
from posegate.catalog import Model
from posegate.crops import Preprocess, letterbox
from posegate.pool import Pool
from posegate.types import F32, F64, Boxes, Image


@dataclass(frozen=True, slots=True)
class Detection:
    """People of one image, best first, and the seconds its network waited and ran."""

    boxes: Boxes
    queue_s: float
    infer_s: float


class Detector(Protocol):
    """Finds people in an image."""

    async def detect(
        self, image: Image, *, min_score: float = 0.0, deadline: float | None = None
    ) -> Detection:
        """Every person of at least `min_score`; boxes in image pixels, from edge 0 to W and H."""
        ...


class LetterboxDetector:
    """A detector whose network takes the whole picture, fitted into its input, in one run."""

    def __init__(self, model: Model, *, backend: Network, pool: Pool) -> None:
        card = model.card
        assert card.letterbox is not None
        assert card.nms is not None
        self._preprocess = Preprocess.of(card.input)
        self._letterbox: LetterboxSpec = card.letterbox
        self._nms: NmsSpec = card.nms
        self._backend = backend
        self._pool = pool

    async def detect(
        self, image: Image, *, min_score: float = 0.0, deadline: float | None = None
    ) -> Detection:
        tensor, input_to_image = await self._pool.run(
            partial(letterbox, image, self._preprocess, fill=self._letterbox.fill)
        )
        inference = await self._backend.infer(tensor, deadline=deadline)
        if self._nms.kind == "dets":
            boxes_xyxy, scores = inference.outputs[0][..., :4], inference.outputs[0][..., 4]
        else:
            boxes_xyxy, scores = inference.outputs
        boxes = await self._pool.run(
            partial(
                select_boxes,
                boxes_xyxy[0],
                scores[0],
                input_to_image,
                nms=self._nms,
                min_score=min_score,
                size_wh=(image.width, image.height),
            )
        )
        return Detection(boxes, inference.queue_s, inference.infer_s)


def select_boxes(
    boxes_xyxy: F32,
    scores: F32,
    input_to_image: F64,
    *,
    nms: NmsSpec,
    size_wh: tuple[int, int],
    min_score: float = 0.0,
) -> Boxes:
    """Boxes that survive non-maximum suppression, best first, clipped to the picture.

    `boxes_xyxy` (A, 4) float32 in network input pixels, `scores` (A,) float32, `input_to_image`
    (2,) as `letterbox` gives it; the result is in image pixels. Corners are edges, as COCO's: the
    whole picture is the box from 0 to `size_wh`. A box without area inside the picture is dropped,
    as is one that is not finite. Boxes under `min_score` are dropped before the suppression, in
    which they could do nothing to a better one; most boxes are under it.
    """
    least = max(nms.min_score, min_score)
    candidates = np.flatnonzero((scores >= least) & np.isfinite(boxes_xyxy).all(axis=1))
    boxes_xyxy, scores = boxes_xyxy[candidates], scores[candidates]
    if not len(scores):
        return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    xywh = np.column_stack([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]])
    best_first = cv2.dnn.NMSBoxes(
        xywh,  # type: ignore[arg-type]  # OpenCV's stubs know lists only
        # OpenCV keeps what is above the threshold, and a score of 0 may be asked for.
        np.maximum(scores, np.finfo(np.float32).tiny),  # type: ignore[arg-type]
        0.0,
        nms.iou,
    )
    kept = np.asarray(best_first, np.int64)[: nms.max_boxes]
    corners = boxes_xyxy[kept] * np.tile(input_to_image, 2).astype(np.float32)
    corners = np.clip(corners, np.float32(0), np.tile(size_wh, 2).astype(np.float32))
    inside = ((corners[:, 2:] - corners[:, :2]) > 0).all(axis=1)
    return Boxes(corners[inside], np.clip(scores[kept], 0, 1)[inside].astype(np.float32))

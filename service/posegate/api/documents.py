"""Estimate -> JSON text, in the contract's form or in COCO's results form.

Numbers are rounded to what they are worth: 0.01 px and 0.0001 of a score.
"""

import json
from pathlib import PurePath
from typing import Any

import numpy as np

from posegate.pipeline import Estimate
from posegate.types import F32, F64, Poses

PIXEL_DECIMALS = 2
SCORE_DECIMALS = 4
PERSON_CATEGORY = 1


def poses_json(estimate: Estimate, *, min_keypoint_score: float) -> str:
    """The `Poses` answer. Marks `encode` once people are rendered; what follows is the timing."""
    document = {
        "model": estimate.model,
        "detector": estimate.detector,
        "image": {"width": estimate.image.width, "height": estimate.image.height},
        "people": people(estimate.poses, min_keypoint_score=min_keypoint_score),
    }
    text = _dump(document)
    estimate.clock.mark("encode")
    timing = {
        "stages_ms": {name: round(ms, 3) for name, ms in estimate.clock.stages_ms.items()},
        "total_ms": round(estimate.clock.total_ms, 3),
    }
    return f"{text[:-1]},{_dump(timing)[1:]}"


def coco_json(estimate: Estimate, *, min_keypoint_score: float, image_id: int) -> str:
    """The answer as a list of COCO keypoint results. Marks `encode`."""
    text = _dump(
        coco_results(estimate.poses, min_keypoint_score=min_keypoint_score, image_id=image_id)
    )
    estimate.clock.mark("encode")
    return text


def people(poses: Poses, *, min_keypoint_score: float) -> list[dict[str, Any]]:
    """One dict per person; keypoints under `min_keypoint_score` are left out."""
    keypoints = _rounded_keypoints(poses).tolist()
    scores = _rounded(poses.boxes.scores, SCORE_DECIMALS)
    boxes = _rounded(poses.boxes.xywh, PIXEL_DECIMALS)
    shown = (poses.keypoints.scores >= min_keypoint_score).tolist()
    return [
        {
            "score": score,
            "box": box,
            "keypoints": {
                name: row for name, row, show in zip(poses.names, rows, shows, strict=True) if show
            },
        }
        for score, box, rows, shows in zip(scores, boxes, keypoints, shown, strict=True)
    ]


def coco_results(poses: Poses, *, min_keypoint_score: float, image_id: int) -> list[dict[str, Any]]:
    """COCO keypoint results: flat x, y, score; the score is the box's times the joints' mean."""
    keypoints = _rounded_keypoints(poses)
    keypoints[..., 2][poses.keypoints.scores < min_keypoint_score] = 0.0
    scores = _rounded(poses.boxes.scores * poses.keypoints.scores.mean(axis=1), SCORE_DECIMALS)
    flat_rows = keypoints.reshape(len(poses), 3 * len(poses.names)).tolist()
    return [
        {"image_id": image_id, "category_id": PERSON_CATEGORY, "keypoints": flat, "score": score}
        for flat, score in zip(flat_rows, scores, strict=True)
    ]


def coco_image_id(filename: str | None, position: int) -> int:
    """COCO's id of an image: its file name where that is a number, else its place in the request.

    >>> coco_image_id("000000000139.jpg", 0), coco_image_id("party.jpg", 3)
    (139, 3)
    """
    stem = PurePath(filename or "").stem
    return int(stem) if stem.isascii() and stem.isdigit() and len(stem) <= 18 else position


def server_timing(estimate: Estimate) -> str:
    """The stages as a `Server-Timing` header, for answers whose body has no room for them."""
    return ", ".join(f"{name};dur={ms:.3f}" for name, ms in estimate.clock.stages_ms.items())


def _rounded_keypoints(poses: Poses) -> F64:
    """(P, J, 3) float64: x, y, score."""
    xy = poses.keypoints.xy.astype(np.float64).round(PIXEL_DECIMALS)
    scores = poses.keypoints.scores.astype(np.float64).round(SCORE_DECIMALS)
    return np.concatenate([xy, scores[..., None]], axis=2)


def _rounded(values: F32, decimals: int) -> list[Any]:
    rounded: list[Any] = values.astype(np.float64).round(decimals).tolist()
    return rounded


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)

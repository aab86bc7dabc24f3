"""Estimate -> JSON text, in the contract's form or in COCO's results form.

Numbers are rounded to what they are worth: 0.01 px and 0.0001 of a score.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from posegate.pipeline import Estimate
from posegate.tracking import Tracks
from posegate.types import F32, F64, Keypoints, Poses

PIXEL_DECIMALS = 2
SCORE_DECIMALS = 4
MS_DECIMALS = 3
PERSON_CATEGORY = 1


def poses_json(
    estimate: Estimate,
    *,
    min_keypoint_score: float,
    tracks: Tracks | None = None,
    head: Mapping[str, object] | None = None,
) -> str:
    """The `Poses` answer, after the fields of `head`.

    Marks `encode` once people are rendered; what follows is the timing.
    """
    document = {
        **(head or {}),
        "model": estimate.model,
        "detector": estimate.detector,
        "image": {"width": estimate.image.width, "height": estimate.image.height},
        "people": people(estimate.poses, min_keypoint_score=min_keypoint_score, tracks=tracks),
    }
    text = dump_json(document)
    estimate.clock.mark("encode")
    return f"{text[:-1]},{dump_json(timing(estimate))[1:]}"


def timing(estimate: Estimate) -> dict[str, Any]:
    """`stages_ms` and `total_ms`, as far as the clock was marked."""
    return {
        "stages_ms": rounded_ms(estimate.clock.stages_ms),
        "total_ms": round(estimate.clock.total_ms, MS_DECIMALS),
    }


def rounded_ms(stages_ms: Mapping[str, float]) -> dict[str, float]:
    """Stage times as they are shown, to the microsecond."""
    return {name: round(ms, MS_DECIMALS) for name, ms in stages_ms.items()}


def rounded(milliseconds: float | None) -> float | None:
    """An age as it is shown; None where there is none."""
    return None if milliseconds is None else round(milliseconds, MS_DECIMALS)


def coco_json(
    estimate: Estimate,
    *,
    min_keypoint_score: float,
    image_id: int,
    tail: Mapping[str, object] | None = None,
) -> str:
    """The answer as a list of COCO keypoint results, each before the fields of `tail`.

    Marks `encode`.
    """
    rows = coco_results(estimate.poses, min_keypoint_score=min_keypoint_score, image_id=image_id)
    text = dump_json([{**row, **tail} for row in rows] if tail else rows)
    estimate.clock.mark("encode")
    return text


def people(
    poses: Poses, *, min_keypoint_score: float, tracks: Tracks | None = None
) -> list[dict[str, Any]]:
    """One dict per person; keypoints under `min_keypoint_score` are left out.

    With `tracks` each person has an `id` and `smoothed` keypoints beside the raw ones.
    """
    scores = _rounded(poses.boxes.scores, SCORE_DECIMALS)
    boxes = _rounded(poses.boxes.xywh, PIXEL_DECIMALS)
    joints = _named_keypoints(poses.keypoints, poses.names, min_keypoint_score)
    answer = [
        {"score": score, "box": box, "keypoints": named}
        for score, box, named in zip(scores, boxes, joints, strict=True)
    ]
    if tracks is None:
        return answer
    smoothed = _named_keypoints(tracks.smoothed, poses.names, min_keypoint_score)
    return [
        {"id": number, **person, "smoothed": named}
        for number, person, named in zip(tracks.ids.tolist(), answer, smoothed, strict=True)
    ]


def coco_results(
    poses: Poses, *, min_keypoint_score: float, image_id: int, tracks: Tracks | None = None
) -> list[dict[str, Any]]:
    """COCO keypoint results: flat x, y, score, and the person's score.

    With `tracks` each row has an `id` and `smoothed` keypoints, flat as the raw ones.
    """
    flat_rows = _flat_keypoints(poses.keypoints, min_keypoint_score)
    scores = _rounded(poses.boxes.scores, SCORE_DECIMALS)
    rows = [
        {"image_id": image_id, "category_id": PERSON_CATEGORY, "keypoints": flat, "score": score}
        for flat, score in zip(flat_rows, scores, strict=True)
    ]
    if tracks is None:
        return rows
    smoothed = _flat_keypoints(tracks.smoothed, min_keypoint_score)
    return [
        {"id": number, **row, "smoothed": flat}
        for number, row, flat in zip(tracks.ids.tolist(), rows, smoothed, strict=True)
    ]


def coco_image_ids(filenames: Iterable[str | None]) -> list[int]:
    """COCO's ids of pictures: their names where all are different numbers, else their places.

    >>> coco_image_ids(["000000000139.jpg", "7.png"]), coco_image_ids(["party.jpg", "7.png"])
    ([139, 7], [0, 1])
    """
    stems = [PurePath(filename or "").stem for filename in filenames]
    numbers = {int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) <= 18}
    return [int(stem) for stem in stems] if len(numbers) == len(stems) else [*range(len(stems))]


def server_timing(estimate: Estimate) -> str:
    """The stages as a `Server-Timing` header, for answers whose body has no room for them."""
    return ", ".join(f"{name};dur={ms:.3f}" for name, ms in estimate.clock.stages_ms.items())


def dump_json(value: object) -> str:
    """Compact JSON text."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _named_keypoints(
    keypoints: Keypoints, names: tuple[str, ...], minimum: float
) -> list[dict[str, list[float]]]:
    """Of each person the joints of at least that score, by name: x, y, score."""
    shown = (keypoints.scores >= minimum).tolist()
    return [
        {name: row for name, row, show in zip(names, rows, shows, strict=True) if show}
        for rows, shows in zip(_rounded_keypoints(keypoints).tolist(), shown, strict=True)
    ]


def _flat_keypoints(keypoints: Keypoints, minimum: float) -> list[list[float]]:
    """Of each person x, y, score of every joint in a row; the score is 0 where it is lower."""
    people, joints = keypoints.scores.shape
    rows = _rounded_keypoints(keypoints)
    rows[..., 2][keypoints.scores < minimum] = 0.0
    flat: list[list[float]] = rows.reshape(people, 3 * joints).tolist()
    return flat


def _rounded_keypoints(keypoints: Keypoints) -> F64:
    """(P, J, 3) float64: x, y, score."""
    xy = keypoints.xy.astype(np.float64).round(PIXEL_DECIMALS)
    scores = keypoints.scores.astype(np.float64).round(SCORE_DECIMALS)
    return np.concatenate([xy, scores[..., None]], axis=2)


def _rounded(values: F32, decimals: int) -> list[Any]:
    rounded: list[Any] = values.astype(np.float64).round(decimals).tolist()
    return rounded

"""Which person of a new frame is which track: similarities, and pairs from them.

Shape letters: T tracks, P people of the new frame, J joints.
"""

import lap
import numpy as np
from numpy.typing import NDArray

from posegate.types import F32, Keypoints

MIN_SIMILARITY = 0.2
SAME_PERSON = 0.6
"""Keypoint similarity from which two people are one, seen twice. In 80 photos of COCO all 20 pairs
above it were. HRNet's evaluation takes 0.9: there a second guess costs little and may be nearer."""
AREA_OF_BOX = 0.53
"""A person's area as part of the box (cocoeval's stand-in where no segment is known)."""


def match_tracks(similarity: F32) -> NDArray[np.int64]:
    """Track of each person (P,), -1 for none: the pairs of the greatest sum (Hungarian).

    Pairs less alike than MIN_SIMILARITY count nothing and are not made.

    >>> match_tracks(np.array([[0.9, 0.8], [0.7, 0.1]], np.float32)).tolist()
    [1, 0]
    """
    track = np.full(similarity.shape[1], -1, np.int64)
    if similarity.size:
        alike = np.where(similarity >= MIN_SIMILARITY, similarity, np.float32(0))
        rows, people = lap.lapjvx(1 - alike, extend_cost=True, return_cost=False)
        made = alike[rows, people] > 0
        track[people[made]] = rows[made]
    return track


def first_of_alike(similarity: F32, scores: F32) -> NDArray[np.bool_]:
    """Which people (P,) are nobody's double: greedy, best first, as in non-maximum suppression.

    `similarity` (P, P) is symmetric, `scores` (P,). Each round keeps everybody who has no better
    double left undecided, and drops their doubles.

    >>> alike = np.array([[1, 0.8, 0], [0.8, 1, 0.7], [0, 0.7, 1]], np.float32)
    >>> first_of_alike(alike, np.array([0.9, 0.8, 0.7], np.float32)).tolist()
    [True, False, True]
    """
    rank = np.argsort(np.argsort(-scores, kind="stable"))
    beats = (similarity >= SAME_PERSON) & (rank[:, None] < rank[None])
    kept = np.zeros(len(scores), np.bool_)
    undecided = ~kept
    while undecided.any():
        free = undecided & ~beats[undecided].any(axis=0)
        kept |= free
        undecided &= ~free & ~beats[free].any(axis=0)
    return kept


def box_iou(a: F32, b: F32) -> F32:
    """(T, P) float32 intersection over union of boxes xyxy (T, 4) and (P, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    union = _areas(a)[:, None] + _areas(b)[None] - both
    ratio: F32 = (both / np.maximum(union, 1e-6)).astype(np.float32)
    return ratio


def keypoint_similarity(xy: F32, scores: F32, keypoints: Keypoints, boxes: F32, sigmas: F32) -> F32:
    """(T, P) float32 object keypoint similarity (COCO), each joint weighed by its lower score.

    `xy` (T, J, 2) and `scores` (T, J) of the tracks; `keypoints` (P, J) and `boxes` xyxy (P, 4) of
    the people.
    """
    areas = _areas(boxes) * np.float32(AREA_OF_BOX)
    squared = ((xy[:, None] - keypoints.xy[None]) ** 2).sum(axis=3)
    spread = 2 * areas[None, :, None] * (2 * sigmas) ** 2
    alike = np.exp(-squared / np.maximum(spread, 1e-6))
    weights = np.minimum(scores[:, None], keypoints.scores[None])
    total = weights.sum(axis=2)
    mean: F32 = ((alike * weights).sum(axis=2) / np.maximum(total, 1e-6)).astype(np.float32)
    return mean


def _areas(boxes: F32) -> F32:
    areas: F32 = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return areas

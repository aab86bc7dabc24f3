"""poses of successive frames -> a stable id per person and smoothed keypoints.

Shape letters: T tracks, P people of the new frame, J joints.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posegate.skeleton import COCO_KEYPOINTS, COCO_SIGMAS
from posegate.smoothing import OneEuro
from posegate.types import F32, Keypoints, Poses

I64 = NDArray[np.int64]

MIN_SIMILARITY = 0.2
FORGET_S = 1.0
"""A person unseen for so long gets a new id."""
VELOCITY_SHARE = 0.5
"""How much of a box's newest velocity goes into the track's."""
AREA_OF_BOX = 0.53
"""A person's area as part of the box (cocoeval's stand-in where no segment is known)."""
OTHER_SIGMA = 0.08


@dataclass(frozen=True, slots=True)
class Tracks:
    """Of each person of a frame: `ids` (P,) int64 and `smoothed` keypoints (P, J), image pixels."""

    ids: I64
    smoothed: Keypoints


class Tracker:
    """The people of one stream.

    A person is matched to the track with the largest mean of box IoU and keypoint OKS, after the
    track's box and joints were moved on by its velocity. Pairs are taken greedily, surest first:
    against Hungarian assignment only pairs that are near ties come out differently, and SciPy
    would more than double what serving has to install.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        joints = len(names)
        if names == COCO_KEYPOINTS:
            self._sigmas: F32 = COCO_SIGMAS
        else:
            self._sigmas = np.full(joints, OTHER_SIGMA, np.float32)
        self._next_id = 0
        self._ids = np.zeros(0, np.int64)
        self._seen_s = np.zeros(0)
        self._xyxy = np.zeros((0, 4), np.float32)
        self._velocity = np.zeros((0, 4), np.float32)
        self._xy = np.zeros((0, joints, 2), np.float32)
        self._scores = np.zeros((0, joints), np.float32)
        self._euro = OneEuro(joints)

    def update(self, poses: Poses, now_s: float) -> Tracks:
        """Match a frame's people to the tracks; `now_s` is when the frame came, never going back.

        A person that matches no track begins one.
        """
        self._keep(now_s - self._seen_s <= FORGET_S)
        boxes, keypoints = poses.boxes.xyxy, poses.keypoints
        track = _match(self._similarity(boxes, keypoints, now_s))
        fresh = track < 0
        began = int(np.count_nonzero(fresh))
        rows = track.copy()
        rows[fresh] = len(self._ids) + np.arange(began)
        self._grow(began)
        self._move(rows, fresh, boxes, now_s)
        self._xy[rows], self._scores[rows] = keypoints.xy, keypoints.scores
        sizes = _sizes(boxes)
        smoothed = self._euro.smooth(rows, keypoints.xy, now_s, scale=sizes)
        return Tracks(self._ids[rows], Keypoints(smoothed, keypoints.scores))

    def _similarity(self, boxes: F32, keypoints: Keypoints, now_s: float) -> F32:
        """(T, P) float32 in [0, 1]."""
        shift = self._velocity * (now_s - self._seen_s)[:, None].astype(np.float32)
        predicted = self._xyxy + shift
        centre_shift = (shift[:, :2] + shift[:, 2:]) / np.float32(2)
        xy: F32 = self._xy + centre_shift[:, None]
        oks = _oks(
            xy, self._scores, keypoints, _areas(boxes) * np.float32(AREA_OF_BOX), self._sigmas
        )
        mean: F32 = (_iou(predicted, boxes) + oks) / np.float32(2)
        return mean

    def _move(self, rows: I64, fresh: NDArray[np.bool_], boxes: F32, now_s: float) -> None:
        elapsed_s = np.maximum(now_s - self._seen_s[rows], 1e-3)[:, None].astype(np.float32)
        newest = (boxes - self._xyxy[rows]) / elapsed_s
        blended = self._velocity[rows] + VELOCITY_SHARE * (newest - self._velocity[rows])
        self._velocity[rows] = np.where(fresh[:, None], np.float32(0), blended)
        self._xyxy[rows] = boxes
        self._seen_s[rows] = now_s

    def _grow(self, count: int) -> None:
        self._ids = np.append(self._ids, self._next_id + np.arange(count))
        self._next_id += count
        self._seen_s = np.append(self._seen_s, np.zeros(count))
        self._xyxy, self._velocity, self._xy, self._scores = (
            np.concatenate([array, np.zeros((count, *array.shape[1:]), np.float32)])
            for array in (self._xyxy, self._velocity, self._xy, self._scores)
        )
        self._euro.grow(count)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self._ids, self._seen_s = self._ids[kept], self._seen_s[kept]
        self._xyxy, self._velocity = self._xyxy[kept], self._velocity[kept]
        self._xy, self._scores = self._xy[kept], self._scores[kept]
        self._euro.keep(kept)


def _match(similarity: F32) -> I64:
    """Track of each person (P,), -1 for none: greedy, surest pair first.

    In each round all pairs that are each other's best are taken at once, which gives the pairs
    of the one-by-one greedy choice.

    >>> _match(np.array([[0.9, 0.8], [0.7, 0.1]], np.float32)).tolist()
    [0, -1]
    """
    left = np.where(similarity >= MIN_SIMILARITY, similarity, 0.0)
    track = np.full(similarity.shape[1], -1, np.int64)
    while left.size and left.max() > 0:
        best_person = left.argmax(axis=1)
        best_track = left.argmax(axis=0)
        rows = np.flatnonzero(
            (best_track[best_person] == np.arange(len(left))) & (left.max(axis=1) > 0)
        )
        people = best_person[rows]
        track[people] = rows
        left[rows] = 0
        left[:, people] = 0
    return track


def _iou(a: F32, b: F32) -> F32:
    """(T, P) float32 intersection over union of boxes xyxy (T, 4) and (P, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    union = _areas(a)[:, None] + _areas(b)[None] - both
    ratio: F32 = (both / np.maximum(union, 1e-6)).astype(np.float32)
    return ratio


def _oks(xy: F32, scores: F32, keypoints: Keypoints, areas: F32, sigmas: F32) -> F32:
    """(T, P) float32 object keypoint similarity (COCO), each joint weighed by its lower score."""
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


def _sizes(boxes: F32) -> F32:
    """(P,) float32: longest side of each box, at least a pixel."""
    sizes: F32 = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=1.0)
    return sizes

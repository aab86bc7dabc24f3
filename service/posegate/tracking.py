"""poses of successive frames -> a stable id per person, smoothed keypoints, boxes to look at next.

Shape letters: T tracks, P people of the new frame, J joints.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posegate.association import box_iou, keypoint_similarity, match_tracks
from posegate.skeleton import sigmas_of
from posegate.smoothing import OneEuro
from posegate.types import F32, Boxes, Keypoints, Poses

I64 = NDArray[np.int64]

FORGET_S = 1.0
"""A person who was missed in a frame and comes back after longer than this gets a new id."""
PAUSE_S = 10.0
"""After so long without a frame everybody gets a new id."""
VELOCITY_SHARE = 0.5
"""How much of a box's newest velocity goes into the track's."""
MAX_SHIFT = 0.25
"""How far ahead a person is looked for, as a share of the box's sides. Frames that come in bursts
make people look faster than they are, so it is bounded."""
MAX_SCALE = 1.2
"""How much a box may grow or shrink from frame to frame without the detector."""


@dataclass(frozen=True, slots=True)
class Tracks:
    """Of each person of a frame: `ids` (P,) int64, `smoothed` keypoints (P, J), image pixels.

    The boxes of `poses` (P) are the detector's, or those it gave last, moved along with the
    keypoints.
    """

    ids: I64
    smoothed: Keypoints
    poses: Poses


@dataclass(frozen=True, slots=True)
class _Seen:
    """Everybody of the newest frame: `xyxy` and `velocity` (P, 4), and when that frame came."""

    xyxy: F32
    velocity: F32
    at_s: float


class Tracker:
    """The people of one stream.

    A person is matched to the track with the largest mean of box IoU and keypoint OKS, after the
    track's box and joints were moved on by its velocity, so that the sum over all pairs is largest.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        joints = len(names)
        self._sigmas = sigmas_of(names)
        self._next_id = 0
        self._ids = np.zeros(0, np.int64)
        self._seen_s = np.zeros(0)
        self._box_scores = np.zeros(0, np.float32)
        self._xyxy = np.zeros((0, 4), np.float32)
        self._velocity = np.zeros((0, 4), np.float32)
        self._xy = np.zeros((0, joints, 2), np.float32)
        self._scores = np.zeros((0, joints), np.float32)
        self._euro = OneEuro(joints)
        self._newest: _Seen | None = None

    @property
    def sees_someone(self) -> bool:
        """Whether there was anybody in the newest frame."""
        return self._newest is not None and len(self._newest.xyxy) > 0

    def carry(self, now_s: float) -> F32 | None:
        """Boxes (P, 4) xywh, image pixels, where the people of the newest frame should be now.

        None when there was no frame yet, or none for so long that only the detector can tell. May
        be called while `update` runs in another thread.
        """
        newest = self._newest
        if newest is None or now_s - newest.at_s > FORGET_S:
            return None
        sizes = np.maximum(newest.xyxy[:, 2:] - newest.xyxy[:, :2], np.float32(1))
        shift = _centres(_way(newest.xyxy, newest.velocity, np.float32(now_s - newest.at_s)))
        return np.concatenate([newest.xyxy[:, :2] + shift, sizes], axis=1)

    def update(self, poses: Poses, now_s: float, *, carried: bool = False) -> Tracks:
        """Match a frame's people to the tracks; `now_s`, when the frame came, never goes back.

        A person that matches no track begins one. `carried` says that the boxes came from `carry`:
        then such a person is left out, and people keep the scores of the last detection, by which
        they are ordered.
        """
        self._forget(now_s)
        boxes, scores, keypoints = poses.boxes.xyxy, poses.boxes.scores, poses.keypoints
        rows = match_tracks(self._similarity(boxes, keypoints, now_s))
        if carried:
            known = np.flatnonzero(rows >= 0)
            known = known[np.argsort(-self._box_scores[rows[known]], kind="stable")]
            rows = rows[known]
            keypoints = Keypoints(keypoints.xy[known], keypoints.scores[known])
            boxes = self._moved_along(rows, boxes[known], keypoints)
            scores = self._box_scores[rows]
        fresh = rows < 0
        began = int(np.count_nonzero(fresh))
        rows[fresh] = len(self._ids) + np.arange(began)
        self._grow(began)
        self._box_scores[rows] = scores
        self._move(rows, fresh, boxes, now_s)
        self._xy[rows], self._scores[rows] = keypoints.xy, keypoints.scores
        sizes = _sizes(boxes)
        smoothed = self._euro.smooth(rows, keypoints.xy, now_s, scale=sizes)
        self._newest = _Seen(boxes, self._velocity[rows], now_s)
        found = Poses(Boxes(boxes, scores), keypoints, poses.names)
        return Tracks(self._ids[rows], Keypoints(smoothed, keypoints.scores), found)

    def resize(self, across: float, down: float) -> None:
        """Scale all that was seen to frames that are so many times as wide and as high."""
        ratio = np.array([across, down], np.float32)
        sides = np.tile(ratio, 2)
        self._xyxy, self._velocity = self._xyxy * sides, self._velocity * sides
        self._xy = self._xy * ratio
        self._euro.resize(ratio)
        if (newest := self._newest) is not None:
            self._newest = _Seen(newest.xyxy * sides, newest.velocity * sides, newest.at_s)

    def _moved_along(self, rows: I64, carried_xyxy: F32, keypoints: Keypoints) -> F32:
        """(P, 4) float32: each track's box, shifted and scaled as its joints were.

        Where no joint was seen in both frames it is the box that the track was carried to.
        """
        weights = np.minimum(self._scores[rows], keypoints.scores)
        seen = weights.sum(axis=1) > 0
        weights = np.where(seen[:, None], weights, np.float32(1))[..., None]
        before, radius_before = _centre_and_radius(self._xy[rows], weights)
        after, radius_after = _centre_and_radius(keypoints.xy, weights)
        scale = np.clip(
            radius_after / np.maximum(radius_before, np.float32(1e-3)),
            np.float32(1 / MAX_SCALE),
            np.float32(MAX_SCALE),
        )
        corners = self._xyxy[rows].reshape(-1, 2, 2)
        moved = after[:, None] + (corners - before[:, None]) * scale[:, None, None]
        return np.where(seen[:, None], moved.reshape(-1, 4), carried_xyxy).astype(np.float32)

    def _similarity(self, boxes: F32, keypoints: Keypoints, now_s: float) -> F32:
        """(T, P) float32 in [0, 1]."""
        elapsed_s = (now_s - self._seen_s)[:, None].astype(np.float32)
        shift = _way(self._xyxy, self._velocity, elapsed_s)
        xy: F32 = self._xy + _centres(shift)[:, None]
        oks = keypoint_similarity(xy, self._scores, keypoints, boxes, self._sigmas)
        mean: F32 = (box_iou(self._xyxy + shift, boxes) + oks) / np.float32(2)
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
        self._box_scores = np.append(self._box_scores, np.zeros(count, np.float32))
        self._xyxy, self._velocity, self._xy, self._scores = (
            np.concatenate([array, np.zeros((count, *array.shape[1:]), np.float32)])
            for array in (self._xyxy, self._velocity, self._xy, self._scores)
        )
        self._euro.grow(count)

    def _forget(self, now_s: float) -> None:
        """Let people go who have left; those of the newest frame are kept through a longer gap."""
        unseen_s = now_s - self._seen_s
        missed = self._seen_s < (self._newest.at_s if self._newest is not None else now_s)
        kept = unseen_s <= np.where(missed, FORGET_S, PAUSE_S)
        self._ids, self._seen_s = self._ids[kept], self._seen_s[kept]
        self._box_scores = self._box_scores[kept]
        self._xyxy, self._velocity = self._xyxy[kept], self._velocity[kept]
        self._xy, self._scores = self._xy[kept], self._scores[kept]
        self._euro.keep(kept)


def _centre_and_radius(xy: F32, weights: F32) -> tuple[F32, F32]:
    """Weighted mean (P, 2) of joints (P, J, 2), and their root mean square distance (P,)."""
    total = weights.sum(axis=1)
    centre: F32 = (xy * weights).sum(axis=1) / total
    squared = ((xy - centre[:, None]) ** 2).sum(axis=2, keepdims=True)
    radius: F32 = np.sqrt((squared * weights).sum(axis=1) / total)[:, 0]
    return centre, radius


def _way(xyxy: F32, velocity: F32, elapsed_s: F32 | np.float32) -> F32:
    """(P, 4) how far the corners go in that time, at most MAX_SHIFT of the box's sides."""
    sides = np.maximum(xyxy[:, 2:] - xyxy[:, :2], np.float32(1)) * np.float32(MAX_SHIFT)
    limit = np.concatenate([sides, sides], axis=1)
    way: F32 = np.clip(velocity * elapsed_s, -limit, limit)
    return way


def _centres(xyxy: F32) -> F32:
    """(P, 2) the middle between the corners, or the mean of their ways."""
    centres: F32 = (xyxy[:, :2] + xyxy[:, 2:]) / np.float32(2)
    return centres


def _sizes(boxes: F32) -> F32:
    """(P,) float32: longest side of each box, at least a pixel."""
    sizes: F32 = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=1.0)
    return sizes

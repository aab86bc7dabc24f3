"""keypoints -> people: how sure each of them is, nobody unsure and nobody twice."""

import numpy as np
from numpy.typing import NDArray

from posegate.association import first_of_alike, keypoint_similarity
from posegate.skeleton import sigmas_of
from posegate.types import F32, Boxes, Keypoints, Poses


def person_scores(box_scores: F32, keypoint_scores: F32) -> F32:
    """(P,) in [0, 1]: each box's score times the mean score of the surer half of its joints.

    `box_scores` (P,), `keypoint_scores` (P, J), all float32 in [0, 1]. Things that look like people
    get boxes of middling and joints of low scores, so the product tells them apart better than
    either. Only half of the joints count, since of most people some are hidden.

    >>> joints = np.array([[0.125, 1.0, 0.5, 0.25]], np.float32)
    >>> person_scores(np.array([0.5], np.float32), joints)
    array([0.375], dtype=float32)
    """
    lesser = keypoint_scores.shape[1] // 2
    surer = np.partition(keypoint_scores, lesser, axis=1)[:, lesser:]
    product: F32 = box_scores * surer.mean(axis=1)
    return product


def sure_people(poses: Poses, min_score: float) -> Poses:
    """The people of at least `min_score`, each of them once, surest first."""
    poses = without_doubles(_some(poses, poses.boxes.scores >= min_score))
    return _some(poses, np.argsort(-poses.boxes.scores, kind="stable"))


def surest_of_both(poses: Poses, others: Poses, min_score: float, most: int) -> Poses:
    """The sure people of two, at most so many; the two have the same joints."""
    both = Poses(
        Boxes(
            np.concatenate([poses.boxes.xyxy, others.boxes.xyxy]),
            np.concatenate([poses.boxes.scores, others.boxes.scores]),
        ),
        Keypoints(
            np.concatenate([poses.keypoints.xy, others.keypoints.xy]),
            np.concatenate([poses.keypoints.scores, others.keypoints.scores]),
        ),
        poses.names,
    )
    return _some(sure_people(both, min_score), slice(most))


def without_doubles(poses: Poses) -> Poses:
    """The people of one image, less those whose keypoints are those of a surer one.

    A part of a person in a box of its own often leads the network to the whole person, which the
    overlap of the boxes does not show. How alike two are is measured by the larger of their boxes.
    """
    if len(poses) < 2:
        return poses
    xy, scores = poses.keypoints.xy, poses.keypoints.scores
    similarity = keypoint_similarity(
        xy, scores, poses.keypoints, poses.boxes.xyxy, sigmas_of(poses.names)
    )
    return _some(poses, first_of_alike(np.maximum(similarity, similarity.T), poses.boxes.scores))


def _some(poses: Poses, which: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Poses:
    return Poses(
        Boxes(poses.boxes.xyxy[which], poses.boxes.scores[which]),
        Keypoints(poses.keypoints.xy[which], poses.keypoints.scores[which]),
        poses.names,
    )

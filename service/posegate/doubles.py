"""keypoints -> people: nobody twice, though the detector may have found somebody in two boxes."""

import numpy as np

from posegate.association import first_of_alike, keypoint_similarity
from posegate.skeleton import sigmas_of
from posegate.types import Boxes, Keypoints, Poses


def without_doubles(poses: Poses) -> Poses:
    """The people of one image, less those whose keypoints are those of a surer one.

    A part of a person in a box of its own often leads the network to the whole person, which the
    overlap of the boxes does not show. Two are alike by their larger box.
    """
    if len(poses) < 2:
        return poses
    xy, scores = poses.keypoints.xy, poses.keypoints.scores
    similarity = keypoint_similarity(
        xy, scores, poses.keypoints, poses.boxes.xyxy, sigmas_of(poses.names)
    )
    kept = first_of_alike(
        np.maximum(similarity, similarity.T), poses.boxes.scores * scores.mean(axis=1)
    )
    return Poses(
        Boxes(poses.boxes.xyxy[kept], poses.boxes.scores[kept]),
        Keypoints(xy[kept], scores[kept]),
        poses.names,
    )

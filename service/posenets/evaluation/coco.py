"""Keypoints found in labelled photos -> COCO's ten figures, and OKS of each joint."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from posegate.coco_labels import PERSON
from posegate.evaluate import KEYPOINT_FIGURES, Data, coco_scorer
from posegate.people import person_scores, without_doubles
from posegate.types import F64, Boxes, Keypoints, Poses
from posenets.evaluation.oks import joint_oks
from posenets.evaluation.scenes import Scene


def coco_figures(
    data: Data, scenes: Sequence[Scene], found: Sequence[Keypoints]
) -> dict[str, float]:
    """COCO's AP and AR, in [0, 1]; people's scores are those of the service.

    As there, and in HRNet's protocol, somebody in two boxes of a detector counts once.
    """
    results: list[dict[str, Any]] = []
    for scene, keypoints in zip(scenes, found, strict=True):
        scores = person_scores(scene.box_scores, keypoints.scores)
        poses = Poses(Boxes.from_xywh(scene.boxes_xywh, scores), keypoints, data.keypoints)
        if scene.keypoints is None:
            poses = without_doubles(poses)
        joints = poses.keypoints
        triples = np.concatenate([joints.xy, joints.scores[..., None]], 2)
        results += [
            {"image_id": scene.image_id, "category_id": PERSON, "keypoints": flat, "score": score}
            for flat, score in zip(
                triples.reshape(len(triples), 3 * joints.xy.shape[1]).tolist(),
                poses.boxes.scores.tolist(),
                strict=True,
            )
        ]
    return coco_scorer(data)("keypoints", results, KEYPOINT_FIGURES)


def similarities(scenes: Sequence[Scene], found: Sequence[Keypoints]) -> F64:
    """(P, J) OKS of every joint of all scenes' people, NaN where it is not labelled.

    The scenes' boxes must be the truth's.
    """
    rows = [np.zeros((0, 17))]
    for scene, keypoints in zip(scenes, found, strict=True):
        assert scene.keypoints is not None and scene.areas is not None
        labelled = scene.keypoints[..., 2] > 0
        rows.append(joint_oks(keypoints.xy, scene.keypoints[..., :2], labelled, scene.areas))
    return np.concatenate(rows)

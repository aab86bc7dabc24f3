"""Estimates as JSON: rounding, hidden keypoints, COCO's form."""

import json

import numpy as np
import pytest

from posegate.api.documents import coco_json, coco_results, poses_json
from posegate.pipeline import Estimate, ImageSize
from posegate.stages import StageClock
from posegate.tracking import Tracks
from posegate.types import Boxes, Keypoints, Poses


@pytest.fixture
def estimate() -> Estimate:
    """One person of two joints, sure of the first alone."""
    poses = Poses(
        Boxes(np.array([[1.239, 2, 11.239, 22.5]], np.float32), np.array([0.87654], np.float32)),
        Keypoints(
            np.array([[[3.14159, 4], [5, 6.66666]]], np.float32),
            np.array([[0.98766, 0.2]], np.float32),
        ),
        ("nose", "left_eye"),
    )
    return Estimate("net", None, ImageSize(40, 30), poses, StageClock())


def test_numbers_are_rounded_and_times_follow(estimate: Estimate):
    answer = json.loads(poses_json(estimate, min_keypoint_score=0.0))
    assert answer["people"] == [
        {
            "score": 0.8765,
            "box": [1.24, 2.0, 10.0, 20.5],
            "keypoints": {"nose": [3.14, 4.0, 0.9877], "left_eye": [5.0, 6.67, 0.2]},
        }
    ]
    assert answer["image"] == {"width": 40, "height": 30}
    assert list(answer["stages_ms"]) == ["encode"]
    assert answer["total_ms"] == answer["stages_ms"]["encode"]


def test_unsure_keypoints_are_left_out_and_are_zero_in_coco_form(estimate: Estimate):
    answer = json.loads(poses_json(estimate, min_keypoint_score=0.5))
    assert list(answer["people"][0]["keypoints"]) == ["nose"]
    (row,) = json.loads(coco_json(estimate, min_keypoint_score=0.5, image_id=7))
    assert row == {
        "image_id": 7,
        "category_id": 1,
        "keypoints": [3.14, 4.0, 0.9877, 5.0, 6.67, 0.0],
        "score": 0.8765,
    }


def test_tracked_people_have_their_id_and_smoothed_joints_in_coco_form(estimate: Estimate):
    poses = estimate.poses
    smoothed = Keypoints(poses.keypoints.xy + 1, poses.keypoints.scores)
    tracks = Tracks(np.array([4]), smoothed, poses)
    (row,) = coco_results(poses, min_keypoint_score=0.5, image_id=7, tracks=tracks)
    (plain,) = coco_results(poses, min_keypoint_score=0.5, image_id=7)
    assert row.pop("id") == 4
    assert row.pop("smoothed") == [4.14, 5.0, 0.9877, 6.0, 7.67, 0.0]
    assert row == plain

"""A service's answers as the pipeline's own."""

import numpy as np
import pytest

from posegate.remote import poses_of
from posegate.skeleton import COCO_KEYPOINTS


def document(*people: dict[str, list[float]]) -> dict[str, object]:
    return {
        "people": [
            {"box": [10.0, 20.0, 30.0, 40.0], "score": 0.5, "keypoints": keypoints}
            for keypoints in people
        ]
    }


@pytest.mark.parametrize("names", [("nose", "left_hip"), COCO_KEYPOINTS[::-1], ("tip", "tail")])
def test_joints_keep_the_names_and_the_order_of_the_network(names: tuple[str, ...]):
    joints = {name: [float(place), 2.0, 0.75] for place, name in enumerate(names)}
    poses = poses_of(document(joints, joints))
    assert poses.names == names
    assert poses.keypoints.xy.shape == (2, len(names), 2)
    np.testing.assert_array_equal(poses.keypoints.xy[1, :, 0], np.arange(len(names)))
    np.testing.assert_array_equal(poses.boxes.xyxy[0], [10, 20, 40, 60])


def test_a_joint_that_one_person_lacks_has_score_0():
    poses = poses_of(document({"nose": [1, 2, 0.5]}, {"nose": [1, 2, 0.5], "left_hip": [3, 4, 1]}))
    assert poses.names == ("nose", "left_hip")
    np.testing.assert_array_equal(poses.keypoints.scores, [[0.5, 0.0], [0.5, 1.0]])


def test_nobody_has_joints_of_coco():
    poses = poses_of(document())
    assert poses.names == COCO_KEYPOINTS
    assert poses.keypoints.xy.shape == (0, 17, 2)

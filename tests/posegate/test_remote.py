"""A service's answers as the pipeline's own."""

import numpy as np
import pytest

from posegate import remote
from posegate.errors import BackendDown
from posegate.options import EstimateOptions
from posegate.remote import RemotePipeline, poses_of
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


class Restarting:
    """A client whose service is there for some calls and away for others."""

    def __init__(self, *there: bool, retry_after_s: float | None = 0.01) -> None:
        self._there = list(there)
        self._retry_after_s = retry_after_s

    async def estimate(self, image: bytes, **options: object) -> dict[str, object]:
        if not self._there.pop(0):
            raise BackendDown("nobody is there", retry_after_s=self._retry_after_s)
        about = {"model": "m", "detector": None, "image": {"width": 4, "height": 3}}
        return {**document(), **about, "stages_ms": {}}


async def test_a_service_that_has_answered_is_waited_for_while_it_restarts():
    pipeline = RemotePipeline(Restarting(True, False, False, True))
    for _ in range(2):
        assert (await pipeline.estimate(b"", EstimateOptions())).model == "m"


async def test_a_service_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "RESTART_S", 0.05)
    pipeline = RemotePipeline(Restarting(True, *[False] * 99))
    await pipeline.estimate(b"", EstimateOptions())
    with pytest.raises(BackendDown):
        await pipeline.estimate(b"", EstimateOptions())


async def test_a_service_that_never_answered_is_not_waited_for():
    with pytest.raises(BackendDown):
        await RemotePipeline(Restarting(False, True)).estimate(b"", EstimateOptions())


async def test_a_failure_that_waiting_does_not_mend_is_told_at_once():
    pipeline = RemotePipeline(Restarting(True, False, True, retry_after_s=None))
    await pipeline.estimate(b"", EstimateOptions())
    with pytest.raises(BackendDown):
        await pipeline.estimate(b"", EstimateOptions())

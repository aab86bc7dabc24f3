"""PCKh on made joints: posenets.evaluation.pck."""

import numpy as np
import pytest

from posenets.evaluation.pck import pckh
from posenets.training.mpii import MPII_KEYPOINTS

PEOPLE, JOINTS = 4, len(MPII_KEYPOINTS)
HEADS = np.array([10, 20, 30, 40], np.float32)


def at_distance(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Found and true places (P, J, 2), `share` (P, J) head sizes apart in some direction."""
    random = np.random.default_rng(0)
    true = random.uniform(0, 400, (PEOPLE, JOINTS, 2))
    angle = random.uniform(0, 2 * np.pi, share.shape)
    away = (share * HEADS[:, None])[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return true + away, true


def test_shares_of_each_joint_at_both_thresholds() -> None:
    share = np.zeros((PEOPLE, JOINTS))
    share[:, 0] = [0.05, 0.2, 0.49, 0.51]
    share[:, 9] = [0.09, 0.11, 3, 3]
    found, true = at_distance(share)
    labelled = np.ones((PEOPLE, JOINTS), bool)
    result = pckh(found, true, labelled, HEADS, joint_names=MPII_KEYPOINTS)
    np.testing.assert_allclose(result.per_joint[:, 0], [0.75, 0.25])
    np.testing.assert_allclose(result.per_joint[:, 9], [0.5, 0.25])
    np.testing.assert_allclose(result.per_joint[:, 1], 1)
    counted = 14 * PEOPLE
    np.testing.assert_allclose(result.mean, [(counted - 3) / counted, (counted - 6) / counted])


def test_pelvis_thorax_and_unlabelled_joints_do_not_enter_the_mean() -> None:
    share = np.zeros((PEOPLE, JOINTS))
    share[:, 6:8] = 5
    share[0, 3] = 5
    found, true = at_distance(share)
    labelled = np.ones((PEOPLE, JOINTS), bool)
    labelled[0, 3] = False
    labelled[:, 5] = False
    result = pckh(found, true, labelled, HEADS, joint_names=MPII_KEYPOINTS)
    np.testing.assert_allclose(result.mean, 1)
    np.testing.assert_allclose(result.per_joint[:, 6:8], 0)
    assert np.isnan(result.per_joint[:, 5]).all()
    assert result.labelled[3] == PEOPLE - 1


def test_the_mean_weighs_joints_by_how_often_they_are_labelled() -> None:
    share = np.zeros((PEOPLE, JOINTS))
    share[:, 0] = 5
    found, true = at_distance(share)
    labelled = np.zeros((PEOPLE, JOINTS), bool)
    labelled[:, 0], labelled[0, 1] = True, True
    result = pckh(found, true, labelled, HEADS, joint_names=MPII_KEYPOINTS)
    np.testing.assert_allclose(result.mean, 1 / 5)


def test_a_place_that_is_not_a_number_is_a_miss() -> None:
    found, true = at_distance(np.zeros((PEOPLE, JOINTS)))
    found[0, 0] = np.nan
    labelled = np.ones((PEOPLE, JOINTS), bool)
    result = pckh(found, true, labelled, HEADS, joint_names=MPII_KEYPOINTS)
    np.testing.assert_allclose(result.per_joint[:, 0], 0.75)


def test_rows_name_joints_and_thresholds() -> None:
    found, true = at_distance(np.zeros((PEOPLE, JOINTS)))
    labelled = np.ones((PEOPLE, JOINTS), bool)
    rows = pckh(found, true, labelled, HEADS, joint_names=MPII_KEYPOINTS).as_rows()
    first = {"joint": "right_ankle", "labelled": 4, "pckh@0.5": 1.0, "pckh@0.1": 1.0}
    assert rows[0] == first
    assert rows[-1] == first | {"joint": "mean", "labelled": 14 * PEOPLE}


@pytest.mark.parametrize("size", [0.0, np.nan])
def test_a_person_without_a_head_size_is_refused(size: float) -> None:
    found, true = at_distance(np.zeros((PEOPLE, JOINTS)))
    heads = np.where(np.arange(PEOPLE) == 2, size, HEADS).astype(np.float32)
    with pytest.raises(ValueError, match="head box per person"):
        pckh(found, true, np.ones((PEOPLE, JOINTS), bool), heads, joint_names=MPII_KEYPOINTS)


def test_a_joint_that_is_never_labelled_has_no_figure_in_the_rows() -> None:
    found, true = at_distance(np.zeros((PEOPLE, JOINTS)))
    labelled = np.zeros((PEOPLE, JOINTS), bool)
    rows = pckh(found, true, labelled, HEADS, joint_names=MPII_KEYPOINTS).as_rows()
    nothing = {"labelled": 0, "pckh@0.5": None, "pckh@0.1": None}
    assert rows == [{"joint": joint} | nothing for joint in (*MPII_KEYPOINTS, "mean")]

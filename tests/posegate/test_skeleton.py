import numpy as np
import pytest

from posegate.skeleton import (
    COCO_KEYPOINTS,
    COCO_LIMBS,
    COCO_SIGMAS,
    flip_order,
    sigmas_of,
)


def test_flip_order_pairs_left_with_right_and_is_its_own_inverse() -> None:
    order = flip_order(COCO_KEYPOINTS)
    np.testing.assert_array_equal(order[order], np.arange(17))
    for name, partner in zip(COCO_KEYPOINTS, order, strict=True):
        swapped = name.replace("left", "X").replace("right", "left").replace("X", "right")
        assert COCO_KEYPOINTS[partner] == swapped


def test_joint_without_partner_maps_to_itself() -> None:
    assert flip_order(("left_paw", "tail", "left_ear", "right_ear")).tolist() == [0, 1, 3, 2]


def test_limbs_join_all_joints_into_one_skeleton() -> None:
    joined = {0}
    for _ in COCO_LIMBS:
        joined |= {joint for limb in COCO_LIMBS if joined & set(limb) for joint in limb}
    assert joined == set(range(17))


def test_limbs_are_the_same_on_both_sides() -> None:
    order = flip_order(COCO_KEYPOINTS)
    limbs = {frozenset(limb) for limb in COCO_LIMBS}
    assert {frozenset(int(order[joint]) for joint in limb) for limb in COCO_LIMBS} == limbs


def test_oks_constants_are_those_of_cocoeval() -> None:
    pairs = [0.25, 0.35, 0.79, 0.72, 0.62, 1.07, 0.87, 0.89]  # eyes, ears, ..., ankles
    published = [0.26, *np.repeat(pairs, 2)]
    np.testing.assert_allclose(COCO_SIGMAS, np.array(published) / 10, rtol=1e-6)
    np.testing.assert_array_equal(COCO_SIGMAS, COCO_SIGMAS[flip_order(COCO_KEYPOINTS)])


def test_constants_of_named_joints_are_made_once_and_cannot_be_written() -> None:
    sigmas = sigmas_of(("left_knee", "tail"))
    assert sigmas.tolist() == pytest.approx([0.087, 0.08])
    assert sigmas_of(("left_knee", "tail")) is sigmas
    with pytest.raises(ValueError, match="read-only"):
        sigmas[0] = 1.0

"""How sure a person is; who is answered: nobody unsure, and nobody twice."""

import numpy as np
import pytest

from posegate.association import SAME_PERSON, first_of_alike
from posegate.people import person_scores, sure_people, without_doubles
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import Boxes, Keypoints, Poses

RANDOM = np.random.default_rng(3)
BODY = RANDOM.uniform([20, 20], [180, 380], (17, 2)).astype(np.float32)
WHOLE = [0.0, 0.0, 200.0, 400.0]
HALF = [0.0, 0.0, 200.0, 200.0]


def people(*found: tuple[np.ndarray, list[float], float]) -> Poses:
    """People of these joints, boxes and scores, whose joints are all surely seen."""
    joints, boxes, scores = zip(*found, strict=True)
    return Poses(
        Boxes(np.array(boxes, np.float32), np.array(scores, np.float32)),
        Keypoints(np.stack(joints), np.full((len(found), 17), 0.9, np.float32)),
        COCO_KEYPOINTS,
    )


def test_a_person_is_as_sure_as_box_and_surer_joints_are():
    joints = np.full((3, 17), 0.8, np.float32)
    joints[1, :8] = 0.0  # hidden
    joints[2] = 0.1
    scores = person_scores(np.array([0.9, 0.9, 0.9], np.float32), joints)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [0.72, 0.72, 0.09], atol=1e-6)
    joints[1, 8] = 0.0
    assert person_scores(np.array([0.9, 0.9, 0.9], np.float32), joints)[1] < 0.65


def test_unsure_people_go_and_the_surest_comes_first():
    beside = [300.0, 0.0, 500.0, 400.0]
    far = [600.0, 0.0, 800.0, 400.0]
    three = people((BODY, WHOLE, 0.3), (BODY + 300, beside, 0.29), (BODY + 600, far, 0.8))
    poses = sure_people(three, 0.3)
    np.testing.assert_allclose(poses.boxes.scores, [0.8, 0.3])
    np.testing.assert_array_equal(poses.keypoints.xy, [BODY + 600, BODY])
    assert len(sure_people(three, 0.9)) == 0


def test_the_surer_of_two_boxes_on_one_person_stays():
    poses = without_doubles(people((BODY, HALF, 0.5), (BODY + 1, WHOLE, 0.8)))
    assert poses.boxes.xyxy.tolist() == [WHOLE]
    np.testing.assert_array_equal(poses.keypoints.xy, [BODY + 1])


@pytest.mark.parametrize("surer", [0, 1])
def test_the_larger_box_tells_how_alike_a_part_and_the_whole_of_a_person_are(surer: int):
    part = [60.0, 100.0, 100.0, 180.0]
    scores = [0.5, 0.5]
    scores[surer] = 0.8
    both = people((BODY, WHOLE, scores[0]), (BODY + 8, part, scores[1]))
    assert without_doubles(both).boxes.xyxy.tolist() == [[WHOLE, part][surer]]


@pytest.mark.parametrize(("off", "left"), [(20.0, 1), (26.0, 2)])
def test_two_are_one_person_from_a_similarity_of_0_6_on(off: float, left: int):
    moved = BODY + np.array([off, 0], np.float32)
    assert len(without_doubles(people((BODY, WHOLE, 0.9), (moved, WHOLE, 0.8)))) == left


@pytest.mark.parametrize("shift", [30.0, 60.0, 400.0])
def test_neighbours_stay_in_their_order(shift: float):
    beside = [WHOLE[0] + shift, 0.0, WHOLE[2] + shift, 400.0]
    poses = without_doubles(
        people((BODY, WHOLE, 0.5), (BODY + np.array([shift, 0], np.float32), beside, 0.8))
    )
    np.testing.assert_allclose(poses.boxes.scores, [0.5, 0.8])


def test_the_same_joints_far_off_are_somebody_else_s():
    other = BODY.copy()
    other[:12] += 60
    assert len(without_doubles(people((BODY, WHOLE, 0.9), (other, WHOLE, 0.8)))) == 2


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_people_are_given_back_as_they_are(count: int):
    both = people((BODY, HALF, 0.5), (BODY, WHOLE, 0.8))
    few = Poses(
        Boxes(both.boxes.xyxy[:count], both.boxes.scores[:count]),
        Keypoints(both.keypoints.xy[:count], both.keypoints.scores[:count]),
        both.names,
    )
    assert without_doubles(few) is few


def test_rounds_give_what_going_one_by_one_gives():
    for _ in range(50):
        count = int(RANDOM.integers(1, 12))
        similarity = RANDOM.uniform(0.2, 0.9, (count, count)).astype(np.float32)
        similarity = np.maximum(similarity, similarity.T)
        scores = RANDOM.choice([0.3, 0.5, 0.7], count).astype(np.float32)
        expected: list[int] = []
        for person in np.argsort(-scores, kind="stable"):
            if all(similarity[person, kept] < SAME_PERSON for kept in expected):
                expected.append(int(person))
        assert np.flatnonzero(first_of_alike(similarity, scores)).tolist() == sorted(expected)

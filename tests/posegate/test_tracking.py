"""poses of frames -> ids and smoothed keypoints: posegate.tracking and posegate.smoothing."""

import numpy as np
import pytest

from posegate.skeleton import COCO_KEYPOINTS
from posegate.smoothing import OneEuro
from posegate.tracking import Tracker
from posegate.types import Boxes, Keypoints, Poses

FRAME_S = 1 / 30


def poses(*centres: tuple[float, float], size: float = 100.0) -> Poses:
    """People of that size about those centres, all in one posture."""
    at = np.array(centres, np.float32).reshape(-1, 2)
    posture = np.random.default_rng(0).uniform(-0.4, 0.4, (17, 2)).astype(np.float32) * size
    half = np.float32(size / 2)
    return Poses(
        Boxes(np.concatenate([at - half, at + half], axis=1), np.ones(len(at), np.float32)),
        Keypoints(at[:, None] + posture, np.ones((len(at), 17), np.float32)),
        COCO_KEYPOINTS,
    )


def test_ids_follow_people_whatever_their_order():
    tracker = Tracker(COCO_KEYPOINTS)
    for frame in range(20):
        people = [(100 + 4 * frame, 100), (400, 100 + 4 * frame), (700, 700)]
        turned = people[frame % 3 :] + people[: frame % 3]
        ids = tracker.update(poses(*turned), frame * FRAME_S).ids.tolist()
        assert ids == [[0, 1, 2], [1, 2, 0], [2, 0, 1]][frame % 3]


def test_people_who_cross_keep_their_ids_by_their_motion():
    tracker = Tracker(COCO_KEYPOINTS)
    for frame in range(60):
        people = [(200 + 10 * frame, 300), (790 - 10 * frame, 330)]
        ids = tracker.update(poses(*people), frame * FRAME_S).ids.tolist()
        assert ids == [0, 1]


def test_a_short_absence_keeps_the_id_and_a_long_one_does_not():
    tracker = Tracker(COCO_KEYPOINTS)
    assert tracker.update(poses((100, 100)), 0.0).ids.tolist() == [0]
    assert tracker.update(poses(), 0.3).ids.tolist() == []
    assert tracker.update(poses((102, 100)), 0.5).ids.tolist() == [0]
    assert tracker.update(poses(), 1.0).ids.tolist() == []
    assert tracker.update(poses((102, 100)), 2.0).ids.tolist() == [1]


def test_ids_stay_at_a_frame_every_few_seconds_and_end_with_a_long_pause():
    tracker = Tracker(COCO_KEYPOINTS)
    for frame in range(4):
        assert tracker.update(poses((100, 100)), 3.0 * frame).ids.tolist() == [0]
    assert tracker.update(poses((100, 100)), 30.0).ids.tolist() == [1]


@pytest.mark.parametrize("burst", [2, 3])
def test_ids_stay_when_frames_come_in_bursts(burst: int):
    """As from a network that hands several frames over at once, half a millisecond apart."""
    tracker = Tracker(COCO_KEYPOINTS)
    for frame in range(60):
        came_s = frame // burst * burst * FRAME_S + frame % burst * 0.0005
        moved = poses((100 + 6 * frame, 100))
        assert tracker.update(moved, came_s).ids.tolist() == [0]


def test_a_newcomer_gets_a_new_id_and_nobody_elses():
    tracker = Tracker(COCO_KEYPOINTS)
    tracker.update(poses((100, 100)), 0.0)
    assert tracker.update(poses((500, 500), (100, 100)), FRAME_S).ids.tolist() == [1, 0]


def test_streams_do_not_share_ids():
    first, second = Tracker(COCO_KEYPOINTS), Tracker(COCO_KEYPOINTS)
    first.update(poses((1, 1), (300, 300)), 0.0)
    assert second.update(poses((300, 300)), 0.0).ids.tolist() == [0]


def test_memory_of_a_long_stream_is_that_of_the_people_in_it():
    tracker = Tracker(COCO_KEYPOINTS)
    for frame in range(200):
        tracker.update(poses((500.0 * frame, 0)), frame * 0.5)
    assert len(tracker._ids) <= 3


def test_joints_tell_people_of_one_box_apart_and_boxes_people_without_joints():
    both = poses((100, 100), (100, 100))
    both.keypoints.xy[1] = 200 - both.keypoints.xy[1]  # head over heels
    turned = Poses(
        both.boxes, Keypoints(both.keypoints.xy[::-1], both.keypoints.scores), both.names
    )
    tracker = Tracker(COCO_KEYPOINTS)
    assert tracker.update(both, 0.0).ids.tolist() == [0, 1]
    assert tracker.update(turned, FRAME_S).ids.tolist() == [1, 0]
    assert tracker.update(both, 2 * FRAME_S).ids.tolist() == [0, 1]
    apart = poses((100, 100), (400, 100))
    apart.keypoints.scores[:] = 0
    tracker = Tracker(COCO_KEYPOINTS)
    assert tracker.update(apart, 0.0).ids.tolist() == [0, 1]
    back = Poses(Boxes(apart.boxes.xyxy[::-1], apart.boxes.scores), apart.keypoints, apart.names)
    assert tracker.update(back, FRAME_S).ids.tolist() == [1, 0]


def test_people_are_carried_on_by_half_of_their_newest_speed():
    tracker = Tracker(COCO_KEYPOINTS)
    assert tracker.carry(0.0) is None
    tracker.update(poses((100, 100)), 0.0)
    assert tracker.carry(0.5).tolist() == [[50, 50, 100, 100]]
    tracker.update(poses((108, 96)), 0.1)  # 80 and -40 px a second
    np.testing.assert_allclose(tracker.carry(0.2), [[62, 44, 100, 100]], atol=1e-3)
    tracker.update(poses((116, 92)), 0.2)  # the same again
    np.testing.assert_allclose(tracker.carry(0.3), [[72, 39, 100, 100]], atol=1e-3)


def test_nobody_is_carried_on_by_more_than_a_quarter_of_their_size():
    tracker = Tracker(COCO_KEYPOINTS)
    tracker.update(poses((100, 100)), 0.0)
    tracker.update(poses((120, 80)), 0.01)
    np.testing.assert_allclose(tracker.carry(0.51), [[95, 5, 100, 100]], atol=1e-3)


def test_nobody_is_carried_on_for_more_than_a_second():
    tracker = Tracker(COCO_KEYPOINTS)
    tracker.update(poses((100, 100)), 2.0)
    assert tracker.carry(3.0) is not None
    assert tracker.carry(3.01) is None


@pytest.mark.parametrize(("grown", "scale"), [(1.1, 1.1), (1.5, 1.2), (0.9, 0.9), (0.5, 1 / 1.2)])
def test_a_carried_box_goes_with_its_joints(grown: float, scale: float):
    tracker = Tracker(COCO_KEYPOINTS)
    tracker.update(poses((100, 100)), 0.0)
    before = poses((100, 100)).keypoints.xy[0].mean(axis=0)
    moved = poses((110, 95), size=100 * grown)
    tracks = tracker.update(moved, FRAME_S, carried=True)
    assert tracks.ids.tolist() == [0]
    after = moved.keypoints.xy[0].mean(axis=0)
    corners = np.array([[50, 50], [150, 150]])
    expected = (after + (corners - before) * scale).reshape(1, 4)
    np.testing.assert_allclose(tracks.poses.boxes.xyxy, expected, atol=1e-3)


def test_joints_count_for_a_carried_box_as_surely_as_they_were_seen_twice():
    tracker = Tracker(COCO_KEYPOINTS)
    first, second = poses((100, 100)), poses((100, 100))
    first.keypoints.scores[:, 5:] = 0
    second.keypoints.xy[:, :5] += 4
    second.keypoints.xy[:, 5:] += 40  # not seen before
    tracker.update(first, 0.0)
    (box,) = tracker.update(second, FRAME_S, carried=True).poses.boxes.xyxy
    np.testing.assert_allclose(box, [54, 54, 154, 154], atol=1e-3)


def test_tracks_go_along_where_frames_change_their_size():
    tracker = Tracker(COCO_KEYPOINTS)
    tracker.update(poses((100, 100)), 0.0)
    tracker.update(poses((108, 100)), 0.1)
    tracker.resize(0.5, 2.0)
    np.testing.assert_allclose(tracker.carry(0.2), [[31, 100, 50, 200]], atol=1e-3)
    seen = poses((108, 100))
    seen.keypoints.xy[:] *= (0.5, 2.0)
    tracks = tracker.update(seen, 0.2, carried=True)
    assert tracks.ids.tolist() == [0]
    np.testing.assert_allclose(tracks.poses.boxes.xyxy, [[29, 100, 79, 300]], atol=1e-3)
    np.testing.assert_allclose(tracks.smoothed.xy, seen.keypoints.xy, atol=3)


def test_a_carried_person_without_a_joint_has_the_box_carried_to():
    tracker = Tracker(COCO_KEYPOINTS)
    tracker.update(poses((100, 100)), 0.0)
    unseen = poses((103, 100))
    unseen.keypoints.scores[:] = 0
    (box,) = tracker.update(unseen, FRAME_S, carried=True).poses.boxes.xyxy
    np.testing.assert_allclose(box, [53, 50, 153, 150], atol=1e-3)


def test_carried_people_are_known_and_ordered_as_last_detected():
    tracker = Tracker(COCO_KEYPOINTS)
    detected = poses((100, 100), (300, 300))
    detected.boxes.scores[:] = (0.4, 0.9)
    tracker.update(detected, 0.0)
    tracks = tracker.update(poses((100, 100), (300, 300), (600, 600)), FRAME_S, carried=True)
    assert tracks.ids.tolist() == [1, 0]
    np.testing.assert_allclose(tracks.poses.boxes.scores, [0.9, 0.4])
    assert tracker.update(poses((600, 600)), 2 * FRAME_S).ids.tolist() == [2]


def test_ids_end_with_a_second_unseen_and_with_a_pause_of_ten():
    missed, paused = Tracker(COCO_KEYPOINTS), Tracker(COCO_KEYPOINTS)
    missed.update(poses((100, 100), (300, 300)), 0.0)
    for at_s, ids in ((0.5, [1]), (1.0, [1])):
        assert missed.update(poses((300, 300)), at_s).ids.tolist() == ids
    assert missed.update(poses((100, 100), (300, 300)), 1.01).ids.tolist() == [2, 1]
    paused.update(poses((100, 100)), 0.0)
    assert paused.update(poses((100, 100)), 10.0).ids.tolist() == [0]
    assert paused.update(poses((100, 100)), 20.01).ids.tolist() == [1]


def test_smoothing_calms_a_still_person_and_follows_a_moving_one():
    noise = np.random.default_rng(1)
    still, moving = Tracker(COCO_KEYPOINTS), Tracker(COCO_KEYPOINTS)
    raw, smooth, lags = [], [], []
    for frame in range(90):
        jitter = noise.normal(0, 1.0, 2)
        person = poses((200 + jitter[0], 200 + jitter[1]))
        tracks = still.update(person, frame * FRAME_S)
        raw.append(person.keypoints.xy[0])
        smooth.append(tracks.smoothed.xy[0])
        runner = poses((100 + 10 * frame, 200))
        tracks = moving.update(runner, frame * FRAME_S)
        lags.append(float((runner.keypoints.xy - tracks.smoothed.xy)[..., 0].max()))
    assert np.std(smooth[30:], axis=0).mean() < 0.6 * np.std(raw[30:], axis=0).mean()
    assert max(lags[30:]) < 10  # px, less than one frame of movement at 3 body lengths a second


def test_first_position_is_taken_as_it_is_and_time_standing_still_breaks_nothing():
    euro = OneEuro(1)
    euro.grow(1)
    rows, scale = np.zeros(1, np.int64), np.full(1, 100, np.float32)
    at = np.array([[[5, 6]]], np.float32)
    assert euro.smooth(rows, at, 1.0, scale=scale).tolist() == at.tolist()
    again = euro.smooth(rows, at + 50, 1.0, scale=scale)
    assert np.isfinite(again).all()
    assert (again >= at).all() and (again <= at + 50).all()


def test_one_euro_equals_its_paper_for_one_coordinate():
    """The scalar filter of Casiez et al., written out."""
    euro, scale = OneEuro(1), 100.0
    euro.grow(1)
    xs = np.random.default_rng(2).normal(0, 20, 30).cumsum()
    before, speed = None, 0.0
    for index, x in enumerate(xs):
        position = np.full((1, 1, 2), x, np.float32)
        got = euro.smooth(
            np.zeros(1, np.int64), position, index * FRAME_S, scale=np.full(1, scale, np.float32)
        )
        if before is None:
            before = x
        else:
            share = 1 / (1 + 1 / (2 * np.pi * 1.0 * FRAME_S))
            speed += share * ((x - before) / FRAME_S / scale - speed)
            cutoff = 1.5 + 8.0 * abs(speed)
            before += (x - before) / (1 + 1 / (2 * np.pi * cutoff * FRAME_S))
        assert got[0, 0, 0] == pytest.approx(before, abs=0.02)

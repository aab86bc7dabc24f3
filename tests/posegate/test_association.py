"""Pairs of tracks and people, beside SciPy's Hungarian assignment, and how alike they are."""

import numpy as np
import pytest

from posegate.association import MIN_SIMILARITY, keypoint_similarity, match_tracks
from posegate.types import Keypoints

scipy_optimize = pytest.importorskip("scipy.optimize")
RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("tracks", [0, 1, 4, 9])
@pytest.mark.parametrize("people", [0, 1, 5, 9])
def test_the_sum_over_pairs_is_the_largest_there_is(tracks: int, people: int):
    for _ in range(10):
        similarity = RANDOM.uniform(0, 1, (tracks, people)).astype(np.float32)
        track = match_tracks(similarity)
        assert track.shape == (people,)
        paired = np.flatnonzero(track >= 0)
        assert len(set(track[paired].tolist())) == len(paired)
        found = similarity[track[paired], paired]
        assert (found >= MIN_SIMILARITY).all()
        counted = np.where(similarity >= MIN_SIMILARITY, similarity, 0)
        best = scipy_optimize.linear_sum_assignment(counted, maximize=True)
        assert found.sum() == pytest.approx(counted[best].sum(), abs=1e-5)


def test_keypoints_are_as_alike_as_coco_counts_it_and_the_lower_score_weighs_a_joint():
    track, person = np.zeros((2, 1, 3, 2), np.float32)
    person[0] = [[3, 4], [0, 10], [50, 50]]
    scores = np.array([[0.9, 0.2, 0.0]], np.float32)  # the last joint was not seen before
    keypoints = Keypoints(person[None, 0], np.array([[0.6, 0.8, 1.0]], np.float32))
    box = np.array([[10, 20, 50, 120]], np.float32)
    sigmas = np.array([0.05, 0.1, 0.025], np.float32)
    # cocoeval: exp(-d^2 / (2 area (2 sigma)^2)), 0.53 of the box as its area
    near, far = (
        np.exp(-squared / (2 * 0.53 * 40 * 100 * (2 * sigma) ** 2))
        for squared, sigma in ((25, 0.05), (100, 0.1))
    )
    similarity = keypoint_similarity(track, scores, keypoints, box, sigmas)
    assert similarity.item() == pytest.approx((0.6 * near + 0.2 * far) / (0.6 + 0.2), abs=1e-5)

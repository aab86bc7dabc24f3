"""Pairs of tracks and people, beside SciPy's Hungarian assignment."""

import numpy as np
import pytest

from posegate.association import MIN_SIMILARITY, match_tracks

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

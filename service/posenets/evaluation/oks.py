"""Object keypoint similarity per joint: how close, in units of how exactly people place that joint.

Lin et al., COCO keypoint evaluation (cocoeval.computeOks): exp(-d^2 / (2 area (2 sigma)^2)), d the
distance in pixels, `area` the person's in square pixels. Shape letters: P people, J joints.
"""

import numpy as np
from numpy.typing import NDArray

from posegate.skeleton import COCO_SIGMAS
from posegate.types import F32, F64

_EPSILON = float(np.spacing(1))


def joint_oks(found_xy: F32, true_xy: F32, labelled: NDArray[np.bool_], areas: F32) -> F64:
    """(P, J) float64 similarity in [0, 1], NaN where `labelled` (P, J) is false; J are COCO's 17.

    `found_xy` and `true_xy` (P, J, 2) in pixels of the photo, `areas` (P,) in square pixels. A
    place that is not a number scores 0.
    """
    squared = ((found_xy.astype(np.float64) - true_xy) ** 2).sum(-1)
    spread = (2 * COCO_SIGMAS.astype(np.float64)) ** 2
    scaled = squared / spread / (areas.astype(np.float64)[:, None] + _EPSILON) / 2
    similarity = np.where(np.isfinite(scaled), np.exp(-scaled), 0.0)
    return np.where(labelled, similarity, np.nan)


def person_oks(similarity: F64) -> F64:
    """(P,) COCO's figure of a person, the mean over labelled joints; NaN without any."""
    return _mean(similarity, axis=1)


def oks_per_joint(similarity: F64) -> F64:
    """(J,) mean over the people for whom the joint is labelled; NaN without any."""
    return _mean(similarity, axis=0)


def _mean(values: F64, *, axis: int) -> F64:
    known = np.isfinite(values)
    counts = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)

"""The target of a joint along one axis, shared by heatmaps and SimCC."""

import numpy as np
from numpy.typing import NDArray

from posegate.types import F32

CUT_SIGMAS = 3.0
"""A target Gaussian is zero farther away than this many sigmas along either axis (HRNet)."""


def gaussian(centre: NDArray[np.float64], size: int, sigma: float) -> F32:
    """(..., size) float32: peak 1 at `centre` (...), zero beyond the cut."""
    distance = np.arange(size) - centre[..., None]
    value = np.exp(-(distance**2) / (2 * sigma**2))
    value[np.abs(distance) > CUT_SIGMAS * sigma] = 0
    return np.asarray(value, np.float32)

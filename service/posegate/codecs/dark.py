"""DARK: the sub-pixel place of a heatmap's peak, from a Taylor expansion of its logarithm.

Zhang et al., Distribution-Aware Coordinate Representation for Human Pose Estimation, CVPR 2020.
The paper blurs whole maps; only 13 blurred values per map are ever used, so they are made here
from one small patch round each peak, by one matrix product.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from posegate.types import F32

REACH = 2
"""Pixels from the peak to the farthest blurred value used; also the largest shift believed."""

_TAPS_XY = (
    (0, 0), (-1, 0), (1, 0), (-2, 0), (2, 0), (0, -1), (0, 1), (0, -2), (0, 2),
    (-1, -1), (1, -1), (-1, 1), (1, 1),
)  # fmt: skip


def refine_dark(heatmaps: F32, peaks_xy: NDArray[np.intp], sigma: float) -> F32:
    """Sub-pixel places (N, 2) float32, in heatmap pixels, of the peaks (N, 2) of maps (N, h, w).

    `sigma` is that of the target Gaussians, in heatmap pixels; the blur has the same. A peak stays
    where it is if it lies on the border or next to it, or if the blurred map has no maximum there.
    """
    _, height, width = heatmaps.shape
    patches = _gather_patches(heatmaps, peaks_xy, blur_radius(sigma) + REACH)
    return refine_blurred(patches @ blur_matrix(sigma), peaks_xy, (width, height))


def refine_blurred(blurred: F32, peaks_xy: NDArray[np.intp], size_wh: tuple[int, int]) -> F32:
    """The same from the blurred values (N, 13) that `blur_matrix` gives of each peak's patch."""
    width, height = size_wh
    log = np.log(np.maximum(blurred, np.float32(1e-10))).T
    centre, left, right, left2, right2, up, down, up2, down2, nw, ne, sw, se = log
    dx = 0.5 * (right - left)
    dy = 0.5 * (down - up)
    dxx = 0.25 * (right2 - 2 * centre + left2)
    dyy = 0.25 * (down2 - 2 * centre + up2)
    dxy = 0.25 * (se - ne - sw + nw)
    determinant = dxx * dyy - dxy * dxy
    x, y = peaks_xy[:, 0], peaks_xy[:, 1]
    inside = (x >= REACH) & (x < width - REACH) & (y >= REACH) & (y < height - REACH)
    usable = inside & (determinant > 0) & (dxx < 0)
    divisor = np.where(usable, determinant, 1)
    shift = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=1) / divisor[:, None]
    shift = np.where(usable[:, None], shift.clip(-REACH, REACH), 0)
    return (peaks_xy + shift).astype(np.float32)


def blur_radius(sigma: float) -> int:
    """Half width of the blur kernel that OpenCV ties to `sigma`: 5 (11 x 11) for sigma 2."""
    return max(1, round((sigma - 0.8) / 0.3 + 1))


@lru_cache(maxsize=8)
def blur_matrix(sigma: float) -> F32:
    """(patch pixels, 13): column t gives the blurred value at `_TAPS_XY[t]`."""
    radius = blur_radius(sigma)
    steps = np.arange(-radius - REACH, radius + REACH + 1)
    distance = steps[None, :] - np.arange(-REACH, REACH + 1)[:, None]
    bands = np.exp(-(distance**2) / (2 * sigma**2)) * (np.abs(distance) <= radius)
    bands /= bands[REACH].sum()
    columns = [np.outer(bands[y + REACH], bands[x + REACH]).ravel() for x, y in _TAPS_XY]
    return np.stack(columns, axis=1).astype(np.float32)


def _gather_patches(heatmaps: F32, peaks_xy: NDArray[np.intp], radius: int) -> F32:
    """(N, (2 * radius + 1) ** 2) values round each peak, row by row; 0 beyond the border."""
    count, height, width = heatmaps.shape
    steps = np.arange(-radius, radius + 1)
    x = peaks_xy[:, :1] + steps  # (N, 2 * radius + 1)
    y = peaks_xy[:, 1:] + steps
    rows = np.arange(count)[:, None] * height + y.clip(0, height - 1)
    index = rows[:, :, None] * width + x.clip(0, width - 1)[:, None, :]
    within = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    patches: F32 = heatmaps.reshape(-1).take(index) * within
    return patches.reshape(count, len(steps) ** 2)

"""Pure geometry: which part of the image a crop shows, and the affine maps there and back.

All maps are (..., 2, 3) float64 arrays named `a_to_b`; they act on column vectors (x, y, 1).
"""

import numpy as np
from numpy.typing import NDArray

from posegate.types import F32, F64


def box_to_region(boxes_xyxy: F32, *, aspect: float, padding: float) -> F64:
    """Centre and size of the region that a crop shows for each box.

    A box (P, 4) is widened or heightened about its centre to `aspect` (width / height) and scaled
    by `padding` (Xiao et al., Simple Baselines, 2018: 3:4 and 1.25). Returns (P, 4) float64:
    centre x, centre y, width, height in image pixels; a box is at least one pixel in each
    direction.
    """
    xyxy = boxes_xyxy.astype(np.float64)
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    size = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 1.0)
    width = np.maximum(size[:, 0], size[:, 1] * aspect)
    return np.column_stack([centre, width * padding, width / aspect * padding])


def region_to_crop_affine(regions: F64, *, size_wh: tuple[int, int]) -> F64:
    """(P, 2, 3) affine from image to crop pixels: the region's centre falls on the crop's centre.

    `regions` (P, 4): centre x, y, width, height in image pixels; `size_wh`: crop pixels.
    """
    width, height = size_wh
    scale = width / regions[:, 2]
    affine = np.zeros((len(regions), 2, 3))
    affine[:, 0, 0] = scale
    affine[:, 1, 1] = scale
    affine[:, :, 2] = (
        np.array([(width - 1) / 2, (height - 1) / 2]) - scale[:, None] * regions[:, :2]
    )
    return affine


def invert_affine(a_to_b: F64) -> F64:
    """(..., 2, 3) affine `b_to_a`."""
    linear = np.linalg.inv(a_to_b[..., :2])
    return np.concatenate([linear, -linear @ a_to_b[..., 2:]], axis=-1)


def compose_affine(b_to_c: F64, a_to_b: F64) -> F64:
    """(..., 2, 3) affine `a_to_c`: first `a_to_b`, then `b_to_c`."""
    linear = b_to_c[..., :2] @ a_to_b[..., :2]
    shift = b_to_c[..., :2] @ a_to_b[..., 2:] + b_to_c[..., 2:]
    return np.concatenate([linear, shift], axis=-1)


def apply_affine(a_to_b: F64, points_xy: NDArray[np.floating]) -> F32:
    """Points (..., N, 2) of frame a in frame b, with one (..., 2, 3) affine per leading index."""
    mapped = points_xy @ np.swapaxes(a_to_b[..., :2], -1, -2) + a_to_b[..., None, :, 2]
    return mapped.astype(np.float32)

"""Heatmaps <-> keypoints: one Gaussian per joint, read back by argmax, quarter offset or DARK.

Shape letters: P people, J joints, N = P * J maps, h and w heatmap pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegate.codecs.dark import refine_dark
from posegate.codecs.gaussian import CUT_SIGMAS, gaussian
from posegate.types import F32, Keypoints


class HeatmapCodec:
    """Gaussian heatmaps whose pixels lie in the crop at `heatmap_px * scale + offset`, per axis."""

    def __init__(
        self,
        *,
        size_wh: Sequence[int] = (48, 64),
        sigma: float = 2.0,
        scale: Sequence[float] = (4.0, 4.0),
        offset: Sequence[float] = (0.0, 0.0),
        decode: str = "dark",
        rounded: bool = False,
        crop_width: int | None = None,
    ) -> None:
        """`size_wh` and `sigma` are in heatmap pixels; `decode` names one of `REFINEMENTS`.

        `rounded` puts a target's peak on a whole heatmap pixel, as HRNet does, rather than at the
        exact joint. `crop_width`, in crop pixels, tells `flip` where the mirror stands; left out,
        it is the map's width times the scale.
        """
        self.size_wh = (int(size_wh[0]), int(size_wh[1]))
        self.sigma = float(sigma)
        self.rounded = rounded
        self._scale = np.array(scale, np.float64)
        self._offset = np.array(offset, np.float64)
        self._refine = REFINEMENTS[decode]
        self._crop_width = crop_width or round(self.size_wh[0] * float(self._scale[0]))

    def decode(self, outputs: Sequence[NDArray[Any]]) -> Keypoints:
        """Keypoints in crop pixels from `outputs` = (heatmaps (P, J, h, w),).

        A score is the peak's value clipped to [0, 1]. A map without a peak (flat, or holding NaN)
        gives the middle of the map with score 0.
        """
        heatmaps = np.ascontiguousarray(outputs[0], np.float32)
        people, joints, height, width = heatmaps.shape
        maps = heatmaps.reshape(people * joints, height, width)
        peaks_xy, values = find_peaks(maps)
        xy = self._refine(maps, peaks_xy, self.sigma)
        blank = ~_has_peak(maps, peaks_xy, values)
        if blank.any():
            xy[blank] = ((width - 1) / 2, (height - 1) / 2)
            values = np.where(blank, np.float32(0), values)
        xy = (xy * self._scale + self._offset).astype(np.float32)
        return Keypoints(
            xy=xy.reshape(people, joints, 2),
            scores=np.clip(values, 0, 1).reshape(people, joints),
        )

    def encode(self, keypoints: Keypoints, weights: F32) -> tuple[tuple[F32, ...], F32]:
        """Target heatmaps (P, J, h, w) and loss weights (P, J) for keypoints in crop pixels.

        The Gaussian has peak 1 at the joint. `weights` (P, J) come back with 0 where the Gaussian,
        cut off at CUT_SIGMAS, misses the map; a joint of weight 0 has an all-zero map.
        """
        size = np.array(self.size_wh)
        centre = (keypoints.xy - self._offset) / self._scale
        if self.rounded:
            centre = np.floor(centre + 0.5)
        reach = CUT_SIGMAS * self.sigma
        touched = ((centre >= -reach) & (centre <= size - 1 + reach)).all(axis=-1)
        kept = np.where(touched, weights, 0).astype(np.float32)
        along_x = gaussian(centre[..., 0], self.size_wh[0], self.sigma)
        along_y = gaussian(centre[..., 1], self.size_wh[1], self.sigma)
        along_x[kept == 0] = along_y[kept == 0] = 0
        return (along_y[..., :, None] * along_x[..., None, :],), kept

    def flip(self, outputs: Sequence[NDArray[Any]], order: NDArray[np.int64]) -> tuple[F32, ...]:
        """Outputs (P, J, h, w) of a mirrored crop, as those of the crop itself.

        `order` (J,) is the index of each joint's mirror image. A map that is only mirrored is off
        by a part of a heatmap pixel, unless map and crop have the same centre: by 0.75 for scale 4
        and offset 0, where HRNet moves it by 1. Here it is moved by exactly that part,
        interpolating linearly, so that averaging both directions leaves the joints in place
        (TinyPose: mean OKS 0.773, not 0.771).
        """
        heatmaps = np.take(np.asarray(outputs[0], np.float32), order, axis=1)
        mirror = (self._crop_width - 1 - 2 * self._offset[0]) / self._scale[0]
        turned: F32 = heatmaps @ _mirror_matrix(heatmaps.shape[-1], float(mirror))
        return (turned,)


def find_peaks(heatmaps: F32) -> tuple[NDArray[np.intp], F32]:
    """Place (N, 2), x then y, and value (N,) of the highest pixel of each map (N, h, w)."""
    count, height, width = heatmaps.shape
    flat = heatmaps.reshape(count, height * width)
    index = flat.argmax(axis=1)
    return np.stack([index % width, index // width], axis=1), flat[np.arange(count), index]


def refine_quarter(heatmaps: F32, peaks_xy: NDArray[np.intp], _sigma: float) -> F32:
    """Peaks moved 0.25 px along each axis towards the higher neighbour, as HRNet does.

    `heatmaps` (N, h, w), `peaks_xy` (N, 2); returns (N, 2) heatmap pixels. Between equal
    neighbours, and along an axis on whose border it lies, a peak stays.
    """
    count, height, width = heatmaps.shape
    flat = heatmaps.reshape(-1)
    x, y = peaks_xy[:, 0], peaks_xy[:, 1]
    centre = (np.arange(count) * height + y) * width + x
    step_x = np.where((x > 0) & (x < width - 1), 1, 0)
    step_y = np.where((y > 0) & (y < height - 1), width, 0)
    steps = np.stack([step_x, step_y], axis=1)
    with np.errstate(invalid="ignore"):  # a network may mask with -inf
        difference = flat[centre[:, None] + steps] - flat[centre[:, None] - steps]
    return np.asarray(peaks_xy + 0.25 * np.nan_to_num(np.sign(difference)), np.float32)


def keep_peaks(_heatmaps: F32, peaks_xy: NDArray[np.intp], _sigma: float) -> F32:
    """Peaks (N, 2) as they are."""
    return peaks_xy.astype(np.float32)


REFINEMENTS: dict[str, Callable[[F32, NDArray[np.intp], float], F32]] = {
    "argmax": keep_peaks,
    "quarter": refine_quarter,
    "dark": refine_dark,
}


def _has_peak(heatmaps: F32, peaks_xy: NDArray[np.intp], values: F32) -> NDArray[np.bool_]:
    """(N,) false where a map holds NaN or is flat; argmax finds the first pixel of a flat map."""
    has_peak: NDArray[np.bool_] = np.isfinite(values)
    first = np.flatnonzero(~peaks_xy.any(axis=1))
    has_peak[first] &= heatmaps[first].min(axis=(1, 2)) < values[first]
    return has_peak


def _mirror_matrix(width: int, mirror: float) -> F32:
    """(w, w) matrix M: column x of `row @ M` is `row` at `mirror - x`, linear, border repeated."""
    columns = np.arange(width)
    source = (mirror - columns).clip(0, width - 1)
    left = np.floor(source).astype(np.intp)
    part = source - left
    matrix = np.zeros((width, width), np.float32)
    np.add.at(matrix, (left, columns), 1 - part)
    np.add.at(matrix, (np.minimum(left + 1, width - 1), columns), part)
    return matrix

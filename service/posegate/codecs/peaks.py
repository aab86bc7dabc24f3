"""Peaks found inside the graph -> keypoints, the same ones as from the whole heatmaps.

The graph (`posenets.export.in_graph`) sends one row per joint instead of a map: where the peak is,
what tells a flat or broken map, the 13 blurred values that DARK reads, and the 11 x 11 values round
the peak. An 11 x 11 patch alone would not do for DARK: its blur reaches 7 px for sigma 2.

Shape letters: P people, J joints, N = P * J rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegate.card import PEAK_ROW
from posegate.codecs.dark import refine_blurred
from posegate.codecs.heatmap import HeatmapCodec
from posegate.errors import BadOption
from posegate.types import F32, Keypoints

PATCH_REACH = 5
PATCH = 2 * PATCH_REACH + 1
BLURRED = slice(4, 17)
VALUES = slice(17, PEAK_ROW)
"""A row: x, y, lowest value and sum of the map; 13 blurred values; 121 values of the patch."""

_CENTRE = PATCH**2 // 2


class PeaksCodec(HeatmapCodec):
    """Rows (P, J, `PEAK_ROW`) of a network whose graph finds the peaks; its targets stay maps."""

    def __init__(self, *, decode: str = "dark", **numbers: Any) -> None:
        """`numbers` are those of the heatmaps that the rows were taken from."""
        super().__init__(decode=decode, **numbers)
        self._decode = decode

    def decode(self, outputs: Sequence[NDArray[Any]]) -> Keypoints:
        """Keypoints in crop pixels from `outputs` = (rows (P, J, `PEAK_ROW`),)."""
        people, joints, _ = outputs[0].shape
        rows = np.asarray(outputs[0], np.float32).reshape(people * joints, PEAK_ROW)
        with np.errstate(invalid="ignore"):  # a broken map may name no place at all
            peaks_xy = np.nan_to_num(rows[:, :2]).astype(np.intp)
        values = rows[:, VALUES][:, _CENTRE]
        xy = self._place(rows, peaks_xy)
        flat = ~peaks_xy.any(axis=1) & ~(rows[:, 2] < values)
        blank = flat | ~np.isfinite(values) | np.isnan(rows[:, 3])
        width, height = self.size_wh
        xy[blank] = ((width - 1) / 2, (height - 1) / 2)
        scores = np.where(blank, np.float32(0), values).clip(0, 1)
        xy = (xy * self._scale + self._offset).astype(np.float32)
        return Keypoints(xy.reshape(people, joints, 2), scores.reshape(people, joints))

    def flip(self, outputs: Sequence[NDArray[Any]], order: NDArray[np.int64]) -> tuple[F32, ...]:
        """Refused: the mean of two maps cannot be had from the peaks of each."""
        raise BadOption(
            "flip_test needs whole heatmaps, and this network sends only their peaks; "
            "leave flip_test out or ask another model"
        )

    def _place(self, rows: F32, peaks_xy: NDArray[np.intp]) -> F32:
        """Peaks (N, 2), refined, heatmap pixels."""
        if self._decode == "dark":
            return refine_blurred(rows[:, BLURRED], peaks_xy, self.size_wh)
        if self._decode == "argmax":
            return peaks_xy.astype(np.float32)
        patch = rows[:, VALUES]
        after, before = [_CENTRE + 1, _CENTRE + PATCH], [_CENTRE - 1, _CENTRE - PATCH]
        with np.errstate(invalid="ignore"):  # a network may mask with -inf
            direction = np.nan_to_num(np.sign(patch[:, after] - patch[:, before]))
        inner = (peaks_xy > 0) & (peaks_xy < np.array(self.size_wh) - 1)
        return np.asarray(peaks_xy + np.where(inner, 0.25 * direction, 0), np.float32)

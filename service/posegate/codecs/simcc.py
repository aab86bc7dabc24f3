"""SimCC vectors <-> keypoints: each axis of a joint is a class among fine bins.

Li et al., SimCC: a Simple Coordinate Classification Perspective, ECCV 2022.
`crop_px = bin / split`. Shape letters: P people, J joints, W and H crop pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegate.codecs.gaussian import gaussian
from posegate.types import F32, Keypoints


class SimccCodec:
    """Two vectors per joint, `simcc_x` (P, J, W * split) and `simcc_y` (P, J, H * split)."""

    def __init__(
        self,
        *,
        crop_wh: Sequence[int] = (192, 256),
        split: float = 2.0,
        sigma: float | Sequence[float] = 6.0,
        normalize: str = "none",
    ) -> None:
        """`sigma`, in bins, is one number or one per axis; `normalize` names a `SCORE_MAPS`."""
        self.split = float(split)
        self._mirror = (crop_wh[0] - 1) * self.split
        self.bins_xy = (round(crop_wh[0] * self.split), round(crop_wh[1] * self.split))
        self._sigma_xy = np.broadcast_to(np.asarray(sigma, np.float64), (2,))
        self._peak_scores = SCORE_MAPS[normalize]

    def decode(self, outputs: Sequence[NDArray[Any]]) -> Keypoints:
        """Keypoints in crop pixels from `outputs` = (simcc_x, simcc_y).

        A score is the lower of both axes' peaks, mapped to [0, 1]. A joint with a flat vector, or
        one that holds NaN, gets the middle of that axis and score 0.
        """
        x, score_x = self._decode_axis(outputs[0])
        y, score_y = self._decode_axis(outputs[1])
        return Keypoints(xy=np.stack([x, y], axis=-1), scores=np.minimum(score_x, score_y))

    def encode(self, keypoints: Keypoints, weights: F32) -> tuple[tuple[F32, ...], F32]:
        """Target vectors with peak 1 at the joint, and `weights` (P, J) with 0 outside the crop."""
        bins = keypoints.xy.astype(np.float64) * self.split
        inside = ((bins > -0.5) & (bins < np.array(self.bins_xy) - 0.5)).all(axis=-1)
        kept = np.where(inside, weights, 0).astype(np.float32)
        targets = tuple(
            np.where(
                kept[..., None] > 0,
                gaussian(bins[..., axis], self.bins_xy[axis], self._sigma_xy[axis]),
                np.float32(0),
            )
            for axis in (0, 1)
        )
        return targets, kept

    def flip(self, outputs: Sequence[NDArray[Any]], order: NDArray[np.int64]) -> tuple[F32, ...]:
        """Vectors of a mirrored crop, as those of the crop itself; `order` (J,): mirrored joint.

        Pixel W - 1, where pixel 0 is mirrored to, lies `split - 1` bins before the last bin, so the
        mirrored vector is moved left by that much, interpolating linearly; its border fills what
        comes in.
        """
        x, y = (np.take(np.asarray(vectors, np.float32), order, axis=1) for vectors in outputs)
        bins = x.shape[-1]
        columns = int(self._mirror) - np.arange(bins)
        turned = np.take(x, columns.clip(0, bins - 1), axis=-1)
        if part := self._mirror % 1:
            right = np.take(x, (columns + 1).clip(0, bins - 1), axis=-1)
            turned = turned * (1 - part) + right * part
        return turned, y

    def _decode_axis(self, vectors: NDArray[Any]) -> tuple[F32, F32]:
        """Place in crop pixels and score, both (P, J)."""
        values = np.asarray(vectors, np.float32)
        peak = values.argmax(axis=-1)
        highest = np.take_along_axis(values, peak[..., None], axis=-1)[..., 0]
        sound = np.isfinite(highest) & (values.min(axis=-1) < highest)
        place = np.where(sound, peak, (values.shape[-1] - 1) / 2) / self.split
        scores = np.where(sound, self._peak_scores(values, highest), 0)
        return place.astype(np.float32), scores.astype(np.float32)


def _clip_score(_values: F32, highest: F32) -> F32:
    return np.clip(highest, 0, 1)


def _softmax_score(values: F32, highest: F32) -> F32:
    with np.errstate(invalid="ignore"):
        total: F32 = np.exp(values - highest[..., None]).sum(axis=-1)
    return np.float32(1) / total


def _sigmoid_score(_values: F32, highest: F32) -> F32:
    odds: F32 = np.exp(highest.clip(-80, 80))
    return odds / (1 + odds)


SCORE_MAPS: dict[str, Callable[[F32, F32], F32]] = {
    "none": _clip_score,
    "softmax": _softmax_score,
    "sigmoid": _sigmoid_score,
}

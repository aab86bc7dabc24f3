"""The One-Euro filter over the joints of many people at once."""

import numpy as np
from numpy.typing import NDArray

from posegate.types import F32

MIN_CUTOFF_HZ = 1.5
BETA = 8.0
"""Cutoff gained, in Hz, per body length a second: standing still is calm, a swing has no lag."""
SPEED_CUTOFF_HZ = 1.0


class OneEuro:
    """Low-pass filters whose cutoff rises with speed (Casiez, Roussel, Vogel, CHI 2012).

    One filter per joint and coordinate; a row holds a person's J joints. Speeds are in body
    lengths a second, so that one setting fits people near and far.
    """

    def __init__(self, joints: int) -> None:
        self._xy = np.zeros((0, joints, 2), np.float32)
        self._speed = np.zeros((0, joints, 2), np.float32)
        self._at_s = np.full(0, -np.inf)

    def smooth(self, rows: NDArray[np.int64], xy: F32, now_s: float, *, scale: F32) -> F32:
        """Filter new positions `xy` (P, J, 2), image pixels, of the people in `rows` (P,).

        `scale` (P,) is each person's body length in pixels. A row's first position comes back as
        it is.
        """
        elapsed_s = now_s - self._at_s[rows]
        first = np.isinf(elapsed_s)[:, None, None]
        elapsed = np.where(first, 1.0, np.maximum(elapsed_s, 1e-3)[:, None, None])
        before = np.where(first, xy, self._xy[rows])
        newest = (xy - before) / elapsed / scale[:, None, None]
        speed = self._speed[rows] + _share(SPEED_CUTOFF_HZ, elapsed) * (newest - self._speed[rows])
        cutoff = MIN_CUTOFF_HZ + BETA * np.abs(speed)
        smoothed: F32 = (before + _share(cutoff, elapsed) * (xy - before)).astype(np.float32)
        self._xy[rows], self._speed[rows], self._at_s[rows] = smoothed, speed, now_s
        return smoothed

    def resize(self, ratio: F32) -> None:
        """All positions times `ratio` (2,); speeds in body lengths stay what they are."""
        self._xy = self._xy * ratio

    def grow(self, count: int) -> None:
        """Add rows that have seen nothing yet."""
        nothing = np.zeros((count, *self._xy.shape[1:]), np.float32)
        self._xy = np.concatenate([self._xy, nothing])
        self._speed = np.concatenate([self._speed, nothing])
        self._at_s = np.append(self._at_s, np.full(count, -np.inf))

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Let the other rows go; `kept` has one flag per row."""
        self._xy, self._speed, self._at_s = self._xy[kept], self._speed[kept], self._at_s[kept]


def _share(
    cutoff_hz: float | NDArray[np.floating], elapsed_s: NDArray[np.floating]
) -> NDArray[np.floating]:
    """How much of the way to the new value a low-pass filter goes in that time, 0 to 1."""
    turn = 2 * np.pi * cutoff_hz * elapsed_s
    return np.asarray(turn / (turn + 1))

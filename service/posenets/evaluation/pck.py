"""PCKh: the share of joints that lie within a share of the head's size of their true place.

Andriluka et al., CVPR 2014, as the publisher's evaluation counts it: head size is 0.6 of the head
box's diagonal, a joint counts where it is labelled, and the mean is over all labelled joints except
those of pelvis and thorax. Shape letters: P people, J joints, T thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posegate.types import F32, F64

LEFT_OUT = ("pelvis", "thorax")
THRESHOLDS = (0.5, 0.1)
"""Shares of the head's size."""


@dataclass(frozen=True, slots=True)
class Pckh:
    """`per_joint` (T, J) and `mean` (T,), in [0, 1], NaN where no joint is labelled.

    `labelled` (J,) counts the labelled joints behind each figure.
    """

    joint_names: tuple[str, ...]
    per_joint: F64
    mean: F64
    labelled: NDArray[np.int64]

    def as_rows(self) -> list[dict[str, object]]:
        """One row per joint and one for the mean, a column per threshold; None for NaN."""
        counted = sum(
            int(count)
            for joint, count in zip(self.joint_names, self.labelled, strict=True)
            if joint not in LEFT_OUT
        )
        joints = zip(self.joint_names, self.labelled, self.per_joint.T, strict=True)
        return [
            *(self._row(joint, int(count), shares) for joint, count, shares in joints),
            self._row("mean", counted, self.mean),
        ]

    def _row(self, joint: str, labelled: int, shares: F64) -> dict[str, object]:
        names = (f"pckh@{threshold:g}" for threshold in THRESHOLDS)
        known = (None if np.isnan(share) else share for share in shares.tolist())
        return {"joint": joint, "labelled": labelled, **dict(zip(names, known, strict=True))}


def pckh(
    found_xy: F32,
    true_xy: F32,
    labelled: NDArray[np.bool_],
    head_sizes: F32,
    *,
    joint_names: Sequence[str],
) -> Pckh:
    """PCKh of every joint at THRESHOLDS.

    `found_xy` and `true_xy` (P, J, 2) in pixels of the photo, `labelled` (P, J), `head_sizes` (P,)
    in pixels. A place that is not a number is a miss.
    """
    if not (np.isfinite(head_sizes) & (head_sizes > 0)).all():
        raise ValueError("head_sizes must be positive pixels; PCKh needs a head box per person")
    distances = np.linalg.norm(found_xy.astype(np.float64) - true_xy, axis=-1)
    shares = distances / head_sizes.astype(np.float64)[:, None]
    limits = np.array(THRESHOLDS)[:, None, None]
    hits = ((shares <= limits) & labelled).sum(axis=1)
    counts = labelled.sum(axis=0)
    counted = np.array([name not in LEFT_OUT for name in joint_names])
    return Pckh(
        joint_names=tuple(joint_names),
        per_joint=_share(hits, counts),
        mean=_share(hits[:, counted].sum(axis=1), counts[counted].sum()),
        labelled=counts.astype(np.int64),
    )


def _share(hits: NDArray[np.int64], counts: NDArray[np.int64]) -> F64:
    return np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)

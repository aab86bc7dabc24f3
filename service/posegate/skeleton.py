"""The 17 keypoints of COCO: names, limbs, left/right pairs and OKS constants.

Order and constants are those of the COCO keypoint task (Lin et al., 2014; cocoeval).
"""

from functools import cache

import numpy as np

from posegate.types import F32

COCO_KEYPOINTS: tuple[str, ...] = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

COCO_LIMBS: tuple[tuple[int, int], ...] = (
    (15, 13),
    (13, 11),
    (16, 14),
    (14, 12),
    (11, 12),
    (5, 11),
    (6, 12),
    (5, 6),
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
)

COCO_SIGMAS = np.array(
    [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], np.float32
) / np.float32(1000)
"""OKS fall-off per joint, as fraction of the square root of the person's area."""
_OTHER_SIGMA = 0.08
"""For joints COCO does not know."""


@cache
def sigmas_of(names: tuple[str, ...]) -> F32:
    """OKS fall-off (J,) float32 of the joints of these names; read-only, made once."""
    known = dict(zip(COCO_KEYPOINTS, COCO_SIGMAS.tolist(), strict=True))
    sigmas = np.array([known.get(name, _OTHER_SIGMA) for name in names], np.float32)
    sigmas.flags.writeable = False
    return sigmas


def flip_order(names: tuple[str, ...]) -> np.ndarray:
    """Index of the mirrored joint for each joint, found by the `left_` / `right_` prefix.

    Returns (J,) int64; a joint without a partner maps to itself.

    >>> flip_order(("nose", "left_eye", "right_eye")).tolist()
    [0, 2, 1]
    """
    index = {name: i for i, name in enumerate(names)}
    return np.array([index.get(_mirrored(name), i) for i, name in enumerate(names)], np.int64)


def _mirrored(name: str) -> str:
    if name.startswith("left_"):
        return "right_" + name.removeprefix("left_")
    if name.startswith("right_"):
        return "left_" + name.removeprefix("right_")
    return name

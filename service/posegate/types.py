"""The values that travel along `bytes -> image -> boxes -> crops -> heatmaps -> keypoints`.

One coordinate rule for the whole project: x right, y down, pixel centres at integers, in the frame
of the upright image unless the name says otherwise; (x, y) on the last axis; float32. A box is
COCO's `[x, y, width, height]` at the edges of the service and `xyxy` inside it.

Shape letters: P people, J joints, H and W pixels.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]


def _check(array: NDArray[Any], dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    assert array.dtype == dtype, f"{array.dtype} is not {dtype.__name__}"
    assert array.ndim == len(shape), f"shape {array.shape} has not {len(shape)} axes"
    for have, want in zip(array.shape, shape, strict=True):
        assert want is None or have == want, f"shape {array.shape} is not {shape}"


@dataclass(frozen=True, slots=True)
class Image:
    """One upright picture: `pixels_bgr` (H, W, 3) uint8, OpenCV's colour order."""

    pixels_bgr: U8

    def __post_init__(self) -> None:
        _check(self.pixels_bgr, np.uint8, (None, None, 3))

    @property
    def width(self) -> int:
        return int(self.pixels_bgr.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels_bgr.shape[0])


@dataclass(frozen=True, slots=True)
class Boxes:
    """People found: `xyxy` (P, 4) float32 in image pixels, `scores` (P,) float32 in [0, 1]."""

    xyxy: F32
    scores: F32

    def __post_init__(self) -> None:
        _check(self.xyxy, np.float32, (None, 4))
        _check(self.scores, np.float32, (len(self.xyxy),))

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, which: slice) -> Self:
        return type(self)(self.xyxy[which], self.scores[which])

    @classmethod
    def from_xywh(cls, xywh: F32, scores: F32) -> Self:
        """Boxes (P, 4) float32 in COCO's form."""
        return cls(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1), scores)

    @property
    def xywh(self) -> F32:
        """(P, 4) float32, COCO's form."""
        return np.concatenate([self.xyxy[:, :2], self.xyxy[:, 2:] - self.xyxy[:, :2]], axis=1)


@dataclass(frozen=True, slots=True)
class Crops:
    """Network input of all people of an image, and the way back.

    `tensor` (P, 3, H, W) float32, normalised as the card says; `crop_to_image` (P, 2, 3) float64,
    the affine from crop pixels to image pixels.
    """

    tensor: F32
    crop_to_image: F64

    def __post_init__(self) -> None:
        _check(self.tensor, np.float32, (None, 3, None, None))
        _check(self.crop_to_image, np.float64, (len(self.tensor), 2, 3))

    def __len__(self) -> int:
        return len(self.tensor)


@dataclass(frozen=True, slots=True)
class Keypoints:
    """`xy` (P, J, 2) float32 in the frame named by the owner; `scores` (P, J) float32 in [0, 1]."""

    xy: F32
    scores: F32

    def __post_init__(self) -> None:
        _check(self.xy, np.float32, (None, None, 2))
        _check(self.scores, np.float32, self.xy.shape[:2])

    def __len__(self) -> int:
        return len(self.xy)


@dataclass(frozen=True, slots=True)
class Poses:
    """Every person of one image: `boxes` (P) and `keypoints` (P, J) in image pixels.

    The scores of `boxes` are the people's (`posegate.people`). `names` are the J joint names, in
    order.
    """

    boxes: Boxes
    keypoints: Keypoints
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.boxes) == len(self.keypoints)
        assert self.keypoints.xy.shape[1] == len(self.names)

    def __len__(self) -> int:
        return len(self.boxes)

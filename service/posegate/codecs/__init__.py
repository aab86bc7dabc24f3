"""Network outputs <-> keypoints in crop pixels, one codec per kind of output."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from posegate.codecs.heatmap import HeatmapCodec
from posegate.codecs.peaks import PeaksCodec
from posegate.codecs.simcc import SimccCodec
from posegate.types import F32, Keypoints

__all__ = ["Codec", "HeatmapCodec", "PeaksCodec", "SimccCodec", "make_codec"]


class Codec(Protocol):
    """How one kind of network writes keypoints. P people, J joints, crop pixels."""

    def decode(self, outputs: Sequence[NDArray[Any]]) -> Keypoints:
        """Keypoints in the crop's frame from the network's outputs; scores in [0, 1]."""

    def encode(self, keypoints: Keypoints, weights: F32) -> tuple[tuple[F32, ...], F32]:
        """Target outputs, and `weights` (P, J) with 0 where a joint cannot be written."""

    def flip(self, outputs: Sequence[NDArray[Any]], order: NDArray[np.int64]) -> tuple[F32, ...]:
        """Outputs of the mirrored crop, as those of the crop itself; `order` as `flip_order`."""


def make_codec(
    kind: str, *, crop_wh: tuple[int, int], decode: str = "dark", **numbers: Any
) -> Codec:
    """The codec of a model card: `kind` and the other numbers of its `codec` field.

    `crop_wh` is the network's input size. `decode` (`dark`, `quarter`, `argmax`) matters to
    heatmaps only; a SimCC network's bins are finer than a pixel already.

    >>> codec = make_codec("heatmap", crop_wh=(192, 256), width=48, height=64, sigma=2.0)
    >>> codec.decode((np.zeros((2, 17, 64, 48)),)).xy.shape
    (2, 17, 2)
    """
    return _CONSTRUCTORS[kind](crop_wh, decode, numbers)


def _make_heatmap(crop_wh: tuple[int, int], decode: str, numbers: dict[str, Any]) -> Codec:
    size_wh = (numbers.pop("width"), numbers.pop("height"))
    codec = PeaksCodec if numbers.pop("form", "maps") == "peaks" else HeatmapCodec
    return codec(size_wh=size_wh, decode=decode, crop_width=crop_wh[0], **numbers)


def _make_simcc(crop_wh: tuple[int, int], _decode: str, numbers: dict[str, Any]) -> Codec:
    return SimccCodec(crop_wh=crop_wh, **numbers)


_CONSTRUCTORS: dict[str, Callable[[tuple[int, int], str, dict[str, Any]], Codec]] = {
    "heatmap": _make_heatmap,
    "simcc": _make_simcc,
}

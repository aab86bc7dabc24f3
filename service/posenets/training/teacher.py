"""Cached crops -> heatmaps of any published heatmap network, for distillation.

A posegate card beside the ONNX file (`posegate.json` in its folder or the one above) says how the
network wants its pictures; without one it gets RGB with ImageNet's statistics, as most do.
"""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from posegate.card import HeatmapSpec, ModelCard
from posegate.catalog import CARD_NAME, load_card
from posegate.crops import Preprocess, normalize
from posegate.errors import BadCard
from posegate.types import F32, U8
from posenets.onnx_files import open_session
from posenets.training.records import BadData

TEACHER_WH = (192, 256)
"""Pixels of the frame's middle (see `cache.py`), which the teacher sees as large as fits its input,
black beside it where that has another aspect."""
TEACHER_STRIDE = 4
"""Pixels of the frame per pixel of the maps that are kept."""
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


class HeatmapTeacher:
    """One network from (n, 3, H, W) to heatmaps (n, J, h, w); raises BadData where it is not."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 2
        self._session = open_session(path, options)
        try:
            card = _card_of(path)
        except BadCard as error:
            raise BadData(error.detail) from error
        given = self._session.get_inputs()[0]
        size_hw = tuple(given.shape[2:]) if len(given.shape) == 4 else ()
        if len(size_hw) != 2 or not all(isinstance(side, int) for side in size_hw):
            raise BadData(
                f"{path}: input {given.name} is {given.shape}; a heatmap network takes "
                "(n, 3, height, width), height and width as fixed numbers"
            )
        size_wh = (int(size_hw[1]), int(size_hw[0]))
        sides = np.array(size_wh) / TEACHER_WH
        self._ratio = float(sides.min())
        self._shift = (sides - self._ratio) * TEACHER_WH / 2
        self._batch = given.shape[0] if isinstance(given.shape[0], int) else None
        self._input = given.name
        self._preprocess = Preprocess(size_wh, "rgb", _IMAGENET_MEAN, _IMAGENET_STD)
        self._scale, self._offset = None, (0.0, 0.0)
        if card is not None:
            form = card.input
            self._preprocess = Preprocess(size_wh, form.color, form.mean, form.std)
            if not isinstance(card.codec, HeatmapSpec):
                raise BadData(f"{path}: its card's codec is not heatmap; a teacher gives heatmaps")
            self._scale, self._offset = card.codec.scale, card.codec.offset
        maps = self._maps(np.zeros((1, TEACHER_WH[1], TEACHER_WH[0], 3), np.uint8))
        if maps.ndim != 4:
            raise BadData(
                f"{path}: output is {maps.shape}, not heatmaps (n, joints, height, width)"
            )
        self.joints = int(maps.shape[1])

    def heatmaps(self, middles_bgr: U8) -> NDArray[np.uint8]:
        """(n, J, 64, 48) uint8, value x 255, of the middles of cached crops.

        Those are (n, 256, 192, 3), or as much larger as the crops are than the frame.
        """
        maps = self._maps(middles_bgr)
        kept_wh = (TEACHER_WH[0] // TEACHER_STRIDE, TEACHER_WH[1] // TEACHER_STRIDE)
        width, height = self._preprocess.size_wh
        scale = self._scale or (width / maps.shape[3], height / maps.shape[2])
        # From the maps that are kept to the teacher's own: through frame and input pixels.
        kept_to_own = np.zeros((2, 3))
        for axis in (0, 1):
            kept_to_own[axis, axis] = TEACHER_STRIDE * self._ratio / scale[axis]
            kept_to_own[axis, 2] = (self._shift[axis] - self._offset[axis]) / scale[axis]
        if maps.shape[2:] != kept_wh[::-1] or not np.allclose(kept_to_own, np.eye(2, 3)):
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            flat = maps.reshape(-1, *maps.shape[2:])
            warped = [cv2.warpAffine(one, kept_to_own, kept_wh, flags=flags) for one in flat]
            maps = np.array(warped, np.float32).reshape(*maps.shape[:2], *kept_wh[::-1])
        return np.clip(np.rint(maps * 255), 0, 255).astype(np.uint8)

    def _maps(self, middles_bgr: U8) -> F32:
        size_wh = self._preprocess.size_wh
        # The frame scales about pixel centre 0; a larger crop lies on it corner on corner.
        detail = middles_bgr.shape[2] / TEACHER_WH[0]
        corner = self._ratio / detail * (1 - detail) / 2
        to_input = np.column_stack([np.eye(2) * self._ratio / detail, self._shift + corner])
        if not np.array_equal(to_input, np.eye(2, 3)):
            middles_bgr = np.stack([cv2.warpAffine(m, to_input, size_wh) for m in middles_bgr])
        tensor = normalize(middles_bgr, self._preprocess)
        if self._batch is None:
            return self._run(tensor)
        short = -len(tensor) % self._batch
        padded = np.concatenate([tensor, np.zeros((short, *tensor.shape[1:]), np.float32)])
        parts = np.split(padded, len(padded) // self._batch)
        return np.concatenate([self._run(part) for part in parts])[: len(tensor)]

    def _run(self, tensor: F32) -> F32:
        return np.asarray(self._session.run(None, {self._input: tensor})[0], np.float32)


def _card_of(path: Path) -> ModelCard | None:
    places = (folder / CARD_NAME for folder in (path.parent, path.parent.parent))
    return next((load_card(place) for place in places if place.is_file()), None)

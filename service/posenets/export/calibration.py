"""Real crops in the form a network takes, for calibrating its 8-bit forms."""

from pathlib import Path

import cv2
import numpy as np

from posegate.card import ModelCard
from posegate.crops import Preprocess, normalize, warp_crops
from posegate.image import ImageLimits, decode_image
from posegate.types import F32, Boxes
from posenets.evaluation.scenes import coco_scenes
from posenets.training.cache import CROP_WH, open_cache
from posenets.training.records import BadData
from posenets.training.teacher import TEACHER_WH

_LIMITS = ImageLimits(max_bytes=2**30, max_pixels=2**28)


def calibration_crops(source: Path, card: ModelCard, *, count: int = 64) -> F32:
    """(n, 3, H, W) float32, n at most `count`, spread over a crop cache or a COCO-form folder."""
    preprocess = Preprocess.of(card.input)
    if (source / "crops.npy").exists():
        return _cached(source, preprocess, count)
    assert card.crop is not None
    scenes, _ = coco_scenes(source)
    crops: list[F32] = []
    for scene in scenes:
        if len(scene.boxes_xywh) and len(crops) < count:
            corners = scene.boxes_xywh.copy()
            corners[:, 2:] += corners[:, :2]
            boxes = Boxes(corners, scene.box_scores)
            image = decode_image(scene.data, _LIMITS)
            crops += list(warp_crops(image, boxes, preprocess, padding=card.crop.padding).tensor)
    if not crops:
        raise BadData(f"{source}: holds no person to calibrate on")
    return np.stack(crops[:count])


def _cached(folder: Path, preprocess: Preprocess, count: int) -> F32:
    cache = open_cache(folder)
    rows = np.unique(np.linspace(0, len(cache) - 1, min(count, len(cache))).astype(int))
    scale = min(side / whole for side, whole in zip(preprocess.size_wh, TEACHER_WH, strict=True))
    to_input = np.array(
        [
            [scale, 0, (preprocess.size_wh[0] - 1) / 2 - scale * (CROP_WH[0] - 1) / 2],
            [0, scale, (preprocess.size_wh[1] - 1) / 2 - scale * (CROP_WH[1] - 1) / 2],
        ]
    )
    pictures = [cv2.warpAffine(cache.crops[row], to_input, preprocess.size_wh) for row in rows]
    return normalize(np.stack(pictures).astype(np.uint8), preprocess)

"""Real crops in the form a network takes, for calibrating its 8-bit forms."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posegate.card import ModelCard
from posegate.coco_labels import label_file, read_labels
from posegate.crops import Preprocess, normalize, warp_crops
from posegate.errors import BadImage, BadOption, TooLarge
from posegate.evaluate import load_data
from posegate.image import ImageLimits, decode_image
from posegate.types import F32, Boxes
from posenets.training.cache import CROP_WH, open_cache
from posenets.training.people import labelled_as
from posenets.training.records import BadData
from posenets.training.teacher import TEACHER_WH

_LIMITS = ImageLimits(max_bytes=2**30, max_pixels=2**28)


def calibration_crops(source: Path, card: ModelCard, *, count: int = 64) -> F32:
    """(n, 3, H, W) float32, n at most `count`, spread over a crop cache or a COCO-form folder.

    Raises BadData.
    """
    preprocess = Preprocess.of(card.input)
    if (source / "crops.npy").exists():
        return _cached(source, preprocess, count)
    assert card.crop is not None
    try:
        photos = load_data(source, keypoints=labelled_as(source, card.keypoints)).photos
    except BadOption as error:
        raise BadData(error.detail) from error
    owners = np.repeat(np.arange(len(photos)), [len(photo.boxes_xywh) for photo in photos])
    if not len(owners):
        raise BadData(f"{source}: holds no person to calibrate on")
    chosen = np.isin(np.arange(len(owners)), _spread(len(owners), count))
    crops: list[F32] = []
    for number in np.unique(owners[chosen]):
        photo, rows = photos[number], chosen[owners == number]
        boxes = np.array(photo.boxes_xywh, np.float32)[rows]
        try:
            image = decode_image(photo.read(), _LIMITS)
        except (BadImage, BadOption, TooLarge) as error:
            raise BadData(f"{source}: {photo.path.name}: {error.detail}") from error
        people = Boxes.from_xywh(boxes, np.ones(len(boxes), np.float32))
        crops.append(warp_crops(image, people, preprocess, padding=card.crop.padding).tensor)
    return np.concatenate(crops)


def check_source(source: Path, joints: tuple[str, ...]) -> None:
    """Raises BadData where it is neither a crop cache nor a COCO-form folder with its photos.

    `joints` are the network's.
    """
    try:
        if (source / "crops.npy").exists():
            open_cache(source)
        else:
            read_labels(label_file(source), keypoints=labelled_as(source, joints)).photos()
    except BadOption as error:
        raise BadData(error.detail) from error


def _spread(total: int, count: int) -> NDArray[np.int_]:
    """At most `count` of `total` places, evenly apart."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))


def _cached(folder: Path, preprocess: Preprocess, count: int) -> F32:
    cache = open_cache(folder)
    rows = _spread(len(cache), count)
    detail = cache.crop_wh[1] / CROP_WH[1]
    scale = min(
        side / (whole * detail) for side, whole in zip(preprocess.size_wh, TEACHER_WH, strict=True)
    )
    to_input = np.array(
        [
            [scale, 0, (preprocess.size_wh[0] - 1) / 2 - scale * (cache.crop_wh[0] - 1) / 2],
            [0, scale, (preprocess.size_wh[1] - 1) / 2 - scale * (cache.crop_wh[1] - 1) / 2],
        ]
    )
    pictures = [cv2.warpAffine(cache.crops[row], to_input, preprocess.size_wh) for row in rows]
    return normalize(np.stack(pictures).astype(np.uint8), preprocess)

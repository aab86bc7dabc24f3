"""Augmented photos for the person detector: mosaics, random scale and crop, flip, colour.

Mosaic is that of YOLOv4 (Bochkovskiy et al., 2020): four photos meet at a random point.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from posegate.types import F32, F64, U8
from posenets.training.records import (
    SURE_BOX,
    BadData,
    LabelledImage,
    StoredPhoto,
    read_labelled_images,
)

FILL = 114
_MIN_SIDE = 6.0
_MIN_KEPT = 0.3


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo: `people` (P, 4) and `ignored` (I, 4) float32 xyxy in its pixels.

    `weight` is its chance to be drawn, against the others'.
    """

    stored: StoredPhoto
    people: F32
    ignored: F32
    weight: float


@dataclass(frozen=True, slots=True)
class DetectionBatch:
    """`images` (N, 3, S, S) float32 RGB 0..255, `people` (N, G, 4) xyxy, `valid` (N, G) bool,
    `ignored` (N, I, 4) xyxy, all in input pixels; G and I are those of the fullest picture."""

    images: Tensor
    people: Tensor
    valid: Tensor
    ignored: Tensor


def read_photos(labels: Path, *, source_weights: dict[str, float]) -> dict[str, Photo]:
    """Photos of a COCO folder or pack by file name.

    Boxes that are not sure and crowds become ignored regions. Raises BadData where two photos
    have one name.
    """
    photos: dict[str, Photo] = {}
    for image in read_labelled_images(labels):
        check_new(image, photos, labels)
        certain = image.box_scores >= SURE_BOX
        weight = source_weights.get(image.source, 1.0)
        people = _corners(image.boxes_xywh[certain])
        crowds = np.zeros((0, 4), np.float32) if image.crowds_xywh is None else image.crowds_xywh
        ignored = _corners(np.concatenate([image.boxes_xywh[~certain], crowds]))
        photos[image.name] = Photo(image.photo, people, ignored, weight)
    return photos


def check_new(image: LabelledImage, known: Collection[str], labels: Path) -> None:
    """BadData where another photo of the labels has this one's name, by which boxes are kept."""
    if image.name in known:
        raise BadData(
            f"{labels}: two photos are named {image.name!r}, one of them {image.photo.place}; the "
            "detector's photos need names of their own"
        )


def _corners(boxes_xywh: F32) -> F32:
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


class DetectionData:
    """Draws augmented batches from photos; deterministic by its seed."""

    def __init__(self, photos: list[Photo], *, mosaic: float = 0.5, seed: int = 0) -> None:
        self.photos = photos
        self.mosaic = mosaic
        self.random = np.random.default_rng(seed)
        chances = np.array([photo.weight for photo in photos])
        self.chances = chances / chances.sum()

    def batch(self, count: int, size: int) -> DetectionBatch:
        """`count` pictures of `size` x `size` pixels."""
        images = np.empty((count, size, size, 3), np.uint8)
        people: list[F32] = []
        ignored: list[F32] = []
        for n in range(count):
            draw = self._mosaic if self.random.random() < self.mosaic else self._single
            images[n], found, skipped = draw(size)
            people.append(found)
            ignored.append(skipped)
        tensor = torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2).float()
        boxes = _padded(people)
        counts = torch.tensor([len(found) for found in people])
        valid = torch.arange(boxes.shape[1]) < counts[:, None]
        return DetectionBatch(tensor, boxes, valid, _padded(ignored))

    def _single(self, size: int) -> tuple[U8, F32, F32]:
        canvas = np.full((size, size, 3), FILL, np.uint8)
        photo = self._draw()
        pixels = photo.stored.pixels_bgr()
        fit = size / max(pixels.shape[:2])
        scale = fit * float(np.exp(self.random.uniform(-0.5, 0.6)))
        extent = np.array([pixels.shape[1], pixels.shape[0]]) * scale
        slack = size - extent
        if self.random.random() < 0.3:
            scale, slack = fit, np.zeros(2)
        offset = slack * np.where(slack > 0, self.random.random(2) * 0.5, self.random.random(2))
        return self._paste(canvas, photo, pixels, scale, offset, (0, 0, size, size))

    def _mosaic(self, size: int) -> tuple[U8, F32, F32]:
        canvas = np.full((size, size, 3), FILL, np.uint8)
        cut_x, cut_y = (self.random.uniform(0.3, 0.7, 2) * size).astype(int)
        people, ignored = [], []
        for left, top, right, bottom in (
            (0, 0, cut_x, cut_y),
            (cut_x, 0, size, cut_y),
            (0, cut_y, cut_x, size),
            (cut_x, cut_y, size, size),
        ):
            photo = self._draw()
            pixels = photo.stored.pixels_bgr()
            cover = max((right - left) / pixels.shape[1], (bottom - top) / pixels.shape[0])
            scale = cover * float(np.exp(self.random.uniform(-0.4, 0.4)))
            extent = np.array([pixels.shape[1], pixels.shape[0]]) * scale
            room = np.array([right - left, bottom - top]) - extent
            offset = np.array([left, top]) + room * self.random.random(2)
            canvas, found, skipped = self._paste(
                canvas, photo, pixels, scale, offset, (left, top, right, bottom)
            )
            people.append(found)
            ignored.append(skipped)
        return canvas, np.concatenate(people), np.concatenate(ignored)

    def _draw(self) -> Photo:
        return self.photos[int(self.random.choice(len(self.photos), p=self.chances))]

    def _paste(
        self,
        canvas: U8,
        photo: Photo,
        pixels: U8,
        scale: float,
        offset: F64,
        window: tuple[int, int, int, int],
    ) -> tuple[U8, F32, F32]:
        left, top, right, bottom = (int(v) for v in window)
        width = pixels.shape[1]
        mirrored = bool(self.random.random() < 0.5)
        if mirrored:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        squeeze = float(np.exp(self.random.uniform(-0.12, 0.12)))
        scales = np.array([scale * squeeze, scale / squeeze])
        affine = np.array([[scales[0], 0, offset[0]], [0, scales[1], offset[1]]])
        affine[:, 2] += (scales - 1) / 2 - np.array([left, top])
        if scale < 0.7:
            pixels, affine = _shrunk(pixels, affine)
        view = cv2.warpAffine(
            pixels, affine, (right - left, bottom - top), borderValue=(FILL, FILL, FILL)
        )
        canvas[top:bottom, left:right] = self._jitter(np.asarray(view, np.uint8))
        limits = np.array([left, top, right, bottom], np.float32)
        boxes = np.concatenate([photo.people, photo.ignored])
        clipped, kept = _placed(boxes, scales, offset, mirrored, width, limits)
        sides = (clipped[:, 2:] - clipped[:, :2]).min(1, initial=np.inf)
        person = np.arange(len(boxes)) < len(photo.people)
        person &= (sides >= _MIN_SIDE) & (kept >= _MIN_KEPT)
        return canvas, clipped[person], clipped[~person & (sides > 0)]

    def _jitter(self, view: U8) -> U8:
        gain = self.random.uniform(0.7, 1.3) * self.random.uniform(0.92, 1.08, 3)
        shift = self.random.uniform(-25, 25)
        mixed = view.astype(np.float32) * gain.astype(np.float32) + np.float32(shift)
        if self.random.random() < 0.15:
            mixed = np.repeat(mixed.mean(-1, keepdims=True), 3, -1)
        jittered: U8 = np.clip(mixed, 0, 255).astype(np.uint8)
        return jittered


def _padded(boxes: list[F32]) -> Tensor:
    """(N, G, 4), G the most boxes of a picture and at least 1; empty boxes pad the others."""
    padded = torch.zeros(len(boxes), max(1, *map(len, boxes)), 4)
    for row, found in zip(padded, boxes, strict=True):
        row[: len(found)] = torch.from_numpy(found)
    return padded


def _shrunk(pixels: U8, affine: F64) -> tuple[U8, F64]:
    """The picture area-averaged to about its final size, and the affine for what is left."""
    height, width = pixels.shape[:2]
    wanted = (max(1, round(width * affine[0, 0])), max(1, round(height * affine[1, 1])))
    small = cv2.resize(pixels, wanted, interpolation=cv2.INTER_AREA)
    ratio = np.array([width / wanted[0], height / wanted[1]])
    scales = np.array([affine[0, 0], affine[1, 1]])
    rest = np.zeros((2, 3))
    rest[[0, 1], [0, 1]] = scales * ratio
    rest[:, 2] = affine[:, 2] + scales * (ratio - 1) / 2
    return np.asarray(small, np.uint8), rest


def _placed(
    boxes: F32, scales: F64, offset: F64, mirrored: bool, width: int, limits: F32
) -> tuple[F32, F32]:
    """Boxes (P, 4) in canvas pixels, clipped to the window, and the share (P,) of each kept."""
    placed = boxes.astype(np.float32)
    if mirrored:
        placed[:, [0, 2]] = width - placed[:, [2, 0]]
    placed = (placed * np.tile(scales, 2) + np.tile(offset, 2)).astype(np.float32)
    whole = np.prod(placed[:, 2:] - placed[:, :2], axis=1)
    clipped = np.clip(placed, np.tile(limits[:2], 2), np.tile(limits[2:], 2))
    shown = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    return clipped, shown / np.maximum(whole, np.float32(1e-6))

"""Decoded person crops on disk, with the heatmaps of a teacher network where one is given.

Decoding a photo costs more than a training step of a small network, so every person is cut out
once, with room to spare for augmentation, and kept as raw pixels in memory-mapped arrays.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from posegate.crops import LONGEST_SIDE
from posegate.geometry import (
    apply_affine,
    box_to_region,
    compose_affine,
    region_to_crop_affine,
)
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import F32, F64, U8
from posenets.progress import progress, shown
from posenets.training.people import read_people
from posenets.training.records import SURE_BOX, BadData, LabelledImage
from posenets.training.teacher import TEACHER_STRIDE, TEACHER_WH, HeatmapTeacher

CROP_WH = (240, 320)
"""The frame of everything cached, pixels. Crops may have another size and be wider."""
CROP_STEP = (30, 40)
SQUARE_STEP = (40, 40)
"""A crop's size is a multiple of one of them: then the teacher's middle begins on a whole pixel.
Squares show as much more to the left and right of the frame, for inputs wider than 3:4."""
CROP_PADDING = 1.25 * 1.25
"""Box padding of a cached crop: one pixel of the frame is one of a 192x256 input padded by 1.25."""
_TEACHER_MAP_HW = (TEACHER_WH[1] // TEACHER_STRIDE, TEACHER_WH[0] // TEACHER_STRIDE)
TEACHER_SHIFT = ((CROP_WH[0] - TEACHER_WH[0]) / 2, (CROP_WH[1] - TEACHER_WH[1]) / 2)
"""Where the teacher's input lies in the frame, pixels."""
_SURE = 0.3
"""Peak of a teacher's heatmap from which on it labels a joint."""
_CHUNK = 32
BoolArray = NDArray[np.bool_]
MappedBytes = np.memmap[Any, np.dtype[np.uint8]]
MIN_SIDE = 48
"""Pixels of a box's longer side; who is smaller is left out, unless another limit is given."""


@dataclass(frozen=True, slots=True)
class CropCache:
    """N cached people.

    `crops` (N, H, W, 3) uint8 BGR, 320 rows of 240 unless another size was asked for; they show the
    whole height of the frame, centred in it. `joints` (N, J, 3) float32: x, y in pixels of the
    240x320 frame, whatever the size of the crops, and v. `scores` (N, J) float32; `teacher`
    (N, J, 64, 48) uint8, heatmap value x 255, or None. `sources` (N,) names the collection of each
    person, `joint_names` (J,) the joints. `left_out` people had too small a box; that number is
    known only where a cache is made.
    """

    folder: Path
    crops: U8
    joints: F32
    scores: F32
    teacher: U8 | None
    sources: tuple[str, ...]
    joint_names: tuple[str, ...] = COCO_KEYPOINTS
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def crop_wh(self) -> tuple[int, int]:
        """Pixels of a crop."""
        height, width = self.crops.shape[1:3]
        return width, height


def open_cache(folder: Path) -> CropCache:
    """Map a cache made by `build_cache`; nothing is read until it is used. Raises BadData."""
    teacher, names = folder / "teacher.npy", folder / "joints.json"
    try:
        cache = CropCache(
            folder=folder,
            crops=np.load(folder / "crops.npy", mmap_mode="r"),
            joints=_array(folder / "joints.npy"),
            scores=_array(folder / "scores.npy"),
            teacher=np.load(teacher, mmap_mode="r") if teacher.exists() else None,
            sources=tuple(json.loads((folder / "sources.json").read_text())),
            joint_names=tuple(json.loads(names.read_text())) if names.exists() else COCO_KEYPOINTS,
        )
        _check_whole(cache)
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise BadData(f"{folder}: not a whole crop cache, make it again ({error})") from error
    return cache


def _array(path: Path) -> F32:
    with path.open("rb") as file:  # numpy leaves open what it takes for a broken archive
        array: F32 = np.load(file)
    return array


def _check_whole(cache: CropCache) -> None:
    """Raises ValueError, or TypeError, for parts that do not belong together."""
    names = cache.joint_names
    if not all(isinstance(text, str) for text in (*names, *cache.sources)):
        raise ValueError("joints.json or sources.json holds other things than names")
    joints = len(names)
    parts: dict[str, tuple[NDArray[Any], type, tuple[int, ...]]] = {
        "crops": (cache.crops, np.uint8, (*cache.crops.shape[1:3], 3)),
        "joints": (cache.joints, np.float32, (joints, 3)),
        "scores": (cache.scores, np.float32, (joints,)),
    }
    if cache.teacher is not None:
        parts["teacher"] = (cache.teacher, np.uint8, (joints, *_TEACHER_MAP_HW))
    for name, (array, kind, shape) in parts.items():
        if array.dtype != kind or array.shape[1:] != shape or array.ndim < 2:
            raise ValueError(
                f"{name}.npy holds {array.dtype} of {array.shape}, not {np.dtype(kind)} of "
                f"{('N', *shape)} for {joints} joints"
            )
    sizes = {len(cache.sources)} | {len(array) for array, _, _ in parts.values()}
    if len(sizes) != 1:
        raise ValueError(f"its arrays hold {sorted(sizes)} people")
    if sizes == {0}:
        raise ValueError("it holds nobody")


def build_cache(
    labels: Path,
    folder: Path,
    *,
    teacher: Path | None = None,
    joint_names: tuple[str, ...] = COCO_KEYPOINTS,
    crop_wh: tuple[int, int] = CROP_WH,
    min_side: float = MIN_SIDE,
) -> CropCache:
    """Cut out every person of `labels` and ask the teacher for heatmaps.

    The teacher is any heatmap network of the same joints (see `teacher.py`). Without it, only
    people with at least one labelled joint are kept; `min_side` as in `is_large_enough`. `crop_wh`
    is a multiple of 30x40 or 40x40; a cache that the folder holds is used until the new one is
    whole. Raises BadData.
    """
    _check_size(crop_wh)
    asked = None if teacher is None else HeatmapTeacher(teacher)
    if asked is not None and asked.joints != len(joint_names):
        raise BadData(f"{teacher}: gives {asked.joints} joints, the cache has {len(joint_names)}")

    def chosen() -> Iterator[tuple[LabelledImage, BoolArray, BoolArray]]:
        for image in read_people(labels, joint_names):
            known = is_known(image, unlabelled=asked is not None)
            yield image, known, known & is_large_enough(image, min_side)

    people = left_out = 0
    for _, known, large in chosen():
        people += int(large.sum())
        left_out += int((known & ~large).sum())
    if not people:
        raise BadData(f"{labels}: no person to cut out; boxes of {min_side:g} pixels count")
    folder.mkdir(parents=True, exist_ok=True)
    width, height = crop_wh
    shapes = {folder / "crops.npy.part": (people, height, width, 3)}
    if asked is not None:
        shapes[folder / "teacher.npy.part"] = (people, asked.joints, *_TEACHER_MAP_HW)
    with _removed_on_failure(shapes):
        crops, *taught = _arrays_of_bytes(shapes)
        joints = np.zeros((people, len(joint_names), 3), np.float32)
        scores = np.zeros((people, len(joint_names)), np.float32)
        sources: list[str] = []
        with progress() as bar:
            cutting = bar.add_task(f"cut {labels.stem}", total=people)
            for image, _, large in chosen():
                for index, crop, points in cut_people(image, large, crop_wh):
                    n = len(sources)
                    crops[n], joints[n] = crop, points
                    scores[n] = image.keypoint_scores[index]
                    sources.append(image.source)
                    bar.advance(cutting)
        if asked is not None:
            (heatmaps,) = taught
            _ask_teacher(crops, asked, heatmaps)
            _label_by_teacher(joints, scores, heatmaps)
        crops.flush()
        # Without crops.npy, the last to come, a cache of old and new parts is refused.
        for old in ("crops.npy", "teacher.npy"):
            (folder / old).unlink(missing_ok=True)
        np.save(folder / "joints.npy", joints)
        np.save(folder / "scores.npy", scores)
        (folder / "sources.json").write_text(json.dumps(sources))
        (folder / "joints.json").write_text(json.dumps(joint_names))
        for part in reversed(shapes):
            part.rename(part.with_suffix(""))
    return replace(open_cache(folder), left_out=left_out)


def is_known(image: LabelledImage, *, unlabelled: bool = False) -> BoolArray:
    """(P,): who surely is a person and, unless `unlabelled` ones count, has a labelled joint."""
    sure = image.box_scores >= SURE_BOX
    return sure if unlabelled else sure & (image.keypoints[..., 2] > 0).any(axis=1)


def is_large_enough(image: LabelledImage, min_side: float = MIN_SIDE) -> BoolArray:
    """(P,): whose box has sides at all, the longer one of `min_side` pixels or more."""
    sides = image.boxes_xywh[:, 2:]
    large: BoolArray = (sides.min(axis=1) > 0) & (sides.max(axis=1) >= min_side)
    return large


def _check_size(crop_wh: tuple[int, int]) -> None:
    steps = crop_wh[1] // CROP_STEP[1]
    if steps < 1 or crop_wh not in [(steps * w, steps * h) for w, h in (CROP_STEP, SQUARE_STEP)]:
        raise BadData(
            f"--size: {crop_wh[0]}x{crop_wh[1]} is no multiple of 30x40, as 240x320 and 480x640 "
            "are, and none of 40x40, as 320x320 is"
        )


@contextmanager
def _removed_on_failure(parts: Iterable[Path]) -> Iterator[None]:
    """Half a cache takes as much room as a whole one."""
    try:
        yield
    except BaseException:
        for part in parts:
            part.unlink(missing_ok=True)
        raise


def _arrays_of_bytes(shapes: Mapping[Path, tuple[int, ...]]) -> list[MappedBytes]:
    """New memory-mapped files with room reserved: writing to one on a full disk kills the process.

    Raises BadData where there is not room enough.
    """
    arrays = []
    try:
        for path, shape in shapes.items():
            arrays.append(np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape))
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        needed = sum(math.prod(shape) for shape in shapes.values()) / 1e9
        raise BadData(f"{path}: {error.strerror}; the cache takes {needed:.2g} GB") from error
    return arrays


def cut_people(
    image: LabelledImage, chosen: BoolArray, crop_wh: tuple[int, int] = CROP_WH
) -> Iterator[tuple[int, U8, F32]]:
    """Row, cached crop (H, W, 3) and joints (J, 3) in the 240x320 frame of each `chosen` (P,).

    Boxes are widened to the crops' aspect, as the network's own input widens them. A photo is
    decoded once, and not at all for nobody. Raises BadData.
    """
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return
    pixels = image.photo.pixels_bgr()
    boxes = image.boxes_xywh[rows].copy()
    boxes[:, 2:] += boxes[:, :2]
    regions = box_to_region(boxes, aspect=crop_wh[0] / crop_wh[1], padding=CROP_PADDING)
    wider = (crop_wh[0] / crop_wh[1]) / (CROP_WH[0] / CROP_WH[1])
    to_crop = region_to_crop_affine(regions, size_wh=crop_wh)
    to_frame = region_to_crop_affine(regions / (1, 1, wider, 1), size_wh=CROP_WH)
    points = image.keypoints[rows].copy()
    points[..., :2] = apply_affine(to_frame, points[..., :2])
    for row, region, affine, joints in zip(rows.tolist(), regions, to_crop, points, strict=True):
        part, part_to_crop = _within_reach(pixels, region, affine)
        yield row, np.asarray(cv2.warpAffine(part, part_to_crop, crop_wh), np.uint8), joints


def _within_reach(pixels: U8, region: F64, to_crop: F64) -> tuple[U8, F64]:
    """Of a picture longer than OpenCV can warp the part that a region shows, and its way there."""
    if max(pixels.shape) <= LONGEST_SIDE:
        return pixels, to_crop
    size = np.array(pixels.shape[1::-1])
    half = region[2:] / 2 + 1
    low = np.clip(region[:2] - half, 0, size - 1).astype(int)
    high = np.clip(region[:2] + half, low, size - 1).astype(int) + 1
    step = math.ceil(max(high - low) / LONGEST_SIDE)
    part = pixels[low[1] : high[1] : step, low[0] : high[0] : step]
    part_to_whole = np.array([[step, 0, low[0]], [0, step, low[1]]], np.float64)
    return part, compose_affine(to_crop, part_to_whole)


def _ask_teacher(crops: NDArray[np.uint8], teacher: HeatmapTeacher, heatmaps: MappedBytes) -> None:
    people, height, width = crops.shape[:3]
    detail = height / CROP_WH[1]
    left = round((width - TEACHER_WH[0] * detail) / 2)
    top = round((height - TEACHER_WH[1] * detail) / 2)
    for start in shown(range(0, people, _CHUNK), "ask the teacher"):
        rows = slice(start, start + _CHUNK)
        heatmaps[rows] = teacher.heatmaps(crops[rows, top : height - top, left : width - left])
    heatmaps.flush()


def _label_by_teacher(joints: F32, scores: F32, heatmaps: NDArray[np.uint8]) -> None:
    """People without any label get the teacher's peaks: v = 1 where it is sure enough."""
    for n in np.flatnonzero((joints[..., 2] == 0).all(1)):
        flat = heatmaps[n].reshape(len(heatmaps[n]), -1)
        peak, value = flat.argmax(1), flat.max(1) / np.float32(255)
        width = heatmaps.shape[3]
        joints[n, :, 0] = peak % width * TEACHER_STRIDE + TEACHER_SHIFT[0]
        joints[n, :, 1] = peak // width * TEACHER_STRIDE + TEACHER_SHIFT[1]
        joints[n, :, 2] = value > _SURE
        scores[n] = value

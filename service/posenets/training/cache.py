"""Decoded person crops on disk, with the heatmaps of a teacher network where one is given.

Decoding a photo costs more than a training step of a small network, so every person is cut out
once, with room to spare for augmentation, and kept as raw pixels in memory-mapped arrays.
"""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from posegate.geometry import apply_affine, box_to_region, region_to_crop_affine
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import F32, U8
from posenets.training.people import read_people
from posenets.training.records import BadData, LabelledImage
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
MIN_SIDE = 48
"""Pixels of a box's longer side; who is smaller is left out, unless another limit is given."""


@dataclass(frozen=True, slots=True)
class CropCache:
    """N cached people.

    `crops` (N, H, W, 3) uint8 BGR, 320x240 unless another size was asked for; `joints` (N, J, 3)
    float32: v, and x, y in pixels of the 240x320 frame, whatever the size of the crops, which are
    as high as the frame and have their centre in its centre; `scores`
    (N, J) float32; `teacher` (N, J, 64, 48) uint8, heatmap value x 255, or None. `sources` (N,)
    names the collection of each person, `joint_names` (J,) the joints. `left_out` people had too
    small a box; only who makes a cache is told.
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
            joints=np.load(folder / "joints.npy"),
            scores=np.load(folder / "scores.npy"),
            teacher=np.load(teacher, mmap_mode="r") if teacher.exists() else None,
            sources=tuple(json.loads((folder / "sources.json").read_text())),
            joint_names=tuple(json.loads(names.read_text())) if names.exists() else COCO_KEYPOINTS,
        )
    except (OSError, ValueError, EOFError) as error:
        raise BadData(f"{folder}: not a whole crop cache, make it again ({error})") from error
    sizes = {len(cache.crops), len(cache.joints), len(cache.scores), len(cache.sources)}
    if cache.teacher is not None:
        sizes.add(len(cache.teacher))
    if len(sizes) != 1:
        raise BadData(f"{folder}: its arrays hold {sorted(sizes)} people; make the cache again")
    return cache


def build_cache(
    labels: Path,
    folder: Path,
    *,
    teacher: Path | None = None,
    joint_names: tuple[str, ...] = COCO_KEYPOINTS,
    crop_wh: tuple[int, int] = CROP_WH,
    min_box_score: float = 0.4,
    min_side: float = MIN_SIDE,
    threads: int = 2,
) -> CropCache:
    """Cut out every person of `labels` and ask the teacher for heatmaps.

    The teacher is any heatmap network of the same joints (see `teacher.py`). Without it, only
    people with at least one labelled joint are kept; `min_side` as in `is_large_enough`. `crop_wh`
    is a multiple of 30x40 or 40x40; a cache that the folder holds is used until the new one is
    whole. Raises BadData.
    """
    steps = crop_wh[1] // CROP_STEP[1]
    if steps < 1 or crop_wh not in [(steps * w, steps * h) for w, h in (CROP_STEP, SQUARE_STEP)]:
        raise BadData(
            f"--size: {crop_wh[0]}x{crop_wh[1]} is no multiple of 30x40, as 240x320 and 480x640 "
            "are, and none of 40x40, as 320x320 is"
        )
    asked = None if teacher is None else HeatmapTeacher(teacher, threads=threads)
    if asked is not None and asked.joints != len(joint_names):
        raise BadData(f"{teacher}: gives {asked.joints} joints, the cache has {len(joint_names)}")

    def known() -> Iterator[tuple[LabelledImage, int]]:
        images = read_people(labels, joint_names)
        return _known(images, min_box_score, unlabelled=asked is not None)

    large = [is_large_enough(image, index, min_side) for image, index in known()]
    people = sum(large)
    if not people:
        raise BadData(f"{labels}: no person to cut out; boxes of {min_side:g} pixels count")
    folder.mkdir(parents=True, exist_ok=True)
    width, height = crop_wh
    shapes = {folder / "crops.npy.part": (people, height, width, 3)}
    if asked is not None:
        shapes[folder / "teacher.npy.part"] = (people, asked.joints, *_TEACHER_MAP_HW)
    crops, *taught = _arrays_of_bytes(shapes)
    joints = np.zeros((people, len(joint_names), 3), np.float32)
    scores = np.zeros((people, len(joint_names)), np.float32)
    sources: list[str] = []
    chosen = itertools.compress(known(), large)
    for image, index in track(chosen, description=f"cut {labels.stem}", total=people):
        n = len(sources)
        crops[n], joints[n] = cut_person(image, index, crop_wh)
        scores[n] = image.keypoint_scores[index]
        sources.append(image.source)
    if asked is not None:
        (heatmaps,) = taught
        _ask_teacher(crops, asked, heatmaps)
        _label_by_teacher(joints, scores, heatmaps)
    # Without crops.npy, the last to come, a cache of old and new parts is refused.
    for old in ("crops.npy", "teacher.npy"):
        (folder / old).unlink(missing_ok=True)
    if asked is not None:
        (folder / "teacher.npy.part").rename(folder / "teacher.npy")
    np.save(folder / "joints.npy", joints)
    np.save(folder / "scores.npy", scores)
    (folder / "sources.json").write_text(json.dumps(sources))
    (folder / "joints.json").write_text(json.dumps(joint_names))
    crops.flush()
    (folder / "crops.npy.part").rename(folder / "crops.npy")
    return replace(open_cache(folder), left_out=len(large) - people)


def _known(
    images: Iterator[LabelledImage], min_score: float, *, unlabelled: bool
) -> Iterator[tuple[LabelledImage, int]]:
    for image in images:
        for index in range(len(image.boxes_xywh)):
            labelled = bool((image.keypoints[index, :, 2] > 0).any())
            if image.box_scores[index] >= min_score and (labelled or unlabelled):
                yield image, index


def is_large_enough(image: LabelledImage, index: int, min_side: float = MIN_SIDE) -> bool:
    """Whether a person's box has sides at all, the longer one of `min_side` pixels or more."""
    sides = image.boxes_xywh[index, 2:]
    return bool(sides.min() > 0 and sides.max() >= min_side)


def _arrays_of_bytes(shapes: Mapping[Path, tuple[int, ...]]) -> list[NDArray[np.uint8]]:
    """New memory-mapped files whose room on the disk is taken: a full one would kill the process.

    Raises BadData, and leaves none of them, where there is not room enough.
    """
    arrays = []
    try:
        for path, shape in shapes.items():
            arrays.append(np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape))
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        for part in shapes:
            part.unlink(missing_ok=True)
        needed = sum(math.prod(shape) for shape in shapes.values()) / 1e9
        raise BadData(f"{path}: {error.strerror}; the cache takes {needed:.2g} GB") from error
    return arrays


def cut_person(
    image: LabelledImage, index: int, crop_wh: tuple[int, int] = CROP_WH
) -> tuple[U8, F32]:
    """The cached crop (H, W, 3) of one person and the joints (J, 3) in the 240x320 frame."""
    x, y, w, h = image.boxes_xywh[index]
    box = np.array([[x, y, x + w, y + h]], np.float32)
    region = box_to_region(box, aspect=CROP_WH[0] / CROP_WH[1], padding=CROP_PADDING)
    wider = (crop_wh[0] / crop_wh[1]) / (CROP_WH[0] / CROP_WH[1])
    affine = region_to_crop_affine(region * (1, 1, wider, 1), size_wh=crop_wh)[0]
    pixels = image.pixels_bgr()
    crop = cv2.warpAffine(pixels, affine, crop_wh)
    points = image.keypoints[index].copy()
    to_frame = region_to_crop_affine(region, size_wh=CROP_WH)[0]
    points[:, :2] = apply_affine(to_frame, points[:, :2])
    return np.asarray(crop, np.uint8), points


def _ask_teacher(
    crops: NDArray[np.uint8], teacher: HeatmapTeacher, heatmaps: NDArray[np.uint8]
) -> None:
    people, height, width = crops.shape[:3]
    detail = height / CROP_WH[1]
    left = round((width - TEACHER_WH[0] * detail) / 2)
    top = round((height - TEACHER_WH[1] * detail) / 2)
    for start in track(range(0, people, _CHUNK), description="ask the teacher"):
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

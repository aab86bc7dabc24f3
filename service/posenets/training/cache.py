"""Decoded person crops on disk, with the heatmaps of a teacher network where one is given.

Decoding a photo costs more than a training step of a small network, so every person is cut out
once, with room to spare for augmentation, and kept as raw pixels in memory-mapped arrays.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
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
"""Pixels of a cached crop."""
CROP_PADDING = 1.25 * 1.25
"""Box padding of a cached crop: one pixel of it is one pixel of a 192x256 input padded by 1.25."""
TEACHER_SHIFT = ((CROP_WH[0] - TEACHER_WH[0]) / 2, (CROP_WH[1] - TEACHER_WH[1]) / 2)
"""Where the teacher's input lies in the cached crop, pixels."""
_SURE = 0.3
"""Peak of a teacher's heatmap from which on it labels a joint."""
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class CropCache:
    """N cached people.

    `crops` (N, 320, 240, 3) uint8 BGR; `joints` (N, J, 3) float32: x, y in crop pixels and v;
    `scores` (N, J) float32; `teacher` (N, J, 64, 48) uint8, heatmap value x 255, or None.
    `sources` (N,) names the collection of each person, `joint_names` (J,) the joints.
    """

    crops: U8
    joints: F32
    scores: F32
    teacher: U8 | None
    sources: tuple[str, ...]
    joint_names: tuple[str, ...] = COCO_KEYPOINTS

    def __len__(self) -> int:
        return len(self.crops)


def open_cache(folder: Path) -> CropCache:
    """Map a cache made by `build_cache`; nothing is read until it is used. Raises BadData."""
    teacher, names = folder / "teacher.npy", folder / "joints.json"
    try:
        cache = CropCache(
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
    if len(sizes) != 1:
        raise BadData(f"{folder}: its arrays hold {sorted(sizes)} people; make the cache again")
    return cache


def build_cache(
    labels: Path,
    folder: Path,
    *,
    teacher: Path | None = None,
    joint_names: tuple[str, ...] = COCO_KEYPOINTS,
    min_box_score: float = 0.4,
    min_box_height: int = 48,
    threads: int = 2,
) -> CropCache:
    """Cut out every person of `labels` and ask the teacher for heatmaps.

    The teacher is any heatmap network of the same joints (see `teacher.py`). Without it, only
    people with at least one labelled joint are kept.
    """
    asked = None if teacher is None else HeatmapTeacher(teacher, threads=threads)
    if asked is not None and asked.joints != len(joint_names):
        raise BadData(f"{teacher}: gives {asked.joints} joints, the cache has {len(joint_names)}")

    def chosen() -> Iterator[tuple[LabelledImage, int]]:
        images = read_people(labels, joint_names)
        return _chosen(images, min_box_score, min_box_height, unlabelled=asked is not None)

    people = sum(1 for _ in chosen())
    if not people:
        raise BadData(f"{labels}: no person to cut out; boxes of {min_box_height} pixels count")
    folder.mkdir(parents=True, exist_ok=True)
    width, height = CROP_WH
    crops = np.lib.format.open_memmap(
        folder / "crops.npy.part", mode="w+", dtype=np.uint8, shape=(people, height, width, 3)
    )
    joints = np.zeros((people, len(joint_names), 3), np.float32)
    scores = np.zeros((people, len(joint_names)), np.float32)
    sources: list[str] = []
    for image, index in track(chosen(), description=f"cut {labels.stem}", total=people):
        n = len(sources)
        crops[n], joints[n] = cut_person(image, index)
        scores[n] = image.keypoint_scores[index]
        sources.append(image.source)
    if asked is not None:
        heatmaps = _ask_teacher(crops, asked, folder / "teacher.npy")
        _label_by_teacher(joints, scores, heatmaps)
    np.save(folder / "joints.npy", joints)
    np.save(folder / "scores.npy", scores)
    (folder / "sources.json").write_text(json.dumps(sources))
    (folder / "joints.json").write_text(json.dumps(joint_names))
    crops.flush()
    (folder / "crops.npy.part").rename(folder / "crops.npy")
    return open_cache(folder)


def _chosen(
    images: Iterator[LabelledImage], min_score: float, min_height: int, *, unlabelled: bool
) -> Iterator[tuple[LabelledImage, int]]:
    for image in images:
        for index in range(len(image.boxes_xywh)):
            tall = image.boxes_xywh[index, 3] >= min_height
            labelled = bool((image.keypoints[index, :, 2] > 0).any())
            if image.box_scores[index] >= min_score and tall and (labelled or unlabelled):
                yield image, index


def cut_person(image: LabelledImage, index: int) -> tuple[U8, F32]:
    """The cached crop (320, 240, 3) of one person and the joints (J, 3) in it."""
    x, y, w, h = image.boxes_xywh[index]
    box = np.array([[x, y, x + w, y + h]], np.float32)
    region = box_to_region(box, aspect=CROP_WH[0] / CROP_WH[1], padding=CROP_PADDING)
    affine = region_to_crop_affine(region, size_wh=CROP_WH)[0]
    pixels = image.pixels_bgr()
    flags = cv2.INTER_AREA if affine[0, 0] < 0.5 else cv2.INTER_LINEAR
    crop = cv2.warpAffine(pixels, affine, CROP_WH, flags=flags)
    points = image.keypoints[index].copy()
    points[:, :2] = apply_affine(affine, points[:, :2])
    return np.asarray(crop, np.uint8), points


def _ask_teacher(
    crops: NDArray[np.uint8], teacher: HeatmapTeacher, path: Path
) -> NDArray[np.uint8]:
    width, height = TEACHER_WH
    left, top = int(TEACHER_SHIFT[0]), int(TEACHER_SHIFT[1])
    shape = (len(crops), teacher.joints, height // TEACHER_STRIDE, width // TEACHER_STRIDE)
    part = path.with_suffix(".part")
    heatmaps = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    for start in track(range(0, len(crops), _CHUNK), description="ask the teacher"):
        rows = slice(start, start + _CHUNK)
        heatmaps[rows] = teacher.heatmaps(crops[rows, top : top + height, left : left + width])
    heatmaps.flush()
    part.rename(path)
    return heatmaps


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

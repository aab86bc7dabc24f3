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
"""The frame of everything cached, pixels. Crops may have another size, that of the same region."""
CROP_STEP = (30, 40)
"""A crop's size is a multiple of it: then the teacher's middle begins on a whole pixel."""
CROP_PADDING = 1.25 * 1.25
"""Box padding of a cached crop: one pixel of the frame is one of a 192x256 input padded by 1.25."""
TEACHER_SHIFT = ((CROP_WH[0] - TEACHER_WH[0]) / 2, (CROP_WH[1] - TEACHER_WH[1]) / 2)
"""Where the teacher's input lies in the frame, pixels."""
_SURE = 0.3
"""Peak of a teacher's heatmap from which on it labels a joint."""
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class CropCache:
    """N cached people.

    `crops` (N, H, W, 3) uint8 BGR, 320x240 unless another size was asked for; `joints` (N, J, 3)
    float32: v, and x, y in pixels of the 240x320 frame, whatever the size of the crops; `scores`
    (N, J) float32; `teacher` (N, J, 64, 48) uint8, heatmap value x 255, or None. `sources` (N,)
    names the collection of each person, `joint_names` (J,) the joints.
    """

    folder: Path
    crops: U8
    joints: F32
    scores: F32
    teacher: U8 | None
    sources: tuple[str, ...]
    joint_names: tuple[str, ...] = COCO_KEYPOINTS

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
    min_box_height: int = 48,
    threads: int = 2,
) -> CropCache:
    """Cut out every person of `labels` and ask the teacher for heatmaps.

    The teacher is any heatmap network of the same joints (see `teacher.py`). Without it, only
    people with at least one labelled joint are kept. `crop_wh` is a multiple of 30x40; a cache
    that the folder holds is used until the new one is whole. Raises BadData.
    """
    steps = crop_wh[0] // CROP_STEP[0]
    if steps < 1 or crop_wh != (steps * CROP_STEP[0], steps * CROP_STEP[1]):
        raise BadData(
            f"--size: {crop_wh[0]}x{crop_wh[1]} is no multiple of 30x40, as 240x320 and 480x640 are"
        )
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
    width, height = crop_wh
    crops = np.lib.format.open_memmap(
        folder / "crops.npy.part", mode="w+", dtype=np.uint8, shape=(people, height, width, 3)
    )
    joints = np.zeros((people, len(joint_names), 3), np.float32)
    scores = np.zeros((people, len(joint_names)), np.float32)
    sources: list[str] = []
    for image, index in track(chosen(), description=f"cut {labels.stem}", total=people):
        n = len(sources)
        crops[n], joints[n] = cut_person(image, index, crop_wh)
        scores[n] = image.keypoint_scores[index]
        sources.append(image.source)
    if asked is not None:
        heatmaps = _ask_teacher(crops, asked, folder / "teacher.npy.part")
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


def cut_person(
    image: LabelledImage, index: int, crop_wh: tuple[int, int] = CROP_WH
) -> tuple[U8, F32]:
    """The cached crop (H, W, 3) of one person and the joints (J, 3) in the 240x320 frame."""
    x, y, w, h = image.boxes_xywh[index]
    box = np.array([[x, y, x + w, y + h]], np.float32)
    region = box_to_region(box, aspect=CROP_WH[0] / CROP_WH[1], padding=CROP_PADDING)
    affine = region_to_crop_affine(region, size_wh=crop_wh)[0]
    pixels = image.pixels_bgr()
    crop = cv2.warpAffine(pixels, affine, crop_wh)
    points = image.keypoints[index].copy()
    to_frame = region_to_crop_affine(region, size_wh=CROP_WH)[0]
    points[:, :2] = apply_affine(to_frame, points[:, :2])
    return np.asarray(crop, np.uint8), points


def _ask_teacher(
    crops: NDArray[np.uint8], teacher: HeatmapTeacher, path: Path
) -> NDArray[np.uint8]:
    people, height, width = crops.shape[:3]
    left, top = (round(shift * width / CROP_WH[0]) for shift in TEACHER_SHIFT)
    map_hw = (TEACHER_WH[1] // TEACHER_STRIDE, TEACHER_WH[0] // TEACHER_STRIDE)
    shape = (people, teacher.joints, *map_hw)
    heatmaps = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for start in track(range(0, people, _CHUNK), description="ask the teacher"):
        rows = slice(start, start + _CHUNK)
        heatmaps[rows] = teacher.heatmaps(crops[rows, top : height - top, left : width - left])
    heatmaps.flush()
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

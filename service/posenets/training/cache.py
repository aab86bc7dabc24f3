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
import onnxruntime as ort
from numpy.typing import NDArray
from rich.progress import track

from posegate.geometry import apply_affine, box_to_region, region_to_crop_affine
from posegate.types import F32, U8
from posenets.training.people import read_people
from posenets.training.records import LabelledImage

CROP_WH = (240, 320)
"""Pixels of a cached crop."""
CROP_PADDING = 1.25 * 1.25
"""Box padding of a cached crop: one pixel of it is one pixel of a 192x256 input padded by 1.25."""
TEACHER_WH = (192, 256)
TEACHER_SHIFT = ((CROP_WH[0] - TEACHER_WH[0]) / 2, (CROP_WH[1] - TEACHER_WH[1]) / 2)
"""Where the teacher's input lies in the cached crop, pixels."""
TEACHER_STRIDE = 4
_IMAGENET_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_IMAGENET_STD = np.array([58.395, 57.12, 57.375], np.float32)
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class CropCache:
    """N cached people.

    `crops` (N, 320, 240, 3) uint8 BGR; `joints` (N, 17, 3) float32: x, y in crop pixels and v;
    `scores` (N, 17) float32; `teacher` (N, 17, 64, 48) uint8, heatmap value x 255, or None.
    `sources` (N,) names the collection of each person.
    """

    crops: U8
    joints: F32
    scores: F32
    teacher: U8 | None
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.crops)


def open_cache(folder: Path) -> CropCache:
    """Map a cache made by `build_cache`; nothing is read until it is used."""
    teacher = folder / "teacher.npy"
    return CropCache(
        crops=np.load(folder / "crops.npy", mmap_mode="r"),
        joints=np.load(folder / "joints.npy"),
        scores=np.load(folder / "scores.npy"),
        teacher=np.load(teacher, mmap_mode="r") if teacher.exists() else None,
        sources=tuple(json.loads((folder / "sources.json").read_text())),
    )


def build_cache(
    labels: Path,
    folder: Path,
    *,
    teacher: Path | None = None,
    min_box_score: float = 0.4,
    min_box_height: int = 48,
    threads: int = 2,
) -> CropCache:
    """Cut out every person of `labels` and ask the teacher for heatmaps.

    The teacher is any ONNX network from (n, 3, 256, 192), RGB with ImageNet statistics, to
    (n, 17, 64, 48) heatmaps. Without it, only people with at least one labelled joint are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    people = _count_people(labels, min_box_score, min_box_height, teacher is not None)
    width, height = CROP_WH
    crops = np.lib.format.open_memmap(
        folder / "crops.npy.part", mode="w+", dtype=np.uint8, shape=(people, height, width, 3)
    )
    joints = np.zeros((people, 17, 3), np.float32)
    scores = np.zeros((people, 17), np.float32)
    sources: list[str] = []
    chosen = _chosen(labels, min_box_score, min_box_height, teacher is not None)
    for image, index in track(chosen, description=f"cut {labels.stem}", total=people):
        n = len(sources)
        crops[n], joints[n] = _cut(image, index)
        scores[n] = image.keypoint_scores[index]
        sources.append(image.source)
    if teacher is not None:
        _ask_teacher(crops, teacher, folder / "teacher.npy", threads)
    np.save(folder / "joints.npy", joints)
    np.save(folder / "scores.npy", scores)
    (folder / "sources.json").write_text(json.dumps(sources))
    crops.flush()
    (folder / "crops.npy.part").rename(folder / "crops.npy")
    return open_cache(folder)


def _chosen(
    labels: Path, min_score: float, min_height: int, unlabelled: bool
) -> Iterator[tuple[LabelledImage, int]]:
    for image in read_people(labels):
        for index in range(len(image.boxes_xywh)):
            tall = image.boxes_xywh[index, 3] >= min_height
            labelled = bool((image.keypoints[index, :, 2] > 0).any())
            if image.box_scores[index] >= min_score and tall and (labelled or unlabelled):
                yield image, index


def _count_people(labels: Path, min_score: float, min_height: int, unlabelled: bool) -> int:
    return sum(1 for _ in _chosen(labels, min_score, min_height, unlabelled))


def _cut(image: LabelledImage, index: int) -> tuple[U8, F32]:
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


def _ask_teacher(crops: NDArray[np.uint8], teacher: Path, path: Path, threads: int) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(teacher), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    width, height = TEACHER_WH
    left, top = int(TEACHER_SHIFT[0]), int(TEACHER_SHIFT[1])
    shape = (len(crops), 17, height // TEACHER_STRIDE, width // TEACHER_STRIDE)
    part = path.with_suffix(".part")
    heatmaps = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    for start in track(range(0, len(crops), _CHUNK), description=f"ask {teacher.stem}"):
        rows = slice(start, start + _CHUNK)
        rgb = crops[rows, top : top + height, left : left + width, ::-1].astype(np.float32)
        tensor = ((rgb - _IMAGENET_MEAN) / _IMAGENET_STD).transpose(0, 3, 1, 2)
        maps = session.run(None, {name: np.ascontiguousarray(tensor)})[0]
        heatmaps[rows] = np.clip(np.rint(maps * 255), 0, 255)
    heatmaps.flush()
    part.rename(path)

"""Boxes of people by a published detector, for photos whose labels are missing or incomplete.

Either once, into a file, or for every augmented picture as the pupil sees it: the teacher's scores
then tell how sure to be of each box, an animal's as well (a consistent teacher: Beyer et al.,
"Knowledge distillation: a good teacher is patient and consistent", CVPR 2022).

The teacher is any person detector in RTMDet's export form: `input` (n, 3, S, S) BGR, letterboxed
with 114 at the top left, normalised as MMDetection does, to `dets` (n, D, 5) xyxy and score.
"""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import torch
from rich.progress import track
from torch.nn.functional import pad

from posegate.types import F32, U8
from posenets.onnx_files import open_session
from posenets.training.detection_data import FILL, DetectionBatch, Photo
from posenets.training.detection_loss import pairwise_iou
from posenets.training.records import BadData, read_labelled_images

_MEAN = np.array([103.53, 116.28, 123.675], np.float32)
_STD = np.array([57.375, 57.12, 58.395], np.float32)
_SAME_PERSON_IOU = 0.5
_LEAST_CHANCE = 0.15
"""Boxes that the teacher scores lower are background."""
_FATAL = 4
"""ONNX Runtime's highest level of log lines."""


class BoxTeacher:
    """One detector, asked about pictures of `size` x `size`; raises BadData where it is none."""

    def __init__(self, path: Path, size: int) -> None:
        self._session = _session(path, size)
        self._input = self._session.get_inputs()[0].name

    def boxes(self, images_bgr: U8 | F32) -> F32:
        """(N, D, 5) xyxy in the pixels of the pictures (N, S, S, 3), 0..255, and the score."""
        tensor = ((images_bgr - _MEAN) / _STD).transpose(0, 3, 1, 2)
        found = self._session.run(None, {self._input: np.ascontiguousarray(tensor)})[0]
        return np.asarray(found, np.float32)

    def taught(self, batch: DetectionBatch) -> DetectionBatch:
        """The pictures with the teacher's boxes as people and its scores as their chances.

        Who was labelled and is not seen by the teacher becomes an ignored region.
        """
        found = torch.from_numpy(self.boxes(batch.images.flip(1).permute(0, 2, 3, 1).numpy()))
        people, chances = pad(found, (0, 0, 0, 1)).split([4, 1], 2)  # one box where none is found
        chances = chances[..., 0]
        chances = torch.where(chances >= _LEAST_CHANCE, chances, 0.0)
        fullest = max(1, int((chances > 0).sum(1).max()))
        chances, best = chances.topk(fullest)
        people = people.gather(1, best[..., None].expand(-1, -1, 4))
        met = pairwise_iou(batch.people, people) * (chances > 0)[:, None]
        missed = (batch.chances > 0) & (met.amax(2) < _SAME_PERSON_IOU)
        ignored = torch.cat([batch.ignored, batch.people * missed[..., None]], 1)
        return replace(batch, people=people, chances=chances, ignored=ignored)


def label_boxes(
    labels: Path, teacher: Path, out: Path, *, size: int = 512, min_score: float = 0.2
) -> int:
    """Write `{file name: [[x, y, w, h, score], ...]}` for every photo; returns the boxes found."""
    asked = BoxTeacher(teacher, size)
    found: dict[str, list[list[float]]] = {}
    for image in track(read_labelled_images(labels), description=f"label {labels.stem}"):
        canvas, scale = _letterbox(image.pixels_bgr(), size)
        boxes = asked.boxes(canvas[None])[0]
        boxes = boxes[boxes[:, 4] >= min_score]
        boxes[:, 2:4] -= boxes[:, :2]
        boxes[:, :4] /= scale
        found[image.name] = np.round(boxes.astype(np.float64), 3).tolist()
    out.write_text(json.dumps(found))
    return sum(len(boxes) for boxes in found.values())


def add_teacher_boxes(
    photos: dict[str, Photo], boxes: Path, *, complete: bool, sure: float = 0.4
) -> dict[str, Photo]:
    """Photos by file name with the teacher's further boxes.

    Where the labels are `complete`, a box that they do not know is only ignored in training;
    else a box scored at least `sure` counts as a person. Raises BadData.
    """
    try:
        found = json.loads(boxes.read_text())
        rows = {name: np.array(found.get(name, []), np.float32).reshape(-1, 5) for name in photos}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadData(f"{boxes}: not a file of teacher boxes ({error})") from error
    return {name: _with_boxes(photo, rows[name], complete, sure) for name, photo in photos.items()}


def _session(teacher: Path, size: int) -> ort.InferenceSession:
    """A detector that was seen to answer a picture of that size; raises BadData."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _FATAL  # what goes wrong is in the error as well
    session = open_session(teacher, options)
    given = session.get_inputs()[0]
    try:
        blank = np.zeros((1, 3, size, size), np.float32)
        answer = np.asarray(session.run(None, {given.name: blank})[0])
    except Exception as error:  # ONNX Runtime's errors share no public base class
        why = " ".join(str(error).split())
        raise BadData(
            f"{teacher}: its input {given.name} {given.shape} takes no picture of {size}x{size}; "
            f"see --size ({why})"
        ) from error
    if answer.ndim != 3 or answer.shape[2] != 5:
        raise BadData(f"{teacher}: its output is {answer.shape}, not boxes and scores (n, D, 5)")
    return session


def _with_boxes(photo: Photo, boxes: F32, complete: bool, sure: float) -> Photo:
    xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], 1)
    if len(photo.people):
        new = _iou(xyxy, photo.people).max(1) < _SAME_PERSON_IOU
        xyxy, boxes = xyxy[new], boxes[new]
    person = np.zeros(len(boxes), bool) if complete else boxes[:, 4] >= sure
    return replace(
        photo,
        people=np.concatenate([photo.people, xyxy[person]]),
        ignored=np.concatenate([photo.ignored, xyxy[~person]]),
    )


def _iou(boxes: F32, others: F32) -> F32:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    areas = areas + (others[:, 2:] - others[:, :2]).prod(-1)[None] - shared
    return np.asarray(shared / np.maximum(areas, 1e-6), np.float32)


def _letterbox(pixels: U8, size: int) -> tuple[U8, float]:
    height, width = pixels.shape[:2]
    scale = min(size / width, size / height)
    small = cv2.resize(pixels, (round(width * scale), round(height * scale)))
    canvas = np.full((size, size, 3), FILL, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    return canvas, scale

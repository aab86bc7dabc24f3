"""Boxes of people by a published detector, for photos whose labels are missing or incomplete.

The teacher is any person detector in RTMDet's export form: `input` (n, 3, S, S) BGR, letterboxed
with 114 at the top left, normalised as MMDetection does, to `dets` (n, D, 5) xyxy and score.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from posegate.association import box_iou
from posegate.crops import Preprocess, letterbox
from posegate.types import F32, Image
from posenets.onnx_files import open_session
from posenets.progress import shown
from posenets.training.detection_data import FILL, Photo, check_new
from posenets.training.records import SURE_BOX, BadData, read_labelled_images

_MEAN, _STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
_MIN_SCORE = 0.2
_SAME_PERSON_IOU = 0.5
_FATAL = 4
"""ONNX Runtime's highest level of log lines."""


def label_boxes(labels: Path, teacher: Path, out: Path, *, size: int = 512) -> int:
    """Write `{file name: [[x, y, w, h, score], ...]}` for every photo; returns the boxes found."""
    session = _session(teacher, size)
    out.parent.mkdir(parents=True, exist_ok=True)
    name = session.get_inputs()[0].name
    preprocess = Preprocess((size, size), "bgr", _MEAN, _STD)
    found: dict[str, list[list[float]]] = {}
    for image in shown(read_labelled_images(labels), f"label {labels.stem}"):
        check_new(image, found, labels)
        tensor, input_to_image = letterbox(Image(image.photo.pixels_bgr()), preprocess, fill=FILL)
        boxes = np.asarray(session.run(None, {name: tensor})[0])[0]
        boxes = boxes[boxes[:, 4] >= _MIN_SCORE]
        boxes[:, 2:4] -= boxes[:, :2]
        boxes[:, :4] *= np.tile(input_to_image, 2)
        found[image.name] = np.round(boxes.astype(np.float64), 3).tolist()
    out.write_text(json.dumps(found))
    return sum(len(boxes) for boxes in found.values())


def add_teacher_boxes(photos: dict[str, Photo], boxes: Path, *, complete: bool) -> dict[str, Photo]:
    """Photos by file name with the teacher's further boxes.

    Where the labels are `complete`, a box that they do not know is only ignored in training;
    else a sure box counts as a person. Raises BadData.
    """
    try:
        found = json.loads(boxes.read_text())
        rows = {name: np.array(found.get(name, []), np.float32).reshape(-1, 5) for name in photos}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadData(f"{boxes}: not a file of teacher boxes ({error})") from error
    if not found.keys() & photos.keys():
        raise BadData(f"{boxes}: knows none of the photos; it was not made from these labels")
    return {name: _with_boxes(photo, rows[name], complete) for name, photo in photos.items()}


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


def _with_boxes(photo: Photo, boxes: F32, complete: bool) -> Photo:
    xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], 1)
    if len(photo.people):
        new = box_iou(xyxy, photo.people).max(1) < _SAME_PERSON_IOU
        xyxy, boxes = xyxy[new], boxes[new]
    person = np.zeros(len(boxes), bool) if complete else boxes[:, 4] >= SURE_BOX
    return replace(
        photo,
        people=np.concatenate([photo.people, xyxy[person]]),
        ignored=np.concatenate([photo.ignored, xyxy[~person]]),
    )

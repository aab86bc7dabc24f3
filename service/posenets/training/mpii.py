"""MPII Human Pose -> labelled people: the publisher's .mat, or the JSON form most code uses.

Andriluka et al., 2D Human Pose Estimation: New Benchmark and State of the Art Analysis, CVPR 2014.
Both forms count pixels from 1 (MATLAB); records count from 0. Photos lie in `images/` beside the
label file.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from posegate.types import F32, F64
from posenets.training.matlab import read_variable
from posenets.training.records import BadData, LabelledImage, StoredPhoto

MPII_KEYPOINTS: tuple[str, ...] = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "pelvis", "thorax", "upper_neck", "head_top",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
PERSON_PX = 200.0
"""A person's `scale` is their height over this many pixels."""
HEAD_SHARE = 0.6
"""PCKh measures in this share of the head box's diagonal, as the publisher's evaluation does."""
_LOWER = 15.0
"""The box lies this many pixels times scale below the marked centre, to hold the ankles."""
_ASPECT = 0.75
"""A person's height alone is told; their box is this share of it wide, as a crop is."""
_ONE = np.float32(1)


def read_mpii_json(labels: Path, *, heads: Path | None = None) -> Iterator[LabelledImage]:
    """People of `train.json` / `valid.json`: a list of `image, center, scale, joints, joints_vis`.

    `heads` is the `gt_valid.mat` that goes with `valid.json`; without it no head sizes are known.
    Raises BadData.
    """
    try:
        entries = json.loads(labels.read_text())
    except (OSError, ValueError) as error:
        raise BadData(f"{labels}: not an MPII label file ({error!r})") from error
    if not isinstance(entries, list):
        raise BadData(f"{labels}: not an MPII label file, which holds a list")
    people: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or "image" not in entry:
            raise BadData(f"{labels}: entry {index}: image is missing")
        people.setdefault(str(entry["image"]), []).append(index)
    joints = _column(labels, entries, "joints", (16, 2)).astype(np.float32)
    shown = _column(labels, entries, "joints_vis", (16,)) > 0
    centres = _column(labels, entries, "center", (2,))
    scales = _column(labels, entries, "scale", ())
    sizes = np.full(len(joints), np.nan, np.float32) if heads is None else _head_sizes(heads)
    if len(sizes) != len(joints):
        raise BadData(f"{heads}: {len(sizes)} head boxes for the {len(joints)} people of {labels}")
    for name, rows in people.items():
        keypoints = _keypoints(joints[rows], shown[rows])
        boxes = _boxes(centres[rows], scales[rows])
        yield _record(labels, name, keypoints, boxes, sizes[rows])


def read_mpii_mat(labels: Path, *, train: bool | None = True) -> Iterator[LabelledImage]:
    """People of `mpii_human_pose_v1_u12_1.mat` that have joints, photo by photo.

    `train` chooses the publisher's training or test photos, None takes both; the publisher keeps
    the joints of the test photos back. Raises BadData.
    """
    release = read_variable(labels, "RELEASE", squeeze=True)
    try:
        photos = np.atleast_1d(release.annolist)
        in_training = np.atleast_1d(release.img_train) == 1
        for photo, is_training in zip(photos, in_training, strict=True):
            if train is not None and train != is_training:
                continue
            people = [person for person in _several(photo, "annorect") if _labelled(person)]
            if not people:
                continue
            centres = np.array([[p.objpos.x, p.objpos.y] for p in people], np.float64)
            scales = np.array([p.scale for p in people], np.float64)
            name = str(photo.image.name)
            corners = _head_corners(people, f"{labels}: image {name}")
            sizes = HEAD_SHARE * np.hypot(*(corners[:, 2:] - corners[:, :2]).T)
            keypoints = np.stack([_points(person) for person in people])
            boxes = _boxes(centres, scales)
            yield _record(labels, name, keypoints, boxes, sizes.astype(np.float32))
    except BadData:
        raise
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise BadData(f"{labels}: not MPII's RELEASE structure ({error!r})") from error


def _column(labels: Path, entries: list[dict[str, Any]], field: str, shape: tuple[int, ...]) -> F64:
    """(N, *shape): a field of every entry; BadData names the entry, counted from 0."""
    column = np.zeros((len(entries), *shape))
    for index, entry in enumerate(entries):
        where = f"{labels}: entry {index}, image {entry['image']}: {field}"
        if field not in entry:
            raise BadData(f"{where} is missing")
        try:
            column[index] = np.array(entry[field], np.float64).reshape(shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadData(f"{where} is not {math.prod(shape)} numbers") from error
        if not np.isfinite(column[index]).all():
            raise BadData(f"{where} holds NaN or infinity")
    return column


def _record(labels: Path, name: str, keypoints: F32, boxes: F32, head_sizes: F32) -> LabelledImage:
    for field, array in (("joints", keypoints), ("center or scale", boxes)):
        if not np.isfinite(array).all():
            raise BadData(f"{labels}: image {name}: {field} holds NaN or infinity")
    if not (boxes[:, 2:] > 0).all():
        raise BadData(f"{labels}: image {name}: scale is not above 0")
    return LabelledImage(
        name=name,
        source="mpii",
        photo=StoredPhoto(_photo(labels, name)),
        boxes_xywh=boxes,
        box_scores=np.ones(len(boxes), np.float32),
        keypoints=keypoints,
        keypoint_scores=np.ones(keypoints.shape[:2], np.float32),
        joint_names=MPII_KEYPOINTS,
        head_sizes=head_sizes,
    )


def _photo(labels: Path, name: str) -> Path:
    """The photo in `images` beside the labels, or beside their folder."""
    paths = [
        folder / "images" / name for folder in (labels.parent, labels.absolute().parent.parent)
    ]
    for path in paths:
        if path.is_file():
            return path
    raise BadData(f"{labels}: photo {paths[0]} is missing, and so is {paths[1]}")


def _keypoints(joints: F32, shown: np.ndarray) -> F32:
    """(P, 16, 3) from joints (P, 16, 2) counted from 1 and (P, 16) bool."""
    placed = np.where(shown[..., None], joints - _ONE, np.float32(0))
    visible = 2 * shown[..., None].astype(np.float32)
    return np.asarray(np.concatenate([placed, visible], -1), np.float32)


def _boxes(centres: F64, scales: F64) -> F32:
    """(P, 4) xywh: a person's height about the centre, before any padding."""
    sides = PERSON_PX * scales[:, None] * (_ASPECT, 1)
    middles = centres - 1 + np.stack([np.zeros_like(scales), _LOWER * scales], -1)
    return np.concatenate([middles - sides / 2, sides], -1).astype(np.float32)


def _points(person: Any) -> F32:
    """(16, 3) of one `annorect`."""
    joints, shown = np.zeros((1, 16, 2), np.float32), np.zeros((1, 16), bool)
    for point in _several(person.annopoints, "point"):
        joints[0, int(point.id)] = point.x, point.y
        shown[0, int(point.id)] = True
    points: F32 = _keypoints(joints, shown)[0]
    return points


def _head_corners(people: list[Any], where: str) -> F64:
    """(P, 4): x1, y1, x2, y2 of the heads."""
    try:
        return np.array([[p.x1, p.y1, p.x2, p.y2] for p in people], np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        raise BadData(f"{where}: a person has no head box of four numbers") from error


def _labelled(person: Any) -> bool:
    fields = (getattr(person, name, None) for name in ("annopoints", "scale", "objpos"))
    return all(field is not None and np.size(field) > 0 for field in fields)


def _several(holder: Any, field: str) -> list[Any]:
    """A field that MATLAB may have left out, left empty, or stored as one or as many."""
    value = getattr(holder, field, None)
    return [] if value is None else list(np.atleast_1d(value))


def _head_sizes(path: Path) -> F32:
    """(N,) from `headboxes_src` (2 corners, x and y, N)."""
    given = read_variable(path, "headboxes_src", squeeze=False)
    try:
        boxes = np.asarray(given, np.float64).reshape(2, 2, -1)
    except (TypeError, ValueError) as error:
        raise BadData(f"{path}: headboxes_src is not (2, 2, N) numbers") from error
    return np.asarray(HEAD_SHARE * np.linalg.norm(boxes[1] - boxes[0], axis=0), np.float32)

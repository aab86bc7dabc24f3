"""Labelled photos as an evaluation sees them: COCO folders, MPII, and boxes of a detector."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from posegate.coco_labels import PERSON
from posegate.errors import BadImage, BadOption
from posegate.evaluate import Data, Photo, load_data
from posegate.label_fields import (
    check_integer,
    check_number,
    check_numbers,
    check_object,
    check_sides,
)
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import F32
from posenets.training.mpii import read_mpii_json, read_mpii_mat
from posenets.training.records import BadData, LabelledImage, StoredPhoto


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One photo and the P boxes in which a network looks for people.

    `boxes_xywh` (P, 4) float32, image pixels; `box_scores` (P,) float32. With the truth's boxes
    `keypoints` (P, J, 3) float32 are x, y, v, `areas` (P,) float32 square pixels and `head_sizes`
    (P,) float32 pixels, NaN where unknown; with a detector's boxes they are None.
    """

    image_id: int
    name: str
    photo: StoredPhoto
    boxes_xywh: F32
    box_scores: F32
    keypoints: F32 | None
    areas: F32 | None = None
    head_sizes: F32 | None = None


def coco_scenes(folder: Path, joints: tuple[str, ...] = COCO_KEYPOINTS) -> tuple[list[Scene], Data]:
    """Photos of a COCO-form folder with the people that have those keypoints; raises BadData."""
    try:
        data = load_data(folder, keypoints=joints)
    except BadOption as error:
        raise BadData(error.detail) from error
    labels = defaultdict(list)
    for label in data.annotations["annotations"]:
        if not label.get("iscrowd") and label["num_keypoints"] > 0:
            labels[label["image_id"]].append(label)
    scenes = []
    for photo in data.photos:
        _check(photo)
        people = labels[photo.id]
        try:
            shape = (len(people), len(joints), 3)
            keypoints = np.array([p["keypoints"] for p in people], np.float32).reshape(shape)
            areas = np.array([p["area"] for p in people], np.float32)
        except (KeyError, ValueError) as error:
            raise BadData(
                f"{folder}: image {photo.id}: bad keypoints or area ({error!r})"
            ) from error
        boxes = np.array(photo.boxes_xywh, np.float32).reshape(-1, 4)
        for field, array in (("bbox", boxes), ("keypoints", keypoints), ("area", areas)):
            if not np.isfinite(array).all():
                raise BadData(f"{folder}: image {photo.id}: {field} holds NaN or infinity")
        scenes.append(
            Scene(
                image_id=photo.id,
                name=photo.path.name,
                photo=StoredPhoto(photo.path),
                boxes_xywh=boxes,
                box_scores=np.ones(len(boxes), np.float32),
                keypoints=keypoints,
                areas=areas,
            )
        )
    return scenes, data


def _check(photo: Photo) -> None:
    """BadData for a photo that its labels do not fit; its bytes are not kept, as there are many."""
    try:
        photo.read()
    except (BadImage, BadOption) as error:
        raise BadData(f"{photo.path}: {error.detail}") from error


def mpii_scenes(labels: Path, *, heads: Path | None = None) -> list[Scene]:
    """Photos of MPII (.mat, or .json with the `gt_valid.mat` of head boxes); raises BadData."""
    if not is_mpii_release(labels):
        images = read_mpii_json(labels, heads=heads)
    elif heads is None:
        images, heads = read_mpii_mat(labels), labels
    else:
        raise BadData(f"{labels}: a .mat of MPII holds its head boxes; leave --heads out")
    scenes = [_of_mpii(number, image, labels, heads) for number, image in enumerate(images)]
    if not scenes:
        raise BadData(f"{labels}: holds no person with joints")
    return scenes


def is_mpii_release(labels: Path) -> bool:
    """Whether these are MPII's own .mat, which holds joints of its training images alone."""
    return labels.suffix == ".mat"


def with_boxes(scenes: Sequence[Scene], results: Path) -> list[Scene]:
    """The same photos with a detector's person boxes, from a COCO results file; raises BadData."""
    try:
        rows = json.loads(results.read_bytes())
    except OSError as error:
        raise BadData(f"{results} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadData(f"{results}: not a COCO results file ({error})") from error
    if not isinstance(rows, list):
        raise BadData(f"{results}: not a COCO results file, which holds a list")
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    try:
        for index, row in enumerate(rows):
            where = f"{results}: entry {index}"
            if check_integer(check_object(row, where), "category_id", where) == PERSON:
                check_numbers(row, "bbox", 4, where)
                check_sides(row, where)
                check_number(row, "score", where)
                found[check_integer(row, "image_id", where)].append(row)
    except BadOption as error:
        raise BadData(error.detail) from error
    if found and not found.keys() & {scene.image_id for scene in scenes}:
        raise BadData(f"{results}: knows none of the photos by its image_id; is it of other data?")
    return [_detected(scene, found[scene.image_id]) for scene in scenes]


def _detected(scene: Scene, rows: list[dict[str, Any]]) -> Scene:
    boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row["score"] for row in rows], np.float32)
    return replace(
        scene, boxes_xywh=boxes, box_scores=scores, keypoints=None, areas=None, head_sizes=None
    )


def _of_mpii(number: int, image: LabelledImage, labels: Path, heads: Path | None) -> Scene:
    assert image.head_sizes is not None
    if heads is None:
        raise BadData(f"{labels}: no head boxes, which PCKh needs; give gt_valid.mat with --heads")
    known = np.isfinite(image.head_sizes) & (image.head_sizes > 0)
    if not known.all():
        raise BadData(
            f"{heads}: image {image.name}: the head box of its person {known.argmin() + 1} has "
            "diagonal 0 or NaN; PCKh needs a positive one"
        )
    return Scene(
        image_id=number,
        name=image.name,
        photo=image.photo,
        boxes_xywh=image.boxes_xywh,
        box_scores=image.box_scores,
        keypoints=image.keypoints,
        head_sizes=image.head_sizes,
    )

"""Labelled people and photos, read from COCO-form folders or from packs of tar shards.

A *COCO folder* holds a label file and `images/`. A *pack* holds a label file and the shards
`<stem>_<n>.tar`, each image naming its `shard`. Both are given by the path of the label file.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import F32, U8


class BadData(ValueError):
    """A label file, shard or photo cannot be used; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One photo with its annotations.

    `jpeg` are the encoded bytes; `boxes_xywh` (P, 4) float32 in image pixels; `box_scores` (P,)
    float32, 1 for human labels; `keypoints` (P, J, 3) float32: x, y in image pixels and v
    (0 unknown, 1 placed by a teacher, 2 by a person); `keypoint_scores` (P, J) float32: the
    teacher's confidence, 1 where a person placed the joint. `joint_names` are the J joints;
    `head_sizes` (P,) float32, pixels, are PCKh's, NaN where they are not known.
    """

    name: str
    source: str
    jpeg: bytes
    boxes_xywh: F32
    box_scores: F32
    keypoints: F32
    keypoint_scores: F32
    joint_names: tuple[str, ...] = COCO_KEYPOINTS
    head_sizes: F32 | None = None

    def pixels_bgr(self) -> U8:
        """(H, W, 3) uint8 as stored (no EXIF rotation, as COCO's labels are drawn)."""
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), flags)
        if pixels is None:
            raise BadData(f"{self.name}: not a readable photo")
        return np.asarray(pixels, np.uint8)


def read_labelled_images(labels: Path) -> Iterator[LabelledImage]:
    """Every photo of a COCO folder or pack, in file order, crowd boxes left out.

    Raises BadData for a missing field or photo, a NaN or a shard that is cut short.
    """
    try:
        document = json.loads(labels.read_text())
        images = {int(image["id"]): image for image in document["images"]}
        annotations: dict[int, list[dict[str, Any]]] = {key: [] for key in images}
        for annotation in document["annotations"]:
            if not annotation.get("iscrowd", 0):
                annotations[int(annotation["image_id"])].append(annotation)
    except (KeyError, json.JSONDecodeError) as error:
        raise BadData(f"{labels}: not a COCO label file ({error!r})") from error
    in_shards = any("shard" in image for image in images.values())
    read = _read_shards(labels, images) if in_shards else _read_folder(labels, images)
    for image, jpeg in read:
        yield _labelled(labels, image, jpeg, annotations[int(image["id"])])


def _read_folder(
    labels: Path, images: dict[int, dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], bytes]]:
    for image in images.values():
        path = labels.parent / "images" / image["file_name"]
        if not path.is_file():
            raise BadData(f"{labels}: photo {path} is missing")
        yield image, path.read_bytes()


def _read_shards(
    labels: Path, images: dict[int, dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], bytes]]:
    for shard in sorted({int(image["shard"]) for image in images.values()}):
        path = labels.with_name(f"{labels.stem}_{shard}.tar")
        wanted = {i["file_name"]: i for i in images.values() if int(i["shard"]) == shard}
        found = 0
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    stream = tar.extractfile(member)
                    if stream is not None and member.name in wanted:
                        found += 1
                        yield wanted[member.name], io.BytesIO(stream.read()).getvalue()
        except (OSError, tarfile.TarError) as error:
            raise BadData(f"{path}: shard is missing or cut short ({error})") from error
        if found != len(wanted):
            raise BadData(f"{path}: holds {found} of the {len(wanted)} photos that {labels} names")


def _labelled(
    labels: Path, image: dict[str, Any], jpeg: bytes, annotations: list[dict[str, Any]]
) -> LabelledImage:
    people = len(annotations)
    try:
        boxes = np.array([a["bbox"] for a in annotations], np.float32).reshape(people, 4)
        box_scores = np.array([a.get("score", 1.0) for a in annotations], np.float32)
        blank = [0.0] * 51
        points = np.array([a.get("keypoints", blank) for a in annotations], np.float32)
        points = points.reshape(people, 17, 3)
        scores = np.array([a.get("keypoint_scores", [1.0] * 17) for a in annotations], np.float32)
        scores = scores.reshape(people, 17)
    except (KeyError, ValueError) as error:
        raise BadData(
            f"{labels}: image {image['id']}: bad bbox or keypoints ({error!r})"
        ) from error
    for field, array in (("bbox", boxes), ("keypoints", points), ("keypoint_scores", scores)):
        if not np.isfinite(array).all():
            raise BadData(f"{labels}: image {image['id']}: {field} holds NaN or infinity")
    if any("keypoint_scores" in a for a in annotations):
        scores = np.where(points[..., 2] == 2, 1.0, scores).astype(np.float32)
    return LabelledImage(
        name=str(image["file_name"]),
        source=str(image.get("source", "coco")),
        jpeg=jpeg,
        boxes_xywh=boxes,
        box_scores=box_scores,
        keypoints=points,
        keypoint_scores=scores,
    )

"""Labelled people and photos, read from COCO-form folders or from packs of tar shards.

A *COCO folder* holds a label file and its photos, in `images/` or as COCO publishes them (see
`posegate.coco_labels`). A *pack* holds a label file and the shards `<stem>_<n>.tar`, each image
naming its `shard`. Both are given by the path of the label file.
"""

import lzma
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from posegate.coco_labels import (
    CocoLabels,
    check_integer,
    check_number,
    check_numbers,
    label_file,
    other_size,
    read_labels,
    told_size,
)
from posegate.errors import BadOption
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import F32, U8


class BadData(ValueError):
    """A label file, shard or photo cannot be used; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One photo with its annotations.

    `place` says where the photo lies, in a folder or a shard; `jpeg` are its encoded bytes;
    `boxes_xywh` (P, 4) float32 in image pixels; `box_scores` (P,)
    float32, 1 for human labels; `keypoints` (P, J, 3) float32: x, y in image pixels and v
    (0 unknown, 1 placed by a teacher, 2 by a person); `keypoint_scores` (P, J) float32: the
    teacher's confidence, 1 where a person placed the joint. `joint_names` are the J joints;
    `head_sizes` (P,) float32, pixels, are PCKh's, NaN where they are not known. In
    `crowds_xywh` (C, 4) float32 people are not told apart. `told_wh` is the size that the labels
    tell, None where they do not.
    """

    name: str
    source: str
    place: str
    jpeg: bytes
    boxes_xywh: F32
    box_scores: F32
    keypoints: F32
    keypoint_scores: F32
    joint_names: tuple[str, ...] = COCO_KEYPOINTS
    head_sizes: F32 | None = None
    crowds_xywh: F32 | None = None
    told_wh: tuple[int, int] | None = None

    def pixels_bgr(self) -> U8:
        """(H, W, 3) uint8; raises BadData."""
        return decode_bgr(self.jpeg, self.place, self.told_wh)


def decode_bgr(jpeg: bytes, place: str, told_wh: tuple[int, int] | None) -> U8:
    """(H, W, 3) uint8, upright by EXIF as in evaluation and service.

    Raises BadData by the photo's `place`, also where the labels tell another size.
    """
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if pixels is None:
        raise BadData(f"{place}: not a readable photo")
    size_wh = (pixels.shape[1], pixels.shape[0])
    if told_wh is not None and told_wh != size_wh:
        raise BadData(f"{place}: {other_size(size_wh, told_wh)}")
    return np.asarray(pixels, np.uint8)


def read_labelled_images(
    labels: Path, joint_names: tuple[str, ...] = COCO_KEYPOINTS
) -> Iterator[LabelledImage]:
    """Every photo of a COCO folder or pack; other joints than COCO's are those its categories name.

    A folder is read in the label file's order, a pack in that of its shards. Raises BadData for a
    missing field or photo, a NaN or a shard that is cut short.
    """
    try:
        known = read_labels(label_file(labels), keypoints=joint_names)
        annotations: dict[int, list[dict[str, Any]]] = {number: [] for number in known.images}
        for annotation in known.annotations:
            _check_joints(known, annotation)
            annotations[annotation["image_id"]].append(annotation)
        in_shards = any("shard" in image for image in known.images.values())
        read = (
            _read_tars(known.path, _shards(known))
            if in_shards
            else _read_folder(known, known.photos())
        )
    except BadOption as error:
        raise BadData(error.detail) from error
    for image, place, jpeg in read:
        yield _labelled(image, place, jpeg, annotations[image["id"]], joint_names)


_UNREADABLE = (OSError, tarfile.TarError, EOFError, KeyError, zlib.error, lzma.LZMAError)
"""What a shard raises that is missing, cut short (compressed ones too) or links to nothing."""


def _check_joints(labels: CocoLabels, annotation: dict[str, Any]) -> None:
    where = f"{labels.path}: annotation {annotation['id']} of image {annotation['image_id']}"
    check_numbers(annotation, "keypoint_scores", len(labels.keypoints), where, optional=True)
    check_number(annotation, "score", where, optional=True)
    strange = set(annotation.get("keypoints", [])[2::3]) - {0, 1, 2}
    if strange:
        raise BadOption(f"{where}: keypoints has the visibility {strange.pop()}, not 0, 1 or 2")


def _read_folder(
    known: CocoLabels, photos: Mapping[int, Path]
) -> Iterator[tuple[dict[str, Any], str, bytes]]:
    for number, path in photos.items():
        try:
            yield known.images[number], str(path), path.read_bytes()
        except OSError as error:
            raise BadData(f"{known.path}: photo {path}: {error.strerror}") from error


def _shards(known: CocoLabels) -> dict[int, dict[str, dict[str, Any]]]:
    """Each shard's images by file name."""
    shards: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for number, image in known.images.items():
        where = f"{known.path}: image {number} (a pack, as other images name their shard)"
        shard = shards[check_integer(image, "shard", where)]
        if image["file_name"] in shard:
            raise BadData(f"{where}: file_name {image['file_name']!r} stands twice in its shard")
        shard[image["file_name"]] = image
    return shards


def _read_tars(
    labels: Path, shards: Mapping[int, Mapping[str, dict[str, Any]]]
) -> Iterator[tuple[dict[str, Any], str, bytes]]:
    for shard, wanted in sorted(shards.items()):
        path = labels.with_name(f"{labels.stem}_{shard}.tar")
        missing = set(wanted)
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name not in wanted or (stream := tar.extractfile(member)) is None:
                        continue
                    if member.name not in missing:
                        raise BadData(f"{path}: {member.name} is in it twice")
                    missing.remove(member.name)
                    yield wanted[member.name], f"{path}: {member.name}", stream.read()
        except _UNREADABLE as error:
            raise BadData(f"{path}: shard is missing or cut short ({error})") from error
        if missing:
            raise BadData(
                f"{path}: holds {len(wanted) - len(missing)} of the {len(wanted)} photos that "
                f"{labels} names; {min(missing)} is missing"
            )


def _labelled(
    image: dict[str, Any],
    place: str,
    jpeg: bytes,
    annotations: list[dict[str, Any]],
    joint_names: tuple[str, ...],
) -> LabelledImage:
    crowds = [one["bbox"] for one in annotations if one.get("iscrowd")]
    annotations = [one for one in annotations if not one.get("iscrowd")]
    people, joints = len(annotations), len(joint_names)
    blank = [0.0] * (3 * joints)
    points = np.array([a.get("keypoints", blank) for a in annotations], np.float32)
    points = points.reshape(people, joints, 3)
    scores = np.array([a.get("keypoint_scores", [1.0] * joints) for a in annotations], np.float32)
    scores = scores.reshape(people, joints)
    scores[points[..., 2] == 2] = 1
    return LabelledImage(
        name=image["file_name"],
        source=str(image.get("source", "coco")),
        place=place,
        jpeg=jpeg,
        boxes_xywh=np.array([a["bbox"] for a in annotations], np.float32).reshape(people, 4),
        box_scores=np.array([a.get("score", 1.0) for a in annotations], np.float32),
        keypoints=points,
        keypoint_scores=scores,
        joint_names=joint_names,
        crowds_xywh=np.array(crowds, np.float32).reshape(-1, 4),
        told_wh=told_size(image),
    )

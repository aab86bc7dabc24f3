"""Labelled people and photos, read from COCO-form folders or from packs of tar shards.

A *COCO folder* holds a label file and its photos, in `images/` or as COCO publishes them (see
`posegate.coco_labels`). A *pack* holds a label file and the shards `<stem>_<n>.tar`, each image
naming its `shard`. Both are given by the path of the label file.
"""

import io
import lzma
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from posegate.coco_labels import CocoLabels, label_file, other_size, read_labels, told_size
from posegate.errors import BadOption
from posegate.label_fields import check_integer, check_number, check_numbers
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import F32, U8

SURE_BOX = 0.4
"""Score from which on a teacher's box is taken for a person's."""
_HIGHEST = 2.0
"""No joint's score lies beyond: a teacher's peaks go a little over 1, percentages further."""
_UNREADABLE = (OSError, tarfile.TarError, EOFError, KeyError, zlib.error, lzma.LZMAError)
"""What a shard raises that is missing, cut short (compressed ones too) or links to nothing."""
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
"""Members whose bytes lie in one piece in an uncompressed shard: no links, no sparse files."""


class BadData(ValueError):
    """A label file, shard or photo cannot be used; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """An encoded photo, read where it lies: a file, or `size` bytes of a shard from `start` on.

    `held` are the bytes of a shard that is compressed. `told_wh` is the size that the labels tell,
    None where they do not.
    """

    path: Path
    member: str = ""
    start: int = 0
    size: int = -1
    held: bytes | None = None
    told_wh: tuple[int, int] | None = None

    @property
    def place(self) -> str:
        """Where the photo lies, for messages."""
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """The encoded bytes; raises BadData."""
        if self.held is not None:
            return self.held
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                data = file.read(self.size)
        except OSError as error:
            raise BadData(f"photo {self.place}: {error.strerror}") from error
        if len(data) < self.size:
            raise BadData(f"{self.place}: the shard is cut short")
        return data

    def pixels_bgr(self) -> U8:
        """(H, W, 3) uint8, upright by EXIF as in evaluation and service.

        Raises BadData, also where the labels tell another size.
        """
        data = self.read()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if pixels is None:
            raise BadData(f"{self.place}: not a readable photo")
        size_wh = (pixels.shape[1], pixels.shape[0])
        if self.told_wh is not None and self.told_wh != size_wh:
            raise BadData(f"{self.place}: {other_size(size_wh, self.told_wh)}")
        return np.asarray(pixels, np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """One photo with its annotations.

    `boxes_xywh` (P, 4) float32 in image pixels; `box_scores` (P,) float32, 1 for human labels;
    `keypoints` (P, J, 3) float32: x, y in image pixels and v (0 unknown, 1 placed by a teacher, 2
    by a person); `keypoint_scores` (P, J) float32: the teacher's confidence, at most 1, and 1 where
    a person placed the joint. `joint_names` are the J joints; `head_sizes` (P,) float32, pixels,
    are PCKh's, NaN where they are not known. In `crowds_xywh` (C, 4) float32 people are not told
    apart.
    """

    name: str
    source: str
    photo: StoredPhoto
    boxes_xywh: F32
    box_scores: F32
    keypoints: F32
    keypoint_scores: F32
    joint_names: tuple[str, ...] = COCO_KEYPOINTS
    head_sizes: F32 | None = None
    crowds_xywh: F32 | None = None


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
        stored: Iterable[tuple[dict[str, Any], StoredPhoto]]
        if any("shard" in image for image in known.images.values()):
            stored = _in_tars(known.path, _shards(known))
        else:
            stored = [
                (known.images[number], StoredPhoto(path, told_wh=told_size(known.images[number])))
                for number, path in known.photos().items()
            ]
    except BadOption as error:
        raise BadData(error.detail) from error
    for image, photo in stored:
        yield _labelled(image, photo, annotations[image["id"]], joint_names)


def _check_joints(labels: CocoLabels, annotation: dict[str, Any]) -> None:
    where = f"{labels.path}: annotation {annotation['id']} of image {annotation['image_id']}"
    check_numbers(annotation, "keypoint_scores", len(labels.keypoints), where, optional=True)
    _check_scores(annotation.get("keypoint_scores", []), where)
    check_number(annotation, "score", where, optional=True)
    strange = set(annotation.get("keypoints", [])[2::3]) - {0, 1, 2}
    if strange:
        raise BadOption(f"{where}: keypoints has the visibility {strange.pop()}, not 0, 1 or 2")


def _check_scores(scores: list[float], where: str) -> None:
    wrong = [score for score in scores if not 0 <= score <= _HIGHEST]
    if wrong:
        raise BadOption(
            f"{where}: keypoint_scores holds {wrong[0]:g}; a score lies from 0 to 1, at most "
            f"{_HIGHEST:g} where a heatmap overshoots"
        )


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


def _in_tars(
    labels: Path, shards: Mapping[int, Mapping[str, dict[str, Any]]]
) -> Iterator[tuple[dict[str, Any], StoredPhoto]]:
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
                    image = wanted[member.name]
                    plain = isinstance(tar.fileobj, io.BufferedReader) and member.type in _PLAIN
                    yield (
                        image,
                        StoredPhoto(
                            path,
                            member.name,
                            member.offset_data,
                            member.size,
                            held=None if plain else stream.read(),
                            told_wh=told_size(image),
                        ),
                    )
        except _UNREADABLE as error:
            raise BadData(f"{path}: shard is missing or cut short ({error})") from error
        if missing:
            raise BadData(
                f"{path}: holds {len(wanted) - len(missing)} of the {len(wanted)} photos that "
                f"{labels} names; {min(missing)} is missing"
            )


def _labelled(
    image: dict[str, Any],
    photo: StoredPhoto,
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
    scores = np.minimum(scores.reshape(people, joints), 1)
    scores[points[..., 2] == 2] = 1
    return LabelledImage(
        name=image["file_name"],
        source=str(image.get("source", "coco")),
        photo=photo,
        boxes_xywh=np.array([a["bbox"] for a in annotations], np.float32).reshape(people, 4),
        box_scores=np.array([a.get("score", 1.0) for a in annotations], np.float32),
        keypoints=points,
        keypoint_scores=scores,
        joint_names=joint_names,
        crowds_xywh=np.array(crowds, np.float32).reshape(-1, 4),
    )

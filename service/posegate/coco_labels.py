"""A label file in COCO's form -> its images and annotations, every field checked, and its photos.

Photos lie in `images/` beside the file, or as COCO publishes them: `val2017/` beside the folder of
`annotations/person_keypoints_val2017.json`.
"""

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posegate.errors import BadOption
from posegate.skeleton import COCO_KEYPOINTS

PERSON = 1
"""COCO's category of people."""
LABELS_NAME = "person_keypoints.json"
_PUBLISHED = re.compile(r"(?:person_keypoints|instances)_(\w+)")
_LIMIT = 1e6
"""No coordinate lies beyond; NaN and infinity neither pass."""
_MOST = 1e12
"""No area lies beyond, and no score."""
_KINDS: dict[type, str] = {
    int: "an integer",
    str: "a text",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class CocoLabels:
    """`images` by id and `annotations` of people, crowds among them, in the file's order."""

    path: Path
    images: dict[int, dict[str, Any]]
    annotations: list[dict[str, Any]]

    def photos(self) -> dict[int, Path]:
        """Where each image lies, by id; raises BadOption where one is missing."""
        folder = photo_folder(self.path)
        found = {number: folder / image["file_name"] for number, image in self.images.items()}
        missing = [path for path in found.values() if not path.is_file()]
        if missing:
            raise BadOption(
                f"{self.path}: photo {missing[0]} is missing; {len(missing)} of the {len(found)} "
                "listed are"
            )
        return found


def label_file(path: Path) -> Path:
    """The label file that is meant: itself, or `person_keypoints.json` of a folder."""
    return path / LABELS_NAME if path.is_dir() or not path.suffix else path


def photo_folder(labels: Path) -> Path:
    """The folder that the `file_name`s of a label file are relative to."""
    published = _PUBLISHED.fullmatch(labels.stem)
    if published:
        here = labels.absolute().parent
        for root in (here.parent, here):
            for folder in (root / published[1], root / "images" / published[1]):
                if folder.is_dir():
                    return folder
    return labels.parent / "images"


def read_labels(path: Path, *, needed: Sequence[str] = ()) -> CocoLabels:
    """Read and check a label file; BadOption names the file and the field that is wrong.

    `needed` are fields, numbers, that every annotation must have beside COCO's `id`, `image_id` and
    `bbox`. Where `num_keypoints` is missing, it becomes the number of keypoints with v > 0.
    Annotations of another category than people's are left out; one that tells none is a person's.
    """
    document = _read(path)
    where = f"{path} is not COCO keypoint annotations"
    if not isinstance(document, dict):
        raise BadOption(f"{where}: it holds {reprlib.repr(document)}, not an object")
    images: dict[int, dict[str, Any]] = {}
    for index, image in enumerate(_typed(document, "images", list, where)):
        place = f"{path}: images[{index}]"
        number = check_integer(check_object(image, place), "id", place)
        if number in images:
            raise BadOption(f"{place}: id {number} stands twice")
        _typed(image, "file_name", str, place)
        images[number] = image
    person = _person_category(document, path)
    annotations: list[dict[str, Any]] = []
    for index, annotation in enumerate(_typed(document, "annotations", list, where)):
        where = _where(annotation, f"{path}: annotations[{index}]", path, images)
        if annotation.get("category_id", person) != person:
            continue
        _check_person(annotation, where, needed)
        if "num_keypoints" not in annotation:
            visibilities = annotation.get("keypoints", [])[2::3]
            annotation["num_keypoints"] = sum(v > 0 for v in visibilities)
        annotations.append(annotation)
    return CocoLabels(path, images, annotations)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        own = sorted((path.parent / "annotations").glob("person_keypoints_*.json"))
        hint = f"; give the file itself, as {own[0]}" if own else ""
        raise BadOption(f"{path} cannot be read: {error.strerror}{hint}") from error
    except (ValueError, RecursionError) as error:
        raise BadOption(f"{path} is not COCO keypoint annotations: {error}") from error


def _person_category(document: dict[str, Any], path: Path) -> int:
    """The id of the category named `person`; COCO's where the file tells of no categories.

    Raises BadOption where it names others only, or where a person's keypoints are not COCO's.
    """
    categories = _typed(document, "categories", list, f"{path}") if "categories" in document else []
    names = []
    for index, category in enumerate(categories):
        place = f"{path}: categories[{index}]"
        if "name" not in check_object(category, place):
            continue
        names.append(_typed(category, "name", str, place))
        if names[-1].lower() != "person":
            continue
        if "keypoints" in category and not _are_coco_s(_typed(category, "keypoints", list, place)):
            raise BadOption(
                f"{place}: {_found(category, 'keypoints')}; people's must be COCO's 17, "
                f"{COCO_KEYPOINTS[0]} to {COCO_KEYPOINTS[-1]}, in their order"
            )
        return check_integer(category, "id", place)
    if names:
        raise BadOption(f"{path}: categories names {', '.join(names)}, and none 'person'")
    return PERSON


def _are_coco_s(joints: list[Any]) -> bool:
    """Whether these name COCO's keypoints, however they are spelt; none at all are left unnamed."""
    theirs, coco = (
        [re.sub("[^a-z]", "", str(joint).lower()) for joint in names]
        for names in (joints, COCO_KEYPOINTS)
    )
    return not joints or theirs == coco


def check_integer(row: Mapping[str, Any], field: str, where: str) -> int:
    """The field, which must be an integer."""
    value: int = _typed(row, field, int, where)
    return value


def check_number(row: Mapping[str, Any], field: str, where: str, *, optional: bool = False) -> None:
    """BadOption unless the field is a number of 0 or more, and no absurd one."""
    if optional and field not in row:
        return
    value: Any = row.get(field)
    if type(value) not in (int, float) or not 0 <= value < _MOST:
        raise BadOption(f"{where}: {_found(row, field)}; it must be a number from 0 to {_MOST:g}")


def check_numbers(
    row: Mapping[str, Any], field: str, count: int, where: str, *, optional: bool = False
) -> None:
    """BadOption unless the field is a list of that many finite numbers."""
    if optional and field not in row:
        return
    values = _typed(row, field, list, where)
    if len(values) != count or not all(type(v) in (int, float) for v in values):
        raise BadOption(f"{where}: {_found(row, field)}; it must be {count} numbers")
    if not all(-_LIMIT < v < _LIMIT for v in values):
        raise BadOption(f"{where}: {field} holds NaN, infinity or a number beyond a million")


def check_sides(row: Mapping[str, Any], where: str) -> None:
    """BadOption unless the `bbox`, four numbers, has a width and a height."""
    if not min(row["bbox"][2:]) > 0:
        raise BadOption(f"{where}: bbox {row['bbox']} must have positive width and height")


def check_object(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise BadOption(f"{where} is {reprlib.repr(value)}; it must be an object")
    return value


def _where(annotation: Any, place: str, path: Path, images: Mapping[int, dict[str, Any]]) -> str:
    """What an annotation of any category is called; BadOption where its ids are none."""
    number = check_integer(check_object(annotation, place), "id", place)
    where = f"{path}: annotation {number}"
    image_id = check_integer(annotation, "image_id", where)
    if image_id not in images:
        raise BadOption(f"{where}: image_id {image_id} is none of the images")
    where = f"{where} of image {image_id}"
    check_number(annotation, "category_id", where, optional=True)
    return where


def _check_person(annotation: dict[str, Any], where: str, needed: Sequence[str]) -> None:
    check_numbers(annotation, "bbox", 4, where)
    for field in needed:
        check_number(annotation, field, where)
    seen = annotation.get("num_keypoints", 0)
    if type(seen) is not int:
        raise BadOption(f"{where}: {_found(annotation, 'num_keypoints')}; it must be an integer")
    joints = 3 * len(COCO_KEYPOINTS)
    check_numbers(annotation, "keypoints", joints, where, optional=not seen)


def _typed(row: Mapping[str, Any], field: str, kind: type, where: str) -> Any:
    value = row.get(field)
    if type(value) is not kind:  # True is no integer here
        raise BadOption(f"{where}: {_found(row, field)}; it must be {_KINDS[kind]}")
    return value


def _found(row: Mapping[str, Any], field: str) -> str:
    return f"{field} is {reprlib.repr(row[field]) if field in row else 'missing'}"

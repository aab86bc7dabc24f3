"""A label file in COCO's form -> its images and annotations, every field checked, and its photos.

Photos lie in `images/` beside the file, or as COCO publishes them: `val2017/` beside the folder of
`annotations/person_keypoints_val2017.json`.
"""

import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posegate.errors import BadOption
from posegate.label_fields import (
    as_found,
    check_integer,
    check_kind,
    check_number,
    check_numbers,
    check_object,
)
from posegate.skeleton import COCO_KEYPOINTS

PERSON = 1
"""COCO's category of people."""
LABELS_NAME = "person_keypoints.json"
_PUBLISHED = re.compile(r"(?:person_keypoints|instances)_(\w+)")


class OtherKeypoints(BadOption):
    """The labels are of other keypoints than those asked for."""


@dataclass(frozen=True, slots=True)
class CocoLabels:
    """`images` by id and `annotations` of people, crowds among them, in the file's order.

    `keypoints` (J,) name the joints of each.
    """

    path: Path
    images: dict[int, dict[str, Any]]
    annotations: list[dict[str, Any]]
    keypoints: tuple[str, ...] = COCO_KEYPOINTS

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


def told_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of an image, where its labels tell both."""
    width, height = (image.get(side, 0) for side in ("width", "height"))
    told = all(type(side) is int and side > 0 for side in (width, height))
    return (width, height) if told else None


def other_size(size_wh: tuple[int, int], told_wh: tuple[int, int]) -> str:
    """A complaint about a photo of another size than told: what its labels mark lies elsewhere."""
    return "the photo has {}x{} pixels, its labels are of {}x{}".format(*size_wh, *told_wh)


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


def own_keypoints(path: Path) -> tuple[str, ...]:
    """The keypoints that the categories of a label file name, of people or of anything else.

    Raises BadOption where none names any, or two name different ones.
    """
    named = set(_named_keypoints(_document(path), path).values())
    if not named:
        raise BadOption(f"{path}: no category names its keypoints")
    if len(named) > 1:
        told = " and ".join(sorted(_in_short(names) for names in named))
        raise BadOption(f"{path}: categories name different keypoints, {told}; keep one of them")
    return named.pop()


def names_keypoints(path: Path, keypoints: tuple[str, ...]) -> bool:
    """Whether a category of the label file names these, in their order; raises BadOption."""
    return keypoints in _named_keypoints(_document(path), path).values()


def read_labels(
    path: Path, *, needed: Sequence[str] = (), keypoints: tuple[str, ...] = COCO_KEYPOINTS
) -> CocoLabels:
    """Read and check a label file; BadOption names the file and the field that is wrong.

    `needed` are fields, numbers, that every annotation must have beside COCO's `id`, `image_id` and
    `bbox`. Where `num_keypoints` is missing, it becomes the number of keypoints with v > 0.
    Annotations of other categories than people are left out; one without a category is a person's.
    Where `keypoints` are not COCO's 17, the categories that name just these are read instead;
    OtherKeypoints is raised where there is none.
    """
    document = _document(path)
    where = f"{path} is not COCO keypoint annotations"
    images: dict[int, dict[str, Any]] = {}
    for index, image in enumerate(check_kind(document, "images", list, where)):
        place = f"{path}: images[{index}]"
        number = check_integer(check_object(image, place), "id", place)
        if number in images:
            raise BadOption(f"{place}: id {number} stands twice")
        check_kind(image, "file_name", str, place)
        images[number] = image
    if keypoints == COCO_KEYPOINTS:
        wanted = _people_categories(document, path)
    else:
        wanted = _categories_of(keypoints, document, path)
    annotations: list[dict[str, Any]] = []
    for index, annotation in enumerate(check_kind(document, "annotations", list, where)):
        where = _where(annotation, f"{path}: annotations[{index}]", path, images)
        if annotation.get("category_id", wanted[0]) not in wanted:
            continue
        _check_person(annotation, where, needed, len(keypoints))
        if "num_keypoints" not in annotation:
            visibilities = annotation.get("keypoints", [])[2::3]
            annotation["num_keypoints"] = sum(v > 0 for v in visibilities)
        annotations.append(annotation)
    return CocoLabels(path, images, annotations, keypoints)


def _document(path: Path) -> dict[str, Any]:
    document = _read(path)
    if not isinstance(document, dict):
        raise BadOption(
            f"{path} is not COCO keypoint annotations: it holds {reprlib.repr(document)}, not an "
            "object"
        )
    return document


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        own = sorted((path.parent / "annotations").glob("person_keypoints_*.json"))
        hint = f"; give the file itself, as {own[0]}" if own else ""
        raise BadOption(f"{path} cannot be read: {error.strerror}{hint}") from error
    except (ValueError, RecursionError) as error:
        raise BadOption(f"{path} is not COCO keypoint annotations: {error}") from error


def _people_categories(document: dict[str, Any], path: Path) -> list[int]:
    """The ids of `person` and of other categories with COCO's keypoints; COCO's id without any.

    Raises BadOption where there are only others, or where a person's keypoints are not COCO's.
    """
    names: list[str] = []
    people: list[int] = []
    for place, category in _categories(document, path):
        if "name" not in category:
            continue
        names.append(check_kind(category, "name", str, place))
        keypoints = (
            check_kind(category, "keypoints", list, place) if "keypoints" in category else []
        )
        if names[-1].lower() == "person":
            if keypoints and not _are_coco_s(keypoints):
                raise BadOption(
                    f"{place}: {as_found(category, 'keypoints')}; people's must be COCO's 17, "
                    f"{COCO_KEYPOINTS[0]} to {COCO_KEYPOINTS[-1]}, in their order"
                )
            people.insert(0, check_integer(category, "id", place))
        elif keypoints and _are_coco_s(keypoints):
            people.append(check_integer(category, "id", place))
    if names and not people:
        raise BadOption(
            f"{path}: categories names {', '.join(names)}, and none 'person' or with COCO's 17 "
            "keypoints"
        )
    return people or [PERSON]


def _categories(document: dict[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each category of the file, if it tells any, with what it is called in a complaint."""
    categories = (
        check_kind(document, "categories", list, f"{path}") if "categories" in document else []
    )
    for index, category in enumerate(categories):
        place = f"{path}: categories[{index}]"
        yield place, check_object(category, place)


def _named_keypoints(document: dict[str, Any], path: Path) -> dict[int, tuple[str, ...]]:
    """The keypoints of each category that names some, by its id; raises BadOption."""
    named = {}
    for place, category in _categories(document, path):
        if not category.get("keypoints"):
            continue
        names = tuple(check_kind(category, "keypoints", list, place))
        if not all(isinstance(name, str) and name for name in names):
            raise BadOption(f"{place}: {as_found(category, 'keypoints')}; it must be texts")
        if len(set(names)) != len(names):
            raise BadOption(f"{place}: {as_found(category, 'keypoints')}; a name stands twice")
        named[check_integer(category, "id", place)] = names
    return named


def _categories_of(keypoints: tuple[str, ...], document: dict[str, Any], path: Path) -> list[int]:
    """The ids of the categories that name these keypoints in this order; raises BadOption."""
    named = _named_keypoints(document, path)
    found = [number for number, names in named.items() if names == keypoints]
    if not found:
        told = " and ".join(sorted({_in_short(names) for names in named.values()})) or "none"
        raise OtherKeypoints(
            f"{path}: no category names the {_in_short(keypoints)} in their order; named are {told}"
        )
    return found


def _in_short(keypoints: Sequence[str]) -> str:
    return f"{len(keypoints)} keypoints {keypoints[0]} to {keypoints[-1]}"


def _are_coco_s(joints: list[Any]) -> bool:
    """Whether these name COCO's keypoints, however they are spelt."""
    theirs, coco = (
        [re.sub("[^a-z]", "", str(joint).lower()) for joint in names]
        for names in (joints, COCO_KEYPOINTS)
    )
    return theirs == coco


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


def _check_person(
    annotation: dict[str, Any], where: str, needed: Sequence[str], joints: int
) -> None:
    check_numbers(annotation, "bbox", 4, where)
    for field in needed:
        check_number(annotation, field, where)
    seen = annotation.get("num_keypoints", 0)
    if type(seen) is not int:
        raise BadOption(f"{where}: {as_found(annotation, 'num_keypoints')}; it must be an integer")
    check_numbers(annotation, "keypoints", 3 * joints, where, optional=not seen)

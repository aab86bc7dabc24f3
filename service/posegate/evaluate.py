"""A folder in COCO form -> COCO's AP and AR of the pipeline on it."""

import contextlib
import io
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posegate.api.documents import coco_results
from posegate.catalog import Model
from posegate.coco_labels import (
    PERSON,
    OtherKeypoints,
    label_file,
    other_size,
    read_labels,
    told_size,
)
from posegate.errors import BadImage, BadOption, TooLarge
from posegate.headers import parse_header
from posegate.label_fields import check_sides
from posegate.options import EstimateOptions
from posegate.ordered import in_order
from posegate.pipeline import Pipeline
from posegate.skeleton import COCO_KEYPOINTS, sigmas_of
from posegate.types import Boxes

KEYPOINT_FIGURES = (
    "ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large",
)  # fmt: skip
BOX_FIGURES = ("ap", "ap50")
Task = Literal["keypoints", "boxes"]


@dataclass(frozen=True, slots=True)
class Photo:
    """One labelled picture; `boxes_xywh` are its people with keypoints, crowds left out.

    `told_wh` is its size as the labels tell it, None where they do not.
    """

    id: int
    path: Path
    boxes_xywh: list[list[float]]
    told_wh: tuple[int, int] | None = None

    def read(self) -> bytes:
        """The file; BadOption where it has another size than told, BadImage where it is none."""
        data = self.path.read_bytes()
        if self.told_wh is not None and (size := parse_header(data).upright_wh) != self.told_wh:
            raise BadOption(other_size(size, self.told_wh))
        return data

    def with_true_boxes(self, options: EstimateOptions) -> EstimateOptions | None:
        """The options, asking about the labelled people; None where nobody is labelled."""
        if not self.boxes_xywh:
            return None
        boxes = np.array(self.boxes_xywh, np.float32)
        return replace(options, boxes_xywh=boxes, max_people=len(boxes))


@dataclass(frozen=True, slots=True)
class Data:
    """The pictures and their annotations in the form that COCO's evaluator takes.

    `keypoints` (J,) name the joints that are labelled.
    """

    photos: list[Photo]
    annotations: dict[str, Any]
    keypoints: tuple[str, ...] = COCO_KEYPOINTS


@dataclass(frozen=True, slots=True)
class Report:
    """COCO's figures, in [0, 1]; -1 where nothing of that size is labelled."""

    data: str
    task: Task
    model: str | None
    detector: str | None
    flip_test: bool
    decode: str | None
    images: int
    people: int
    seconds: float
    keypoints: dict[str, float] | None
    boxes: dict[str, float] | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_data(path: Path, *, keypoints: tuple[str, ...] = COCO_KEYPOINTS) -> Data:
    """Read a label file, or `person_keypoints.json` of a folder, whose photos must all be there.

    Other `keypoints` than COCO's are looked for in the categories that name them.
    """
    labels = read_labels(label_file(path), needed=("area", "category_id"), keypoints=keypoints)
    if not labels.images:
        raise BadOption(f"{labels.path} lists no images")
    people = defaultdict(list)
    for label in labels.annotations:
        if not label.get("iscrowd") and label["num_keypoints"] > 0:
            where = f"{labels.path}: annotation {label['id']} of image {label['image_id']}"
            check_sides(label, where)
            people[label["image_id"]].append([float(value) for value in label["bbox"]])
    photos = [
        Photo(number, path, people[number], told_size(labels.images[number]))
        for number, path in labels.photos().items()
    ]
    # What the evaluator asks of an annotation that has a box alone.
    unlabelled = {"iscrowd": 0, "keypoints": [0] * 3 * len(keypoints)}
    annotations = {
        "info": {},
        "images": list(labels.images.values()),
        # The evaluator takes a match with the annotation of id 0 for none.
        "annotations": [
            unlabelled | label | {"id": number, "category_id": PERSON}
            for number, label in enumerate(labels.annotations, 1)
        ],
        "categories": [{"id": PERSON, "name": "person"}],
    }
    return Data(photos, annotations, keypoints)


def load_data_of(model: Model, path: Path) -> Data:
    """The labels of the joints that the model's card names; OtherKeypoints where there are none."""
    names = model.card.keypoints
    try:
        return load_data(path, keypoints=names)
    except OtherKeypoints as error:
        raise OtherKeypoints(
            f"COCO's AP needs COCO's 17 keypoints in their order, {COCO_KEYPOINTS[0]} to "
            f"{COCO_KEYPOINTS[-1]}, or labels of the network's own, and the card of {model.name} "
            f"names {len(names)}, {names[0]} to {names[-1]} ({error.detail}); `posenets evaluate "
            "--mpii` measures the joints that MPII has too"
        ) from error


async def evaluate(
    pipeline: Pipeline,
    folder: Path,
    options: EstimateOptions,
    *,
    boxes: Literal["truth", "detector"] = "truth",
    task: Task = "keypoints",
    ahead: int = 4,
    on_photo: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Run every labelled picture of a folder and score the answers as COCO does.

    With `boxes="truth"` the pose network looks at the labelled people, with boxes of score 1.
    `task="boxes"` scores the detector alone. `on_photo` hears how many of how many pictures are
    done. Joints that COCO does not know count by one constant, see `sigmas_of`.
    """
    with_detector = task == "boxes" or boxes == "detector"
    detector = pipeline.catalog.get(options.detector, "detect").name if with_detector else None
    model = pipeline.catalog.get(options.model, "pose") if task == "keypoints" else None
    data = load_data(folder) if model is None else load_data_of(model, folder)
    scorer = coco_scorer(data)
    started = time.perf_counter()
    poses: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    answers = _answers(
        pipeline, data.photos, options, given=boxes == "truth", task=task, ahead=ahead
    )
    done = 0
    async for keypoint_results, box_results in answers:
        poses += keypoint_results
        found += box_results
        done += 1
        on_photo(done, len(data.photos))
    return Report(
        data=folder.name,
        task=task,
        model=None if model is None else model.name,
        detector=detector,
        flip_test=options.flip_test,
        decode=options.decode if task == "keypoints" else None,
        images=len(data.photos),
        people=sum(len(photo.boxes_xywh) for photo in data.photos),
        seconds=round(time.perf_counter() - started, 2),
        keypoints=scorer("keypoints", poses, KEYPOINT_FIGURES) if task == "keypoints" else None,
        boxes=scorer("bbox", found, BOX_FIGURES) if with_detector else None,
    )


def coco_scorer(
    data: Data,
) -> Callable[[str, list[dict[str, Any]], tuple[str, ...]], dict[str, float]]:
    """A function that scores results with the COCO evaluator, which must be installed."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise BadOption(
            "evaluation needs the COCO evaluator; install it with: pip install 'posegate[evaluate]'"
        ) from error

    def score(
        kind: str, results: list[dict[str, Any]], figures: tuple[str, ...]
    ) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            truth, found = COCO(), COCO()
            truth.dataset = data.annotations
            truth.createIndex()
            if results:  # loadRes takes no empty list
                found = truth.loadRes(results)
            evaluator = COCOeval(truth, found, kind)
            evaluator.params.imgIds = [photo.id for photo in data.photos]
            evaluator.params.catIds = [PERSON]
            if data.keypoints != COCO_KEYPOINTS:
                evaluator.params.kpt_oks_sigmas = sigmas_of(data.keypoints).astype(np.float64)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        stats = evaluator.stats[: len(figures)].tolist()
        return {name: round(value, 4) for name, value in zip(figures, stats, strict=True)}

    return score


async def _answers(
    pipeline: Pipeline,
    photos: list[Photo],
    options: EstimateOptions,
    *,
    given: bool,
    task: Task,
    ahead: int,
) -> AsyncIterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Keypoint and box results of each photo, in COCO's results form."""

    async def work(photo: Photo) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        try:
            return await look_at(photo)
        except (BadImage, BadOption, TooLarge) as error:
            raise BadOption(f"{photo.path}: {error.detail}") from error

    async def look_at(photo: Photo) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        data = photo.read()
        if task == "boxes":
            return [], box_results(await pipeline.find_people(data, options), photo.id)
        asked = photo.with_true_boxes(options) if given else options
        if asked is None:
            return [], []
        poses = (await pipeline.estimate(data, asked)).poses
        return (
            coco_results(poses, min_keypoint_score=0.0, image_id=photo.id),
            box_results(poses.boxes, photo.id),
        )

    async for answer in in_order(photos, work, ahead=ahead):
        yield answer


def box_results(boxes: Boxes, image_id: int) -> list[dict[str, Any]]:
    """The boxes in COCO's results form."""
    return [
        {"image_id": image_id, "category_id": PERSON, "bbox": box, "score": score}
        for box, score in zip(boxes.xywh.tolist(), boxes.scores.tolist(), strict=True)
    ]

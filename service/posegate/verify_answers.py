"""What a network answers on labelled photos, and how far the answers of two lie apart.

Shape letters: N people, K places of each: J joints, or the 2 corners of a box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from posegate.api.documents import coco_results
from posegate.catalog import Model
from posegate.coco_labels import OtherKeypoints
from posegate.errors import BackendDown, BadImage, BadOption, TooLarge
from posegate.evaluate import (
    BOX_FIGURES,
    KEYPOINT_FIGURES,
    Data,
    Photo,
    box_results,
    coco_scorer,
    load_data,
    load_data_of,
)
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.types import F32, Poses


@dataclass(frozen=True, slots=True)
class Answer:
    """One network's people on one photo.

    `places` (N, K, 2) float32 in image pixels; the first `compared` of them are looked for in
    another network's answer. `results` has the same people in COCO's results form.
    """

    places: F32
    compared: int
    results: list[dict[str, Any]]


Answers = list[Answer | None]
"""One per photo; None where nothing is asked about it."""


class Subject(Protocol):
    """What the networks of one task are asked, and how their answers are compared."""

    @property
    def data(self) -> Data:
        """The photos and their labels."""
        ...

    def options(self, photo: Photo, name: str) -> EstimateOptions | None:
        """What a service is asked to see the network `name` at work; None to leave a photo out."""
        ...

    def places(self, poses: Poses) -> F32:
        """(N, K, 2) image pixels of what the network has found in a service's answer."""
        ...

    async def answer(self, pipeline: Pipeline, photo: Photo, name: str) -> Answer | None:
        """What the network finds, before a service chooses from it."""
        ...

    async def served(self, answer: Answer, pipeline: Pipeline, photo: Photo, name: str) -> F32:
        """The places that a service with this pipeline would show."""
        ...

    def distances(self, ours: Answer, theirs: Answer) -> F32:
        """(N * K,) pixels from each of our compared places to theirs."""
        ...

    def ap(self, answers: Answers) -> float:
        """COCO's AP."""
        ...


@dataclass(frozen=True, slots=True)
class JointsOfPeople:
    """A pose network on the labelled boxes."""

    data: Data

    def options(self, photo: Photo, name: str) -> EstimateOptions | None:
        return photo.with_true_boxes(EstimateOptions(model=name))

    def places(self, poses: Poses) -> F32:
        return poses.keypoints.xy

    async def answer(self, pipeline: Pipeline, photo: Photo, name: str) -> Answer | None:
        options = self.options(photo, name)
        if options is None:
            return None
        poses = (await pipeline.estimate(photo.read(), options)).poses
        results = coco_results(poses, min_keypoint_score=0.0, image_id=photo.id)
        return Answer(self.places(poses), len(poses), results)

    async def served(self, answer: Answer, pipeline: Pipeline, photo: Photo, name: str) -> F32:
        return answer.places

    def distances(self, ours: Answer, theirs: Answer) -> F32:
        return straight_distances(ours.places, theirs.places)

    def ap(self, answers: Answers) -> float:
        return _ap(self.data, answers, "keypoints", KEYPOINT_FIGURES)


@dataclass(frozen=True, slots=True)
class BoxesOfPeople:
    """A detector; boxes that a service shows by default are compared, all count for AP."""

    data: Data

    def options(self, photo: Photo, name: str) -> EstimateOptions:
        return EstimateOptions(detector=name)

    def places(self, poses: Poses) -> F32:
        return poses.boxes.xyxy.reshape(-1, 2, 2)

    async def answer(self, pipeline: Pipeline, photo: Photo, name: str) -> Answer | None:
        options = EstimateOptions(detector=name, min_score=0.0)
        boxes = await pipeline.find_people(photo.read(), options)
        shown = int((boxes.scores >= EstimateOptions().min_score).sum())
        return Answer(boxes.xyxy.reshape(-1, 2, 2), shown, box_results(boxes, photo.id))

    async def served(self, answer: Answer, pipeline: Pipeline, photo: Photo, name: str) -> F32:
        estimate = await pipeline.estimate(photo.read(), self.options(photo, name))
        return self.places(estimate.poses)

    def distances(self, ours: Answer, theirs: Answer) -> F32:
        """To the corners of the nearest box of theirs, as suppression may choose another one; where
        they have none a box is as far off as it is long."""
        compared = ours.places[: ours.compared]
        if not len(theirs.places):
            return _lengths(compared[:, 1] - compared[:, 0])
        apart = _lengths(compared[:, None] - theirs.places[None])
        nearest = apart.max(axis=-1).argmin(axis=1)
        chosen: F32 = apart[np.arange(len(compared)), nearest]
        return chosen.ravel()

    def ap(self, answers: Answers) -> float:
        return _ap(self.data, answers, "bbox", BOX_FIGURES)


def subject_of(model: Model, folder: Path, *, by_ap: bool) -> Subject:
    """What to ask a network on the photos of `folder`.

    `by_ap` says that AP will be asked for; without it the labels need not have the joints of a pose
    network's card. Raises BadOption.
    """
    if model.card.task == "detect":
        return BoxesOfPeople(load_data(folder))
    try:
        return JointsOfPeople(load_data_of(model, folder))
    except OtherKeypoints:
        if by_ap:
            raise
        return JointsOfPeople(load_data(folder))


async def ask(subject: Subject, pipeline: Pipeline, name: str) -> Answers:
    """The network's answers on all photos; BadOption names a photo that cannot be used."""
    answers: Answers = []
    for photo in subject.data.photos:
        try:
            answers.append(await subject.answer(pipeline, photo, name))
        except (BadImage, BadOption, TooLarge) as error:
            raise BadOption(f"{photo.path}: {error.detail}") from error
    return answers


def straight_distances(ours: F32, theirs: F32) -> F32:
    """(N * K,) pixels between places (N, K, 2) in the same order; BackendDown where some lack."""
    if ours.shape != theirs.shape:
        raise BackendDown(f"{theirs.shape} places came back where {ours.shape} were expected")
    return _lengths(ours - theirs).ravel()


def farthest_and_median(distances: Sequence[F32]) -> tuple[float, float]:
    """Of the distances on all photos, in pixels; BadOption where nobody was compared."""
    every = np.concatenate([np.zeros(0, np.float32), *distances])
    if not len(every):
        raise BadOption(
            "none of the photos shows a labelled person, or one that was found; there is nothing "
            "to compare"
        )
    return round(float(every.max()), 4), round(float(np.median(every)), 4)


def _lengths(vectors: F32) -> F32:
    return np.asarray(np.linalg.norm(vectors, axis=-1), np.float32)


def _ap(data: Data, answers: Answers, kind: str, figures: tuple[str, ...]) -> float:
    found = [result for answer in answers if answer is not None for result in answer.results]
    return coco_scorer(data)(kind, found, figures)["ap"]

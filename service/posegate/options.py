"""What a caller may ask of the pipeline, checked once."""

import math
from dataclasses import dataclass

import numpy as np

from posegate.errors import BadOption
from posegate.estimator import DECODES
from posegate.types import F32, Boxes, Image

DEFAULT_MAX_PEOPLE = 50
MAX_NAME = 128
"""Characters; longer names of networks are not even looked up."""


@dataclass(frozen=True, slots=True, eq=False)
class EstimateOptions:
    """Options of one image; the contract's query options, with its defaults.

    `boxes_xywh` (P, 4) float32, image pixels, replaces the detector; `guessed` ones, which no
    caller gave, may lie outside. `min_keypoint_score` acts where keypoints are written out, not
    here. `max_people` None leaves it to `most_people`.
    """

    model: str | None = None
    detector: str | None = None
    min_score: float = 0.3
    min_keypoint_score: float = 0.0
    max_people: int | None = None
    boxes_xywh: F32 | None = None
    flip_test: bool = False
    decode: str = "dark"
    guessed: bool = False

    def __post_init__(self) -> None:
        _check_fraction("min_score", self.min_score)
        _check_fraction("min_keypoint_score", self.min_keypoint_score)
        _check_name("model", self.model)
        _check_name("detector", self.detector)
        if self.max_people is not None and self.max_people < 1:
            raise BadOption(f"max_people is {self.max_people}; it must be at least 1")
        if self.decode not in DECODES:
            raise BadOption(f"decode is {self.decode!r}; it must be one of {', '.join(DECODES)}")
        if self.boxes_xywh is not None:
            _check_boxes(self.boxes_xywh, self.max_people or DEFAULT_MAX_PEOPLE)

    def most_people(self, limit: int) -> int:
        """How many people to answer, at most, on a server that allows `limit`.

        Only what was asked for by name can be refused: the default gives way to a lower limit.
        """
        if self.boxes_xywh is not None and len(self.boxes_xywh) > limit:
            given = len(self.boxes_xywh)
            raise BadOption(f"{given} boxes were given; this server allows at most {limit} boxes")
        if self.max_people is None:
            return min(DEFAULT_MAX_PEOPLE, limit)
        if self.max_people > limit:
            raise BadOption(f"max_people is {self.max_people}; this server allows 1 to {limit}")
        return self.max_people

    def given_boxes(self, image: Image) -> Boxes:
        """The given boxes, each with score 1.

        One that does not touch the picture is left out where it is guessed; else BadOption.
        """
        assert self.boxes_xywh is not None
        given = Boxes.from_xywh(self.boxes_xywh, np.ones(len(self.boxes_xywh), np.float32))
        last = np.array([image.width - 1, image.height - 1], np.float32)
        touches = ((given.xyxy[:, :2] <= last) & (given.xyxy[:, 2:] >= 0)).all(axis=1)
        if self.guessed:
            return Boxes(given.xyxy[touches], given.scores[touches])
        if not touches.all():
            index = int(touches.argmin())
            raise BadOption(
                f"boxes[{index}] is {self.boxes_xywh[index].tolist()}, wholly outside the picture "
                f"of {image.width}x{image.height} pixels"
            )
        return given


def _check_fraction(name: str, value: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise BadOption(f"{name} is {value}; it must be a number from 0 to 1")


def _check_name(option: str, name: str | None) -> None:
    if name is not None and len(name) > MAX_NAME:
        raise BadOption(
            f"{option} is a name of {len(name)} characters; at most {MAX_NAME} are allowed"
        )


def _check_boxes(boxes_xywh: F32, max_people: int) -> None:
    if boxes_xywh.ndim != 2 or boxes_xywh.shape[1] != 4 or boxes_xywh.dtype != np.float32:
        raise BadOption("boxes must be a list of [x, y, width, height]")
    if len(boxes_xywh) > max_people:
        given = len(boxes_xywh)
        raise BadOption(
            f"{given} boxes were given; max_people allows {max_people}: ask for max_people={given} "
            "if the service allows so many, else send fewer at a time"
        )
    if not (np.abs(boxes_xywh) < 1e6).all():
        raise BadOption("boxes must hold finite numbers below a million; one of them does not")
    if not (boxes_xywh[:, 2:] > 0).all():
        raise BadOption("boxes are [x, y, width, height] with positive width and height")

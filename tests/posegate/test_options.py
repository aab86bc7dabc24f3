"""What a caller may ask: posegate.options."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from posegate.errors import BadOption
from posegate.options import EstimateOptions
from posegate.types import Image

NAN, INF = float("nan"), float("inf")


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"min_score": -0.1},
        {"min_score": 1.1},
        {"min_score": NAN},
        {"min_keypoint_score": INF},
        {"max_people": 0},
        {"max_people": -1},
        {"model": "x" * 129},
        {"detector": "x" * 129},
        {"boxes_xywh": boxes(*[[0, 0, 1, 1]] * 51)},  # more than the default
        {"decode": "best"},
        {"boxes_xywh": boxes([1, 2, 3, NAN])},
        {"boxes_xywh": boxes([1, INF, 3, 4])},
        {"boxes_xywh": boxes([1, 2, 3, 0])},
        {"boxes_xywh": boxes([1, 2, -3, 4])},
        {"boxes_xywh": boxes([1e7, 2, 3, 4])},
        {"boxes_xywh": np.zeros((2, 3), np.float32)},
        {"boxes_xywh": boxes([0, 0, 1, 1], [0, 0, 1, 1]), "max_people": 1},
    ],
)
def test_a_value_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        EstimateOptions(**changes)


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ([0, 0, 5, 5], True),  # inside
        ([-5, -5, 6, 6], True),  # over the corner
        ([9, 9, 5, 5], True),  # the last pixel
        ([10, 0, 5, 5], False),  # right of the last pixel
        ([0, 20, 5, 5], False),  # below
        ([-9, 0, 5, 5], False),  # left
        ([-100, -100, 300, 300], True),  # all around
    ],
)
def test_given_boxes_wholly_outside_the_picture_are_refused(box: list[float], kept: bool) -> None:
    image = Image(np.zeros((10, 10, 3), np.uint8))
    options = EstimateOptions(boxes_xywh=boxes([1, 1, 5, 5], box))
    if kept:
        given = options.given_boxes(image)
        assert given.xywh.tolist() == [[1, 1, 5, 5], box]
        assert given.scores.tolist() == [1.0, 1.0]
    else:
        guessed = replace(options, guessed=True).given_boxes(image)
        assert guessed.xywh.tolist() == [[1, 1, 5, 5]]
        with pytest.raises(BadOption, match=r"boxes\[1\] .* outside the picture of 10x10 pixels"):
            options.given_boxes(image)


@pytest.mark.parametrize(
    ("asked", "limit", "most"),
    [
        (None, 100, 50),  # the default
        (None, 20, 20),  # which nobody named, so it gives way
        (70, 100, 70),
        (100, 100, 100),
        (1, 1, 1),
    ],
)
def test_the_default_number_of_people_gives_way_to_the_limit(
    asked: int | None, limit: int, most: int
) -> None:
    assert EstimateOptions(max_people=asked).most_people(limit) == most


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EstimateOptions(max_people=101), "max_people is 101; this server allows 1 to 100"),
        (EstimateOptions(max_people=10**9), "this server allows 1 to 100"),
        (EstimateOptions(max_people=101, boxes_xywh=boxes([0, 0, 1, 1])), "allows 1 to 100"),
        (
            EstimateOptions(max_people=101, boxes_xywh=boxes(*[[0, 0, 1, 1]] * 101)),
            "101 boxes were given; this server allows at most 100",
        ),
    ],
)
def test_more_people_than_the_limit_are_refused_when_asked_for(
    options: EstimateOptions, words: str
) -> None:
    with pytest.raises(BadOption, match=words):
        options.most_people(100)


def test_who_gives_more_boxes_than_people_are_asked_for_is_told_how_to() -> None:
    with pytest.raises(BadOption, match=r"51 boxes .* allows 50: ask for max_people=51"):
        EstimateOptions(boxes_xywh=boxes(*[[0, 0, 1, 1]] * 51))


def test_a_name_that_is_too_long_is_not_repeated() -> None:
    with pytest.raises(BadOption) as caught:
        EstimateOptions(model="x" * 100_000)
    assert caught.value.detail == "model is a name of 100000 characters; at most 128 are allowed"


def test_no_boxes_is_an_answer_too() -> None:
    image = Image(np.zeros((10, 10, 3), np.uint8))
    assert len(EstimateOptions(boxes_xywh=boxes()).given_boxes(image)) == 0

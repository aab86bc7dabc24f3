"""image -> boxes: posegate.detector."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fakes import (
    DETECTOR_NAME,
    MADE_BOX_SCORES,
    MADE_BOXES_INPUT,
    LateNetwork,
    black_photo,
    encode,
    make_photo,
)
from posegate.backends.base import Inference
from posegate.card import NmsSpec
from posegate.catalog import Model, load_catalog
from posegate.detector import Detection, LetterboxDetector, select_boxes
from posegate.errors import DeadlineExceeded
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.pool import Pool
from posegate.types import F32, Image

AS_IT_IS = np.ones(2)
NMS = NmsSpec(iou=0.6, min_score=0.1, max_boxes=3)


def select(
    rows: list[list[float]], scores: list[float], nms: NmsSpec = NMS, *, min_score: float = 0.0
) -> list[list[float]]:
    boxes = select_boxes(
        np.array(rows, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        AS_IT_IS,
        nms=nms,
        min_score=min_score,
        size_wh=(100, 50),
    )
    assert boxes.xyxy.dtype == np.float32
    assert (np.diff(boxes.scores) <= 0).all()
    return boxes.xyxy.tolist()


def test_overlapping_boxes_leave_the_best_and_the_best_comes_first() -> None:
    rows = [[0, 0, 10, 10], [50, 10, 60, 40], [0, 0, 10, 11]]
    assert select(rows, [0.5, 0.6, 0.7]) == [rows[1 + 1], rows[1]]


def test_weak_boxes_and_boxes_that_are_not_numbers_are_left_out() -> None:
    rows = [[0, 0, 10, 10], [20, 20, float("nan"), 30], [30, 30, 40, float("inf")]]
    assert select(rows, [0.09, 0.9, 0.9]) == []
    assert select([[0, 0, 10, 10]], [float("nan")]) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("corner", range(4))
def test_a_box_that_is_not_finite_neither_stays_nor_suppresses_another(
    bad: float, corner: int
) -> None:
    broken = [20.0, 20.0, 30.0, 30.0]
    broken[corner] = bad
    whole = [20.0, 20.0, 30.0, 31.0]
    assert select([broken], [0.9]) == []
    assert select([broken, whole], [0.9, 0.8]) == [whole]


def test_boxes_are_clipped_to_the_picture_and_dropped_outside_it() -> None:
    rows = [[-5, -5, 10, 10], [90, 40, 120, 70], [110, 0, 120, 10], [20, -30, 30, -10]]
    assert select(rows, [0.9, 0.8, 0.7, 0.6], NmsSpec()) == [[0, 0, 10, 10], [90, 40, 100, 50]]


# a score, the card's least and the least asked for: whoever has the least is there
@pytest.mark.parametrize(
    ("score", "card", "asked"),
    [(1.0, 0.1, 1.0), (0.5, 0.1, 0.5), (0.3, 0.3, 0.0), (0.0, 0.0, 0.0)],
)
def test_a_box_of_just_the_least_score_stays(score: float, card: float, asked: float) -> None:
    rows = [[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]]
    nms = NmsSpec(iou=0.6, min_score=card)
    assert select(rows, [score, score, score], nms, min_score=asked) == [rows[0], rows[2]]


def test_scores_are_shares_whatever_a_network_says() -> None:
    boxes = select_boxes(
        np.array([[0, 0, 10, 10]], np.float32),
        np.array([1.7], np.float32),
        AS_IT_IS,
        nms=NMS,
        size_wh=(100, 50),
    )
    assert boxes.scores.tolist() == [1.0]


async def test_the_deadline_goes_with_the_picture(repository: Path) -> None:
    network, pool = LateNetwork(), Pool(1)
    model = load_catalog(repository).models[DETECTOR_NAME]
    with pytest.raises(DeadlineExceeded):
        await LetterboxDetector(model, backend=network, pool=pool).detect(
            Image(make_photo()), deadline=12.5
        )
    pool.close()
    assert network.deadline == 12.5


class Says:
    """A detector's network that gives these outputs, and remembers what it was shown."""

    def __init__(self, *outputs: np.ndarray) -> None:
        self._outputs = outputs
        self.tensor = np.zeros(0, np.float32)

    async def infer(self, tensor: F32, *, deadline: float | None) -> Inference:
        self.tensor = tensor
        return Inference(self._outputs, queue_s=0.25, infer_s=0.5)


async def detect(model: Model, network: Says, picture: np.ndarray, **options) -> Detection:
    pool = Pool(1)
    detector = LetterboxDetector(model, backend=network, pool=pool)
    found = await detector.detect(Image(picture), **options)
    pool.close()
    return found


async def test_the_least_score_asked_for_and_the_networks_times_are_kept(repository: Path) -> None:
    model = load_catalog(repository).models[DETECTOR_NAME]
    network = Says(MADE_BOXES_INPUT[None], MADE_BOX_SCORES[None])
    found = await detect(model, network, make_photo(width=64, height=64), min_score=0.55)
    np.testing.assert_array_equal(found.boxes.xyxy, MADE_BOXES_INPUT[:1])
    assert (found.queue_s, found.infer_s) == (0.25, 0.5)


async def test_what_the_picture_leaves_of_the_input_is_filled_as_the_card_says(
    repository: Path,
) -> None:
    model = load_catalog(repository).models[DETECTOR_NAME]
    letterbox = model.card.letterbox.model_copy(update={"fill": 51})
    model = replace(model, card=model.card.model_copy(update={"letterbox": letterbox}))
    network = Says(MADE_BOXES_INPUT[None], MADE_BOX_SCORES[None])
    await detect(model, network, black_photo(width=64, height=32))
    assert sorted(np.unique(network.tensor).tolist()) == pytest.approx([0, 0.2])


def test_no_more_boxes_than_the_card_allows() -> None:
    rows = [[x, 0, x + 5, 5] for x in range(0, 60, 10)]
    assert len(select(rows, [0.5] * 6)) == 3


def test_nobody_is_an_answer() -> None:
    assert select([], []) == []


async def test_people_are_found_in_the_frame_of_the_picture(pipeline: Pipeline) -> None:
    found = await pipeline.find_people(encode(make_photo()), EstimateOptions())
    expected = np.clip(MADE_BOXES_INPUT[[0, 2]] * 2.5, 0, [160, 120, 160, 120])
    np.testing.assert_allclose(found.xyxy, expected, atol=1e-4)
    np.testing.assert_array_equal(found.scores, MADE_BOX_SCORES[[0, 2]])


async def test_an_empty_picture_holds_nobody(pipeline: Pipeline) -> None:
    assert len(await pipeline.find_people(encode(black_photo()), EstimateOptions())) == 0


def test_leaving_weak_boxes_out_first_changes_nothing_for_the_others() -> None:
    random = np.random.default_rng(3)
    corner = random.uniform(0, 70, (200, 2)).astype(np.float32)
    size = random.uniform(5, 30, (200, 2)).astype(np.float32)
    rows = np.concatenate([corner, corner + size], axis=1)
    scores = random.uniform(0, 1, 200).astype(np.float32)
    nms = NmsSpec(iou=0.5, min_score=0.01, max_boxes=300)
    every = select_boxes(rows, scores, AS_IT_IS, nms=nms, size_wh=(100, 100))
    sure = select_boxes(rows, scores, AS_IT_IS, nms=nms, size_wh=(100, 100), min_score=0.4)
    assert 0 < len(sure.scores) < len(every.scores)
    np.testing.assert_array_equal(sure.xyxy, every.xyxy[every.scores >= 0.4])

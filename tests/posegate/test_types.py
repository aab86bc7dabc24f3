from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from posegate.types import Boxes, Crops, Image, Keypoints, Poses


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image(zeros(4, 5, 3)),  # float picture
        lambda: Image(zeros(4, 5, dtype=np.uint8)),  # grey
        lambda: Image(zeros(4, 5, 4, dtype=np.uint8)),  # with alpha
        lambda: Boxes(zeros(2, 4, dtype=np.float64), zeros(2)),  # doubles
        lambda: Boxes(zeros(2, 5), zeros(2)),  # scores among the corners
        lambda: Boxes(zeros(2, 4), zeros(3)),  # a score too many
        lambda: Crops(zeros(2, 1, 8, 6), zeros(2, 2, 3, dtype=np.float64)),  # one plane
        lambda: Crops(zeros(2, 3, 8, 6), zeros(1, 2, 3, dtype=np.float64)),  # one way back
        lambda: Crops(zeros(2, 3, 8, 6), zeros(2, 2, 3)),  # single precision affine
        lambda: Keypoints(zeros(2, 17, 3), zeros(2, 17)),  # scores among the places
        lambda: Keypoints(zeros(2, 17, 2), zeros(2, 16)),  # a score missing
        lambda: Poses(
            Boxes(zeros(1, 4), zeros(1)), Keypoints(zeros(2, 1, 2), zeros(2, 1)), ("nose",)
        ),  # a person without a box
        lambda: Poses(
            Boxes(zeros(1, 4), zeros(1)), Keypoints(zeros(1, 2, 2), zeros(1, 2)), ("nose",)
        ),  # a joint without a name
    ],
)
def test_arrays_of_the_wrong_kind_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(AssertionError):
        make()


def test_image_tells_its_size() -> None:
    image = Image(zeros(480, 640, 3, dtype=np.uint8))
    assert (image.width, image.height) == (640, 480)


def test_boxes_in_the_form_of_coco() -> None:
    boxes = Boxes(np.array([[10, 20, 40, 60]], np.float32), zeros(1))
    np.testing.assert_array_equal(boxes.xywh, [[10, 20, 30, 40]])
    assert boxes.xywh.dtype == np.float32


def test_nobody_is_a_value_like_any_other() -> None:
    poses = Poses(
        Boxes(zeros(0, 4), zeros(0)), Keypoints(zeros(0, 17, 2), zeros(0, 17)), ("joint",) * 17
    )
    assert len(poses) == len(poses.boxes) == len(poses.keypoints) == 0
    assert poses.boxes.xywh.shape == (0, 4)


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Image(zeros(1, 1, 3, dtype=np.uint8)).pixels_bgr = None

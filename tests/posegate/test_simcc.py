import numpy as np
import pytest

from posegate.codecs.simcc import SimccCodec
from posegate.skeleton import COCO_KEYPOINTS, flip_order
from posegate.types import Keypoints

SPLITS = (1.0, 2.0, 3.0)


def encode(codec: SimccCodec, xy: np.ndarray) -> tuple[np.ndarray, ...]:
    ones = np.ones(xy.shape[:2], np.float32)
    outputs, weights = codec.encode(Keypoints(xy.astype(np.float32), ones), ones)
    assert (weights == 1).all()
    return outputs


def points(count: int = 30) -> np.ndarray:
    return np.random.default_rng(0).uniform((0, 0), (191, 255), (count, 17, 2))


@pytest.mark.parametrize("split", SPLITS)
def test_joints_come_back_to_half_a_bin(split: float) -> None:
    codec = SimccCodec(crop_wh=(192, 256), split=split, sigma=(4.9, 5.66))
    outputs = encode(codec, points())
    assert [output.shape[-1] for output in outputs] == [192 * split, 256 * split]
    assert np.abs(codec.decode(outputs).xy - points()).max() <= 0.5 / split + 1e-4


@pytest.mark.parametrize("split", SPLITS)
def test_joints_on_bins_come_back_exactly_also_on_the_border(split: float) -> None:
    xy = np.array([[[0, 0], [191, 255], [95, 3], [1 / split, 2 / split]]])
    codec = SimccCodec(crop_wh=(192, 256), split=split)
    found = codec.decode(encode(codec, xy))
    np.testing.assert_allclose(found.xy, xy, atol=1e-5)
    np.testing.assert_allclose(found.scores, 1, atol=1e-5)


def test_joint_outside_the_crop_has_weight_zero_and_empty_vectors() -> None:
    xy = np.array([[[-1, 5], [5, 256.5], [191.2, 255.2], [5, 5]]], np.float32)
    weights = np.array([[1, 1, 1, 0.3]], np.float32)
    (x, y), kept = SimccCodec().encode(Keypoints(xy, weights), weights)
    np.testing.assert_array_equal(kept, np.array([[0, 0, 1, 0.3]], np.float32))
    np.testing.assert_array_equal(x.any(axis=-1), kept > 0)
    np.testing.assert_array_equal(y.any(axis=-1), kept > 0)


@pytest.mark.parametrize(
    ("normalize", "score"),
    [
        ("none", 0.6),  # the lower of both peaks
        ("sigmoid", 1 / (1 + np.exp(-0.6))),
        ("softmax", np.exp(0.6) / (np.exp(0.6) + 511)),
    ],
)
def test_score_is_the_lower_peak_of_both_axes(normalize: str, score: float) -> None:
    x, y = np.zeros((1, 1, 384), np.float32), np.zeros((1, 1, 512), np.float32)
    x[0, 0, 20], y[0, 0, 31] = 0.9, 0.6
    found = SimccCodec(normalize=normalize).decode((x, y))
    np.testing.assert_allclose(found.scores, [[score]], rtol=1e-5)
    np.testing.assert_array_equal(found.xy, [[[10, 15.5]]])


@pytest.mark.parametrize("normalize", ["none", "sigmoid", "softmax"])
def test_scores_of_large_logits_stay_within_zero_and_one(normalize: str) -> None:
    random = np.random.default_rng(1)
    x, y = (1e4 * random.normal(size=(2, 17, bins)).astype(np.float32) for bins in (384, 512))
    scores = SimccCodec(normalize=normalize).decode((x, y)).scores
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("normalize", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_vector_without_a_peak_gives_the_middle_and_score_zero(
    normalize: str, value: float
) -> None:
    x, y = np.zeros((1, 1, 384), np.float32), np.full((1, 1, 512), value, np.float32)
    x[0, 0, 20] = 1
    found = SimccCodec(normalize=normalize).decode((x, y))
    np.testing.assert_array_equal(found.xy, [[[10, 127.75]]])
    np.testing.assert_array_equal(found.scores, [[0]])


@pytest.mark.parametrize("split", [*SPLITS, 2.5])
def test_vectors_of_a_mirrored_crop_are_turned_back(split: float) -> None:
    order = flip_order(COCO_KEYPOINTS)
    xy = np.round(points() * split) / split
    mirrored = xy[:, order].copy()
    mirrored[..., 0] = 191 - mirrored[..., 0]
    codec = SimccCodec(crop_wh=(192, 256), split=split)
    turned = codec.flip(encode(codec, mirrored), order)
    np.testing.assert_allclose(codec.decode(turned).xy, xy, atol=1e-4)

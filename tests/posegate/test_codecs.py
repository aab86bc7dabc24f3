import numpy as np
import pytest

from posegate.codecs import Codec, HeatmapCodec, SimccCodec, make_codec
from posegate.codecs.heatmap import REFINEMENTS
from posegate.skeleton import COCO_KEYPOINTS, flip_order
from posegate.types import Keypoints

GRIDS = [
    {"size_wh": (48, 64), "sigma": 2.0, "scale": (4.0, 4.0)},
    {"size_wh": (48, 64), "sigma": 2.0, "scale": (4.0, 4.0), "offset": (1.5, 1.5)},
    {"size_wh": (48, 64), "sigma": 2.0, "scale": (191 / 47, 255 / 63), "crop_width": 192},
    {"size_wh": (72, 96), "sigma": 3.0, "scale": (4.0, 4.0)},
]


def ones(xy: np.ndarray) -> np.ndarray:
    return np.ones(xy.shape[:2], np.float32)


def encode(codec: HeatmapCodec | SimccCodec, xy: np.ndarray) -> tuple[np.ndarray, ...]:
    outputs, weights = codec.encode(Keypoints(xy.astype(np.float32), ones(xy)), ones(xy))
    assert (weights == 1).all()
    return outputs


def crop_xy(grid: dict, map_xy: np.ndarray) -> np.ndarray:
    return map_xy * np.array(grid["scale"]) + np.array(grid.get("offset", (0.0, 0.0)))


def inner_points(grid: dict, margin: int, count: int = 40) -> np.ndarray:
    """(count, 17, 2) places in heatmap pixels, at least `margin` from the border."""
    low, high = margin, np.array(grid["size_wh"]) - 1 - margin
    return np.random.default_rng(margin).uniform(low, high, (count, 17, 2))


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid["scale"] == (4.0, 4.0)])
@pytest.mark.parametrize("decode", list(REFINEMENTS))
def test_whole_pixel_joints_come_back_exactly(grid: dict, decode: str) -> None:
    width, height = grid["size_wh"]
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    xy = crop_xy(grid, places.reshape(1, -1, 2))
    codec = HeatmapCodec(**grid, decode=decode)
    found = codec.decode(encode(codec, xy))
    exact = np.ones(places.shape[:2], bool)
    if decode == "dark":  # a Gaussian cut off by the border pulls the blurred peak inwards
        reach = int(4 * grid["sigma"])
        exact[:reach] = exact[-reach:] = exact[:, :reach] = exact[:, -reach:] = False
    error = np.abs(found.xy - xy)[0, exact.ravel()]
    assert error.max() < 1e-3
    np.testing.assert_allclose(found.scores, 1, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("decode", "largest"), [("argmax", 0.5001), ("quarter", 0.2501), ("dark", 0.05)]
)
def test_joints_between_pixels_come_back(grid: dict, decode: str, largest: float) -> None:
    xy = crop_xy(grid, inner_points(grid, margin=int(3 * grid["sigma"])))
    codec = HeatmapCodec(**grid, decode=decode)
    found = codec.decode(encode(codec, xy))
    assert (np.abs(found.xy - xy) / np.array(grid["scale"])).max() < largest


def test_quarter_moves_towards_the_higher_neighbour_along_each_axis() -> None:
    heatmap = np.zeros((3, 1, 5, 7), np.float32)
    heatmap[:, 0, 2, 3] = 1
    heatmap[0, 0, 2, 4] = heatmap[0, 0, 1, 3] = 0.5  # right and up
    heatmap[1, 0, 2, 2] = 0.5  # left only
    heatmap[2, 0] = 0
    heatmap[2, 0, 0, 3] = 1  # on the top border: moves along x alone
    heatmap[2, 0, 1, 3] = heatmap[2, 0, 0, 4] = 0.5
    codec = HeatmapCodec(size_wh=(7, 5), scale=(1, 1), decode="quarter")
    want = [[[3.25, 1.75]], [[2.75, 2.0]], [[3.25, 0.0]]]
    np.testing.assert_array_equal(codec.decode((heatmap,)).xy, want)


@pytest.mark.parametrize("decode", list(REFINEMENTS))
def test_a_network_may_mask_with_minus_infinity(decode: str) -> None:
    heatmap = np.full((1, 1, 64, 48), -np.inf, np.float32)
    heatmap[0, 0, 10, 10] = 0.7
    with np.errstate(invalid="ignore"):
        found = HeatmapCodec(decode=decode).decode((heatmap,))
    at_the_peak = HeatmapCodec(decode="argmax").decode((heatmap,))
    np.testing.assert_allclose(found.xy, at_the_peak.xy, atol=0.01)


@pytest.mark.parametrize("decode", list(REFINEMENTS))
@pytest.mark.parametrize("value", [0.0, 0.7, -2.0, np.nan, np.inf])
def test_map_without_a_peak_gives_its_middle_and_score_zero(decode: str, value: float) -> None:
    heatmaps = np.full((2, 3, 64, 48), value, np.float32)
    heatmaps[1] = encode(HeatmapCodec(), np.full((1, 3, 2), 100.0))[0]
    with np.errstate(invalid="ignore"):
        found = HeatmapCodec(decode=decode).decode((heatmaps,))
    np.testing.assert_array_equal(found.xy[0], np.full((3, 2), (94.0, 126.0)))
    np.testing.assert_array_equal(found.scores[0], 0)
    np.testing.assert_allclose(found.xy[1], 100, atol=0.05)


def test_scores_are_peak_values_within_zero_and_one() -> None:
    heatmaps = np.zeros((1, 3, 64, 48), np.float32)
    heatmaps[0, :, 10, 20] = (0.4, 1.7, 1e-9)
    scores = HeatmapCodec().decode((heatmaps,)).scores
    np.testing.assert_allclose(scores, [[0.4, 1.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_number_types_and_layouts_are_taken(dtype: type) -> None:
    codec = HeatmapCodec()
    (heatmaps,) = encode(codec, np.full((1, 17, 2), 80.0))
    strided = np.asfortranarray(heatmaps.astype(dtype))
    np.testing.assert_allclose(codec.decode((strided,)).xy, 80, atol=0.05)


def test_nobody_decodes_and_encodes_to_nothing() -> None:
    for codec, shapes in (
        (HeatmapCodec(), [(0, 17, 64, 48)]),
        (SimccCodec(), [(0, 17, 384), (0, 17, 512)]),
    ):
        outputs = encode(codec, np.empty((0, 17, 2)))
        assert [output.shape for output in outputs] == shapes
        assert codec.decode(outputs).xy.shape == (0, 17, 2)


def test_target_is_a_gaussian_with_peak_one_cut_at_three_sigmas() -> None:
    codec = HeatmapCodec(sigma=2.0)
    (heatmaps,) = encode(codec, np.array([[[80.0, 100.0], [82.0, 100.0]]]))
    whole, half = heatmaps[0]
    assert whole[25, 20] == 1
    assert whole[25, 21] == pytest.approx(np.exp(-1 / 8))
    assert whole[25, 26] == pytest.approx(np.exp(-36 / 8))
    assert whole[25, 27] == 0
    assert half[25, 20] == half[25, 21] == pytest.approx(np.exp(-0.25 / 8))


@pytest.mark.parametrize("codec", [HeatmapCodec(), SimccCodec()])
def test_unlabelled_joint_of_unknown_place_has_an_empty_target(codec: Codec) -> None:
    xy, weights = np.full((1, 2, 2), np.nan, np.float32), np.zeros((1, 2), np.float32)
    outputs, kept = codec.encode(Keypoints(xy, weights), weights)
    assert not any(output.any() for output in outputs)
    assert not kept.any()


def test_rounded_target_peaks_on_the_nearest_pixel() -> None:
    codec = HeatmapCodec(rounded=True)
    (heatmaps,) = encode(codec, np.array([[[81.9, 101.9], [82.0, 102.0]]]))
    np.testing.assert_array_equal(np.argwhere(heatmaps[0] == 1), [[0, 25, 20], [1, 26, 21]])


def test_joint_out_of_reach_of_the_map_has_weight_zero() -> None:
    xy = np.array([[[-23.0, 50], [-25.0, 50], [50, 63 * 4 + 23.9], [50, 63 * 4 + 25], [9, 9]]])
    weights = np.array([[1, 1, 0.5, 1, 0]], np.float32)
    keypoints = Keypoints(xy.astype(np.float32), weights)
    (heatmaps,), kept = HeatmapCodec(sigma=2.0).encode(keypoints, weights)
    np.testing.assert_array_equal(kept, [[1, 0, 0.5, 0, 0]])
    np.testing.assert_array_equal(heatmaps.any(axis=(2, 3)), kept > 0)


ORDER = flip_order(COCO_KEYPOINTS)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("decode", ["quarter", "dark"])
def test_outputs_of_a_mirrored_crop_are_turned_back_onto_the_joints(
    grid: dict, decode: str
) -> None:
    xy = crop_xy(grid, inner_points(grid, margin=9))
    crop_width = grid["size_wh"][0] * 4
    mirrored_xy = xy.copy()
    mirrored_xy[..., 0] = crop_width - 1 - xy[..., 0]
    codec = HeatmapCodec(**grid, decode=decode)
    outputs = encode(codec, mirrored_xy[:, ORDER])
    turned = codec.flip(outputs, ORDER)
    error = (codec.decode(turned).xy - xy) / np.array(grid["scale"])
    assert np.abs(error).max() < (0.05 if decode == "dark" else 0.4)
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.05
    average = (encode(codec, xy)[0] + turned[0]) / 2
    assert turned[0].flags.c_contiguous
    assert codec.decode((average,)).scores.min() > 0.85


def test_flip_without_a_shift_is_a_plain_mirror() -> None:
    codec = HeatmapCodec(offset=(1.5, 1.5))
    heatmaps = np.random.default_rng(0).random((2, 17, 64, 48), np.float32)
    (turned,) = codec.flip((heatmaps,), ORDER)
    np.testing.assert_array_equal(turned, heatmaps[:, ORDER, :, ::-1])


def test_card_fields_make_the_codec() -> None:
    heatmap = make_codec(
        "heatmap", crop_wh=(192, 256), decode="argmax",
        width=48, height=64, sigma=2.0, scale=[4.0, 4.0], offset=[0.0, 0.0],
    )  # fmt: skip
    assert heatmap.decode((np.zeros((1, 17, 64, 48), np.float32),)).xy.shape == (1, 17, 2)
    simcc = make_codec(
        "simcc", crop_wh=(192, 256), split=2.0, sigma=[4.9, 5.66], normalize="softmax"
    )
    outputs = (np.zeros((1, 17, 384), np.float32), np.zeros((1, 17, 512), np.float32))
    assert simcc.decode(outputs).xy.shape == (1, 17, 2)

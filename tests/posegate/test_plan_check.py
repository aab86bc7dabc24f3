"""How far a plan lies from its ONNX file: posegate.plan_check."""

import json
from pathlib import Path

import numpy as np
import pytest

from fakes import (
    DETECTOR_NAME,
    HEATMAP_SCALE,
    HEATMAP_SIZE_WH,
    MADE_BOX_SCORES,
    MADE_BOXES_INPUT,
    MADE_JOINTS_HEATMAP,
    POSE_NAME,
    black_photo,
    encode,
    gaussian_heatmaps,
    make_photo,
    make_repository,
)
from posegate.catalog import load_catalog
from posegate.plan_check import compare, made_crops, onnx_outputs, photo_crops
from posegate.settings import Settings
from posegate.skeleton import COCO_SIGMAS

JOINTS = len(MADE_JOINTS_HEATMAP)
WIDTH, HEIGHT = HEATMAP_SIZE_WH
NOWHERE = (float("inf"), float("inf"))


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    return make_repository(tmp_path)


@pytest.fixture
def pose(networks):
    return load_catalog(networks).models[POSE_NAME].card


@pytest.fixture
def detector(networks):
    return load_catalog(networks).models[DETECTOR_NAME].card


def drawn(joints_xy: np.ndarray = MADE_JOINTS_HEATMAP, heights=1.0) -> dict[str, np.ndarray]:
    """Heatmaps of one crop, one Gaussian a joint, of these heights."""
    maps = gaussian_heatmaps(np.asarray(joints_xy, np.float32))
    return {"heatmaps": maps[None] * np.broadcast_to(heights, JOINTS)[None, :, None, None]}


def moved(*joints: int, by: tuple[float, float] = (1, 0)) -> np.ndarray:
    """The made joints, some of them further, in heatmap pixels."""
    places = MADE_JOINTS_HEATMAP.copy()
    places[list(joints)] += by
    return places


def change_card(networks: Path, name: str, **changes) -> None:
    path = networks / name / "posegate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def found(boxes: np.ndarray = MADE_BOXES_INPUT, scores=MADE_BOX_SCORES) -> dict[str, np.ndarray]:
    """What a detector says of one picture."""
    return {"boxes": boxes[None], "scores": np.asarray(scores, np.float32)[None]}


def test_equal_outputs_are_nowhere_apart(pose, detector):
    same = compare(pose, drawn(), drawn())
    assert (same.max_abs_diff, same.max_pixel_diff, same.oks) == (0.0, 0.0, 1.0)
    same = compare(detector, found(), found())
    assert (same.max_abs_diff, same.max_pixel_diff, same.oks) == (0.0, 0.0, None)


def test_the_joint_that_is_furthest_off_is_told_in_input_pixels(pose):
    check = compare(pose, drawn(), drawn(moved(9, by=(0, -1))))
    assert check.max_pixel_diff == pytest.approx(HEATMAP_SCALE, abs=0.05)


def test_oks_is_of_a_person_who_fills_the_crop_within_its_padding(pose):
    """OKS of one joint is exp(-d^2 / (2 area (2 sigma)^2)), the others have 1."""
    elbow = 7
    expected, actual = drawn(), drawn(moved(elbow))
    distance = compare(pose, expected, actual).max_pixel_diff
    area = (48 / 1.25) * (64 / 1.25)
    alone = np.exp(-(distance**2) / (2 * area * (2 * COCO_SIGMAS[elbow]) ** 2))
    assert alone < 0.9
    assert compare(pose, expected, actual).oks == pytest.approx((JOINTS - 1 + alone) / JOINTS)


# the score of the joint that moves, and whether it is judged
@pytest.mark.parametrize(("score", "judged"), [(0.31, True), (0.29, False)])
def test_only_joints_that_the_file_is_sure_of_are_judged(pose, score, judged):
    heights = np.ones(JOINTS, np.float32)
    heights[5] = score
    check = compare(pose, drawn(heights=heights), drawn(moved(5), heights))
    assert (check.max_pixel_diff > 1) == judged
    assert (check.oks < 1) == judged


def test_where_nothing_is_sure_the_surest_tenth_is_judged(pose):
    heights = np.linspace(0.05, 0.2, JOINTS).astype(np.float32)
    expected = drawn(heights=heights)
    assert compare(pose, expected, drawn(moved(0), heights)).max_pixel_diff == 0
    assert compare(pose, expected, drawn(moved(JOINTS - 1), heights)).max_pixel_diff > 1


def test_outputs_differ_by_a_share_of_their_range(pose):
    expected = {"heatmaps": drawn()["heatmaps"] * 8}
    actual = {"heatmaps": expected["heatmaps"].copy()}
    actual["heatmaps"][0, 0, -1, -1] += 2
    span = float(np.ptp(expected["heatmaps"]))
    assert compare(pose, expected, actual).max_abs_diff == pytest.approx(2 / span)


def test_the_difference_of_a_flat_output_is_told_as_it_is(detector):
    expected = found(np.zeros_like(MADE_BOXES_INPUT), np.zeros(3))
    actual = found(np.zeros_like(MADE_BOXES_INPUT), np.full(3, 0.25))
    assert compare(detector, expected, actual).max_abs_diff == 0.25


# an output that lacks, of another shape, or that holds what is no number
@pytest.mark.parametrize("change", ["missing", "shape", "nan", "inf"])
def test_outputs_that_cannot_be_compared_are_infinitely_far(pose, detector, change):
    def broken(outputs, name):
        array = outputs[name].copy()
        if change == "missing":
            return {other: outputs[other] for other in outputs if other != name}
        if change == "shape":
            return outputs | {name: array[:, :1]}
        array.flat[0] = float(change)
        return outputs | {name: array}

    check = compare(pose, drawn(), broken(drawn(), "heatmaps"))
    assert (check.max_abs_diff, check.max_pixel_diff, check.oks) == (*NOWHERE, 0.0)
    check = compare(detector, found(), broken(found(), "scores"))
    assert (check.max_abs_diff, check.max_pixel_diff, check.oks) == (*NOWHERE, None)


def test_moved_boxes_are_measured_by_their_worst_corner(detector):
    boxes = MADE_BOXES_INPUT.copy()
    boxes[0] += (0, 0, 0.25, 0)
    boxes[2] += (0.5, 0, 0, 0.75)
    assert compare(detector, found(), found(boxes)).max_pixel_diff == 0.75


def test_boxes_in_another_order_are_the_same(detector):
    turned = found(MADE_BOXES_INPUT[::-1], MADE_BOX_SCORES[::-1])
    assert compare(detector, found(), turned).max_pixel_diff == 0


def test_unsure_boxes_are_not_judged(detector):
    scores = np.array([0.9, 0.6, 0.29], np.float32)
    boxes = MADE_BOXES_INPUT.copy()
    boxes[2] += 5
    assert compare(detector, found(scores=scores), found(boxes, scores)).max_pixel_diff == 0


def test_made_crops_are_eight_different_smooth_pictures(networks):
    model = load_catalog(networks).models[POSE_NAME]
    crops = made_crops(model)
    assert (crops.shape, crops.dtype) == ((8, 3, 64, 48), np.float32)
    assert crops.min() >= 0
    assert crops.max() <= 1
    assert len({crop.tobytes() for crop in crops}) == 8
    steps = np.abs(np.diff(crops, axis=-1)).mean()
    assert 0 < steps < 0.3 * crops.std()
    np.testing.assert_array_equal(crops, made_crops(model))


async def test_people_of_photos_are_what_is_compared(networks, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(make_photo()))
    settings = Settings(model_repository=networks, threads=1)
    models = load_catalog(networks).models
    crops = await photo_crops(models[POSE_NAME], [photo], settings)
    assert crops.shape == (2, 3, 64, 48)
    crops = await photo_crops(models[DETECTOR_NAME], [photo], settings)
    assert crops.shape == (1, 3, 64, 64)


async def test_no_more_crops_than_a_plan_takes_at_once(networks, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(make_photo()))
    settings = Settings(model_repository=networks, threads=1)
    model = load_catalog(networks).models[POSE_NAME]
    crops = await photo_crops(model, [photo] * 17, settings)
    assert len(crops) == 32
    assert len(onnx_outputs(model, crops)["heatmaps"]) == 32


async def test_a_photo_without_people_is_one_crop_of_all_of_it(networks, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(np.full((40, 40, 3), 255, np.uint8)))
    change_card(networks, DETECTOR_NAME, nms={"min_score": 0.95})  # it is never that sure
    model = load_catalog(networks).models[POSE_NAME]
    (crop,) = await photo_crops(model, [photo], Settings(model_repository=networks, threads=1))
    white = crop[0] > 0.5
    side = 40 * 48 / (39 * 1.25)  # from centre to centre 39 px, padded, are the crop's 48
    assert white[:, 24].sum() == pytest.approx(side, abs=1)
    assert white[32].sum() == pytest.approx(side, abs=1)


async def test_a_detector_sees_the_photo_with_its_own_border(networks, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(black_photo(width=64, height=32)))
    change_card(networks, DETECTOR_NAME, letterbox={"fill": 51})
    model = load_catalog(networks).models[DETECTOR_NAME]
    (crop,) = await photo_crops(model, [photo], Settings(model_repository=networks, threads=1))
    assert sorted(np.unique(crop).tolist()) == pytest.approx([0, 0.2])

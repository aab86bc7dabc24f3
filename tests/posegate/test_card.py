"""The model card: only numbers that can be served."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fakes import detector_card, pose_card
from posegate.card import HeatmapSpec, ModelCard, SimccSpec
from posegate.catalog import load_card

SHIPPED = sorted((Path(__file__).parents[2] / "model_repository").glob("*/posegate.json"))
HEATMAP = {"kind": "heatmap", "width": 12, "height": 16}
SIMCC = {"codec": {"kind": "simcc"}, "output": {"names": ["x", "y"]}}


def with_value(card: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """The card with a field such as `input.mean.0` set."""
    changed: Any = {**deepcopy(card), "sha256": "0" * 64}
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    field = changed
    for part in path:
        field = field[part]
    field[last] = value
    return changed


POSE = {
    **pose_card(),
    "codec": {**HEATMAP, "sigma": 2.0, "scale": [4.0, 4.0], "offset": [0.0, 0.0]},
    "verification": [{"form": "onnx", "max_abs_diff": 0, "max_pixel_diff": 0, "ap_diff": 0}],
}
FLOATS = [
    "input.mean.1", "input.std.1", "crop.padding", "codec.sigma", "codec.scale.0", "codec.offset.0",
    "gflops", "accuracy.0.ap", "verification.0.max_abs_diff", "verification.0.max_pixel_diff",
    "verification.0.ap_diff",
]  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", FLOATS)
def test_every_number_is_finite(place: str, value: float) -> None:
    ModelCard.model_validate(with_value(POSE, place, 1))
    with pytest.raises(ValidationError, match=r"finite number|(greater|less) than"):
        ModelCard.model_validate(with_value(POSE, place, value))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("input.mean.0", 1e300),  # beyond float32, in which crops are
        ("input.std.0", 1e-45),
        ("crop.padding", 101),
        ("crop.padding", 1e-300),
        ("codec.sigma", 0.05),
        ("codec.sigma", 1000),  # DARK's patch would have millions of pixels
        ("codec.scale.1", 1e300),
        ("codec.offset.1", -1e300),
        ("codec", {"kind": "simcc", "split": 1e300}),
        ("codec", {"kind": "simcc", "sigma": [1e300, 6]}),
    ],
)
def test_no_number_is_beyond_what_can_be_served(place: str, value: object) -> None:
    with pytest.raises(ValidationError, match=r"should be (greater|less) than or equal"):
        ModelCard.model_validate(with_value(POSE, place, value))


def test_what_a_card_leaves_out_is_what_most_networks_want() -> None:
    bare = {**POSE, "sha256": "0" * 64, "crop": {}, "codec": HEATMAP}
    pose = ModelCard.model_validate(bare)
    assert pose.crop is not None and isinstance(pose.codec, HeatmapSpec)
    assert pose.crop.padding == 1.25
    assert (pose.codec.sigma, pose.codec.scale, pose.codec.offset) == (2, (4, 4), (0, 0))
    simcc = ModelCard.model_validate({**bare, **SIMCC}).codec
    assert isinstance(simcc, SimccSpec)
    assert (simcc.split, simcc.sigma, simcc.normalize) == (2, (6, 6), "none")
    empty = {"sha256": "0" * 64, "letterbox": {}, "nms": {}}
    detector = ModelCard.model_validate({**detector_card(), **empty})
    assert detector.letterbox is not None and detector.nms is not None
    assert detector.letterbox.fill == 114
    assert detector.nms.model_dump() == {
        "kind": "boxes",
        "iou": 0.6,
        "min_score": 0.05,
        "max_boxes": 300,
    }


def test_mean_and_std_are_of_pixels_up_to_255() -> None:
    unit = {**POSE["input"], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    with pytest.raises(ValidationError, match="multiply them by 255"):
        ModelCard.model_validate(with_value(POSE, "input", unit))
    as_read = {**POSE["input"], "mean": [0, 0, 0], "std": [1, 1, 1]}
    assert ModelCard.model_validate(with_value(POSE, "input", as_read))


def test_names_are_distinct_and_not_empty() -> None:
    assert ModelCard.model_validate(with_value({**POSE, **SIMCC}, "default", False))
    with pytest.raises(ValidationError, match=r"output\.names must not repeat a name"):
        ModelCard.model_validate(with_value({**POSE, **SIMCC}, "output.names", ["x", "x"]))
    with pytest.raises(ValidationError, match=r"output\.names must not repeat a name"):
        ModelCard.model_validate(with_value(detector_card(), "output.names", ["a", "a"]))
    with pytest.raises(ValidationError, match=r"keypoints\.0\n.*at least 1 character"):
        ModelCard.model_validate(with_value(POSE, "keypoints.0", ""))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_the_shipped_cards_are_within_the_bounds(path: Path) -> None:
    assert load_card(path).name == path.parent.name

"""The cards of docs/own-network.md are whole: each serves a network of the shapes it promises."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import MADE_BOX_SCORES, MADE_BOXES_INPUT, encode, make_photo, make_repository
from made_networks import constant_network, replace_network
from posegate.backends.onnx import expected_shapes
from posegate.build import running_pipeline
from posegate.card import ModelCard
from posegate.catalog import Model, load_card
from posegate.options import EstimateOptions
from posegate.settings import Settings

GUIDE = Path(__file__).parents[2] / "docs" / "own-network.md"
CARDS: dict[str, dict[str, Any]] = {
    card["name"]: card
    for card in map(json.loads, re.findall(r"```json\n(.*?)```", GUIDE.read_text(), re.DOTALL))
}
BOXES = np.array([[20, 10, 60, 90]], np.float32)
MADE_DETS = np.column_stack([MADE_BOXES_INPUT, MADE_BOX_SCORES])[None]


def brought(repository: Path, card: dict[str, Any]) -> Model:
    """A network as the card describes it, put into the repository as the guide says."""
    spec = ModelCard.model_validate(card)
    pose = spec.task == "pose"
    outputs = {
        name: np.ones([size or 1 for size in shape], np.float32) if pose else MADE_DETS
        for name, shape in zip(spec.output.names, expected_shapes(spec, 1), strict=True)
    }
    network = constant_network(outputs, size_wh=spec.input.size_wh, input_name=spec.input.name)
    folder = repository / spec.name
    replace_network(folder, card, network.SerializeToString())
    return Model(load_card(folder / "posegate.json"), folder)


def test_the_guide_shows_every_form_of_a_card():
    specs = [ModelCard.model_validate(card) for card in CARDS.values()]
    kinds = {spec.codec.kind if spec.codec else spec.task for spec in specs}
    assert kinds == {"heatmap", "simcc", "detect"}


@pytest.mark.parametrize("name", CARDS)
async def test_a_card_of_the_guide_serves_its_network(tmp_path: Path, name: str):
    repository = make_repository(tmp_path)
    model = brought(repository, CARDS[name])
    picture = encode(make_photo())
    pose = model.card.task == "pose"
    chosen = {"model": name} if pose else {"detector": name}
    async with running_pipeline(Settings(model_repository=repository, threads=1, **chosen)) as made:
        options = EstimateOptions(boxes_xywh=BOXES) if pose else EstimateOptions(min_score=0)
        estimate = await made.estimate(picture, options)
    assert (estimate.model if pose else estimate.detector) == name
    assert estimate.poses.keypoints.xy.shape == ((1 if pose else 2), 17, 2)
    assert np.isfinite(estimate.poses.keypoints.xy).all()


def test_every_field_of_a_card_stands_in_the_guide():
    told = set(re.findall(r"`([a-z_0-9]+)", GUIDE.read_text()))
    assert set(ModelCard.model_fields) - told == {"description", "verification", "decoded"}

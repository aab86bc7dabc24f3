"""Output forms of other people's networks, each through the whole service by its card alone."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio

from fakes import (
    DETECTOR_NAME,
    MADE_BOX_SCORES,
    MADE_BOXES_INPUT,
    MADE_JOINTS_CROP,
    POSE_NAME,
    POSE_SIZE_WH,
    black_photo,
    detector_card,
    encode,
    make_photo,
    make_repository,
    pose_card,
)
from made_networks import constant_network, replace_network
from posegate.api.rest import create_app
from posegate.build import running_pipeline
from posegate.codecs import SimccCodec
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posegate.types import Keypoints

PEERS = Path(__file__).parents[3] / "shared" / "peers"
SPLIT = 2.0
LOUD = np.float32(1.3)
"""Height of the made SimCC peaks: such networks do not keep to [0, 1]."""

RTMDET_CARD = {
    "name": "rtmdet-nano",
    "input": {
        "name": "input",
        "width": 320,
        "height": 320,
        "color": "bgr",
        "mean": [103.53, 116.28, 123.675],
        "std": [57.375, 57.12, 58.395],
    },
    "letterbox": {"fill": 114},
    "output": {"names": ["dets"]},
    "nms": {"kind": "dets", "iou": 1.0, "min_score": 0.05, "max_boxes": 200},
}


def simcc_vectors() -> tuple[np.ndarray, np.ndarray]:
    """(1, 17, bins) of either axis with the made joints and peaks above 1."""
    codec = SimccCodec(crop_wh=POSE_SIZE_WH, split=SPLIT, sigma=(4.9, 5.66))
    ones = np.ones((1, 17), np.float32)
    (x, y), _ = codec.encode(Keypoints(MADE_JOINTS_CROP[None], ones), ones)
    return x * LOUD, y * LOUD


@pytest.fixture(scope="module")
def simcc_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made pose network in SimCC form, the made detector in `dets` form."""
    repository = make_repository(tmp_path_factory.mktemp("forms"))
    x, y = simcc_vectors()
    codec = {"kind": "simcc", "split": SPLIT, "sigma": [4.9, 5.66], "normalize": "none"}
    outputs = {"names": ["simcc_x", "simcc_y"]}
    replace_network(
        repository / POSE_NAME,
        pose_card() | {"codec": codec, "output": outputs},
        constant_network({"simcc_x": x, "simcc_y": y}, size_wh=POSE_SIZE_WH).SerializeToString(),
    )
    dets = np.column_stack([MADE_BOXES_INPUT, MADE_BOX_SCORES])[None]
    nms = {"kind": "dets", "iou": 1.0, "min_score": 0.05, "max_boxes": 200}
    replace_network(
        repository / DETECTOR_NAME,
        detector_card() | {"output": {"names": ["dets"]}, "nms": nms},
        constant_network({"dets": dets}, size_wh=(64, 64)).SerializeToString(),
    )
    return repository


@pytest_asyncio.fixture
async def forms(simcc_repository: Path) -> AsyncIterator[Pipeline]:
    settings = Settings(model_repository=simcc_repository, threads=1)
    async with running_pipeline(settings) as started:
        yield started


async def test_boxes_suppressed_inside_the_graph_are_kept_as_they_come(forms: Pipeline) -> None:
    found = await forms.find_people(encode(make_photo()), EstimateOptions())
    expected = np.clip(MADE_BOXES_INPUT * np.float32(2.5), 0, [160, 120, 160, 120])
    np.testing.assert_allclose(found.xyxy, expected, atol=1e-4)
    np.testing.assert_allclose(found.scores, MADE_BOX_SCORES)
    assert len(await forms.find_people(encode(black_photo()), EstimateOptions())) == 0


@pytest.mark.parametrize("flip_test", [False, True])
async def test_simcc_joints_come_back_in_the_frame_of_the_picture(
    forms: Pipeline, flip_test: bool
) -> None:
    box = np.array([[40.0, 20.0, 48.0, 64.0]], np.float32)
    options = EstimateOptions(boxes_xywh=box, flip_test=flip_test)
    poses = (await forms.estimate(encode(make_photo()), options)).poses
    assert poses.keypoints.scores.max() <= 1
    if not flip_test:  # the made network does not mirror its answer
        centre = box[0, :2] + (box[0, 2:] - 1) / 2
        crop_centre = (np.array(POSE_SIZE_WH) - 1) / 2
        expected = centre + (MADE_JOINTS_CROP - crop_centre) * 1.25
        np.testing.assert_allclose(poses.keypoints.xy[0], expected, atol=0.7)
        np.testing.assert_array_equal(poses.keypoints.scores, 1)


async def test_simcc_and_dets_are_served_over_http(forms: Pipeline) -> None:
    application = create_app(forms, Settings(), Metrics())
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://made") as client:
        answer = await client.post(
            "/v1/poses", content=encode(make_photo()), headers={"Content-Type": "image/png"}
        )
    people = answer.json()["people"]
    # the second box, 0.6, is on the person of the first
    assert [person["score"] for person in people] == pytest.approx([0.9, 0.5])
    scores = [point[2] for person in people for point in person["keypoints"].values()]
    assert len(scores) == 17 * len(people)
    assert all(0 < score <= 1 for score in scores)


@pytest.mark.skipif(
    not (PEERS / "rtmdet_nano.onnx").is_file(), reason="the published RTMDet-nano is not here"
)
@pytest.mark.parametrize("size", [320, 640])
async def test_the_published_rtmdet_nano_finds_the_people_of_a_photo(
    tmp_path: Path, size: int
) -> None:
    repository = make_repository(tmp_path)
    card = detector_card() | RTMDET_CARD
    card["input"] = card["input"] | {"width": size, "height": size}
    network = (PEERS / "rtmdet_nano.onnx").read_bytes()
    replace_network(repository / "rtmdet-nano", card, network)
    photos = PEERS.parent / "data" / "coco_val_part"
    labels = json.loads((photos / "person_keypoints.json").read_text())
    truth = max(labels["annotations"], key=lambda label: label["area"])
    name = next(i["file_name"] for i in labels["images"] if i["id"] == truth["image_id"])
    settings = Settings(model_repository=repository, threads=1, detector="rtmdet-nano")
    async with running_pipeline(settings) as pipeline:
        data = (photos / "images" / name).read_bytes()
        found = await pipeline.find_people(data, EstimateOptions())
    x, y, width, height = truth["bbox"]
    xyxy = np.array([x, y, x + width, y + height])
    assert max(iou(box, xyxy) for box in found.xyxy) > 0.7


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(sides.clip(0).prod())
    return shared / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)

"""The shipped networks, run by Triton, give the embedded backend's keypoints on a real photo."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from posegate.build import running_pipeline
from posegate.options import EstimateOptions
from posegate.settings import Settings
from triton_server.asking import over, seconds_until
from triton_server.serving import ROOT, TritonProcess, make_triton_repository

SHIPPED = ROOT / "model_repository"
PHOTOS = ROOT.parent / "shared" / "data" / "coco_val_part"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHIPPED.is_dir(), reason="no model repository beside the tests"),
    pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photos in ../shared/data/coco_val_part"),
]


@pytest.fixture(scope="module")
def photo() -> bytes:
    """The photo with the most labelled people."""
    labels = json.loads((PHOTOS / "person_keypoints.json").read_text())
    images = [one["image_id"] for one in labels["annotations"]]
    most = max(set(images), key=images.count)
    (name,) = [one["file_name"] for one in labels["images"] if one["id"] == most]
    return (PHOTOS / "images" / Path(name).name).read_bytes()


@pytest.fixture(scope="module")
def shipped_triton(
    backends: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("shipped")
    with TritonProcess(make_triton_repository(SHIPPED, folder), backends, folder / "log") as server:
        yield server


async def test_keypoints_equal_those_of_the_embedded_backend(photo, shipped_triton):
    async with (
        running_pipeline(Settings(model_repository=SHIPPED, threads=2)) as here,
        over(SHIPPED, shipped_triton) as there,
    ):
        if decoded := there._estimators[there.catalog.get(None, "pose").name]._decoded:
            await seconds_until(lambda: decoded[0].ready() is None)
        people = 0
        for decode in ("dark", "quarter", "argmax"):
            for flip_test in (False, True):
                options = EstimateOptions(decode=decode, flip_test=flip_test)
                expected = await here.estimate(photo, options)
                answer = await there.estimate(photo, options)
                people += len(expected.poses)
                np.testing.assert_allclose(
                    answer.poses.boxes.xyxy, expected.poses.boxes.xyxy, rtol=0, atol=0.01
                )
                np.testing.assert_allclose(
                    answer.poses.keypoints.xy, expected.poses.keypoints.xy, rtol=0, atol=0.01
                )
    assert people >= 6

"""image + boxes -> keypoints: posegate.estimator, over a backend whose answers are known."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from fakes import (
    HEATMAP_SCALE,
    MADE_JOINTS_CROP,
    MADE_JOINTS_HEATMAP,
    POSE_NAME,
    FakeBackend,
    LateNetwork,
    gaussian_heatmaps,
    make_photo,
)
from posegate.backends.batching import BatchingBackend
from posegate.backends.workers import Workers
from posegate.catalog import load_catalog
from posegate.crops import warp_crops
from posegate.errors import DeadlineExceeded
from posegate.estimator import Estimator
from posegate.geometry import apply_affine, box_to_region, invert_affine, region_to_crop_affine
from posegate.metrics import Metrics
from posegate.pool import Pool
from posegate.skeleton import COCO_KEYPOINTS, flip_order
from posegate.stages import StageClock
from posegate.types import Boxes, Image, Keypoints

IMAGE = Image(make_photo(width=200, height=150))
BOXES = Boxes(
    np.array([[20, 10, 80, 130], [100, 40, 190, 100], [-10, 50, 40, 160]], np.float32),
    np.ones(3, np.float32),
)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest_asyncio.fixture
async def estimator(repository: Path, backend: FakeBackend) -> AsyncIterator[Estimator]:
    batcher = BatchingBackend(
        backend,
        model=POSE_NAME,
        workers=Workers(1),
        metrics=Metrics(),
        max_batch=8,
        max_wait_s=0,
        max_queue=99,
    )
    pool = Pool(2)
    await batcher.start()
    backend.calls.clear()
    backend.tensors.clear()
    yield Estimator(load_catalog(repository).models[POSE_NAME], backend=batcher, pool=pool)
    await batcher.stop()
    pool.close()


async def run(estimator: Estimator, *, decode: str = "dark", flip_test: bool = False) -> Keypoints:
    poses, _ = await estimator.estimate(
        IMAGE, BOXES, decode=decode, flip_test=flip_test, deadline=None, clock=StageClock()
    )
    return poses.keypoints


def expected_xy() -> np.ndarray:
    regions = box_to_region(BOXES.xyxy, aspect=48 / 64, padding=1.25)
    crop_to_image = invert_affine(region_to_crop_affine(regions, size_wh=(48, 64)))
    return apply_affine(crop_to_image, np.repeat(MADE_JOINTS_CROP[None], len(BOXES), axis=0))


@pytest.mark.parametrize(
    ("decode", "tolerance_px"),
    [
        ("argmax", 1e-3),  # exact at integer peaks
        ("dark", 0.8),  # its blur sees nothing beyond the border of so small a map
    ],
)
async def test_keypoints_land_where_the_network_saw_them(
    estimator: Estimator, decode: str, tolerance_px: float
) -> None:
    keypoints = await run(estimator, decode=decode)
    np.testing.assert_allclose(keypoints.xy, expected_xy(), atol=tolerance_px)
    np.testing.assert_allclose(keypoints.scores, 1.0)


async def test_all_people_go_through_the_network_together(
    estimator: Estimator, backend: FakeBackend
) -> None:
    await run(estimator)
    assert backend.calls == [3]


async def test_flip_test_runs_the_mirrored_crops_in_the_same_batch(
    estimator: Estimator, backend: FakeBackend
) -> None:
    await run(estimator, flip_test=True)
    assert backend.calls == [6]
    crops = warp_crops(IMAGE, BOXES, estimator._preprocess, padding=1.25)
    np.testing.assert_array_equal(backend.tensors[0][:3], crops.tensor)
    np.testing.assert_array_equal(backend.tensors[0][3:], crops.tensor[..., ::-1])


async def test_flip_test_turns_the_answer_for_the_mirrored_crop_back(
    estimator: Estimator, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = gaussian_heatmaps(MADE_JOINTS_HEATMAP)
    mirrored = MADE_JOINTS_HEATMAP[flip_order(COCO_KEYPOINTS)]
    mirrored[:, 0] = (48 - 1) / HEATMAP_SCALE - mirrored[:, 0]

    async def infer(tensor: np.ndarray) -> tuple[np.ndarray, ...]:
        turned = gaussian_heatmaps(mirrored)
        return (np.stack([straight] * 3 + [turned] * 3),)

    monkeypatch.setattr(backend, "infer", infer)
    keypoints = await run(estimator, decode="argmax", flip_test=True)
    np.testing.assert_allclose(keypoints.xy, expected_xy(), atol=1e-3)


async def test_flip_test_takes_the_mean_of_both_answers(
    estimator: Estimator, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def infer(tensor: np.ndarray) -> tuple[np.ndarray, ...]:
        maps = np.repeat(gaussian_heatmaps(MADE_JOINTS_HEATMAP)[None], 6, axis=0)
        maps[3:] = 0
        return (maps,)

    monkeypatch.setattr(backend, "infer", infer)
    keypoints = await run(estimator, decode="argmax", flip_test=True)
    np.testing.assert_allclose(keypoints.scores, 0.5)
    np.testing.assert_allclose(keypoints.xy, expected_xy(), atol=1e-3)


async def test_the_deadline_goes_with_the_crops(repository: Path) -> None:
    network, pool = LateNetwork(), Pool(1)
    estimator = Estimator(load_catalog(repository).models[POSE_NAME], backend=network, pool=pool)
    with pytest.raises(DeadlineExceeded):
        await estimator.estimate(
            IMAGE, BOXES, decode="dark", flip_test=False, deadline=12.5, clock=StageClock()
        )
    pool.close()
    assert network.deadline == 12.5


async def test_stage_times_cover_the_whole_estimate(estimator: Estimator) -> None:
    clock = StageClock()
    await estimator.estimate(
        IMAGE, BOXES, decode="dark", flip_test=False, deadline=None, clock=clock
    )
    assert list(clock.stages_ms) == ["crop", "queue", "infer", "keypoints"]


async def test_people_cut_by_several_threads_are_the_people_cut_by_one(
    estimator: Estimator,
) -> None:
    offsets = np.arange(7, dtype=np.float32)[:, None] * 9
    xyxy = np.array([[5, 5, 60, 90]], np.float32) + offsets
    boxes = Boxes(xyxy, np.ones(7, np.float32))
    for flip_test in (False, True):
        crops = await estimator._crop(IMAGE, boxes, flip_test)
        alone = warp_crops(IMAGE, boxes, estimator._preprocess, padding=1.25)
        np.testing.assert_array_equal(crops.tensor[:7], alone.tensor)
        np.testing.assert_array_equal(crops.crop_to_image[-7:], alone.crop_to_image)
        assert len(crops) == (14 if flip_test else 7)
        if flip_test:
            np.testing.assert_array_equal(crops.tensor[7:], alone.tensor[..., ::-1])


@pytest.mark.parametrize(("min_score", "kept"), [(None, 2), (0.3, 1), (0.75, 0)])
async def test_somebody_in_two_boxes_is_answered_once_if_at_all(
    estimator: Estimator, min_score: float | None, kept: int
):
    twice = Boxes(BOXES.xyxy[[0, 0]], np.array([0.4, 0.7], np.float32))
    poses, _ = await estimator.estimate(
        IMAGE,
        twice,
        decode="dark",
        flip_test=False,
        deadline=None,
        clock=StageClock(),
        min_score=min_score,
    )
    surer = np.sort(poses.keypoints.scores, axis=1)[:, 8:].mean(axis=1)
    np.testing.assert_allclose(poses.boxes.scores, [[], [0.7], [0.4, 0.7]][kept] * surer, rtol=1e-5)
    assert len(poses) == kept

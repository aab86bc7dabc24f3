"""bytes -> poses, the whole line: posegate.pipeline and posegate.build."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fakes import (
    DETECTOR_NAME,
    MADE_JOINTS_CROP,
    POSE_NAME,
    add_copy,
    black_photo,
    encode,
    make_photo,
    make_repository,
    until,
)
from made_networks import replace_network
from posegate import people
from posegate.build import build_pipeline, running_pipeline
from posegate.catalog import CARD_NAME, ONNX_NAME
from posegate.errors import (
    BackendDown,
    BadCard,
    BadImage,
    BadOption,
    DeadlineExceeded,
    UnknownModel,
)
from posegate.geometry import apply_affine, box_to_region, invert_affine, region_to_crop_affine
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posegate.stages import StageClock
from posegate.types import Image, Poses

PHOTO = encode(make_photo())
BOX = np.array([[20, 10, 60, 90]], np.float32)


async def test_photo_in_keypoints_out(pipeline: Pipeline) -> None:
    estimate = await pipeline.estimate(PHOTO, EstimateOptions())
    assert (estimate.model, estimate.detector) == (POSE_NAME, DETECTOR_NAME)
    assert (estimate.image.width, estimate.image.height) == (160, 120)
    poses = estimate.poses
    assert len(poses) == 2
    regions = box_to_region(poses.boxes.xyxy, aspect=48 / 64, padding=1.25)
    crop_to_image = invert_affine(region_to_crop_affine(regions, size_wh=(48, 64)))
    expected = apply_affine(crop_to_image, np.stack([MADE_JOINTS_CROP] * 2))
    np.testing.assert_allclose(poses.keypoints.xy, expected, atol=0.4)


async def test_stages_add_up_to_the_time_that_passed(pipeline: Pipeline) -> None:
    started = time.perf_counter()
    estimate = await pipeline.estimate(PHOTO, EstimateOptions())
    elapsed_ms = (time.perf_counter() - started) * 1000
    stages = estimate.clock.stages_ms
    assert list(stages) == ["decode", "detect", "crop", "queue", "infer", "keypoints"]
    assert sum(stages.values()) == pytest.approx(estimate.clock.total_ms)
    assert estimate.clock.total_ms <= elapsed_ms
    assert 0 < estimate.network_s * 1000 <= stages["detect"] + stages["infer"]


async def test_reading_counts_when_the_clock_began_before(pipeline: Pipeline) -> None:
    clock = StageClock()
    clock.mark("read")
    estimate = await pipeline.estimate(PHOTO, EstimateOptions(), clock=clock)
    assert estimate.clock is clock
    assert next(iter(clock.stages_ms)) == "read"


async def test_what_is_drawn_is_in_the_answer_and_counts_as_encoding(pipeline: Pipeline) -> None:
    def draw(image: Image, poses: Poses) -> bytes:
        time.sleep(0.02)
        return f"{len(poses)} on {image.pixels_bgr.shape}".encode()

    estimate = await pipeline.estimate(PHOTO, EstimateOptions(), draw=draw)
    assert estimate.drawn == b"2 on (120, 160, 3)"
    stages = estimate.clock.stages_ms
    assert stages["encode"] >= 20
    assert sum(stages.values()) == pytest.approx(estimate.clock.total_ms)
    assert (await pipeline.estimate(PHOTO, EstimateOptions())).drawn is None


async def test_drawing_needs_no_thread_that_others_wait_for(pipeline: Pipeline) -> None:
    """Neither asyncio's own threads, nor those that decode."""
    gate, drawing = threading.Event(), threading.Semaphore(0)

    def draw(image: Image, poses: Poses) -> bytes:
        drawing.release()
        gate.wait(10)
        return b"drawn"

    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    others = loop.run_in_executor(None, gate.wait, 10)
    asked = [
        asyncio.create_task(pipeline.estimate(PHOTO, EstimateOptions(), draw=draw))
        for _ in range(8)
    ]
    try:
        async with asyncio.timeout(8):
            await until(lambda: drawing.acquire(blocking=False))
            assert len((await pipeline.estimate(PHOTO, EstimateOptions())).poses) == 2
    finally:
        gate.set()
    assert [answer.drawn for answer in await asyncio.gather(*asked)] == [b"drawn"] * 8
    assert await others


async def test_nobody_in_the_picture_does_not_call_the_pose_network(settings: Settings) -> None:
    metrics = Metrics()
    pipeline = build_pipeline(settings, metrics)
    await pipeline.start()
    estimate = await pipeline.estimate(encode(black_photo()), EstimateOptions())
    await pipeline.stop()
    assert len(estimate.poses) == 0
    assert estimate.poses.keypoints.xy.shape == (0, 17, 2)
    count = "posegate_crops_per_batch_count"
    assert metrics.registry.get_sample_value(count, {"model": DETECTOR_NAME}) == 1
    assert metrics.registry.get_sample_value(count, {"model": POSE_NAME}) == 0


async def test_given_boxes_replace_the_detector(pipeline: Pipeline) -> None:
    estimate = await pipeline.estimate(PHOTO, EstimateOptions(boxes_xywh=BOX, min_score=1.0))
    assert estimate.detector is None
    assert estimate.poses.boxes.xywh.tolist() == BOX.tolist()
    assert estimate.poses.boxes.scores.tolist() == [1.0]
    assert "detect" not in estimate.clock.stages_ms


async def test_every_given_box_gets_its_person(pipeline: Pipeline) -> None:
    twice = np.repeat(BOX, 2, axis=0)
    assert len((await pipeline.estimate(PHOTO, EstimateOptions(boxes_xywh=twice))).poses) == 2


async def test_boxes_outside_the_picture_are_refused(pipeline: Pipeline) -> None:
    outside = np.array([[500, 500, 10, 10]], np.float32)
    with pytest.raises(BadOption, match=r"boxes\[0\] is \[500\.0, 500\.0, 10\.0, 10\.0\], wholly"):
        await pipeline.estimate(PHOTO, EstimateOptions(boxes_xywh=outside))


@pytest.mark.parametrize(
    ("options", "people"),
    [
        (EstimateOptions(min_score=0.3), 2),  # both are surer
        (EstimateOptions(min_score=0.6), 1),  # the second is not
        (EstimateOptions(max_people=1), 1),  # the best one
        (EstimateOptions(min_score=0.95), 0),  # nobody is
    ],
)
async def test_people_are_chosen_by_score_and_number(
    pipeline: Pipeline, options: EstimateOptions, people: int
) -> None:
    assert len((await pipeline.estimate(PHOTO, options)).poses) == people


async def test_a_box_without_a_person_gives_way_to_the_next(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    folder = repository / POSE_NAME
    network = onnx.load(folder / ONNX_NAME)
    joints = network.graph.node[-1]
    joints.op_type, joints.input[0] = "Mul", "mean"  # dark crops hold nobody
    card = json.loads((folder / CARD_NAME).read_text())
    replace_network(folder, card, network.SerializeToString())
    photo = np.full((120, 160, 3), 255, np.uint8)
    photo[:, :86] = 20  # the surer box
    async with running_pipeline(Settings(model_repository=repository)) as pipeline:
        everybody = await pipeline.estimate(encode(photo), EstimateOptions())
        one = await pipeline.estimate(encode(photo), EstimateOptions(max_people=1))
    assert everybody.poses.boxes.xyxy[:, 0].tolist() == [90]
    assert one.poses.boxes.xyxy.tolist() == everybody.poses.boxes.xyxy.tolist()


async def test_no_more_are_answered_than_asked_for_when_boxes_give_way(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    folder = repository / DETECTOR_NAME
    network = onnx.load(folder / ONNX_NAME)
    (boxes,) = [one for one in network.graph.initializer if one.name == "made_boxes"]
    apart = np.array([[[2, 4, 18, 44], [22, 4, 38, 44], [44, 4, 60, 44]]], np.float32)
    boxes.CopyFrom(numpy_helper.from_array(apart, "made_boxes"))
    card = json.loads((folder / CARD_NAME).read_text())
    replace_network(folder, card, network.SerializeToString())
    answers = {}
    async with running_pipeline(Settings(model_repository=repository)) as pipeline:
        estimator = pipeline._estimators[POSE_NAME]
        looked_at = []

        async def estimate(image, boxes, **options):
            looked_at.append(boxes.xyxy[:, 0].tolist())
            poses, seconds = await type(estimator).estimate(estimator, image, boxes, **options)
            somebody = poses.boxes.xyxy[:, 0] > 10
            return people._some(poses, somebody), seconds

        pipeline._estimators[POSE_NAME] = Mock(estimate=estimate, names=estimator.names)
        for most in (1, 2, 3):
            estimate_of = await pipeline.estimate(PHOTO, EstimateOptions(max_people=most))
            answers[most] = estimate_of.poses.boxes.xyxy[:, 0].tolist()
    assert answers == {1: [55], 2: [55, 110], 3: [55, 110]}
    assert looked_at == [[5], [55, 110], [5, 55], [110], [5, 55, 110]]


async def test_a_second_box_on_somebody_gives_way_to_the_next(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    path = repository / DETECTOR_NAME / CARD_NAME
    card = json.loads(path.read_text())
    card["nms"]["iou"] = 1.0  # both boxes on the first person stay
    path.write_text(json.dumps(card))
    async with running_pipeline(Settings(model_repository=repository)) as pipeline:
        everybody = await pipeline.estimate(PHOTO, EstimateOptions())
        two = await pipeline.estimate(PHOTO, EstimateOptions(max_people=2))
        one = await pipeline.estimate(PHOTO, EstimateOptions(max_people=1))
    assert len(everybody.poses) == 2
    assert two.poses.boxes.xyxy.tolist() == everybody.poses.boxes.xyxy.tolist()
    assert len(one.poses) == 1


async def test_more_boxes_than_the_server_allows_are_refused(repository: Path) -> None:
    async with running_pipeline(Settings(model_repository=repository, max_people=2)) as pipeline:
        with pytest.raises(BadOption, match="at most 2 boxes"):
            await pipeline.estimate(PHOTO, EstimateOptions(boxes_xywh=np.repeat(BOX, 3, axis=0)))


async def test_a_limit_on_people_cuts_the_default_and_refuses_what_was_asked_for(
    repository: Path,
) -> None:
    async with running_pipeline(Settings(model_repository=repository, max_people=1)) as pipeline:
        pipeline.check(EstimateOptions())
        assert len((await pipeline.estimate(PHOTO, EstimateOptions())).poses) == 1
        asked = EstimateOptions(max_people=2)
        with pytest.raises(BadOption, match="max_people is 2; this server allows 1 to 1"):
            pipeline.check(asked)
        with pytest.raises(BadOption, match="max_people is 2; this server allows 1 to 1"):
            await pipeline.estimate(PHOTO, asked)  # callers that did not check first


async def test_a_detector_that_is_named_must_be_there_even_without_work(
    pipeline: Pipeline,
) -> None:
    pipeline.check(EstimateOptions(boxes_xywh=BOX, detector=DETECTOR_NAME))
    with pytest.raises(UnknownModel, match="nope"):
        pipeline.check(EstimateOptions(boxes_xywh=BOX, detector="nope"))


async def test_a_passed_deadline_is_an_error_of_its_own(pipeline: Pipeline) -> None:
    with pytest.raises(DeadlineExceeded):
        await pipeline.estimate(PHOTO, EstimateOptions(), deadline=time.monotonic() - 0.1)
    estimate = await pipeline.estimate(PHOTO, EstimateOptions(), deadline=time.monotonic() + 60)
    assert len(estimate.poses) == 2


async def test_unknown_networks_and_bad_images_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(UnknownModel):
        await pipeline.estimate(PHOTO, EstimateOptions(model="nothing"))
    with pytest.raises(UnknownModel):
        await pipeline.estimate(PHOTO, EstimateOptions(detector="nothing"))
    with pytest.raises(BadImage):
        await pipeline.estimate(PHOTO[:200], EstimateOptions())


async def test_many_callers_at_once_get_the_same_answer_as_one(pipeline: Pipeline) -> None:
    alone = await pipeline.estimate(PHOTO, EstimateOptions(flip_test=True))
    together = await asyncio.gather(
        *(pipeline.estimate(PHOTO, EstimateOptions(flip_test=True)) for _ in range(20))
    )
    for estimate in together:
        np.testing.assert_array_equal(estimate.poses.keypoints.xy, alone.poses.keypoints.xy)


async def test_ready_says_which_network_is_missing(settings: Settings) -> None:
    pipeline = build_pipeline(settings, Metrics())
    reason = pipeline.ready()
    assert reason is not None
    assert POSE_NAME in reason
    assert DETECTOR_NAME in reason
    await pipeline.start()
    assert pipeline.ready() is None
    await pipeline.stop()
    assert pipeline.ready() is not None


async def test_networks_that_are_not_required_fail_their_own_requests_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(model_repository=make_repository(tmp_path))
    add_copy(settings.model_repository, "other")
    pipeline = build_pipeline(settings, Metrics())
    monkeypatch.setattr(pipeline.networks, "_required", [DETECTOR_NAME, POSE_NAME])
    await pipeline.networks.start_required()
    other = EstimateOptions(model="other")
    assert pipeline.ready() is None
    assert "other" in (pipeline.networks.missing() or "")
    assert len((await pipeline.estimate(PHOTO, EstimateOptions())).poses) == 2
    with pytest.raises(BackendDown, match="other"):
        pipeline.check(other)
    await pipeline.networks.start_others()
    assert pipeline.networks.missing() is None
    pipeline.check(other)
    await pipeline.stop()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BadCard("Triton's network late has max_batch_size 0"),) * 2,
        (ValueError("nobody foresaw this"), "it fails: ValueError('nobody foresaw this')"),
    ],
)
async def test_a_network_that_is_not_required_may_fit_later(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    words: object,
) -> None:
    repository = make_repository(tmp_path)
    add_copy(repository, "late")
    pipeline = build_pipeline(Settings(model_repository=repository, model=POSE_NAME), Metrics())
    monkeypatch.setattr(pipeline.networks, "_required", [DETECTOR_NAME, POSE_NAME])
    monkeypatch.setattr("posegate.networks.RETRY_OTHER_S", 0.01)
    network = pipeline.networks["late"]
    start, tries = network.start, []

    async def start_at_last() -> None:
        tries.append(pipeline.networks.missing())
        if len(tries) < 5:
            raise error
        await start()

    monkeypatch.setattr(network, "start", start_at_last)
    await pipeline.networks.start_required()
    await pipeline.networks.start_others()
    assert tries[1:] == [str(words)] * 4
    assert caplog.text.count("network late cannot be used") == 1
    assert pipeline.networks.missing() is None
    await pipeline.stop()


async def test_a_network_that_does_not_fit_its_card_stops_the_start(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, pose_changes={"keypoints": ["nose"]})
    pipeline = build_pipeline(Settings(model_repository=repository), Metrics())
    with pytest.raises(BadCard):
        await pipeline.start()
    assert pipeline.ready() is not None


async def test_model_info_and_backend_up_are_told(settings: Settings) -> None:
    metrics = Metrics()
    pipeline = build_pipeline(settings, metrics)
    labels = {
        "model": POSE_NAME,
        "backend": "onnxruntime",
        "precision": "fp32",
        "provider": "CPUExecutionProvider",
        "sha256": pipeline.catalog.models[POSE_NAME].card.sha256,
    }
    assert metrics.registry.get_sample_value("posegate_model_info", labels) == 1
    await pipeline.start()
    up = {"backend": "onnxruntime"}
    assert metrics.registry.get_sample_value("posegate_backend_up", up) == 1
    await pipeline.stop()
    assert metrics.registry.get_sample_value("posegate_backend_up", up) == 0

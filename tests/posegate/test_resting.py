"""Networks that nobody asks for are not in memory: posegate.backends.resting."""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fakes import (
    DETECTOR_NAME,
    POSE_NAME,
    FakeBackend,
    add_copy,
    encode,
    make_photo,
    make_repository,
    until,
)
from posegate.backends import onnx
from posegate.backends import resting as resting_module
from posegate.backends.batching import BatchingBackend
from posegate.backends.resting import RestingNetwork
from posegate.backends.workers import Workers
from posegate.build import running_pipeline
from posegate.catalog import load_catalog
from posegate.errors import BackendDown, DeadlineExceeded, Overloaded
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.settings import Settings

CROP = np.zeros((1, 3, 64, 48), np.float32)
OTHER = "other-pose"
PHOTO = encode(make_photo())


class SlowToLoad(FakeBackend):
    """Counts its loads; each waits for `loading` and fails where the file is `unreadable`."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.unreadable = False
        self.loading = asyncio.Event()
        self.loading.set()

    async def start(self) -> None:
        self.loads += 1
        await self.loading.wait()
        if self.unreadable:
            raise OSError("the disk is gone")
        await super().start()


@pytest.fixture
def resting(repository: Path) -> Callable[..., RestingNetwork]:
    """Makes a resting network of a backend."""
    model = load_catalog(repository).models[POSE_NAME]
    limits = {"max_batch": 2, "max_wait_s": 0, "max_queue": 8}

    def of(backend: FakeBackend, *, idle_s: float = 60.0) -> RestingNetwork:
        parts = {"model": model.name, "workers": Workers(1), "metrics": Metrics()}
        return RestingNetwork(BatchingBackend(backend, **parts, **limits), model, idle_s=idle_s)

    return of


async def test_it_is_warmed_up_at_the_start_and_not_in_memory_then(resting) -> None:
    backend = SlowToLoad()
    network = resting(backend)
    assert network.ready() == f"network {POSE_NAME} is not checked"
    await network.start()
    assert backend.calls == [1, 2]
    assert not backend.started
    assert network.ready() is None
    await network.stop()
    assert network.ready() is not None


async def test_callers_who_come_together_wake_it_once_and_that_counts_as_queueing(
    resting,
) -> None:
    backend = SlowToLoad()
    network = resting(backend)
    await network.start()
    backend.loading.clear()
    asked = [asyncio.create_task(network.infer(CROP)) for _ in range(3)]
    await until(lambda: backend.loads == 2)
    await asyncio.sleep(0.05)
    backend.loading.set()
    answers = await asyncio.gather(*asked)
    assert backend.loads == 2
    assert all(answer.queue_s >= 0.05 for answer in answers)
    assert all(answer.outputs[0].shape == (1, 17, 16, 12) for answer in answers)
    again = await network.infer(CROP)
    assert (backend.loads, again.queue_s < 0.05) == (2, True)
    await network.stop()
    assert not backend.started


async def test_it_rests_when_nobody_has_asked_for_a_while_and_wakes_again(
    resting,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    backend = SlowToLoad()
    network = resting(backend, idle_s=0.05)
    await network.start()
    for loads in (2, 3):
        await network.infer(CROP)
        assert backend.loads == loads
        await until(lambda: not backend.started)
        assert network.ready() is None
    await network.stop()
    assert [record.message for record in caplog.records] == [
        "network loaded again",
        "network let go",
    ] * 2


async def test_it_does_not_rest_under_a_caller_nor_between_frequent_ones(resting) -> None:
    backend = SlowToLoad()
    network = resting(backend, idle_s=1.0)
    await network.start()
    await network.infer(CROP)
    backend.gate.clear()
    held = asyncio.create_task(network.infer(CROP))
    await asyncio.sleep(1.2)
    assert backend.started
    backend.gate.set()
    await held
    for _ in range(12):
        await asyncio.sleep(0.1)
        await network.infer(CROP)
    assert backend.loads == 2
    await network.stop()


async def test_waking_outlives_a_caller_who_does_not_wait_and_then_it_rests(resting) -> None:
    backend = SlowToLoad()
    network = resting(backend, idle_s=0.05)
    await network.start()
    backend.loading.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await network.infer(CROP)
    backend.loading.set()
    await until(lambda: backend.started)
    await until(lambda: not backend.started)
    assert backend.loads == 2
    await network.stop()


@pytest.mark.parametrize("loads", [True, False])
async def test_a_load_or_warm_up_that_fails_is_told_and_the_next_caller_tries_again(
    resting, loads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend = SlowToLoad()
    network = resting(backend)
    await network.start()
    backend.unreadable, backend.failure = not loads, OSError("the disk is gone")
    with pytest.raises(BackendDown, match="could not be loaded") as refusal:
        await network.infer(CROP)
    assert refusal.value.retry_after_s == 1.0
    assert "the disk is gone" in caplog.text
    assert not backend.started
    assert network.ready() is None
    backend.unreadable, backend.failure = False, None
    assert len((await network.infer(CROP)).outputs[0]) == 1
    await network.stop()


async def test_a_load_that_fails_is_told_to_all_who_wait_at_once(resting) -> None:
    backend = SlowToLoad()
    network = resting(backend)
    await network.start()
    backend.unreadable = True
    backend.loading.clear()
    asked = [asyncio.create_task(network.infer(CROP)) for _ in range(4)]
    asked.append(asyncio.create_task(network.awake(deadline=None)))
    await until(lambda: backend.loads == 2)
    backend.loading.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [BackendDown] * 5
    assert backend.loads == 2
    await network.stop()


async def test_a_load_that_fails_when_nobody_waits_any_more_is_logged_once(
    resting, caplog: pytest.LogCaptureFixture
) -> None:
    backend = SlowToLoad()
    network = resting(backend)
    await network.start()
    backend.unreadable = True
    backend.loading.clear()
    async with asyncio.timeout(10):
        with pytest.raises(DeadlineExceeded):
            await network.infer(CROP, deadline=time.monotonic() + 0.02)
    backend.loading.set()
    await until(lambda: "not loaded" in caplog.text)
    await network.stop()
    gc.collect()
    assert [record.message for record in caplog.records] == ["network not loaded"]


async def test_awake_loads_it_and_returns_at_once_when_it_is_loaded(resting) -> None:
    backend = SlowToLoad()
    network = resting(backend, idle_s=0.1)
    await network.start()
    for _ in range(2):
        await network.awake(deadline=None)
        assert (backend.started, backend.loads) == (True, 2)
    await until(lambda: not backend.started)
    await network.stop()
    with pytest.raises(BackendDown, match="not running"):
        await network.awake(deadline=None)


async def test_a_load_that_hangs_is_begun_once_and_holds_no_deadline_and_no_stop(
    resting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resting_module, "STOP_LIMIT_S", 0.05)
    backend = SlowToLoad()
    network = resting(backend)
    await network.start()
    backend.loading.clear()
    tasks = len(asyncio.all_tasks())
    async with asyncio.timeout(10):
        for asks in [partial(network.infer, CROP), network.awake] * 3:
            with pytest.raises(DeadlineExceeded, match="being loaded"):
                await asks(deadline=time.monotonic() + 0.01)
    assert backend.loads == 2
    assert len(asyncio.all_tasks()) == tasks + 1
    waits = asyncio.create_task(network.infer(CROP))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await network.stop()
        with pytest.raises(BackendDown, match="stopping"):
            await waits


async def test_no_more_crops_wait_for_the_waking_than_for_the_network(resting) -> None:
    backend = SlowToLoad()
    network = resting(backend)
    await network.start()
    backend.loading.clear()
    four = np.repeat(CROP, 4, axis=0)
    asked = [asyncio.create_task(network.infer(four)) for _ in range(2)]
    await until(lambda: backend.loads == 2)
    async with asyncio.timeout(10):
        with pytest.raises(Overloaded, match=r"8 crops wait .* 1 more pass the limit of 8") as full:
            await network.infer(CROP)
    assert full.value.retry_after_s is not None
    asked.pop().cancel()
    await asyncio.sleep(0)
    asked.append(asyncio.create_task(network.infer(four)))
    await asyncio.sleep(0)
    backend.loading.set()
    assert [len(answer.outputs[0]) for answer in await asyncio.gather(*asked)] == [4, 4]
    await network.stop()


async def test_a_caller_while_it_falls_asleep_is_answered(resting) -> None:
    backend = SlowToLoad()
    network = resting(backend, idle_s=0.0)
    await network.start()
    async with asyncio.timeout(10):
        for _ in range(50):
            answer = await network.infer(CROP)
            assert answer.outputs[0].shape == (1, 17, 16, 12)
            await asyncio.sleep(0)
    await network.stop()


async def test_nobody_wakes_it_after_the_stop(resting) -> None:
    backend = SlowToLoad()
    network = resting(backend)
    await network.start()
    await network.stop()
    with pytest.raises(BackendDown):
        await network.infer(CROP)
    assert not backend.started


@pytest.fixture
def two_networks(tmp_path: Path) -> Path:
    repository = make_repository(tmp_path)
    add_copy(repository, OTHER)
    return repository


@pytest.mark.parametrize(("idle_s", "opened"), [(60.0, [OTHER]), (0.0, [])])
async def test_only_the_defaults_stay_loaded_and_the_others_give_the_same_answer(
    two_networks: Path, monkeypatch: pytest.MonkeyPatch, idle_s: float, opened: list[str]
) -> None:
    loads: list[str] = []
    opens = onnx._open_checked
    monkeypatch.setattr(onnx, "_open_checked", lambda m: (loads.append(m.name), opens(m))[1])
    settings = Settings(model_repository=two_networks, model=POSE_NAME, network_idle_s=idle_s)
    async with running_pipeline(settings) as pipeline:
        assert sorted(loads) == sorted([DETECTOR_NAME, POSE_NAME, OTHER])
        assert pipeline.ready() is None
        loads.clear()
        default = await pipeline.estimate(PHOTO, EstimateOptions())
        assert loads == []
        other = await pipeline.estimate(PHOTO, EstimateOptions(model=OTHER))
        again = await pipeline.estimate(PHOTO, EstimateOptions(model=OTHER))
        assert loads == opened
    for estimate in (other, again):
        assert np.array_equal(estimate.poses.keypoints.xy, default.poses.keypoints.xy)


async def test_a_file_changed_while_its_network_rests_is_refused(
    two_networks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(model_repository=two_networks, model=POSE_NAME)
    async with running_pipeline(settings) as pipeline:
        file = two_networks / OTHER / "1" / "model.onnx"
        kept = file.read_bytes()
        file.write_bytes(kept + b" ")
        with pytest.raises(BackendDown):
            await pipeline.estimate(PHOTO, EstimateOptions(model=OTHER))
        assert "its card says" in caplog.text
        assert pipeline.ready() is None
        assert "could not be loaded" in str(missing := pipeline.networks.missing())
        assert OTHER in missing and "its card says" in missing
        assert len((await pipeline.estimate(PHOTO, EstimateOptions())).poses) == 2
        file.write_bytes(kept)
        assert len((await pipeline.estimate(PHOTO, EstimateOptions(model=OTHER))).poses) == 2
        assert pipeline.networks.missing() is None


async def test_the_default_goes_on_while_another_is_loaded(
    two_networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(model_repository=two_networks, model=POSE_NAME, threads=1)
    go_on = threading.Event()
    opens = onnx._open_checked
    async with running_pipeline(settings) as pipeline:
        monkeypatch.setattr(onnx, "_open_checked", lambda m: (go_on.wait(60), opens(m))[1])
        waits = asyncio.create_task(pipeline.estimate(PHOTO, EstimateOptions(model=OTHER)))
        await asyncio.sleep(0.05)
        assert len((await pipeline.estimate(PHOTO, EstimateOptions())).poses) == 2
        assert not waits.done()
        go_on.set()
        assert len((await waits).poses) == 2

"""The whole pipeline over a real Triton: the same keypoints, and what happens when it goes."""

import asyncio
import ctypes
import gc
import os
import time
from pathlib import Path

import numpy as np
import pytest

from posegate.build import build_pipeline, running_pipeline
from posegate.errors import BackendDown, BadCard, DeadlineExceeded, Overloaded, PosegateError
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from triton_server.asking import PHOTO, assert_deadlines_hold, over, people, seconds_until
from triton_server.serving import TritonProcess, figure, make_triton_repository


# one crop; several in one request; more than Triton takes in one request
@pytest.mark.parametrize("count", [1, 7, 40])
async def test_keypoints_equal_those_of_the_embedded_backend(repository, triton, count):
    embedded = Settings(model_repository=repository, threads=2)
    async with running_pipeline(embedded) as here, over(repository, triton) as there:
        expected = await here.estimate(PHOTO, people(count))
        answer = await there.estimate(PHOTO, people(count))
    np.testing.assert_allclose(
        answer.poses.keypoints.xy, expected.poses.keypoints.xy, rtol=0, atol=0.01
    )
    np.testing.assert_allclose(
        answer.poses.keypoints.scores, expected.poses.keypoints.scores, rtol=0, atol=1e-4
    )
    assert len(np.unique(answer.poses.keypoints.xy)) > 17, "the network must look at its input"


async def test_the_detector_runs_in_triton_too(repository, triton):
    async with over(repository, triton) as pipeline:
        answer = await pipeline.estimate(PHOTO, EstimateOptions(min_score=0.0))
        assert pipeline.ready() is None
    assert answer.detector == "made-detector"
    assert len(answer.poses) == 2
    assert 'nv_inference_request_success{model="made-detector"' in triton.metrics()


async def test_crops_of_concurrent_callers_share_a_batch(repository, triton):
    async with over(repository, triton) as pipeline:
        crops, runs = await counted(triton)
        await asyncio.gather(*(pipeline.estimate(PHOTO, people(1)) for _ in range(32)))
        crops_after, runs_after = await counted(triton)
    assert crops_after - crops == 32
    assert runs_after - runs < 32


async def counted(triton: TritonProcess) -> tuple[float, float]:
    """Crops and batches of the pose network; Triton counts shortly after it has answered."""
    counts = None
    while True:
        text = triton.metrics()
        names = ("nv_inference_count", "nv_inference_exec_count")
        before, counts = counts, tuple(figure(text, name, "made-pose") for name in names)
        if counts == before:
            return counts
        await asyncio.sleep(0.3)


async def test_killed_triton_is_noticed_at_once_and_used_again_after_its_restart(
    repository, second_triton
):
    async with over(repository, second_triton) as pipeline:
        await pipeline.estimate(PHOTO, people(2))
        second_triton.kill()
        started = time.monotonic()
        with pytest.raises(BackendDown):
            await pipeline.estimate(PHOTO, people(2), deadline=started + 20)
        assert time.monotonic() - started < 1.0
        assert await seconds_until(lambda: pipeline.ready() is not None) < 2.0
        assert second_triton.url in pipeline.ready()
        await asyncio.to_thread(second_triton.start)
        await seconds_until(lambda: second_triton.answers("v2/health/ready"))
        assert await seconds_until(lambda: pipeline.ready() is None) < 3.0
        await pipeline.estimate(PHOTO, people(2))


async def test_hung_triton_lets_deadlines_hold(repository, second_triton):
    async with over(repository, second_triton) as pipeline:
        second_triton.hang()
        await assert_deadlines_hold(pipeline)
        assert await seconds_until(lambda: pipeline.ready() is not None) < 2.0
        with pytest.raises(BackendDown, match="does not answer"):
            await pipeline.estimate(PHOTO, people(2))
        second_triton.wake()
        assert await seconds_until(lambda: pipeline.ready() is None) < 3.0
        await pipeline.estimate(PHOTO, people(2))


async def test_hung_triton_does_not_let_memory_grow(repository, second_triton):
    """Ten callers with 40 people each; at most 200 crops, 7 MB, are under way."""
    settings = Settings(
        model_repository=repository,
        threads=2,
        backend="triton",
        triton_urls=(second_triton.url,),
        request_timeout_s=0.5,
        max_queue=200,
        max_people=100,
    )
    async with asyncio.timeout(90), running_pipeline(settings) as pipeline:

        async def wave() -> set[type]:
            answers = await asyncio.gather(
                *(pipeline.estimate(PHOTO, people(40)) for _ in range(10)), return_exceptions=True
            )
            return {type(answer) for answer in answers}

        await wave()
        second_triton.hang()
        assert await wave() <= {Overloaded, DeadlineExceeded, BackendDown}
        before = resident_mib()
        for _ in range(8):
            assert await wave() <= {Overloaded, DeadlineExceeded, BackendDown}
        assert resident_mib() - before < 30
        await seconds_until(lambda: not pipeline.networks["made-pose"]._crops)
        second_triton.wake()
        assert await seconds_until(lambda: pipeline.ready() is None) < 3.0
        await pipeline.estimate(PHOTO, people(2))


def resident_mib() -> float:
    """Memory of this process that is in use; what the allocator only keeps is given back first."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_no_request_fails_when_one_of_two_tritons_is_killed(
    repository, triton, second_triton
):
    async def keep_asking(pipeline: Pipeline, ends: float) -> list[PosegateError | None]:
        outcomes: list[PosegateError | None] = []
        while time.monotonic() < ends:
            try:
                await pipeline.estimate(PHOTO, people(2))
                outcomes.append(None)
            except PosegateError as error:
                outcomes.append(error)
        return outcomes

    async with over(repository, triton, second_triton) as pipeline:
        ends = time.monotonic() + 4.0
        callers = [asyncio.create_task(keep_asking(pipeline, ends)) for _ in range(4)]
        await asyncio.sleep(1.5)
        await asyncio.to_thread(second_triton.kill)
        outcomes = [outcome for caller in callers for outcome in await caller]
        assert pipeline.ready() is None
    assert len(outcomes) > 20
    assert [outcome for outcome in outcomes if outcome is not None] == []


async def test_a_network_of_another_size_is_refused_at_start(repository, backends, tmp_path):
    def widen(config: str) -> str:
        """Without its warm-up, in which Triton itself would refuse the network."""
        return config.split("model_warmup")[0].replace("[ 3, 64, 48 ]", "[ 3, 64, 64 ]")

    wrong = make_triton_repository(repository, tmp_path, change=widen)
    with (
        TritonProcess(wrong, backends, tmp_path / "log") as server,
        pytest.raises(BadCard, match="its card says"),
    ):
        async with over(repository, server):
            pass


async def test_start_waits_for_triton_and_says_so(repository):
    settings = Settings(
        model_repository=repository, threads=1, backend="triton", triton_urls=("127.0.0.1:9",)
    )
    pipeline = build_pipeline(settings, Metrics())
    starting = asyncio.create_task(pipeline.start())
    try:
        await seconds_until(lambda: "cannot be reached" in (pipeline.ready() or ""))
        assert not starting.done()
        with pytest.raises(BackendDown):
            await pipeline.estimate(PHOTO, people(1))
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await pipeline.stop()

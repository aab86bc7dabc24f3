"""One address behind which are several real Tritons, as behind a headless Service."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fakes import POSE_NAME
from posegate.backends import triton_servers
from posegate.build import running_pipeline
from posegate.errors import PosegateError
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from triton_server.asking import PHOTO, people, seconds_until
from triton_server.serving import TritonProcess, figure


@asynccontextmanager
async def behind_one_address(repository: Path, *servers: TritonProcess) -> AsyncIterator[Pipeline]:
    """A started pipeline that finds all servers by one name and takes them in turn."""

    async def look_up(name: str) -> list[str]:
        assert name == "tritons:8001"
        return [server.url for server in servers]

    settings = Settings(
        model_repository=repository, threads=2, backend="triton", triton_urls=("tritons:8001",)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_servers, "look_up", look_up)
        async with asyncio.timeout(240), running_pipeline(settings) as pipeline:
            yield pipeline


async def keep_asking(
    pipeline: Pipeline, enough: asyncio.Event, *, patience_s: float | None = None
) -> list[PosegateError | None]:
    """One outcome for every request: None, or why it failed."""
    outcomes: list[PosegateError | None] = []
    while not enough.is_set():
        try:
            deadline = None if patience_s is None else time.monotonic() + patience_s
            await pipeline.estimate(PHOTO, people(2), deadline=deadline)
            outcomes.append(None)
        except PosegateError as error:
            outcomes.append(error)
    return outcomes


def answered(server: TritonProcess) -> float:
    """Requests about the pose network that this server has answered since it started."""
    return figure(server.metrics(), "nv_inference_request_success", POSE_NAME)


async def more_from(server: TritonProcess, count: int) -> None:
    before = await asyncio.to_thread(answered, server)
    ends = time.monotonic() + 60
    while await asyncio.to_thread(answered, server) < before + count:
        assert time.monotonic() < ends, "the server gets no requests"
        await asyncio.sleep(0.2)


async def test_no_request_fails_when_one_of_the_tritons_is_killed_and_comes_back(
    repository, triton, second_triton
):
    async with behind_one_address(repository, triton, second_triton) as pipeline:
        enough = asyncio.Event()
        callers = [asyncio.create_task(keep_asking(pipeline, enough)) for _ in range(4)]
        try:
            await more_from(triton, 5)
            await more_from(second_triton, 5)
            await asyncio.to_thread(second_triton.kill)
            await more_from(triton, 10)
            assert pipeline.ready() is None
            await asyncio.to_thread(second_triton.start)
            await more_from(second_triton, 5)
        finally:
            enough.set()
            outcomes = [outcome for caller in callers for outcome in await caller]
    assert len(outcomes) > 20
    assert [outcome for outcome in outcomes if outcome is not None] == []


async def test_a_triton_that_hangs_is_passed_by(repository, triton, second_triton):
    """Only what it was doing then fails: at most one call of each caller."""
    async with behind_one_address(repository, triton, second_triton) as pipeline:
        enough = asyncio.Event()
        callers = [
            asyncio.create_task(keep_asking(pipeline, enough, patience_s=3.0)) for _ in range(4)
        ]
        try:
            await more_from(second_triton, 5)
            second_triton.hang()
            await more_from(triton, 60)
            assert pipeline.ready() is None
        finally:
            second_triton.wake()
            enough.set()
            outcomes = [await caller for caller in callers]
    for one in outcomes:
        assert len(one) > 10
        assert len([outcome for outcome in one if outcome is not None]) <= 1


async def test_all_tritons_of_the_address_gone_is_said_and_mended(
    repository, backends, triton_repository, tmp_path
):
    with (
        TritonProcess(triton_repository, backends, tmp_path / "first") as first,
        TritonProcess(triton_repository, backends, tmp_path / "second") as second,
    ):
        async with behind_one_address(repository, first, second) as pipeline:
            first.kill()
            second.kill()
            assert await seconds_until(lambda: pipeline.ready() is not None) < 2.0
            await asyncio.to_thread(second.start)
            await seconds_until(lambda: pipeline.ready() is None)
            await pipeline.estimate(PHOTO, people(2))

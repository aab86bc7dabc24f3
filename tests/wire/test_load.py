"""The claims about load that hold on any machine, by the benchmarks themselves, kept short.

The aims are the contract's and stand in the benchmarks; a test leaves room for a slow machine that
client and service share, and none for a queue that grows, a refusal that waits its turn, a service
that does nothing but refuse, or memory that is not given back.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from fakes import encode, make_photo
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.loadclient import Connection
from posegate.settings import find_model_repository
from wire.running import Service, running_service

PROGRAMS = Path(__file__).parents[2] / "benchmarks"
MAX_MEMORY_MB = 60.0

LIVE_S = 4.0
LIVE_SIZE = {"width": 1600, "height": 1200}
"""Of the picture: small ones cost the service no more than the client beside it."""
MAX_LIVE_MEMORY_MB = 30.0
MAX_AGE_RATIO = 5.0
"""Aim 2.5, and 2.24 where cores are free: one frame is worked on and one waits. Four would be 5."""
AGE_ROOM_MS = 50.0
"""Growth over the run where pictures take a few ms; a queue would grow by two thirds of LIVE_S."""
LEAST_LIVE_SHARE = 0.4

OVERLOAD_S = 3.0
LEAST_OFFERED = 3.0
"""Times the peak; of the ten that are asked for, the client's own cores allow no more on some."""
REFUSED_MS, REFUSED_TO_ALONE = 100.0, 5.0
"""Aim 50 ms, and 2 where cores are free. Where they are not, the time of a request without load
says how slow everything is; who is served under load waits thirty times as long."""
LEAST_GOODPUT = 0.6
"""Aim 0.9 of the peak; 0.89 to 0.93 with the default network, which this test therefore takes: the
made ones cost next to nothing, so that the client would take most of the cores. A service that
refuses through the whole application is left with 0.40."""
MAX_RECOVERY_S = 5.0

CALLERS = 4
WARM_UP, MEASURED = 400, 2000
MAX_LEAK_BYTES = 2500
"""Growth per request; about 600 where nothing leaks, as malloc goes on finding uses for memory."""


def rows(program: str, repository: Path, *arguments: str) -> list[dict]:
    command = [sys.executable, str(PROGRAMS / program), "--repository", str(repository), "--json"]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [*command, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("face", ["http", "grpc"])
def test_an_overloaded_live_stream_has_an_event_per_frame_and_flat_memory(
    repository: Path, tmp_path: Path, face: str
):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encode(make_photo(**LIVE_SIZE), ".jpg"))
    (row,) = rows("live.py", repository, str(photo), "--seconds", str(LIVE_S), "--face", face)
    assert row["events"] == row["frames"]
    assert row["results"] + row["dropped"] == row["frames"]
    assert row["results"] > LEAST_LIVE_SHARE * row["served_per_s"] * LIVE_S
    assert row["age_ratio"] <= MAX_AGE_RATIO
    grown_ms = row["age_growth_ms_per_min"] * LIVE_S / 60
    assert grown_ms <= max(AGE_ROOM_MS, 2 * row["alone_ms"])
    assert row["rss_growth_mb"] < MAX_LIVE_MEMORY_MB


@pytest.mark.slow
def test_an_overloaded_service_answers_or_refuses_with_429():
    (row,) = rows("overload.py", find_model_repository(), "--seconds", str(OVERLOAD_S))
    assert row["other_errors"] == 0, row["outcomes"]
    assert row["offered_per_s"] > LEAST_OFFERED * row["peak_per_s"]
    assert row["refused"] > 0
    assert row["goodput_to_peak"] >= LEAST_GOODPUT
    assert row["refused_p50_ms"] <= max(REFUSED_MS, REFUSED_TO_ALONE * row["alone_ms"])
    assert row["recovery_s"] <= MAX_RECOVERY_S


@pytest.mark.slow
async def test_a_leak_of_a_few_kilobytes_a_request_would_show(repository: Path, tmp_path: Path):
    with running_service(repository, tmp_path / "log") as service:
        await ask(service, WARM_UP)
        before = service.rss_bytes(), service.threads(), service.handles()
        await ask(service, MEASURED)
        after = service.rss_bytes(), service.threads(), service.handles()
    assert (after[0] - before[0]) / MEASURED < MAX_LEAK_BYTES
    assert after[1] <= before[1] + CALLERS
    assert after[2] <= before[2] + CALLERS


Act = Callable[[], Awaitable[None]]


async def ask(service: Service, count: int) -> None:
    """So many requests by a few callers: answered and refused, half of them over each face."""
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        acts = acts_of(service, services.PoseServiceStub(channel))
        turns = itertools.islice(itertools.cycle(acts), count)

        async def call() -> None:
            for act in turns:
                await act()

        await asyncio.gather(*(call() for _ in range(CALLERS)))


def acts_of(service: Service, stub: services.PoseServiceStub) -> list[Act]:
    photo = encode(make_photo(width=64, height=48), ".jpg")

    def http(query: str, body: bytes, status: int) -> Act:
        async def act() -> None:
            connection = Connection(service.url)
            await connection.open()
            answer, _ = await connection.request("POST", f"/v1/poses{query}", body)
            assert answer == status
            await connection.close()

        return act

    def rpc(code: grpc.StatusCode, **asked: object) -> Act:
        async def act() -> None:
            assert await stub.Estimate(pb.EstimateRequest(**asked)).code() is code

        return act

    unknown = pb.EstimateOptions(model="nobody")
    return [
        http("", photo, 200),
        rpc(grpc.StatusCode.OK, image=photo),
        http("?boxes=[]", photo, 200),
        rpc(grpc.StatusCode.INVALID_ARGUMENT, image=photo[:100]),
        http("", photo[:100], 422),
        rpc(grpc.StatusCode.NOT_FOUND, image=photo, options=unknown),
        http("?min_score=x", photo, 422),
        rpc(grpc.StatusCode.OK, image=photo, options=pb.EstimateOptions(boxes=pb.Boxes())),
    ]


@pytest.mark.slow
def test_the_stages_account_for_the_time(repository: Path):
    for row in rows("stages.py", repository, "--seconds", "2", "--people", "1", "8"):
        assert row["unaccounted_p95"] <= 0.05


@pytest.mark.slow
def test_crops_of_concurrent_callers_share_batches(repository: Path):
    alone, *_, most = rows("batching.py", repository, "--seconds", "4")
    assert alone["crops_per_batch"] == 1
    assert 1 < most["crops_per_batch"] <= most["max_batch"]


@pytest.mark.slow
def test_faces_are_measured_beside_the_pipeline(repository: Path):
    measured = rows("faces.py", repository, "--seconds", "2")
    assert {row["face"] for row in measured} == {"process", "grpc", "http"}
    assert all(row["images_per_s"] > 0 for row in measured)


@pytest.mark.slow
def test_memory_after_the_start_is_bounded(repository: Path):
    (row,) = rows("startup.py", repository, "--starts", "1", "--requests", "200")
    assert row["ready_s"] > 0
    assert row["rss_after_mb"] < 500
    assert row["rss_growth_mb"] < MAX_MEMORY_MB

"""Deadlines and cancelled calls reach the network: what nobody waits for is not computed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import httpx
import pytest
import pytest_asyncio
import uvicorn

from fakes import DETECTOR_NAME, POSE_NAME, until
from posegate.api.grpc import Health, PoseService, create_grpc_server
from posegate.api.limits import Slots
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.api.rest import create_app
from posegate.backends.onnx import OnnxBackend
from posegate.build import build_pipeline
from posegate.client.rpc import SLUGS
from posegate.metrics import Metrics
from posegate.settings import Settings
from posegate.sockets import bind
from posegate.streams import Streams
from posegate.types import F32

BOX = [20.0, 10.0, 60.0, 90.0]
ENOUGH_S = 60.0


class GatedBackend(OnnxBackend):
    """Holds every batch of the pose network while the gate is closed, and counts them."""

    gate: asyncio.Event
    batches = 0

    async def infer(self, tensor: F32) -> tuple[F32, ...]:
        if self._model.name == POSE_NAME:
            type(self).batches += 1
            await self.gate.wait()
        return await super().infer(tensor)


@dataclass
class Faces:
    """Both faces of one service of one core in this process."""

    url: str
    grpc_address: str
    metrics: Metrics
    http: httpx.AsyncClient
    stub: services.PoseServiceStub
    photo: bytes

    async def ask_http(self, timeout_s: float = ENOUGH_S) -> str:
        """Slug of the problem, or `ok`."""
        answer = await self.http.post(
            "/v1/poses",
            params={"boxes": str([BOX])},
            content=self.photo,
            headers={"X-Request-Timeout": str(timeout_s)},
        )
        return "ok" if answer.is_success else str(answer.json()["type"])

    async def ask_grpc(self, timeout_s: float = ENOUGH_S) -> str:
        x, y, width, height = BOX
        boxes = pb.Boxes(boxes=[pb.Box(x=x, y=y, width=width, height=height)])
        request = pb.EstimateRequest(image=self.photo, options=pb.EstimateOptions(boxes=boxes))
        try:
            await self.stub.Estimate(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return SLUGS.get(error.code(), error.code().name)
        return "ok"

    def in_flight(self, face: str) -> float:
        value = self.metrics.registry.get_sample_value("posegate_in_flight", {"face": face})
        return value or 0.0


@pytest_asyncio.fixture
async def faces(
    repository: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Faces]:
    monkeypatch.setattr("posegate.build.OnnxBackend", GatedBackend)
    monkeypatch.setattr(GatedBackend, "gate", asyncio.Event(), raising=False)
    GatedBackend.gate.set()
    settings = Settings(model_repository=repository, threads=1, max_batch=1)
    metrics, slots = Metrics(), Slots(settings.max_images)
    pipeline = build_pipeline(settings, metrics)
    await pipeline.start()
    streams = Streams(pipeline, settings, metrics)
    app = create_app(pipeline, settings, metrics, slots=slots, streams=streams)
    service = PoseService(pipeline, settings, metrics, slots=slots, streams=streams)
    rpc = create_grpc_server(service, Health(pipeline), settings, metrics)
    grpc_address = f"127.0.0.1:{rpc.add_insecure_port('127.0.0.1:0')}"
    await rpc.start()
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(app, lifespan="off", log_config=None, http="h11")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with (
        httpx.AsyncClient(base_url=url, timeout=ENOUGH_S, trust_env=False) as http,
        grpc.aio.insecure_channel(grpc_address) as channel,
    ):
        stub = services.PoseServiceStub(channel)
        yield Faces(url, grpc_address, metrics, http, stub, photo)
    GatedBackend.gate.set()
    server.should_exit = True
    await rpc.stop(0)
    await serving
    await pipeline.stop()


async def held(faces: Faces) -> "asyncio.Task[str]":
    """Keep the one core busy with a first call, until the gate opens."""
    GatedBackend.gate.clear()
    GatedBackend.batches = 0
    first = asyncio.create_task(faces.ask_http())
    await until(lambda: GatedBackend.batches == 1)
    return first


def asking(faces: Faces, face: str) -> Callable[..., Awaitable[str]]:
    return faces.ask_http if face == "http" else faces.ask_grpc


@pytest.mark.parametrize("face", ["http", "grpc"])
async def test_a_deadline_that_passes_in_the_queue_is_not_computed(faces: Faces, face: str):
    first = await held(faces)
    started = time.monotonic()
    assert await asking(faces, face)(timeout_s=1.0) == "deadline"
    assert time.monotonic() - started < 20  # and not the service's own 30 s
    await until(lambda: faces.in_flight(face) == (1.0 if face == "http" else 0.0))
    GatedBackend.gate.set()
    assert await first == "ok"
    assert await faces.ask_http() == "ok"
    assert GatedBackend.batches == 2  # the first's and the last's


@pytest.mark.parametrize("face", ["http", "grpc"])
async def test_a_deadline_that_passes_in_the_network_is_answered_at_once(faces: Faces, face: str):
    GatedBackend.gate.clear()
    started = time.monotonic()
    assert await asking(faces, face)(timeout_s=1.0) == "deadline"
    assert time.monotonic() - started < 20
    GatedBackend.gate.set()
    assert await asking(faces, face)() == "ok"


@pytest.mark.parametrize("face", ["http", "grpc"])
async def test_a_call_given_up_in_the_queue_is_not_computed(faces: Faces, face: str):
    first = await held(faces)
    others = 1.0 if face == "http" else 0.0
    call = asyncio.create_task(asking(faces, face)())
    await until(lambda: faces.in_flight(face) == others + 1)
    await asyncio.sleep(0.2)  # its crops join the queue
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: faces.in_flight(face) == others)
    GatedBackend.gate.set()
    assert await first == "ok"
    assert await faces.ask_http() == "ok"
    assert GatedBackend.batches == 2


async def test_frames_of_a_stream_given_up_are_not_computed(faces: Faces):
    first = await held(faces)
    call = faces.stub.Stream()
    x, y, width, height = BOX
    boxes = pb.Boxes(boxes=[pb.Box(x=x, y=y, width=width, height=height)])
    options = pb.StreamOptions(estimate=pb.EstimateOptions(boxes=boxes), mode=pb.STREAM_MODE_EVERY)
    await call.write(pb.StreamRequest(options=options))
    for _ in range(2):
        await call.write(pb.StreamRequest(frame=faces.photo))
    await until(lambda: faces.in_flight("grpc") == 1.0)
    await asyncio.sleep(0.2)
    call.cancel()
    await until(lambda: faces.in_flight("grpc") == 0.0)
    GatedBackend.gate.set()
    assert await first == "ok"
    assert await faces.ask_http() == "ok"
    assert GatedBackend.batches == 2


async def test_work_whose_time_is_already_over_is_refused_unseen(faces: Faces):
    GatedBackend.batches = 0
    name = {"model": DETECTOR_NAME}
    count = "posegate_crops_per_batch_count"
    before = faces.metrics.registry.get_sample_value(count, name)
    headers = {"X-Request-Timeout": "0.0000001"}
    answer = await faces.http.post("/v1/poses", content=faces.photo, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (504, "deadline")
    await asyncio.sleep(0.2)
    assert GatedBackend.batches == 0
    assert faces.metrics.registry.get_sample_value(count, name) == before

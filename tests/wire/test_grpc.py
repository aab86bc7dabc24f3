"""The gRPC face over a real socket: answers, the error table, limits, health and reflection."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fakes import DETECTOR_NAME, POSE_NAME, encode, make_photo
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from wire.running import Service, running_service

BIG = (("grpc.max_send_message_length", -1),)
Stub = services.PoseServiceStub


@pytest_asyncio.fixture
async def stub(service: Service) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(service.grpc_address, options=BIG) as channel:
        yield Stub(channel)


def request(image: bytes, **options: object) -> pb.EstimateRequest:
    return pb.EstimateRequest(image=image, options=pb.EstimateOptions(**options))


async def refusal(stub: Stub, asked: pb.EstimateRequest, **call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Estimate(asked, **call)
    assert "Traceback" not in caught.value.details()
    return caught.value


def details(error: grpc.aio.AioRpcError) -> tuple[str, bool]:
    """Slug of the problem, and whether trying again makes sense."""
    trailers = dict(error.trailing_metadata())
    status = Status.FromString(trailers["grpc-status-details-bin"])
    assert status.message == error.details()
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason, any(item.Is(RetryInfo.DESCRIPTOR) for item in status.details)


def as_document(poses: pb.Poses) -> dict[str, object]:
    """The message in the form of the HTTP answer."""
    people = [
        {
            "score": person.score,
            "box": [person.box.x, person.box.y, person.box.width, person.box.height],
            "keypoints": {row.name: [row.x, row.y, row.score] for row in person.keypoints},
        }
        for person in poses.people
    ]
    size = {"width": poses.image.width, "height": poses.image.height}
    return {
        "model": poses.model,
        "detector": poses.detector if poses.HasField("detector") else None,
        "image": size,
        "people": people,
    }


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({}, {}),
        (
            {"flip_test": "true", "decode": "argmax"},
            {"flip_test": True, "decode": pb.DECODE_ARGMAX},
        ),
        ({"min_score": 0.7, "min_keypoint_score": 1}, {"min_score": 0.7, "min_keypoint_score": 1}),
        (
            {"boxes": "[[20,10,60,90]]"},
            {"boxes": pb.Boxes(boxes=[pb.Box(x=20, y=10, width=60, height=90)])},
        ),
        ({"boxes": "[]"}, {"boxes": pb.Boxes()}),  # no boxes given is not: nobody to look at
    ],
)
async def test_both_faces_give_the_same_answer(
    stub: Stub, client: httpx.Client, photo: bytes, query: dict, options: dict
):
    answer = client.post("/v1/poses", params=query, content=photo).json()
    response = await stub.Estimate(request(photo, **options))
    stages = dict(response.poses.stages_ms)
    assert sum(stages.values()) == pytest.approx(response.poses.total_ms, abs=0.01)
    assert set(stages) == set(answer.pop("stages_ms")) - {"read"}
    del answer["total_ms"]
    assert as_document(response.poses) == answer


@pytest.mark.parametrize(
    ("asked", "code", "slug"),
    [
        (request(b""), "INVALID_ARGUMENT", "bad-image"),
        (request(b"these are words"), "INVALID_ARGUMENT", "bad-image"),
        (request(encode(make_photo(), ".jpg")[:300]), "INVALID_ARGUMENT", "bad-image"),
        (request(b"x", min_score=7), "INVALID_ARGUMENT", "bad-option"),
        (request(b"x", min_score=float("nan")), "INVALID_ARGUMENT", "bad-option"),
        (request(b"x", decode=9), "INVALID_ARGUMENT", "bad-option"),
        (request(b"x", boxes=pb.Boxes(boxes=[pb.Box(width=-1)])), "INVALID_ARGUMENT", "bad-option"),
        (request(b"x", model="nobody"), "NOT_FOUND", "unknown-model"),
        (request(bytes(21 * 2**20)), "RESOURCE_EXHAUSTED", "too-large"),
    ],
)
async def test_refusals_follow_the_error_table(
    stub: Stub, photo: bytes, asked: pb.EstimateRequest, code: str, slug: str
):
    error = await refusal(stub, asked)
    assert error.code() is grpc.StatusCode[code]
    assert details(error) == (slug, False)
    assert len((await stub.Estimate(request(photo))).poses.people) == 2


async def test_message_over_the_hard_limit_names_it(stub: Stub):
    error = await refusal(stub, request(bytes(41 * 2**20)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(40 * 2**20) in error.details()


async def test_a_deadline_of_a_millisecond_is_kept_and_the_next_call_works(
    service: Service, stub: Stub, photo: bytes
):
    with service.paused():  # a photo may well be answered within the millisecond
        for _ in range(5):
            error = await refusal(stub, request(photo), timeout=0.001)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await stub.Estimate(request(photo))).poses.model == POSE_NAME


async def test_a_cancelled_call_leaves_nothing_behind(
    stub: Stub, service: Service, client: httpx.Client, photo: bytes
):
    call = stub.Estimate(request(photo))
    call.cancel()
    assert (await stub.Estimate(request(photo))).poses.model == POSE_NAME
    assert 'posegate_in_flight{face="grpc"} 0.0' in client.get("/metrics").text


async def test_models_are_listed_with_their_cards(stub: Stub, client: httpx.Client):
    response = await stub.ListModels(pb.ListModelsRequest())
    assert [model.name for model in response.models] == [DETECTOR_NAME, POSE_NAME]
    pose = response.models[1]
    assert (pose.task, pose.default, len(pose.keypoints)) == ("pose", True, 17)
    card = httpx.Response(200, text=pose.card_json).json()
    assert card == client.get(f"/v1/models/{POSE_NAME}").json()


async def test_health_and_reflection_answer(service: Service):
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "posegate.v1.PoseService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert MessageToDict(answer) == {"status": "SERVING"}
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in reflection.ServerReflectionInfo(iter([asked])):
            names = {item.name for item in answer.list_services_response.service}
    assert "posegate.v1.PoseService" in names


async def test_sigterm_gives_the_stream_its_summary(repository: Path, tmp_path: Path, photo: bytes):
    with running_service(repository, tmp_path / "log") as service:
        async with grpc.aio.insecure_channel(service.grpc_address) as channel:
            call = Stub(channel).Stream()
            await call.write(pb.StreamRequest(frame=photo))
            assert (await call.read()).result.frame == 0
            service.process.terminate()
            assert (await call.read()).summary.results == 1
            assert await call.code() is grpc.StatusCode.OK
        assert await asyncio.to_thread(service.process.wait, 60) == 0
        assert "Traceback" not in service.log.read_text()


async def test_a_bad_frame_costs_one_error_and_the_stream_goes_on(stub: Stub, photo: bytes):
    every = pb.StreamOptions(mode=pb.STREAM_MODE_EVERY)
    requests = [pb.StreamRequest(options=every)]
    requests += [pb.StreamRequest(frame=frame) for frame in (photo, b"", bytes(30 * 2**20), photo)]
    requests.append(pb.StreamRequest())  # neither options nor frame
    events = [response async for response in stub.Stream(iter(requests))]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["result", "error", "error", "result", "error", "summary"]
    assert [event.error.type for event in events if event.HasField("error")] == [
        "bad-image", "too-large", "bad-option",
    ]  # fmt: skip
    assert not events[4].error.HasField("frame")
    assert (events[5].summary.frames, events[5].summary.errors) == (4, 2)


async def test_bytes_that_are_no_message_end_the_stream_with_a_clear_error(service: Service):
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        stream = channel.stream_stream("/posegate.v1.PoseService/Stream")
        call = stream(iter([b"\xff\xff\xff"]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [event async for event in call]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "StreamRequest" in caught.value.details()


@pytest.mark.parametrize("method", ["Estimate", "ListModels"])
async def test_bytes_that_are_no_message_are_refused_counted_and_logged(
    service: Service, method: str
):
    route = f"/posegate.v1.PoseService/{method}"
    before = len(service.log.read_text())
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(route)(b"\xff\xff\xff")
        assert await channel.unary_unary("/posegate.v1.PoseService/ListModels")(b"")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (
        caught.value.details()
        == f"the message is not {'an' if method == 'Estimate' else 'a'} {method}Request"
    )
    assert details(caught.value) == ("bad-option", False)
    count = f'_seconds_count{{code="INVALID_ARGUMENT",face="grpc",route="{route}"}}'
    assert count in service.metrics()
    told = service.log.read_text()[before:]
    assert f"GRPC {route} INVALID_ARGUMENT" in told
    assert "Traceback" not in told


async def test_calls_are_counted_by_method_and_code(stub: Stub, client: httpx.Client, photo: bytes):
    await stub.Estimate(request(photo))
    text = client.get("/metrics").text
    route = 'route="/posegate.v1.PoseService/Estimate"'
    assert f'posegate_request_seconds_count{{code="OK",face="grpc",{route}}}' in text


async def test_api_keys_are_asked_for(repository: Path, tmp_path: Path, photo: bytes):
    import hashlib

    hashes = ",".join(hashlib.sha256(key).hexdigest() for key in (b"first", b"second"))
    with running_service(repository, tmp_path / "log", api_key_sha256=hashes) as service:
        async with grpc.aio.insecure_channel(service.grpc_address) as channel:
            stub = Stub(channel)
            for metadata in (None, (("x-api-key", "third"),), (("authorization", "Bearer "),)):
                error = await refusal(stub, request(photo), metadata=metadata)
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            known = (("authorization", "Bearer second"),)
            assert (await stub.Estimate(request(photo), metadata=known)).poses.model == POSE_NAME
        with service.client() as client:
            refused = client.post("/v1/poses", content=photo)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json()["type"] == "unauthenticated"
            counted = '_count{code="401",face="http",route="/v1/poses"} 1.0'
            assert counted in client.get("/metrics").text
            headers = {"X-API-Key": "first"}
            assert client.post("/v1/poses", content=photo, headers=headers).status_code == 200
            assert client.get("/readyz").status_code == 200

"""Bad frames, first messages and deadlines: each costs one error, and the service goes on."""

from itertools import chain
from queue import SimpleQueue

import grpc
import grpc.aio
import pytest

from fakes import encode, make_photo
from image_files import png_bomb
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.client import Client
from posegate.errors import BadOption
from wire.running import Service

JPEG = encode(make_photo(), ".jpg")
BOMB = png_bomb(12_000)
BAD_FRAMES = {
    "nothing": (b"", "bad-image"),
    "half a frame": (JPEG[: len(JPEG) // 2], "bad-image"),
    "half a PNG": (encode(make_photo())[:4000], "bad-image"),
    "words": (b"these are words", "bad-image"),
    "30 MB": (bytes(30 * 2**20), "too-large"),
    "a bomb": (BOMB, "too-large"),
}


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, service: Service) -> Client:
    with Client(service.urls[request.param], timeout_s=60) as made:
        yield made


@pytest.mark.parametrize("bad", BAD_FRAMES)
def test_a_bad_frame_costs_one_error_and_the_stream_goes_on(client: Client, bad: str):
    frame, slug = BAD_FRAMES[bad]
    *events, summary = client.stream([JPEG, frame, JPEG], mode="every")
    assert [event["event"] for event in events] == ["result", "error", "result"]
    assert [event["frame"] for event in events] == [0, 1, 2]
    assert events[1]["type"] == slug
    assert "Traceback" not in events[1]["detail"]
    assert (summary["frames"], summary["results"], summary["errors"]) == (3, 2, 1)


def test_every_bad_frame_of_a_live_stream_has_its_event(client: Client):
    """Live frames may be dropped, but none is without an event, and no bad one gives a result."""
    bad = [frame for frame, _ in BAD_FRAMES.values()]
    frames = list(chain.from_iterable((JPEG, frame) for frame in bad * 2))
    *events, summary = client.stream(frames)
    assert [event["frame"] for event in events] == list(range(len(frames)))
    results = {event["frame"] for event in events if event["event"] == "result"}
    assert results
    assert all(number % 2 == 0 for number in results)
    assert summary["frames"] == len(frames)


def test_bombs_in_mid_stream_cost_no_memory(client: Client, service: Service):
    list(client.stream([JPEG] * 5, mode="every"))
    before = service.rss_bytes()
    *events, _ = client.stream([BOMB, JPEG] * 15, mode="every")
    assert [event["event"] for event in events] == ["error", "result"] * 15
    assert service.rss_bytes() - before < 30 * 2**20


async def test_an_unknown_value_in_the_first_message_ends_a_grpc_stream(service: Service):
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        stub = services.PoseServiceStub(channel)
        for options in (
            pb.StreamOptions(mode=9),
            pb.StreamOptions(estimate=pb.EstimateOptions(decode=9)),
            pb.StreamOptions(estimate=pb.EstimateOptions(min_score=7)),
        ):
            first = pb.StreamRequest(options=options)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [event async for event in stub.Stream(iter([first]))]
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "must be" in caught.value.details()


def test_an_unknown_option_in_the_first_message_is_named(client: Client):
    with pytest.raises(BadOption, match="modus"):
        list(client.stream([JPEG], modus="every"))


async def test_bytes_that_are_no_message_end_the_call_and_nothing_else(service: Service):
    """Not protobuf at all, on both methods that take requests."""
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        estimate = channel.unary_unary("/posegate.v1.PoseService/Estimate")
        with pytest.raises(grpc.aio.AioRpcError):
            await estimate(b"\xff" * 50)
        with pytest.raises(grpc.aio.AioRpcError):
            [
                event
                async for event in channel.stream_stream("/posegate.v1.PoseService/Stream")(
                    iter([b"\xff" * 50])
                )
            ]
        answer = await services.PoseServiceStub(channel).Estimate(pb.EstimateRequest(image=JPEG))
        assert len(answer.poses.people) == 2


def test_a_stream_with_a_deadline_of_a_millisecond_leaves_nothing_behind(service: Service):
    """By gRPC's blocking client: the other tells its own INTERNAL for a write that is cut off."""
    with grpc.insecure_channel(service.grpc_address) as channel:
        stub = services.PoseServiceStub(channel)
        for _ in range(20):
            frames: SimpleQueue[pb.StreamRequest | None] = SimpleQueue()
            frames.put(pb.StreamRequest(frame=JPEG))
            call = stub.Stream(iter(frames.get, None), timeout=0.001)
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            frames.put(None)
    service.wait_until_idle()

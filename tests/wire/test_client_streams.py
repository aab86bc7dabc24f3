"""Streams of posegate.client that do not end as planned: closed, left, not taken, garbled."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from threading import Event, Thread

import grpc
import numpy as np
import pytest
from websockets.sync.server import ServerConnection, serve

from fakes import POSE_NAME, add_form, encode, make_photo, make_repository
from posegate.api.pb import pose_pb2 as pb
from posegate.client import AsyncClient, Client
from posegate.client.transport import each
from posegate.errors import BadOption, DeadlineExceeded, PosegateError
from wire.running import Service, running_service

SMALL = encode(make_photo(width=64, height=48), ".jpg")
CLOSED = "this client is closed; make another"


def camera() -> Iterator[bytes]:
    while True:
        time.sleep(0.01)
        yield SMALL


class Kept:
    """A stream that only the garbage collector leaves."""

    def __init__(self, client: Client) -> None:
        self.itself = self
        self.events = client.stream([SMALL] * 50, mode="every")


def test_a_stream_that_the_collector_leaves_within_the_client_blocks_nobody(url: str):
    client = Client(url, timeout_s=60)

    async def collect() -> None:
        gc.collect()

    kept = Kept(client)
    next(kept.events)
    del kept
    asking = Thread(target=client._loop.call, args=(collect,), daemon=True)
    asking.start()
    asking.join(20)
    assert not asking.is_alive()
    assert client.estimate(SMALL)
    client.close()


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.2])
def test_a_client_that_another_thread_closes_ends_its_streams(url: str, after_s: float):
    client, told, begun = Client(url, timeout_s=60), [], Event()

    def watch() -> None:
        try:
            for _ in client.stream(camera()):
                begun.set()
        except RuntimeError as error:
            told.append(str(error))

    watching = Thread(target=watch, daemon=True)
    watching.start()
    assert begun.wait(30)
    time.sleep(after_s)
    client.close()
    watching.join(20)
    assert not watching.is_alive()
    assert told == [CLOSED]


async def test_a_client_that_another_task_closes_ends_its_streams(url: str):
    async def frames() -> AsyncIterator[bytes]:
        while True:
            yield SMALL
            await asyncio.sleep(0.01)

    client, begun = AsyncClient(url, timeout_s=60), asyncio.Event()

    async def watch() -> None:
        async with aclosing(client.stream(frames())) as events:
            async for _ in events:
                begun.set()

    watching = asyncio.create_task(watch())
    await begun.wait()
    await client.close()
    with pytest.raises(RuntimeError, match=CLOSED):
        await asyncio.wait_for(watching, 20)


async def test_a_stream_that_is_cancelled_twice_keeps_no_connection(url: str, service: Service):
    """The second time while the first waits for a camera that gives no more frames."""
    begun, more = asyncio.Event(), Event()

    def frames() -> Iterator[bytes]:
        yield SMALL
        more.wait(60)

    async def watch(client: AsyncClient) -> None:
        async with aclosing(client.stream(frames(), mode="every")) as events:
            async for _ in events:
                begun.set()

    async with AsyncClient(url, timeout_s=60) as client:
        watching = asyncio.create_task(watch(client))
        await begun.wait()
        gc.disable()  # which would find the connection
        try:
            for _ in range(2):
                watching.cancel()
                await asyncio.sleep(0.05)
            await asyncio.gather(watching, return_exceptions=True)
            await asyncio.to_thread(service.wait_until_idle)
        finally:
            gc.enable()
            more.set()


def test_a_service_that_says_nothing_before_it_takes_the_stream_is_not_waited_for(
    service: Service, url: str
):
    with Client(url, timeout_s=1.0) as client:
        client.models()
        with service.paused():
            began = time.monotonic()
            with pytest.raises(
                DeadlineExceeded, match="no event for 1 s, nor was the stream taken"
            ):
                next(client.stream([SMALL] * 3, mode="every"))
            assert 0.9 < time.monotonic() - began < 10


def test_none_among_the_frames_is_no_end(url: str):
    with Client(url, timeout_s=60) as client, pytest.raises(TypeError, match="a frame is NoneType"):
        list(client.stream([SMALL, None, SMALL], mode="every"))


def test_unsure_joints_are_hidden_in_streams_as_in_pictures(tmp_path: Path, photo: bytes):
    repository = make_repository(tmp_path)
    add_form(
        repository, "unsure", lambda heatmaps: heatmaps * np.linspace(0.2, 1, 17)[:, None, None]
    )
    options = {"model": f"{POSE_NAME}-unsure", "min_keypoint_score": 0.6}
    with running_service(repository, tmp_path / "log") as service:
        for address in (service.urls["http"], service.urls["grpc"]):
            with Client(address, timeout_s=60) as client:
                event, _ = client.stream([photo], mode="every", **options)
                people = client.estimate(photo, **options)["people"]
            assert event["people"] == people
            assert {len(person["keypoints"]) for person in people} == {9}


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
def test_a_time_that_cannot_be_waited_is_refused(timeout_s: float):
    with pytest.raises(BadOption, match="timeout_s is"):
        AsyncClient(timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("slug", "retry_after_s"), [("unavailable", 1.0), ("overloaded", 1.0), ("bad-option", None)]
)
def test_a_refused_stream_says_whether_to_try_again(slug: str, retry_after_s: float | None):
    def refuse(socket: ServerConnection) -> None:
        refusal = {"event": "error", "frame": None, "type": slug, "detail": "not now"}
        socket.send(json.dumps(refusal))
        for _ in socket:
            pass

    with serve(refuse, "127.0.0.1", 0) as server:
        Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        with Client(address, timeout_s=20) as client, pytest.raises(PosegateError) as refusal:
            list(client.stream([SMALL]))
        server.shutdown()
    assert refusal.value.retry_after_s == retry_after_s


async def test_a_frame_being_read_is_waited_for_when_the_stream_is_left():
    """A program that ends while a decoder works is ended by the decoder."""
    reading, read = Event(), Event()

    def frames() -> Iterator[bytes]:
        yield SMALL
        reading.set()
        time.sleep(0.2)
        read.set()
        yield SMALL

    async with aclosing(each(frames())) as taken:
        await anext(taken)
        second = asyncio.create_task(anext(taken))
        await asyncio.to_thread(reading.wait, 10)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert read.is_set()


def test_the_service_s_own_answers_are_of_any_size(repository: Path, tmp_path: Path):
    boxes = np.tile(np.array([5, 5, 40, 40], np.float32), (50, 1))
    with (
        running_service(repository, tmp_path / "log", max_body_bytes=20_000) as service,
        Client(service.urls["grpc"], timeout_s=60) as client,
    ):
        assert len(client.estimate(SMALL, boxes=boxes)["people"]) == 50
        event, _ = client.stream([SMALL], mode="every", boxes=boxes)
        assert len(event["people"]) == 50


async def test_frames_before_a_message_that_is_none_have_their_events(service: Service):
    options = pb.StreamOptions(mode=pb.STREAM_MODE_EVERY)
    sent = [pb.StreamRequest(options=options), *[pb.StreamRequest(frame=SMALL)] * 2]
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        call = channel.stream_stream("/posegate.v1.PoseService/Stream")()
        for message in sent:
            await call.write(message.SerializeToString())
        await call.write(b"\xff\xff\xff")
        events = [pb.StreamResponse.FromString(answer) async for answer in call]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["result", "result", "error", "summary"]
    assert "is not a StreamRequest" in events[2].error.detail
    assert events[-1].summary.frames == 2

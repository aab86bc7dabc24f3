"""The stream contract over a real WebSocket."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fakes import POSE_NAME, encode, make_photo
from posegate.api.options import MAX_TEXT
from posegate.api.stream_schemas import StreamEvent
from wire.running import Service, running_service

END = json.dumps({"end": True})
KINDS = {"result", "dropped", "error", "summary"}


@asynccontextmanager
async def stream(service: Service, **options: object) -> AsyncIterator[ClientConnection]:
    """An open stream, its options sent if there are any."""
    url = f"ws://{service.host}:{service.port}/v1/stream"
    async with connect(url, max_size=None, proxy=None, ping_interval=None) as socket:
        if options:
            await socket.send(json.dumps(options))
        yield socket


async def converse(socket: ClientConnection, frames: list[bytes | str]) -> list[dict]:
    """Send everything and the wish to end; every event until the connection closes."""

    async def send() -> None:
        for frame in frames:
            await socket.send(frame)
        await socket.send(END)

    sending = asyncio.create_task(send())
    events = [json.loads(text) async for text in socket]
    await sending
    return events


def check(events: list[dict], frames: int) -> dict:
    """The contract's promises about any stream; returns its summary."""
    *events, summary = events
    numbered = [event for event in events if event["frame"] is not None]
    assert [event["frame"] for event in numbered] == list(range(frames))
    assert all(event["event"] in KINDS and event["age_ms"] >= 0 for event in events)
    assert all("stages_ms" in event for event in events)
    for event in (*events, summary):
        StreamEvent.model_validate(event)
    kinds = Counter(event["event"] for event in numbered)
    reasons = Counter(event["reason"] for event in numbered if event["event"] == "dropped")
    assert summary["event"] == "summary"
    assert summary["frames"] == frames
    assert (summary["results"], summary["errors"]) == (kinds["result"], kinds["error"])
    assert summary["dropped"] == {name: reasons[name] for name in ("busy", "rate")}
    return summary


@pytest.fixture(scope="module")
def free_service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that caps no rate and takes two streams."""
    log = tmp_path_factory.mktemp("free") / "log"
    limits = {"max_stream_fps": 10_000, "max_streams": 2, "max_body_bytes": 2_000_000}
    with running_service(repository, log, **limits) as running:
        yield running


async def test_every_frame_is_answered_as_http_answers_it(free_service: Service, photo: bytes):
    async with stream(free_service, mode="every") as socket:
        events = await converse(socket, [photo] * 12)
    summary = check(events, 12)
    assert summary["results"] == 12
    assert 0 < summary["age_ms"]["p50"] <= summary["age_ms"]["p95"]
    with free_service.client() as client:
        answer = client.post("/v1/poses", content=photo).json()
    for event in events[:-1]:
        for name in ("model", "detector", "image", "people"):
            assert event[name] == answer[name]
        assert sum(event["stages_ms"].values()) == pytest.approx(event["total_ms"], abs=0.01)


async def test_live_stream_drops_the_waiting_frame_for_the_newest(free_service: Service):
    slow = encode(make_photo(width=1600, height=1200), ".jpg")
    async with stream(free_service) as socket:
        events = await converse(socket, [slow] * 40)
    summary = check(events, 40)
    assert summary["dropped"]["busy"] > 0
    assert summary["results"] >= 2
    assert events[-2]["event"] == "result"  # the newest frame is never the one dropped


async def test_frames_over_the_rate_cap_are_dropped(repository: Path, tmp_path: Path):
    small = encode(make_photo(width=64, height=48), ".jpg")
    with running_service(repository, tmp_path / "log", max_stream_fps=0.5) as service:
        async with stream(service) as socket:
            summary = check(await converse(socket, [small] * 6), 6)
        assert summary["dropped"]["rate"] >= 3
        with service.client() as client:
            text = client.get("/metrics").text
        count = summary["dropped"]["rate"]
        assert f'posegate_frames_dropped_total{{reason="rate"}} {count}.0' in text


@pytest.mark.parametrize(
    ("bad", "slug", "words"),
    [
        (b"", "bad-image", "empty"),
        (b"these are words", "bad-image", "not a JPEG"),
        (encode(make_photo(), ".jpg")[:400], "bad-image", ""),  # half a frame
        (bytes(3_000_000), "too-large", ""),
        ("words on a binary socket", "bad-option", "frames are binary messages"),
        ("/9j/4AAQSkZJRgABAQAAAQ==", "bad-option", "frames are binary messages"),
        ('{"mode": "every"}', "bad-option", "options, in the first message"),
        ('{"end": 1}', "bad-option", "options, in the first message"),
        ('{"end": true}'.ljust(MAX_TEXT + 1), "bad-option", f"at most {MAX_TEXT} characters"),
    ],
)
async def test_a_bad_message_costs_one_error_and_the_stream_goes_on(
    free_service: Service, photo: bytes, bad: bytes | str, slug: str, words: str
):
    async with stream(free_service, mode="every") as socket:
        events = await converse(socket, [photo, bad, photo])
    (error,) = [event for event in events if event["event"] == "error"]
    assert error["type"] == slug
    assert words in error["detail"]
    assert "Traceback" not in error["detail"]
    summary = check(events, 3 if isinstance(bad, bytes) else 2)
    assert summary["results"] == 2


@pytest.mark.parametrize(
    ("first", "slug"),
    [
        ('{"modus": "every"}', "bad-option"),
        ('{"mode": "sometimes"}', "bad-option"),
        ('{"boxes": [[1, 2, 3]]}', "bad-option"),
        ("not json", "bad-option"),
        ("[]", "bad-option"),
        ('{"model": "nobody"}', "unknown-model"),
    ],
)
async def test_a_bad_first_message_ends_the_stream_with_its_reason(
    free_service: Service, first: str, slug: str
):
    async with stream(free_service) as socket:
        await socket.send(first)
        assert json.loads(await socket.recv())["type"] == slug
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1008


async def test_a_text_is_read_up_to_its_limit(free_service: Service):
    async with stream(free_service) as socket:
        await socket.send("{".ljust(MAX_TEXT + 1))
        error = json.loads(await socket.recv())
    assert error["type"] == "bad-option"
    assert f"at most {MAX_TEXT} characters" in error["detail"]
    async with stream(free_service) as socket:
        await socket.send('{"mode": "every"}'.ljust(MAX_TEXT))
        (summary,) = await converse(socket, [])
    assert summary["event"] == "summary"


async def test_options_reach_the_pipeline(free_service: Service, photo: bytes):
    options = {"mode": "every", "boxes": [[20, 10, 60, 90]], "format": "coco", "model": POSE_NAME}
    async with stream(free_service, **options) as socket:
        result, _ = await converse(socket, [photo])
    (row,) = result["results"]
    assert len(row["keypoints"]) == 51


async def test_tracked_people_keep_their_ids(free_service: Service, photo: bytes):
    async with stream(free_service, mode="every", track=True) as socket:
        events = await converse(socket, [photo] * 4)
    check(events, 4)
    for event in events[:-1]:
        assert [person["id"] for person in event["people"]] == [0, 1]
        for person in event["people"]:
            assert person["smoothed"].keys() == person["keypoints"].keys()


async def test_tracked_people_keep_their_ids_in_coco_form(free_service: Service, photo: bytes):
    async with stream(free_service, mode="every", track=True, format="coco") as socket:
        events = await converse(socket, [photo] * 3)
    check(events, 3)
    for event in events[:-1]:
        assert [row["id"] for row in event["results"]] == [0, 1]
        for row in event["results"]:
            assert row["image_id"] == event["frame"]
            assert len(row["smoothed"]) == len(row["keypoints"]) == 51
            assert row["smoothed"] == pytest.approx(row["keypoints"], abs=0.05)  # it stands still


async def test_a_stream_of_nothing_ends_with_its_summary(free_service: Service):
    async with stream(free_service) as socket:
        (summary,) = await converse(socket, [])
        assert socket.close_code == 1000
    assert summary["frames"] == 0
    assert summary["age_ms"] == {"p50": None, "p95": None}


async def test_one_stream_too_many_is_refused_with_a_problem(free_service: Service):
    async with stream(free_service), stream(free_service):
        with pytest.raises(InvalidStatus) as caught:
            async with stream(free_service):
                pass
    response = caught.value.response
    assert response.status_code == 429
    assert json.loads(response.body)["type"] == "overloaded"


async def test_clients_that_vanish_leave_nothing_behind(free_service: Service, photo: bytes):
    for _ in range(10):
        with suppress(InvalidStatus):  # the streams before may not be gone yet
            async with stream(free_service) as socket:
                await socket.send(photo)
                socket.transport.abort()
    async with httpx.AsyncClient(base_url=free_service.url, trust_env=False) as client:
        while 'posegate_in_flight{face="websocket"} 0.0' not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.05)
    assert "Traceback" not in free_service.log.read_text()


async def test_sigterm_gives_every_stream_its_summary(
    repository: Path, tmp_path: Path, photo: bytes
):
    with running_service(repository, tmp_path / "log") as service:
        async with stream(service, mode="every") as busy, stream(service) as silent:
            await busy.send(photo)
            first = json.loads(await busy.recv())
            await busy.send(photo)
            service.process.terminate()
            events = [first] + [json.loads(text) async for text in busy]
            summary = check(events, len(events) - 1)
            assert summary["results"] == len(events) - 1 >= 1
            assert json.loads(await silent.recv())["event"] == "summary"
            with pytest.raises(ConnectionClosed):
                await silent.recv()
            assert (busy.close_code, silent.close_code) == (1001, 1001)
        assert await asyncio.to_thread(service.process.wait, 60) == 0
        assert "Traceback" not in service.log.read_text()

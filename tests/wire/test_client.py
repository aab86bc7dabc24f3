"""posegate.client against a real service: both wires, one document; streams; retries."""

import asyncio
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from websockets.sync.server import ServerConnection, serve

from fakes import DETECTOR_NAME, POSE_NAME, encode, make_photo
from posegate.client import AsyncClient, Client
from posegate.client.transport import each
from posegate.errors import (
    BackendDown,
    BadImage,
    BadOption,
    DeadlineExceeded,
    Overloaded,
    PosegateError,
    TooLarge,
    Unauthenticated,
    UnknownModel,
)
from wire.running import Service, running_service

SMALL = encode(make_photo(width=64, height=48), ".jpg")
TIMES = ("stages_ms", "total_ms", "age_ms")


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout_s=60) as made:
        yield made


def timeless(document: dict) -> dict:
    return {name: value for name, value in document.items() if name not in TIMES}


def test_both_wires_give_the_same_documents(service: Service, photo: bytes):
    answers, streams, models = [], [], []
    options = {"min_score": 0.1, "boxes": [[20, 10, 60, 90], [50, 20, 40, 60]]}
    for address in service.urls.values():
        with Client(address, timeout_s=60) as client:
            answers.append([timeless(client.estimate(photo, **o)) for o in ({}, options)])
            events = list(client.stream([photo, b"", photo], mode="every", track=True))
            streams.append([timeless(event) for event in events])
            models.append(client.models())
    assert answers[0] == answers[1]
    assert streams[0] == streams[1]
    assert models[0] == models[1]
    assert [event["event"] for event in streams[0]] == ["result", "error", "result", "summary"]
    assert [card["name"] for card in models[0]] == [DETECTOR_NAME, POSE_NAME]


@pytest.mark.parametrize(
    ("image", "options", "error"),
    [
        (b"words", {}, BadImage),
        (bytes(21 * 2**20), {}, TooLarge),
        (SMALL, {"min_score": 3}, BadOption),
        (SMALL, {"min_skore": 0.3}, BadOption),
        (SMALL, {"min_score": True}, BadOption),
        (SMALL, {"max_people": True}, BadOption),
        (SMALL, {"decode": "DARK"}, BadOption),
        (SMALL, {"decode": "guess"}, BadOption),
        (SMALL, {"model": "nobody"}, UnknownModel),
        (SMALL, {"max_people": "many"}, BadOption),
        (SMALL, {"max_people": -1}, BadOption),
        (SMALL, {"max_people": 10**11}, BadOption),
        (SMALL, {"flip_test": "maybe"}, BadOption),
        (SMALL, {"boxes": "all"}, BadOption),
        (SMALL, {"boxes": 7}, BadOption),
        (SMALL, {"boxes": [[1, 2, 3]]}, BadOption),
        (SMALL, {"boxes": [[1, 2, 3, {4}]]}, BadOption),
    ],
)
def test_refusals_are_the_project_s_own_errors(
    client: Client, image: bytes, options: dict, error: type[Exception]
):
    with pytest.raises(error):
        client.estimate(image, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "nobody"}, UnknownModel, "nobody"),
        ({"detect_every": -1}, BadOption, "detect_every"),
        ({"detect_every": "often"}, BadOption, "detect_every"),
        ({"track": "maybe"}, BadOption, "track"),
        ({"boxes": [[1, 2, 3]]}, BadOption, "boxes"),
        ({"min_score": {0.5}}, BadOption, "min_score"),
        ({"min_score": True}, BadOption, "min_score"),
        ({"mode": "EVERY"}, BadOption, "mode"),
    ],
)
def test_a_refused_stream_raises_its_reason(
    client: Client, options: dict, error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        list(client.stream([SMALL], **options))


def test_options_that_are_none_count_as_not_given(client: Client, photo: bytes):
    none = dict.fromkeys(
        ("model", "detector", "min_score", "min_keypoint_score", "max_people", "boxes", "decode")
    )
    assert timeless(client.estimate(photo, **none)) == timeless(client.estimate(photo))
    *_, summary = client.stream([SMALL], **none, mode=None, detect_every=None, track=None)
    assert summary["results"] == 1


@pytest.mark.parametrize(
    "boxes",
    [
        ((20, 10, 60, 90), (50, 20, 40, 60)),
        np.array([[20, 10, 60, 90], [50, 20, 40, 60]], np.float32),
        list(np.array([[20, 10, 60, 90], [50, 20, 40, 60]])),
    ],
)
def test_boxes_may_be_tuples_and_arrays(client: Client, photo: bytes, boxes: object):
    plain = [[20, 10, 60, 90], [50, 20, 40, 60]]
    found = timeless(client.estimate(photo, boxes=boxes, min_score=np.float32(0.25)))
    assert found == timeless(client.estimate(photo, boxes=plain, min_score=0.25))
    event, _ = client.stream([photo], mode="every", boxes=boxes)
    assert [person["box"] for person in event["people"]] == plain


def test_a_whole_number_may_come_as_a_float(client: Client):
    assert len(client.estimate(SMALL, boxes=[[1, 2, 30, 40]], max_people=2.0)["people"]) == 1
    *_, summary = client.stream([SMALL], track=True, detect_every=2.0)
    assert summary["results"] == 1


def test_a_stream_left_early_is_closed(client: Client):
    events = client.stream(iter(lambda: SMALL, None), mode="every")
    assert next(events)["frame"] == 0
    events.close()
    assert client.estimate(SMALL)["model"] == POSE_NAME


@pytest.mark.parametrize("mode", ["live", "every"])
def test_leaving_a_stream_of_large_frames_takes_no_time(client: Client, mode: str):
    """Frames that lie on the way, and events that nobody read, hold up nobody."""
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    frame = encode(noise, ".jpg")
    events = client.stream(iter(lambda: frame, None), mode=mode)
    for _ in range(20):
        next(events)
    began = time.monotonic()
    events.close()
    assert time.monotonic() - began < 5


def test_an_interrupted_stream_is_closed(client: Client):
    closing = threading.Event()

    def frames() -> Iterator[bytes]:
        yield SMALL
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        closing.wait(10)

    events = client.stream(frames(), mode="every")
    with pytest.raises(KeyboardInterrupt):
        list(events)
    closing.set()
    assert client.estimate(SMALL)["model"] == POSE_NAME


def test_a_camera_that_blocks_does_not_hold_up_the_close(url: str):
    silence = threading.Event()

    def camera() -> Iterator[bytes]:
        yield SMALL
        silence.wait(20)

    try:
        with Client(url, timeout_s=60) as client:
            for event in client.stream(camera(), mode="every"):
                assert event["frame"] == 0
                break
            leaving = time.monotonic()
        assert time.monotonic() - leaving < 5
    finally:
        silence.set()


async def test_a_plain_iterator_is_read_as_far_as_asked_and_then_let_go():
    read, closed = [], threading.Event()

    def camera() -> Iterator[bytes]:
        try:
            for number in range(9):
                read.append(number)
                yield SMALL
        finally:
            closed.set()

    async with aclosing(each(camera())) as frames:
        for _ in range(2):
            await anext(frames)
        await asyncio.sleep(0.02)
        assert read == [0, 1]
    assert await asyncio.to_thread(closed.wait, 5)


def test_a_frame_too_large_to_be_read_is_told_apart(tight_service: Service):
    for address in tight_service.urls.values():
        with Client(address, timeout_s=60) as client, pytest.raises(TooLarge) as raised:
            list(client.stream([SMALL, bytes(10 * 2**20)], mode="every"))
        assert raised.value.retry_after_s is None
        assert address.startswith("grpc") or "at most 100000 bytes" in raised.value.detail


def test_what_the_frames_raise_reaches_the_caller(client: Client):
    def frames() -> Iterator[bytes]:
        yield SMALL
        raise ValueError("the camera fell off")

    with pytest.raises(ValueError, match="fell off"):
        list(client.stream(frames()))


def test_a_plain_iterator_feeds_a_live_stream(client: Client):
    *events, summary = client.stream(iter([SMALL] * 5))
    assert [event["frame"] for event in events] == list(range(5))
    assert summary["results"] + sum(summary["dropped"].values()) == 5


async def test_the_async_client_takes_async_frames(url: str):
    async def frames():
        for _ in range(3):
            yield SMALL

    async with AsyncClient(url, timeout_s=60) as client:
        answers = await asyncio.gather(*(client.estimate(SMALL) for _ in range(4)))
        assert len({str(answer["people"]) for answer in answers}) == 1
        events = [event async for event in client.stream(frames(), mode="every")]
    assert [event["event"] for event in events] == ["result"] * 3 + ["summary"]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there_is_tried_again_and_then_said(scheme: str, service: Service):
    address = f"{scheme}://127.0.0.1:9"
    with Client(address, timeout_s=5, retries=1) as client, pytest.raises(BackendDown):
        client.estimate(SMALL)


def test_an_answer_that_drips_is_given_up_in_time():
    """Every byte comes soon, the last one never."""

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, daemon=True).start()
        with (
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.5) as client,
            pytest.raises(DeadlineExceeded, match=r"no answer within 0\.5 s"),
        ):
            client.estimate(SMALL)


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(BadOption, match="grpc://"):
        Client("ftp://somewhere")


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "grpc://127.0.0.1:99999", "http://[::1"])
def test_a_port_or_host_that_cannot_be_is_refused(url: str):
    with pytest.raises(BadOption, match="url is"):
        Client(url)


def test_grpc_takes_no_path():
    with pytest.raises(BadOption, match="gRPC has no paths"):
        Client("grpc://127.0.0.1:8081/posegate")
    Client("grpc://127.0.0.1:8081/").close()


def test_a_scheme_may_be_written_in_capitals(service: Service):
    with Client(service.url.replace("http", "HTTP")) as client:
        assert [event["event"] for event in client.stream([SMALL])] == ["result", "summary"]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "nonsense://127.0.0.1:9"])
async def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(BadOption, match=r"the proxy .* cannot be used: .*NO_PROXY"):
        AsyncClient("http://127.0.0.1:9")
    monkeypatch.delenv("ALL_PROXY")
    async with AsyncClient("http://127.0.0.1:9") as client:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with pytest.raises(BadOption, match=r"the proxy .* cannot be used: .*NO_PROXY"):
            await anext(client.stream([SMALL]))


async def test_a_closed_client_says_so(url: str):
    client = AsyncClient(url)
    await client.models()
    await client.close()
    for ask in (client.models, lambda: client.estimate(SMALL), lambda: client.stream([SMALL])):
        with pytest.raises(RuntimeError, match="this client is closed; make another"):
            await ask()


def test_a_forked_process_is_told_that_it_needs_a_client_of_its_own(client: Client):
    assert client.estimate(SMALL)["model"] == POSE_NAME
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            client.estimate(SMALL)
        except RuntimeError as error:
            os.write(writing, str(error).encode())
        client.close()  # nothing to wait for
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 200) == b"this client is of another process; make one after the fork"
    assert client.estimate(SMALL)["model"] == POSE_NAME


def test_a_stream_of_a_hung_service_ends(service: Service, url: str):
    with Client(url, timeout_s=1.0) as client:
        events = client.stream(iter(lambda: SMALL, None), mode="every")
        assert next(events)["event"] == "result"
        with service.paused():
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded, match="no event for 1 s, though frames wait"):
                list(events)
        assert 0.9 < time.monotonic() - began < 10


def test_a_camera_that_is_slow_is_waited_for(url: str):
    def camera() -> Iterator[bytes]:
        yield SMALL
        time.sleep(1.5)
        yield SMALL

    with Client(url, timeout_s=0.5) as client:
        assert [e["event"] for e in client.stream(camera())] == ["result", "result", "summary"]


async def test_only_what_is_retryable_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    client = AsyncClient("http://127.0.0.1:9", retries=3)
    refusals: list[Exception] = []

    async def refuse(image: bytes, options: dict, timeout_s: float) -> dict:
        if refusals:
            raise refusals.pop(0)
        return {"model": "m"}

    monkeypatch.setattr(client._transport, "estimate", refuse)
    refusals += [Overloaded("busy", retry_after_s=0.01), BackendDown("down", retry_after_s=0.01)]
    assert await client.estimate(b"") == {"model": "m"}
    refusals += [BadImage("broken"), Overloaded("never reached", retry_after_s=0.01)]
    with pytest.raises(BadImage):
        await client.estimate(b"")
    assert len(refusals) == 1
    await client.close()


# what the service asks for, seconds, and the least time before each of the three further tries
@pytest.mark.parametrize(
    ("asked_s", "waits_s"),
    [(0.0, [0.1, 0.2, 0.4]), (0.3, [0.3, 0.3, 0.4]), (5.0, [5.0, 5.0, 5.0])],
)
async def test_tries_are_ever_further_apart_and_never_sooner_than_asked(
    monkeypatch: pytest.MonkeyPatch, asked_s: float, waits_s: list[float]
):
    waited: list[float] = []

    async def refuse(image: bytes, options: dict, timeout_s: float) -> dict:
        raise Overloaded("busy", retry_after_s=asked_s)

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async with AsyncClient("http://127.0.0.1:9") as client:
        monkeypatch.setattr(client._transport, "estimate", refuse)
        monkeypatch.setattr("posegate.client.asynchronous.asyncio.sleep", sleep)
        with pytest.raises(Overloaded):
            await client.estimate(b"")
    assert len(waited) == len(waits_s)
    shares = np.array(waited) / waits_s
    assert shares.min() >= 1.0
    assert shares.max() <= 1.25  # spread, so that many callers do not come back at once


async def test_a_refusal_that_asks_for_more_time_than_is_left_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
):
    async def refuse(image: bytes, options: dict, timeout_s: float) -> dict:
        raise Overloaded("busy", retry_after_s=10.0)

    async with AsyncClient("http://127.0.0.1:9", timeout_s=9.0) as client:
        monkeypatch.setattr(client._transport, "estimate", refuse)
        began = time.monotonic()
        with pytest.raises(Overloaded):
            await client.estimate(b"")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decode": "DARK"}, "decode is 'DARK'; it must be dark, quarter or argmax"),
        ({"mode": "fast"}, "mode is 'fast'; it must be live or every"),
        ({"max_people": -1}, "max_people is -1; it must be a whole number from 1"),
        ({"min_score": "0.5"}, "min_score is '0.5'; it must be a number"),
        ({"track": "maybe"}, "track is 'maybe'; it must be True or False"),
        (
            {"format": "coco"},
            r"option 'format' is unknown .*; allowed: model, .*, mode, track",
        ),
    ],
)
def test_what_grpc_cannot_carry_is_refused_with_what_is_allowed(
    service: Service, options: dict, words: str
):
    with Client(service.urls["grpc"]) as client, pytest.raises(BadOption, match=words):
        list(client.stream([SMALL], **options))


def test_a_client_made_before_the_loop_serves_in_it(service: Service):
    for url in service.urls.values():
        client = AsyncClient(url)

        async def ask(client: AsyncClient = client) -> str:
            async with client:
                return (await client.estimate(SMALL))["model"]

        assert asyncio.run(ask()) == POSE_NAME


def test_the_api_key_is_sent_on_every_wire(repository: Path, tmp_path: Path):
    known = hashlib.sha256(b"secret").hexdigest()
    with running_service(repository, tmp_path / "log", api_key_sha256=known) as service:
        for address in service.urls.values():
            with Client(address, api_key="secret", timeout_s=60) as client:
                assert client.estimate(SMALL)["model"] == POSE_NAME
                assert list(client.stream([SMALL], mode="every"))[-1]["results"] == 1
            with Client(address, api_key="wrong", timeout_s=60) as client:
                with pytest.raises(Unauthenticated):
                    client.estimate(SMALL)
                with pytest.raises(Unauthenticated):
                    list(client.stream([SMALL]))


def test_keys_of_any_letters_are_sent_as_utf_8(repository: Path, tmp_path: Path):
    known = hashlib.sha256("schlüssel".encode()).hexdigest()
    with running_service(repository, tmp_path / "log", api_key_sha256=known) as service:
        with Client(service.url, api_key="schlüssel\n", timeout_s=60) as client:
            assert client.estimate(SMALL)["model"] == POSE_NAME
            assert list(client.stream([SMALL], mode="every"))[-1]["results"] == 1
        with pytest.raises(BadOption, match="ASCII"):
            Client(service.urls["grpc"], api_key="schlüssel")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "grpc://127.0.0.1:1"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(url: str):
    with pytest.raises(BadOption, match="line break") as refused:
        Client(url, api_key="se\ncret")
    assert "cret" not in refused.value.detail


def test_another_service_is_told_apart():
    """One that answers 200 to anything, as a start page does."""

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Welcome</html>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            told = pytest.raises(PosegateError, match=f"{url} is no posegate")
            with Client(url, timeout_s=20) as client, told:
                client.estimate(SMALL)
        finally:
            server.shutdown()


@pytest.mark.parametrize("said", ["hello", "[]", "{}"])
def test_another_service_of_websockets_is_told_apart(said: str):
    def greet(socket: ServerConnection) -> None:
        socket.send(said)
        for _ in socket:
            pass

    with serve(greet, "127.0.0.1", 0) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        told = pytest.raises(PosegateError, match=f"{url} is no posegate")
        with Client(url, timeout_s=20) as client, told:
            list(client.stream([SMALL]))
        server.shutdown()


def test_a_client_may_be_closed_twice_and_then_says_that_it_is(url: str):
    with Client(url, timeout_s=60) as client:
        client.close()
    client.close()
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.estimate(SMALL)


ENDINGS = {
    "after an answer": "client.estimate(photo)",
    "amid a stream": "events = client.stream([photo] * 9, mode='every'); next(events)",
    "by an exception": "client.estimate(photo); raise SystemExit(0)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_client_that_is_never_closed_lets_the_program_end(
    url: str, photo: bytes, tmp_path: Path, ending: str
):
    (tmp_path / "photo.jpg").write_bytes(photo)
    program = (
        "from pathlib import Path; from posegate.client import Client; "
        f"client, photo = Client({url!r}), Path('photo.jpg').read_bytes(); {ENDINGS[ending]}"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, timeout=60, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        ("walk.mp4", "frames is str; it must be an iterable of encoded pictures"),
        (b"picture", "frames is bytes"),
        (None, "frames is NoneType"),
        (["a.jpg"], "a frame is str; it must be the bytes"),
        ([np.zeros((4, 4, 3), np.uint8)], r"a frame is ndarray; .* as cv2.imencode"),
    ],
)
def test_frames_that_are_no_encoded_pictures_are_named(client: Client, frames, named: str):
    with pytest.raises(TypeError, match=named):
        list(client.stream(frames))


@pytest.mark.parametrize("image", ["photo.jpg", Path("photo.jpg"), io.BytesIO(b"x"), None])
def test_what_is_no_file_content_is_told_so(client: Client, image: object):
    with pytest.raises(TypeError, match=r"must be the bytes of a picture's file"):
        client.estimate(image)


def test_any_kind_of_bytes_will_do(client: Client, photo: bytes):
    for image in (bytearray(photo), memoryview(photo)):
        assert len(client.estimate(image)["people"]) == 2

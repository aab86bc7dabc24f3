"""Clients that never read, stand still or vanish: others are served, and nothing stays behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from fakes import encode, make_photo
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.client import Client
from wire.running import Service, running_service, wait_until

SMALL = encode(make_photo(width=64, height=48), ".jpg")
PEOPLE = 100
BOXES = [[10, 10, 30, 30]] * PEOPLE
"""Events of about 90 kB: the socket buffers of a client that does not read are soon full."""
T = TypeVar("T")
STUCK_S = 8.0
LIMIT_S = 150.0
MOST_GROWTH = 120 * 2**20
DROPS = 1000
IMPATIENT = 1000

STREAMING = """
import sys
from itertools import repeat
from posegate.client import Client
with Client(sys.argv[1]) as client:
    for event in client.stream(repeat(open(sys.argv[2], "rb").read()), mode=sys.argv[3],
                               boxes=[[10, 10, 30, 30]] * 50, track=True):
        print(event["frame"], flush=True)
"""


@pytest.fixture(scope="module")
def patient(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that gives up on a client after `STUCK_S`, and takes few streams."""
    log = tmp_path_factory.mktemp("patient") / "log"
    limits = {
        "request_timeout_s": STUCK_S,
        "max_streams": 6,
    }
    with running_service(repository, log, **limits) as running:
        yield running


def others_are_served(service: Service) -> None:
    for url in service.urls.values():
        with Client(url, timeout_s=60) as client:
            assert len(client.estimate(SMALL)["people"]) == 2
            *_, summary = client.stream([SMALL] * 5, mode="every")
            assert summary["frames"] == 5
            assert summary["results"] > 0


def test_clients_that_never_read_are_given_up(patient: Service):
    """On both faces: others are served in bounded memory; then the streams are ended."""
    others_are_served(patient)
    before = patient.rss_bytes()
    with deaf_websocket(patient, "every"), deaf_grpc(patient, pb.STREAM_MODE_LIVE):
        assert open_streams(patient) > 0
        others_are_served(patient)
        assert patient.rss_bytes() - before < MOST_GROWTH
        wait_until(lambda: open_streams(patient) == 0, LIMIT_S)
        assert patient.rss_bytes() - before < MOST_GROWTH
        others_are_served(patient)
    assert "Traceback" not in patient.log.read_text()


def test_clients_that_stand_still_disturb_nobody(patient: Service, tmp_path: Path):
    """Stopped by a signal in mid-stream, on both faces; then they are killed."""
    others_are_served(patient)
    before = patient.rss_bytes()
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(SMALL)
    with (
        stopped_child(patient.url, photo, "live"),
        stopped_child(patient.urls["grpc"], photo, "every"),
    ):
        others_are_served(patient)
        assert patient.rss_bytes() - before < MOST_GROWTH
    wait_until(lambda: open_streams(patient) == 0, LIMIT_S)
    assert "Traceback" not in patient.log.read_text()


def open_streams(service: Service) -> int:
    """How many are open, once the calls of `others_are_served` have ended."""
    counts = re.findall(r'posegate_in_flight{face="(?:grpc|websocket)"} (\d+)', service.metrics())
    return sum(map(int, counts))


def paced(message: T) -> Iterator[T]:
    """The message again and again, at a camera's pace."""
    for again in repeat(message):
        yield again
        time.sleep(0.05)


@contextmanager
def deaf_websocket(service: Service, mode: str) -> Iterator[None]:
    """Sends frames for ever and reads no event."""
    options = json.dumps({"mode": mode, "boxes": BOXES, "max_people": PEOPLE}).encode()

    def send() -> None:
        with suppress(OSError):
            connection.sendall(text_message(options))
            for frame in paced(binary_message(SMALL)):
                connection.sendall(frame)

    with open_websocket(service) as connection:
        sender = threading.Thread(target=send)
        sender.start()
        yield
        with suppress(OSError):  # it has been cut off
            connection.shutdown(socket.SHUT_RDWR)
        sender.join(LIMIT_S)


@contextmanager
def deaf_grpc(service: Service, mode: int) -> Iterator[None]:
    """The same over gRPC."""
    boxes = pb.Boxes(boxes=[pb.Box(x=x, y=y, width=w, height=h) for x, y, w, h in BOXES])
    options = pb.StreamOptions(
        mode=mode, estimate=pb.EstimateOptions(boxes=boxes, max_people=PEOPLE)
    )
    frames = paced(pb.StreamRequest(frame=SMALL))
    with grpc.insecure_channel(service.grpc_address) as channel:
        stub = services.PoseServiceStub(channel)
        call = stub.Stream(chain([pb.StreamRequest(options=options)], frames))
        yield
        call.cancel()


@contextmanager
def stopped_child(url: str, photo: Path, mode: str) -> Iterator[None]:
    """A process that streams as it should until SIGSTOP."""
    command = [sys.executable, "-c", STREAMING, url, str(photo), mode]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == b"0\n"
            child.send_signal(signal.SIGSTOP)
            yield
        finally:
            child.kill()


def test_a_thousand_connects_and_drops_leave_nothing_behind(service: Service):
    drops = [drop_connection, drop_half_a_request, drop_websocket, drop_stream, drop_grpc]
    logged = len(service.log.read_text())
    for drop in drops * 4:  # whatever is made once and kept
        drop(service)
    others_are_served(service)
    service.wait_until_idle()
    handles, threads, before = service.handles(), service.threads(), service.rss_bytes()
    for number in range(DROPS):
        drops[number % len(drops)](service)
    service.wait_until_idle()
    wait_until(lambda: service.handles() <= handles + 2)
    assert service.threads() <= threads + 2
    assert service.rss_bytes() - before < 30 * 2**20
    others_are_served(service)
    news = service.log.read_text()[logged:]
    assert "Traceback" not in news
    assert "never retrieved" not in news


def open_websocket(service: Service) -> socket.socket:
    """A WebSocket after its handshake, with a small buffer for what is received."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    connection.settimeout(60)
    connection.connect((service.host, service.port))
    connection.sendall(HANDSHAKE)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1024)
    assert b" 101 " in received
    return connection


def reset(connection: socket.socket) -> None:
    """Close with a reset, as a crashed process behind a dead network would seem."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def drop_connection(service: Service) -> None:
    reset(service.connect())


def drop_half_a_request(service: Service) -> None:
    connection = service.connect()
    connection.sendall(
        b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + SMALL
    )
    reset(connection)


def drop_websocket(service: Service) -> None:
    connection = service.connect()
    connection.sendall(HANDSHAKE)
    reset(connection)


def drop_stream(service: Service) -> None:
    connection = service.connect()
    connection.sendall(HANDSHAKE + binary_message(SMALL) + binary_message(SMALL)[:50])
    time.sleep(0.002)
    reset(connection)


def drop_grpc(service: Service) -> None:
    host, port = service.grpc_address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    reset(connection)


HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def text_message(data: bytes) -> bytes:
    return _message(0x81, data)


def binary_message(data: bytes) -> bytes:
    return _message(0x82, data)


def _message(head: int, data: bytes) -> bytes:
    """A whole masked message; the mask is zero, so the bytes are themselves."""
    assert 126 <= len(data) < 65536
    return bytes([head, 0xFE]) + len(data).to_bytes(2, "big") + bytes(4) + data


def test_answers_that_come_too_late_are_logged_on_one_line(service: Service):
    """Deadlines around the time of an answer: some clients leave just as theirs is being sent."""
    logged = len(service.log.read_text())
    boxes = pb.Boxes(boxes=[pb.Box(x=10, y=10, width=30, height=30)])
    asked = pb.EstimateRequest(image=SMALL, options=pb.EstimateOptions(boxes=boxes))
    with grpc.insecure_channel(service.grpc_address) as channel:
        stub = services.PoseServiceStub(channel)
        for number in range(IMPATIENT):
            with suppress(grpc.RpcError):
                stub.Estimate(asked, timeout=0.012 * number / IMPATIENT)
    others_are_served(service)
    assert "Traceback" not in service.log.read_text()[logged:]

"""Bodies and messages in countless small pieces, which cost the event loop far more than bytes."""

import socket
import time
from contextlib import suppress

import pytest

from posegate.api.websocket import MAX_FRAGMENTS
from wire.running import Service
from wire.test_limits import read_all

HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CHUNKED = b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
TEXT, BINARY, PING = 1, 2, 9
MASKED, FINAL = 0x80, 0x80


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """Of a client, masked with zeros."""
    return bytes([FINAL * final | opcode, MASKED | len(payload)]) + bytes(4) + payload


def opened(service: Service) -> socket.socket:
    connection = service.connect()
    connection.sendall(HANDSHAKE)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 101 ")
    return connection


@pytest.mark.parametrize(
    ("size", "count", "status"), [(1, 900, 415), (1, 3000, 400), (40, 3000, 415)]
)
def test_a_body_of_thousands_of_tiny_chunks_is_refused(
    service: Service, size: int, count: int, status: int
):
    chunk = b"%x\r\n" % size + b"x" * size + b"\r\n"
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with service.connect() as connection:
        with service.paused():
            connection.sendall(head + chunk * count + b"0\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"thousands of chunks" in answer) == (status == 400)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(b"", frame(PING)), (frame(BINARY, final=False), frame(0, b"x", final=False))],
    ids=["pings", "fragments"],
)
def test_thousands_of_small_frames_at_once_end_a_stream(
    service: Service, begin: bytes, piece: bytes
):
    with opened(service) as connection:
        with service.paused():
            connection.sendall(begin + piece * 3000)
        assert b"too many small frames" in read_all(connection)
    with opened(service) as connection:
        with service.paused():
            connection.sendall(begin + piece * 900)
        connection.sendall(frame(0) if begin else frame(BINARY))
        connection.sendall(frame(TEXT, b'{"end": true}'))
        received = b""
        while b'"summary"' not in received:
            received += connection.recv(65_536)


def test_a_message_of_endless_fragments_ends_a_stream(service: Service):
    with opened(service) as connection:
        connection.sendall(frame(BINARY, final=False))
        for _ in range(MAX_FRAGMENTS // 256):
            connection.sendall(frame(0, bytes(64), final=False) * 256)
        connection.sendall(frame(0, bytes(64), final=False))
        assert b"too many small frames" in read_all(connection)


def test_pongs_that_nobody_reads_do_not_fill_the_memory(service: Service):
    with opened(service) as connection, suppress(OSError):
        connection.settimeout(5)
        before = service.rss_bytes()
        ends = time.monotonic() + 30
        for _ in range(250):
            connection.sendall(frame(PING, bytes(125)) * 1000)
            assert time.monotonic() < ends
        assert service.rss_bytes() - before < 10 * 2**20
    service.wait_until_idle()

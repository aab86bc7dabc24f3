"""gRPC keepalive, frame by frame over a bare socket: who is pinged, who may ping, and how often."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from grpc_health.v1.health import aio as health

from posegate.api import grpc as face
from posegate.metrics import Metrics
from posegate.settings import Settings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1
KEEPALIVE_S = 1.0
"""Instead of the service's 20 s; pings may come twice as often."""
LIMIT_S = 60.0
Frame = tuple[int, int, bytes]


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """As it goes over the wire, on stream 0."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


class Peer:
    """An HTTP/2 connection without any call on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.send(PREFACE, frame(SETTINGS))

    def send(self, *frames: bytes) -> None:
        """All at once: the end of a connection makes further writes fail and loses its reason."""
        self._writer.write(b"".join(frames))

    async def next(self, *kinds: int) -> Frame:
        """Kind, flags and payload of the next frame of one of these kinds."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] in kinds:
                    return head[3], head[4], payload


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "KEEPALIVE_MS", round(KEEPALIVE_S * 1000))


@asynccontextmanager
async def connected() -> AsyncIterator[Peer]:
    """A peer of the service's own server, whose methods nobody calls here."""
    methods = SimpleNamespace(Estimate=None, Stream=None, ListModels=None)
    server = face.create_grpc_server(methods, health.HealthServicer(), Settings(), Metrics())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        await server.stop(None)


async def test_an_idle_client_is_pinged(soon: None):
    async with connected() as peer:
        for _ in range(2):
            _, flags, payload = await peer.next(PING)
            assert flags == 0
            peer.send(frame(PING, ACK, payload))


async def test_a_client_that_pings_as_often_as_it_may_stays(soon: None):
    async with connected() as peer:
        await peer.next(SETTINGS)
        for number in range(6):
            sent = struct.pack(">Q", number)
            peer.send(frame(PING, 0, sent))
            assert await answered(peer, sent)
            await asyncio.sleep(0.6 * KEEPALIVE_S)


async def test_a_client_that_pings_without_pause_is_told_to_go():
    async with connected() as peer:
        await peer.next(SETTINGS)
        peer.send(*(frame(PING, 0, struct.pack(">Q", number)) for number in range(6)))
        _, _, payload = await peer.next(GOAWAY)
        assert payload.endswith(b"too_many_pings")


async def answered(peer: Peer, sent: bytes) -> bool:
    """Whether the ping is answered rather than the connection ended; pings back as it should."""
    while True:
        kind, flags, payload = await peer.next(PING, GOAWAY)
        if kind == GOAWAY or flags == ACK:
            return payload == sent
        peer.send(frame(PING, ACK, payload))

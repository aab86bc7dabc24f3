"""Which heads the door refuses, beside what h11 makes of the same bytes."""

import asyncio
from unittest.mock import create_autospec

import h11
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from posegate.api.early import Door, EarlyProtocol, behind
from posegate.api.keys import ApiKeys
from posegate.api.limits import Slots
from posegate.metrics import Metrics
from posegate.settings import Settings

PLAIN = b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n"
PIECES = st.sampled_from(
    [b"POST", b"GET", b" ", b"/v1/poses", b":batch", b"?a=1", b"HTTP/1.1", b"HTTP/1.0", b"\r\n",
     b"\n", b"Host: x", b"Content-Length: 12", b"content-length:7", b"Content-Length: +7",
     b"Transfer-Encoding: chunked", b"X: y", b" folded", b"\0", b"\xff", b":"]
)  # fmt: skip


def door(*, free: int = 0) -> Door:
    slots = Slots(free)
    return Door(slots, ApiKeys(Settings()), Metrics(), max_body_bytes=1000)


def test_a_plain_head_is_refused_with_the_length_of_head_and_body():
    refused = door().refuse(PLAIN + b"rest")
    assert refused is not None
    assert (refused.head, refused.body, refused.closes) == (len(PLAIN), 12, False)
    assert refused.answer.startswith(b"HTTP/1.1 429 Too many requests\r\n")


def test_nobody_is_refused_while_there_is_room():
    assert door(free=1).refuse(PLAIN) is None


@pytest.mark.parametrize(
    "head",
    [
        PLAIN[:-2],
        PLAIN.replace(b"POST", b"GET"),
        PLAIN.replace(b"poses", b"models"),
        PLAIN.replace(b"poses", b"posesx"),
        PLAIN.replace(b"1.1", b"1.0"),
        PLAIN.replace(b"12", b"1200"),
        PLAIN.replace(b"12", b"-1"),
        PLAIN.replace(b"12", b"9" * 5000),
        PLAIN.replace(b"Content-Length: 12\r\n", b""),
        PLAIN.replace(b"Host: x", b"Content-Length: 3"),
        PLAIN.replace(b"Host: x", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"Host: x", b"Expect: 100-continue"),
        PLAIN.replace(b"Host: x", b"Host: x\r\n folded"),
        PLAIN.replace(b"Host: x", b"Ho st: x"),
        PLAIN.replace(b"Host: x", b"X: " + bytes([0])),
        PLAIN.replace(b"Host: x", b"X: " + b"y" * 9000),
    ],
)
def test_whatever_is_not_plain_takes_the_ordinary_way(head: bytes):
    assert door().refuse(head) is None


@settings(deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=14))
def test_h11_reads_a_refused_head_the_same_way(pieces: list[bytes]):
    data = b"POST /v1/poses HTTP/1.1\r\nHost: x\r\n" + b"".join(pieces) + b"\r\n\r\n"
    if not (refused := door().refuse(data)):
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data[: refused.head])
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    lengths = [int(value) for name, value in request.headers if name == b"content-length"]
    assert lengths == [refused.body]
    assert connection.trailing_data[0] == b""


async def test_who_is_let_in_counts_before_the_slot_is_taken():
    room = door(free=1)
    first, second, third = (connected(room) for _ in range(3))
    first.data_received(PLAIN)
    second.data_received(PLAIN)
    assert (answered(first), answered(second)) == (b"", b"HTTP/1.1 429 Too many requests")
    await asyncio.sleep(0)
    third.data_received(PLAIN)
    assert answered(third) == b"", "nobody took the slot, so it is free again"


async def test_other_requests_count_for_no_slot():
    room = door(free=1)
    asking, other = connected(room), connected(room)
    other.data_received(PLAIN.replace(b"poses", b"models"))
    asking.data_received(PLAIN)
    assert answered(asking) == b""


async def test_who_leaves_answers_unread_is_sent_no_further_ones():
    protocol = connected(door())
    protocol.data_received(PLAIN + bytes(12))
    protocol.pause_writing()
    protocol.data_received((PLAIN + bytes(12)) * 3)
    assert protocol.transport.write.call_count == 1
    assert protocol.flow.read_paused
    protocol.resume_writing()


async def test_the_one_on_the_way_takes_the_slot():
    slots = Slots(1)
    slots.expect()
    with slots.taken():
        await asyncio.sleep(0)
        assert slots.spoken_for
    assert not slots.spoken_for


def connected(room: Door) -> EarlyProtocol:
    """A connection to an application that never takes a slot and never answers."""

    async def never_answering(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    config = uvicorn.Config(never_answering, lifespan="off", ws="none", log_config=None)
    config.load()
    protocol = behind(room)(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(create_autospec(asyncio.Transport, instance=True))
    return protocol


def answered(protocol: EarlyProtocol) -> bytes:
    """The first line of what was sent."""
    written = protocol.transport.write.call_args_list
    return b"".join(call.args[0] for call in written).partition(b"\r\n")[0]

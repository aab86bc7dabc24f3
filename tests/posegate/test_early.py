"""Which heads the door refuses, beside what h11 makes of the same bytes."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posegate.api.early import Door
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

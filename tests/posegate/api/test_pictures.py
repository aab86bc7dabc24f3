"""Drawn pictures on their way to the client: posegate.api.pictures."""

import asyncio

import pytest
from fastapi import Request

from posegate.api.pictures import PIECE_BYTES, PictureResponse

PICTURE = bytes(range(256)) * (PIECE_BYTES // 100)


class Client:
    """Takes `takes` messages at once, and then none until `reads` is set."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.reads = asyncio.Event()
        self.messages: list[dict[str, object]] = []

    async def send(self, message: dict[str, object]) -> None:
        if len(self.messages) == self.takes:
            await self.reads.wait()
        self.messages.append(message)


@pytest.fixture
def request_() -> Request:
    request = Request({"type": "http", "state": {}})
    request.state.problems = []
    return request


async def receive() -> dict[str, object]:
    return {"type": "http.disconnect"}


async def test_a_picture_is_sent_in_pieces_and_held_until_the_last(request_: Request) -> None:
    response = PictureResponse(PICTURE, media_type="image/png", request=request_, limit_s=60)
    ended = asyncio.Event()
    response.held.callback(ended.set)
    client = Client(takes=3)
    sending = asyncio.create_task(response(request_.scope, receive, client.send))
    await asyncio.sleep(0.01)
    assert not ended.is_set()
    client.reads.set()
    await sending
    assert ended.is_set()
    start, *body = client.messages
    assert (b"content-length", str(len(PICTURE)).encode()) in start["headers"]
    assert b"".join(part["body"] for part in body) == PICTURE
    assert max(len(part["body"]) for part in body) <= PIECE_BYTES
    assert [part["more_body"] for part in body] == [True] * (len(body) - 1) + [False]
    assert request_.state.problems == []


async def test_a_client_that_does_not_read_is_given_up_and_that_is_told(request_: Request) -> None:
    response = PictureResponse(PICTURE, media_type="image/png", request=request_, limit_s=0.02)
    ended = asyncio.Event()
    response.held.callback(ended.set)
    client = Client(takes=3)
    async with asyncio.timeout(60):
        await response(request_.scope, receive, client.send)
    assert ended.is_set()
    assert client.messages[-1]["more_body"] is True  # no end: the server closes the connection
    (problem,) = request_.state.problems
    assert problem.slug == "deadline"
    assert "was not read within 0.02 s" in problem.detail

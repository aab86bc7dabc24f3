"""GET /v1/stream, below the server: posegate.api.stream."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from posegate.api.keys import ApiKeys
from posegate.api.stream import STREAM, stream_router
from posegate.metrics import Metrics
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posegate.streams import Streams

CONNECT = {"type": "websocket.connect"}
LEAVE = {"type": "websocket.disconnect", "code": 1000}


def said(message: str | bytes) -> dict[str, Any]:
    kind = "text" if isinstance(message, str) else "bytes"
    return {"type": "websocket.receive", kind: message}


@pytest.mark.parametrize("late", [[], [said(b"a frame"), said("a word")]])
async def test_a_client_that_leaves_after_its_end_is_not_worked_for(
    pipeline: Pipeline,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    late: list[dict[str, Any]],
) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def sent(_: object) -> None:
        pass

    monkeypatch.setattr(pipeline, "estimate", never)
    app = FastAPI()
    streams = Streams(pipeline, settings, Metrics())
    app.include_router(stream_router(streams, ApiKeys(settings)))
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    for message in (CONNECT, said('{"mode": "every"}'), said(b"a frame"), said('{"end": true}')):
        messages.put_nowait(message)
    scope = {"type": "websocket", "path": STREAM, "query_string": b"", "headers": []}
    conversation = asyncio.create_task(app(scope, messages.get, sent))
    await begun.wait()
    await asyncio.sleep(0.01)
    assert not conversation.done()
    for message in (*late, LEAVE):
        messages.put_nowait(message)
    async with asyncio.timeout(5):
        await conversation
        await cancelled.wait()
        await streams.finish()

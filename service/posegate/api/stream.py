"""GET /v1/stream: messages of a WebSocket -> stream engine -> one text message per event."""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from posegate.api import stream_document
from posegate.api.events import event_json, refusal_json
from posegate.api.keys import ApiKeys
from posegate.api.options import DEFAULT_STREAM, MAX_TEXT, parse_stream_query
from posegate.api.problems import Problem, ProblemResponse, problem_of
from posegate.api.websocket import NO_TEXT
from posegate.errors import BadOption, PosegateError, TooLarge, status_of
from posegate.events import Event
from posegate.streams import StreamOptions, Streams

NORMAL, GOING_AWAY, POLICY, TRY_LATER = 1000, 1001, 1008, 1013
"""Close codes (RFC 6455 and its registry)."""
BREACHES = {
    1002: BadOption("what came over the WebSocket breaks its protocol (RFC 6455)"),
    1007: BadOption(NO_TEXT),
    1009: TooLarge("a message of the stream is over twice max_body_bytes"),
}
"""What was wrong where the protocol below ended a stream, by its close code."""
LAST_WORD_S = 1.0
STREAM = "/v1/stream"
LATE_TEXT = (
    'frames are binary messages; text is only for options, in the first message, or {"end": true}'
)


def stream_router(streams: Streams, keys: ApiKeys) -> APIRouter:
    """The one WebSocket route. What is refused before the handshake is a problem document."""
    router = APIRouter()

    @router.get(STREAM, tags=["poses"], **stream_document.STREAM)
    async def ask_for_upgrade() -> Response:
        headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
        raise HTTPException(426, stream_document.UPGRADE_NEEDED, headers)

    @router.websocket(STREAM)
    async def stream(socket: WebSocket) -> None:
        try:
            keys.check(socket.headers)
            if socket.scope["query_string"]:
                raise BadOption(stream_document.NO_QUERY)
            with streams.slot():
                await socket.accept()
                await _converse(socket, streams)
        except PosegateError as error:
            await socket.send_denial_response(ProblemResponse(problem_of(error), socket))

    return router


async def no_such_address(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI application of every address that no route takes."""
    if scope["type"] != "websocket":
        raise HTTPException(404)
    socket = WebSocket(scope, receive, send)
    detail = f"There is no WebSocket at this address; the stream is at {STREAM}."
    problem = Problem("not-found", "Not Found", 404, detail)
    await socket.send_denial_response(ProblemResponse(problem, socket))


async def _converse(socket: WebSocket, streams: Streams) -> None:
    conversation = _Conversation(socket)
    code = NORMAL
    try:
        async with aclosing(conversation.incoming()) as incoming:
            await conversation.unless_left(streams.run(incoming, conversation.send))
        if streams.finishing:
            code = GOING_AWAY
    except PosegateError as error:
        socket.state.problems.append(problem_of(error))
        code = TRY_LATER if status_of(error).retryable else POLICY
        with suppress(TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(LAST_WORD_S):
                await socket.send_text(refusal_json(error))
    except WebSocketDisconnect as error:
        if breach := BREACHES.get(error.code):
            socket.state.problems.append(problem_of(breach))
        return
    # the client may have closed first, or read nothing any more
    with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
        async with asyncio.timeout(LAST_WORD_S):
            await socket.close(code)


class _Conversation:
    """One WebSocket; the first text message says how events are written."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._query = DEFAULT_STREAM
        self._ended = asyncio.Event()

    async def incoming(self) -> AsyncGenerator[StreamOptions | bytes | PosegateError]:
        """Options, frames and errors, until the client asks for the end."""
        begun = False
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            data, text = message.get("bytes"), message.get("text") or ""
            if data is not None:
                yield data
            elif len(text) > MAX_TEXT:
                yield BadOption(
                    f"{LATE_TEXT}; it may have at most {MAX_TEXT} characters, this has {len(text)}"
                )
            elif _asks_for_end(text):
                self._ended.set()
                return
            elif begun:
                yield BadOption(LATE_TEXT)
            else:
                yield self._options(text)
            begun = True

    async def unless_left(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, or as much of it as is done when the client leaves after it asked for the
        end: then WebSocketDisconnect is raised, as `incoming` raises it before.
        """
        working = asyncio.create_task(work)
        leaving = asyncio.create_task(self._left())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            leaving.cancel()
            outcomes = await asyncio.gather(working, leaving, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _left(self) -> None:
        await self._ended.wait()
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            pass
        raise WebSocketDisconnect(message["code"])

    async def send(self, event: Event) -> None:
        await self._socket.send_text(event_json(event, self._query))

    def _options(self, text: str) -> StreamOptions | PosegateError:
        try:
            query = parse_stream_query(text)
            options = query.to_stream_options()
        except PosegateError as error:
            return error
        self._query = query
        return options


def _asks_for_end(text: str) -> bool:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and list(message) == ["end"] and message["end"] is True

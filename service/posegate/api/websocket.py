"""WebSockets as uvicorn speaks them, with clear reasons where one is refused or ended."""

import json
import logging
from http import HTTPStatus
from typing import Any, ClassVar

from starlette.exceptions import HTTPException
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from posegate.api.envelope import UNMATCHED
from posegate.api.exchange import chosen_id, record
from posegate.api.limits import MESSAGE_ROOM
from posegate.api.pieces import Pieces
from posegate.api.problems import INTERNAL, MEDIA_TYPE, Problem, problem_of
from posegate.metrics import Metrics

NO_HANDSHAKE = (
    "this opens no WebSocket: the handshake needs GET, HTTP/1.1, no body, one Sec-WebSocket-Key "
    "and Sec-WebSocket-Version: 13"
)
MAX_FRAGMENTS = 65_536
"""Of one message, kept until the last has come; a picture in pieces of 1 kB has 20,480."""
TOO_MANY = "too many small frames; send each picture as one message of few frames"
NO_TEXT = "a text message has to be UTF-8"
REFUSED = {
    HTTPStatus.REQUEST_URI_TOO_LONG: "the address of the handshake is too long",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the handshake has too many headers, or one that "
    "is too long; send fewer or shorter headers",
}


class _Connection(ServerProtocol):
    """Names the setting where a message is too large to be read; refuses with problem documents."""

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(
            max_size=MESSAGE_ROOM * max_body_bytes, logger=logging.getLogger("uvicorn.error")
        )
        self._max_body_bytes = max_body_bytes
        self.problem = INTERNAL
        self.refusal: Response | None = None
        self.request_id = chosen_id("")
        self._pieces = Pieces()
        self._fragments = 0

    def receive_data(self, data: bytes | bytearray) -> None:
        self._pieces.begin()
        super().receive_data(data)

    def recv_frame(self, frame: Frame) -> None:
        """Refuse many tiny frames that are no whole message: fragments, pings, what comes after the
        close. Of empty fragments the limit of a message's size would allow any number.
        """
        begins = frame.opcode in (Opcode.TEXT, Opcode.BINARY)
        is_message = begins and frame.fin and self.state is State.OPEN
        if begins:
            self._fragments = 0
        elif frame.opcode is Opcode.CONT:
            self._fragments += 1
        are_tiny = not is_message and self._pieces.are_tiny_with(frame.data)
        if are_tiny or self._fragments > MAX_FRAGMENTS:
            raise ProtocolError(TOO_MANY)
        super().recv_frame(frame)

    def fail(self, code: CloseCode | int, reason: str = "") -> None:
        if code == CloseCode.MESSAGE_TOO_BIG:
            most = self._max_body_bytes
            reason = f"over twice max_body_bytes; a frame may have at most {most} bytes"
        super().fail(code, reason)

    def reject(self, status: HTTPStatus | int, text: str) -> Response:
        """`text` may quote a header, and a header may hold a key: it is not passed on."""
        self.problem = _refusal(HTTPStatus(status))
        document = self.problem.document(self.request_id)
        self.refusal = super().reject(status, json.dumps(document))
        del self.refusal.headers["Content-Type"]
        self.refusal.headers["Content-Type"] = MEDIA_TYPE
        self.refusal.headers["X-Request-Id"] = self.request_id
        return self.refusal


class FrameProtocol(WebSocketsSansIOProtocol):
    """Uvicorn's protocol for streams of frames; use `taking` to make one."""

    max_body_bytes: ClassVar[int]
    metrics: ClassVar[Metrics]
    conn: _Connection

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Connection(self.max_body_bytes)
        self._refused = False

    def data_received(self, data: bytes) -> None:
        """As uvicorn does, and an answer where it gives none: to what is no whole request."""
        super().data_received(data)
        if self.conn.handshake_exc is None or self._refused:
            return
        self._refused = True
        if not self.handshake_initiated:
            answer = self.conn.refusal or self.conn.reject(HTTPStatus.BAD_REQUEST, "")
            self.handshake_complete = self.close_sent = True
            self.transport.write(answer.serialize())
            self.transport.close()
        self._record()

    def send_receive_event_to_app(self) -> None:
        """As uvicorn does; a text that is none ends the stream without a traceback in the log."""
        if self.curr_msg_data_type == "text" and not _is_text(self.frames):
            self.frames = []
            self.conn.fail(CloseCode.INVALID_DATA, NO_TEXT)
            self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        """As uvicorn does, unless the client does not read: its pongs would fill the memory."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    async def send(self, message: Any) -> None:
        """As uvicorn does; a refusal completes the handshake, or uvicorn logs it as incomplete."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def _record(self) -> None:
        record(
            self.metrics,
            face="websocket",
            method="MALFORMED",
            route=UNMATCHED,
            code=str(self.conn.problem.status),
            seconds=0.0,
            problems=[self.conn.problem],
            request_id=self.conn.request_id,
        )


def taking(max_body_bytes: int, metrics: Metrics) -> type[FrameProtocol]:
    """The protocol that uvicorn makes one of per WebSocket.

    It compresses nothing: photos do not shrink, and bombs do grow.
    """
    own = {"max_body_bytes": max_body_bytes, "metrics": metrics}
    return type("FrameProtocol", (FrameProtocol,), own)


def _is_text(parts: list[bytes]) -> bool:
    try:
        b"".join(parts).decode()
    except UnicodeDecodeError:
        return False
    return True


def _refusal(status: HTTPStatus) -> Problem:
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return INTERNAL
    return problem_of(HTTPException(status, REFUSED.get(status, NO_HANDSHAKE)))

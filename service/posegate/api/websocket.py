"""WebSockets as uvicorn speaks them, saying more where it ends or refuses one."""

import logging
from typing import Any, ClassVar

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode
from websockets.server import ServerProtocol

from posegate.api.limits import MESSAGE_ROOM


class _Connection(ServerProtocol):
    """Names the setting where a message is too large to be read at all."""

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(
            max_size=MESSAGE_ROOM * max_body_bytes, logger=logging.getLogger("uvicorn.error")
        )
        self._max_body_bytes = max_body_bytes

    def fail(self, code: CloseCode | int, reason: str = "") -> None:
        if code == CloseCode.MESSAGE_TOO_BIG:
            most = self._max_body_bytes
            reason = f"over twice max_body_bytes; a frame may have at most {most} bytes"
        super().fail(code, reason)


class FrameProtocol(WebSocketsSansIOProtocol):
    """Uvicorn's protocol for streams of frames; use `taking` to make one."""

    max_body_bytes: ClassVar[int]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Connection(self.max_body_bytes)

    async def send(self, message: Any) -> None:
        """As uvicorn does; an answered refusal ends the handshake, which else is logged as open."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True


def taking(max_body_bytes: int) -> type[FrameProtocol]:
    """The protocol that uvicorn makes one of per WebSocket.

    It compresses nothing: photos do not shrink, and bombs do grow.
    """
    return type("FrameProtocol", (FrameProtocol,), {"max_body_bytes": max_body_bytes})

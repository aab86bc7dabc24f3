"""A drawn picture on the wire: sent as fast as its client takes it, and not for ever."""

import asyncio
from contextlib import ExitStack

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from posegate.api.problems import problem_of
from posegate.errors import DeadlineExceeded

PIECE_BYTES = 2**16
"""How much is handed to the connection at a time; the server takes no more until it was sent."""


class PictureResponse(Response):
    """A picture, which may have many megabytes; a client that takes too long is cut off.

    `held` is let go when the last piece was sent.
    """

    def __init__(
        self, picture: bytes, *, media_type: str, request: Request, limit_s: float
    ) -> None:
        super().__init__(picture, media_type=media_type)
        self.held = ExitStack()
        self._request = request
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held:
            try:
                async with asyncio.timeout(self._limit_s):
                    await self._send(send)
            except TimeoutError:  # the server closes the connection of an answer that has no end
                error = DeadlineExceeded(
                    f"the drawn picture was not read within {self._limit_s:g} s "
                    "(request_timeout_s); read it faster or ask for a JPEG"
                )
                self._request.state.problems.append(problem_of(error))

    async def _send(self, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        for begin in range(0, len(self.body), PIECE_BYTES):
            piece = bytes(self.body[begin : begin + PIECE_BYTES])
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

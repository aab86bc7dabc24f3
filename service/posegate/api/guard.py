"""Asks for the API key before anything of a request is looked at."""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from posegate.api.keys import ApiKeys
from posegate.api.problems import ProblemResponse, problem_of
from posegate.errors import Unauthenticated

GUARDED = "/v1/"
"""The page, the probes and the metrics are open; they hold nobody's pictures."""


class Guard:
    """ASGI middleware; a WebSocket's own route asks for the key, because it refuses differently."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(GUARDED):
            request = Request(scope, receive)
            try:
                self._keys.check(request.headers)
            except Unauthenticated as error:
                await ProblemResponse(problem_of(error), request)(scope, receive, send)
                return
        await self._app(scope, receive, send)

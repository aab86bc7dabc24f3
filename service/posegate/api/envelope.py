"""What every HTTP exchange gets: an id, a log line, metrics, an answer to errors nobody foresaw.

Plain ASGI, because a response must be measured to its last byte and a body read only by its route.
"""

import logging
import time
from functools import lru_cache
from re import Pattern
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from posegate.api.exchange import chosen_id, record
from posegate.api.problems import CLIENT_GONE, INTERNAL, ProblemResponse
from posegate.metrics import Metrics
from posegate.tracing import About, Tracing, Untraced

log = logging.getLogger(__name__)

UNMATCHED = "unmatched"
SWITCHING = 101
TRACED = "/v1/"
"""How traced paths begin. Traces of probes, scrapes and the page would only bury the others."""
UNTRACED = Untraced()


class Envelope:
    """Wraps the application; see the module's docstring."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "://" in scope["path"]:
            scope["path"] = _path_of(scope["path"])
        connection = HTTPConnection(scope)
        tracing = self._tracing if scope["path"].startswith(TRACED) else UNTRACED
        with tracing.request(connection.headers) as about:
            if scope["type"] == "websocket":
                await self._stream(connection, receive, send, about)
            else:
                await self._request(Request(scope, receive), receive, send, about)

    async def _request(self, request: Request, receive: Receive, send: Send, about: About) -> None:
        request.state.request_id = chosen_id(request.headers.get("x-request-id", ""))
        request.state.problems = []
        status = 0

        async def send_enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request.state.request_id
            await send(message)

        started = time.perf_counter()
        self._metrics.in_flight.labels(face="http").inc()
        try:
            await self._app(request.scope, receive, send_enveloped)
        except Exception:
            log.exception("request failed", extra={"request_id": request.state.request_id})
            if status == 0:
                await ProblemResponse(INTERNAL, request)(request.scope, receive, send_enveloped)
        finally:
            self._metrics.in_flight.labels(face="http").dec()
            self._record(request, status or CLIENT_GONE, time.perf_counter() - started, about)

    async def _stream(
        self, connection: HTTPConnection, receive: Receive, send: Send, about: About
    ) -> None:
        """The same for a WebSocket; its time is that of the whole stream."""
        connection.state.request_id = chosen_id(connection.headers.get("x-request-id", ""))
        connection.state.problems = []
        status = SWITCHING

        async def send_enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                status = message.get("status", SWITCHING)
                MutableHeaders(scope=message)["X-Request-Id"] = connection.state.request_id
            await send(message)

        started = time.perf_counter()
        self._metrics.in_flight.labels(face="websocket").inc()
        try:
            await self._app(connection.scope, receive, send_enveloped)
        finally:
            self._metrics.in_flight.labels(face="websocket").dec()
            self._record(connection, status, time.perf_counter() - started, about)

    def _record(self, request: HTTPConnection, status: int, seconds: float, about: About) -> None:
        route = _template(request.scope)
        method = request.scope.get("method", "WEBSOCKET")
        record(
            self._metrics,
            face="websocket" if request.scope["type"] == "websocket" else "http",
            method=method,
            route=route,
            code=str(status),
            seconds=seconds,
            problems=request.state.problems,
            request_id=request.state.request_id,
        )
        _tell(about, method, route, status, request.state.request_id)


def _path_of(target: str) -> str:
    """The path of a target in absolute form (RFC 9112, 3.2.2); one that is no URL names nothing."""
    try:
        return urlsplit(target).path or "/"
    except ValueError:
        return target


def _template(scope: Scope) -> str:
    """The route's path as it is written, also where a request was refused before its route."""
    if (route := scope.get("route")) is not None:
        return str(route.path)
    templates = _templates(scope["app"])
    return next((path for path, regex in templates if regex.match(scope["path"])), UNMATCHED)


@lru_cache(maxsize=4)
def _templates(app: FastAPI) -> list[tuple[str, Pattern[str]]]:
    """Each documented path, and what it matches."""
    return [(path, compile_path(path)[0]) for path in app.openapi()["paths"]]


def _tell(about: About, method: str, route: str, status: int, request_id: str) -> None:
    """Names and attributes follow OpenTelemetry's conventions for HTTP."""
    about.name = f"{method} {route}"
    about.attributes |= {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "posegate.request_id": request_id,
    }
    about.failed = status >= 500

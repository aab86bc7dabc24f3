"""Any error -> RFC 9457 problem document.

`type` is the stable slug of the error's row in the contract; the transport's own refusals (no such
route, wrong method) have slugs of their own. Nothing here ever shows a traceback.
"""

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from posegate.api.head import with_head
from posegate.api.options import MOST_TOLD, PoseQuery
from posegate.errors import PosegateError, Unauthenticated, status_of
from posegate.validation import fault

MEDIA_TYPE = "application/problem+json"
CLIENT_GONE = 499
DEFAULT_RETRY_AFTER_S = 1.0
LINGER_S = 2.0
"""How long a refused upload is still read after the answer. Closing a socket with unread bytes
resets the connection, and a client that is still sending would then never see the answer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal. `retry_after_s` in seconds is sent as `Retry-After`, rounded up."""

    slug: str
    title: str
    status: int
    detail: str
    retry_after_s: float | None = None
    headers: Mapping[str, str] | None = None

    def document(self, request_id: str) -> dict[str, Any]:
        return {
            "type": self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }

    def response_headers(self) -> dict[str, str]:
        """The headers that are the problem's own."""
        headers = dict(self.headers or {})
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        return headers


INTERNAL = Problem(
    "internal",
    "Internal error",
    500,
    "The service failed in a way it did not foresee. The request_id finds the reason in its log.",
)


def problem_of(error: Exception) -> Problem:
    """The problem a caller is told about `error`."""
    if isinstance(error, PosegateError):
        status = status_of(error)
        retry_after_s = error.retry_after_s
        if status.retryable and retry_after_s is None:
            retry_after_s = DEFAULT_RETRY_AFTER_S
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthenticated) else None
        return Problem(status.slug, status.title, status.http, error.detail, retry_after_s, headers)
    if isinstance(error, RequestValidationError):
        return Problem("bad-option", "Invalid option", 422, _validation_detail(error))
    if isinstance(error, HTTPException):
        return _routing_problem(error)
    return INTERNAL


async def answer_error(request: Request, error: Exception) -> Response:
    """Exception handler: the problem of `error` as a response."""
    return ProblemResponse(problem_of(error), request)


async def answer_nobody(_request: Request, _error: Exception) -> Response:
    """Exception handler: the client hung up, so the status is for the log and the metrics only."""
    return Response(status_code=CLIENT_GONE)


class ProblemResponse(Response):
    """A problem on the wire; where the request's body was not read, it reads on for LINGER_S."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, request: HTTPConnection) -> None:
        headers = problem.response_headers()
        self._lingers = has_unread_body(request)
        if self._lingers:
            headers["Connection"] = "close"
        request.state.problems.append(problem)
        content = json.dumps(problem.document(request.state.request_id)).encode()
        super().__init__(content, problem.status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._lingers:
            await super().__call__(scope, receive, send)
            return
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await _discard(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def has_unread_body(request: HTTPConnection) -> bool:
    """True while the client may still be sending a body that nobody has read to its end."""
    sends_body = (
        request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    )
    return sends_body and not getattr(request.state, "body_read", False)


async def _discard(receive: Receive) -> None:
    try:
        async with asyncio.timeout(LINGER_S):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _validation_detail(error: RequestValidationError) -> str:
    return "; ".join(_one_validation(item) for item in error.errors()[:MOST_TOLD])


def _one_validation(item: Mapping[str, Any]) -> str:
    place, *path = item["loc"]
    name = ".".join(str(part) for part in path)[:80]
    if item["type"] == "extra_forbidden":
        return f"{place} option {name!r} is unknown; allowed: {', '.join(PoseQuery.model_fields)}"
    return f"{place} option {name!r}: {fault(item)}, got {str(item['input'])[:100]!r}"


def _routing_problem(error: HTTPException) -> Problem:
    phrase = HTTPStatus(error.status_code).phrase.replace("Request-URI", "URI")  # Python < 3.13
    slug = phrase.lower().replace(" ", "-")
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = with_head(headers["Allow"])
    details = {
        404: "There is no such address. The routes are listed at /docs.",
        405: "This address does not take that method; allowed: "
        f"{headers.get('Allow', 'see /docs')}.",
    }
    detail = details.get(error.status_code, str(error.detail))
    return Problem(slug, phrase, error.status_code, detail, headers=headers)

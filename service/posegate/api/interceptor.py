"""What every gRPC call gets: the API key asked for, an id, a log line, metrics, the error table."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from posegate.api.exchange import chosen_id, record
from posegate.api.keys import ApiKeys
from posegate.api.problems import Problem, problem_of
from posegate.errors import DeadlineExceeded, PosegateError, status_of
from posegate.metrics import Metrics
from posegate.tracing import About, Tracing

log = logging.getLogger(__name__)

DOMAIN = "posegate"
OUR_FAULT = ("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED")
DETAILS_KEY = "grpc-status-details-bin"
LAST_WORD_S = 1.0
DEADLINE_PASSED = DeadlineExceeded("the caller's deadline passed before the answer was ready")
Context = grpc.aio.ServicerContext[Any, Any]
Behavior = Callable[[Any, Context], Awaitable[Any]]


class Interceptor:
    """Wraps the methods of our own service; health and reflection stay as they are.

    No grpc.aio.ServerInterceptor: going through one costs more than all that is done here.
    """

    def __init__(self, *, keys: ApiKeys, metrics: Metrics, tracing: Tracing) -> None:
        self._keys = keys
        self._metrics = metrics
        self._in_flight = metrics.in_flight.labels(face="grpc")
        self._tracing = tracing

    def wrap(self, servicer: object, service: ServiceDescriptor) -> SimpleNamespace:
        """What has the methods of the servicer, each of them inside an exchange."""
        methods = {
            name: self._wrap(f"/{service.full_name}/{name}", getattr(servicer, name))
            for name in service.methods_by_name
        }
        return SimpleNamespace(**methods)

    def _wrap(self, route: str, behavior: Behavior) -> Behavior:
        async def wrapped(request: Any, context: Context) -> Any:
            headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
            with self._tracing.request(headers) as about:
                return await self._exchange(route, headers, behavior, request, context, about)

        return wrapped

    async def _exchange(
        self,
        route: str,
        headers: dict[str, str],
        behavior: Behavior,
        request: Any,
        context: Context,
        about: About,
    ) -> Any:
        request_id = chosen_id(headers.get("x-request-id", ""))
        started, code, problem = time.perf_counter(), "OK", None
        timeout_s = context.time_remaining()
        self._in_flight.inc()
        try:
            self._keys.check(headers)
            context.set_trailing_metadata((("x-request-id", request_id),))
            return await behavior(request, context)
        except asyncio.CancelledError:
            code = "CANCELLED"
            if timeout_s is not None and context.time_remaining() <= _rounding_s(timeout_s):
                code, problem = "DEADLINE_EXCEEDED", problem_of(DEADLINE_PASSED)
            raise
        except Exception as error:
            problem = problem_of(error)
            code = status_of(error).grpc if isinstance(error, PosegateError) else "INTERNAL"
            if code == "INTERNAL":
                log.exception("call failed", extra={"request_id": request_id})
            # gRPC keeps this call, its abort and so this error in a cycle; its frames hold pictures
            error.__traceback__ = error.__cause__ = error.__context__ = None
            await _abort(context, grpc.StatusCode[code], problem, request_id)
        finally:
            self._in_flight.dec()
            record(
                self._metrics,
                face="grpc",
                method="GRPC",
                route=route,
                code=code,
                seconds=time.perf_counter() - started,
                problems=[problem] if problem else [],
                request_id=request_id,
            )
            _tell(about, route, code, request_id)


def _rounding_s(timeout_s: float) -> float:
    """By how much the caller's deadline may pass before ours: gRPC sends it rounded up."""
    return 0.001 + 0.01 * timeout_s


def _tell(about: About, route: str, code: str, request_id: str) -> None:
    """Names and attributes follow OpenTelemetry's conventions for gRPC."""
    about.name = route.removeprefix("/")
    service, _, method = about.name.rpartition("/")
    about.attributes |= {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": grpc.StatusCode[code].value[0],
        "posegate.request_id": request_id,
    }
    about.failed = code in OUR_FAULT


async def _abort(
    context: Context, code: grpc.StatusCode, problem: Problem, request_id: str
) -> None:
    """End the call with the problem, and with google.rpc details that say whether to try again."""
    status = Status(code=code.value[0], message=problem.detail)
    status.details.add().Pack(ErrorInfo(reason=problem.slug, domain=DOMAIN))
    if problem.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(problem.retry_after_s * 1000))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    trailers = (("x-request-id", request_id), (DETAILS_KEY, status.SerializeToString()))
    try:
        async with asyncio.timeout(LAST_WORD_S):
            await context.abort(code, problem.detail, trailers)
    except TimeoutError:
        # the client reads nothing any more, and the status waits behind what it was sent
        raise asyncio.CancelledError from None

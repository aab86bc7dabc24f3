"""The HTTP face: one application over one pipeline."""

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from posegate.api.envelope import Envelope
from posegate.api.guard import Guard
from posegate.api.head import Heads
from posegate.api.keys import ApiKeys
from posegate.api.limits import Slots
from posegate.api.openapi import complete
from posegate.api.operations import operations_router
from posegate.api.pages import pages_router
from posegate.api.poses import poses_router
from posegate.api.problems import answer_error, answer_nobody
from posegate.api.stream import no_such_address, stream_router
from posegate.errors import PosegateError
from posegate.metrics import Metrics
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posegate.streams import Streams
from posegate.tracing import Tracing, Untraced
from posegate.version import installed_version


def create_app(
    pipeline: Pipeline,
    settings: Settings,
    metrics: Metrics,
    *,
    slots: Slots | None = None,
    streams: Streams | None = None,
    tracing: Tracing | None = None,
    others: Callable[[], str | None] = lambda: None,
) -> FastAPI:
    """The application; `pipeline` is started and stopped by whoever runs the server.

    `slots`, `streams` and `tracing` are given where another face shares them. `others` says why
    other processes of the service are not ready, if there are any.
    """
    keys = ApiKeys(settings)
    streams = streams or Streams(pipeline, settings, metrics)
    app = FastAPI(
        title="posegate",
        version=installed_version(),
        description="A photo in, every person's keypoints out.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Guard, keys=keys)
    app.add_middleware(Heads)
    app.add_middleware(Envelope, metrics=metrics, tracing=tracing or Untraced())
    for kind in (PosegateError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_error)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.include_router(
        poses_router(pipeline, settings, metrics, slots or Slots(settings.max_images))
    )
    app.include_router(stream_router(streams, keys))
    app.include_router(operations_router(pipeline, metrics, streams, others))
    app.include_router(pages_router(lambda: complete(app.openapi())))
    app.router.default = no_such_address
    return app

"""GET routes for whoever runs the service: model cards, liveness, readiness, metrics."""

import asyncio
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from posegate.api import openapi
from posegate.errors import BackendDown, UnknownModel
from posegate.metrics import Metrics
from posegate.options import MAX_NAME
from posegate.pipeline import Pipeline
from posegate.streams import Streams


def operations_router(
    pipeline: Pipeline,
    metrics: Metrics,
    streams: Streams,
    others: Callable[[], str | None],
) -> APIRouter:
    """The routes that read the service's state.

    `others` says why other processes of the service are not ready; None when they are.
    """
    router = APIRouter()
    cards = {
        name: pipeline.catalog.card_in_use(model).model_dump(mode="json", exclude_none=True)
        for name, model in pipeline.catalog.models.items()
    }

    @router.get("/v1/models", tags=["models"], **openapi.MODELS)
    async def list_models() -> Response:
        return JSONResponse({"models": list(cards.values())})

    @router.get("/v1/models/{name}", tags=["models"], **openapi.MODEL)
    async def show_model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in cards:
            raise UnknownModel(
                f"there is no network {name[:MAX_NAME]!r}; known: {', '.join(cards)}"
            )
        return JSONResponse(cards[name])

    @router.get("/livez", tags=["operations"], **openapi.LIVEZ)
    async def livez() -> Response:
        return JSONResponse({"status": "alive"})

    @router.get("/readyz", tags=["operations"], **openapi.READYZ)
    async def readyz() -> Response:
        reason = "the service is stopping" if streams.finishing else pipeline.ready() or others()
        if reason is not None:
            raise BackendDown(f"not ready: {reason}")
        missing = pipeline.networks.missing()
        return JSONResponse({"status": "ready"} | ({"missing": missing} if missing else {}))

    @router.get("/metrics", tags=["operations"], response_class=Response, **openapi.METRICS)
    async def show_metrics() -> Response:
        text = await asyncio.to_thread(metrics.exposition)  # takes 10 to 40 ms
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router

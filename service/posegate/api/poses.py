"""POST /v1/poses and /v1/poses:batch: parse, call the pipeline, render."""

import asyncio
import json
import logging
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from posegate.api import openapi
from posegate.api.body import Upload, read_image, read_images
from posegate.api.documents import coco_image_id, coco_json, poses_json, server_timing
from posegate.api.limits import Deadline, Slots, unless_gone
from posegate.api.options import PictureFormat, PoseQuery, check_given_once, picture_format
from posegate.api.problems import INTERNAL, problem_of
from posegate.metrics import Metrics
from posegate.pipeline import Estimate, EstimateOptions, Pipeline, StageClock
from posegate.render import draw_poses, encode_image
from posegate.settings import Settings
from posegate.tracing import follow

log = logging.getLogger(__name__)

MAX_BATCH_IMAGES = 32
BATCH_CONCURRENCY = 4
"""Pictures of one batch worked on at a time: enough to fill crop batches, and decoded pictures of
one request stay few."""
MIN_DRAWN_SCORE = 0.2
"""Joints the network is less sure of than this only clutter a picture."""

Options = Annotated[PoseQuery, Query()]
Timeout = Annotated[
    float | None,
    Header(
        alias="X-Request-Timeout",
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which the answer is of no use; at most the service's own limit.",
    ),
]


def poses_router(
    pipeline: Pipeline, settings: Settings, metrics: Metrics, slots: Slots
) -> APIRouter:
    """The two routes that estimate poses."""
    router = APIRouter(tags=["poses"])
    limits = {"max_bytes": settings.max_body_bytes}

    @router.post("/v1/poses", **openapi.POSES)
    async def estimate_poses(request: Request, query: Options, timeout: Timeout = None) -> Response:
        clock = follow(StageClock())
        options = _checked_options(pipeline, query, request)
        picture = picture_format(request.headers.get("accept", "*/*"))
        deadline = Deadline.after(timeout, limit_s=settings.request_timeout_s)

        async def answer(upload: Upload) -> Response:
            estimate = await pipeline.estimate(
                upload.data, options, deadline=deadline.at, clock=clock
            )
            if picture is None:
                content = _render(estimate, query, coco_image_id(upload.filename, 0)).encode()
                response = Response(content, media_type="application/json")
            else:
                response = await _drawn(estimate, query, picture)
            _record(estimate, metrics)
            response.headers["Server-Timing"] = server_timing(estimate)
            return response

        with slots.taken():
            async with deadline.kept():
                upload = await read_image(request, **limits)
                clock.mark("read")
                return await unless_gone(request, answer(upload))

    @router.post("/v1/poses:batch", **openapi.BATCH)
    async def estimate_batch(request: Request, query: Options, timeout: Timeout = None) -> Response:
        options = _checked_options(pipeline, query, request)
        deadline = Deadline.after(timeout, limit_s=settings.request_timeout_s)
        turns = asyncio.Semaphore(BATCH_CONCURRENCY)

        async def answer_one(upload: Upload, position: int) -> str:
            async with turns:
                clock = follow(StageClock())
                try:
                    estimate = await pipeline.estimate(
                        upload.data, options, deadline=deadline.at, clock=clock
                    )
                    text = _render(estimate, query, coco_image_id(upload.filename, position))
                except Exception as error:
                    return _problem_json(error, request)
                _record(estimate, metrics)
                return text

        async def answer(uploads: list[Upload]) -> Response:
            results = await asyncio.gather(
                *(answer_one(upload, position) for position, upload in enumerate(uploads))
            )
            content = f'{{"results":[{",".join(results)}]}}'.encode()
            return Response(content, media_type="application/json")

        with slots.taken():
            async with deadline.kept():
                uploads = await read_images(request, max_images=MAX_BATCH_IMAGES, **limits)
                return await unless_gone(request, answer(uploads))

    return router


def _checked_options(pipeline: Pipeline, query: PoseQuery, request: Request) -> EstimateOptions:
    """The options, refused before the body is read where they or the service cannot work."""
    check_given_once(request.query_params.multi_items())
    options = query.to_options()
    pipeline.check(options)
    return options


def _render(estimate: Estimate, query: PoseQuery, image_id: int) -> str:
    """The estimate as JSON text in the form asked for; marks `encode`."""
    minimum = query.min_keypoint_score
    if query.format == "coco":
        return coco_json(estimate, min_keypoint_score=minimum, image_id=image_id)
    return poses_json(estimate, min_keypoint_score=minimum)


async def _drawn(estimate: Estimate, query: PoseQuery, picture: PictureFormat) -> Response:
    """The picture with its people drawn over it; marks `encode`."""

    def draw() -> bytes:
        minimum = max(query.min_keypoint_score, MIN_DRAWN_SCORE)
        drawn = draw_poses(estimate.image, estimate.poses, min_keypoint_score=minimum)
        return encode_image(drawn, picture)

    content = await asyncio.to_thread(draw)
    estimate.clock.mark("encode")
    return Response(content, media_type=f"image/{picture}")


def _record(estimate: Estimate, metrics: Metrics) -> None:
    metrics.observe_image(estimate.model, estimate.clock.stages_ms, len(estimate.poses))


def _problem_json(error: Exception, request: Request) -> str:
    """One picture's problem as JSON text; only an error nobody foresaw is logged with its trace."""
    problem = problem_of(error)
    request.state.problems.append(problem)
    request_id = request.state.request_id
    if problem is INTERNAL:
        log.error("picture failed", exc_info=error, extra={"request_id": request_id})
    return json.dumps(problem.document(request_id))

"""POST /v1/poses and /v1/poses:batch: parse, call the pipeline, render."""

import asyncio
import json
import logging
from contextlib import ExitStack
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from posegate.api import openapi
from posegate.api.body import Upload, check_length, read_image, read_images
from posegate.api.documents import coco_image_ids, coco_json, poses_json, server_timing
from posegate.api.limits import Deadline, Slots, unless_gone
from posegate.api.options import PoseQuery, check_given_once, picture_format
from posegate.api.pictures import PictureResponse
from posegate.api.problems import INTERNAL, Problem, problem_of
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.pipeline import Estimate, Pipeline
from posegate.render import drawn_file
from posegate.settings import Settings
from posegate.stages import StageClock
from posegate.tracing import follow

log = logging.getLogger(__name__)

MAX_BATCH_IMAGES = 32
BATCH_CONCURRENCY = 4
"""Pictures of one batch worked on at a time: enough to fill crop batches, and decoded pictures of
one request stay few."""

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
        kind = picture_format(", ".join(request.headers.getlist("accept")) or "*/*")
        minimum = query.min_keypoint_score
        draw = partial(drawn_file, kind=kind, min_keypoint_score=minimum) if kind else None
        deadline = Deadline.after(timeout, limit_s=settings.request_timeout_s)

        async def answer(upload: Upload) -> Response:
            estimate = await pipeline.estimate(
                upload.data, options, deadline=deadline.at, clock=clock, draw=draw
            )
            if estimate.drawn is None:
                (image_id,) = coco_image_ids([upload.filename])
                content = _render(estimate, query, image_id).encode()
                response = Response(content, media_type="application/json")
            else:
                response = PictureResponse(
                    estimate.drawn,
                    media_type=f"image/{kind}",
                    request=request,
                    limit_s=settings.request_timeout_s,
                )
            _record(estimate, metrics)
            response.headers["Server-Timing"] = server_timing(estimate)
            return response

        check_length(request, **limits)
        with ExitStack() as held:
            held.enter_context(slots.taken())
            async with deadline.kept():
                upload = await read_image(request, **limits)
                clock.mark("read")
                response = await unless_gone(request, answer(upload))
            if isinstance(response, PictureResponse):
                response.held = held.pop_all()
            return response

    @router.post("/v1/poses:batch", **openapi.BATCH)
    async def estimate_batch(request: Request, query: Options, timeout: Timeout = None) -> Response:
        options = _checked_options(pipeline, query, request)
        deadline = Deadline.after(timeout, limit_s=settings.request_timeout_s)
        turns = asyncio.Semaphore(BATCH_CONCURRENCY)
        problems: list[Problem] = []

        async def answer_one(upload: Upload, image_id: int) -> str:
            async with turns:
                clock = follow(StageClock())
                try:
                    estimate = await pipeline.estimate(
                        upload.data, options, deadline=deadline.at, clock=clock
                    )
                    text = _render(estimate, query, image_id)
                except Exception as error:
                    problem = _problem_of_picture(error, request)
                    problems.append(problem)
                    return json.dumps(problem.document(request.state.request_id))
                _record(estimate, metrics)
                return text

        async def answer(uploads: list[Upload]) -> Response:
            ids = coco_image_ids(upload.filename for upload in uploads)
            results = await asyncio.gather(*map(answer_one, uploads, ids))
            request.state.problems += problems
            content = f'{{"results":[{",".join(results)}]}}'.encode()
            return Response(content, media_type="application/json")

        check_length(request, **limits)
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


def _record(estimate: Estimate, metrics: Metrics) -> None:
    metrics.observe_image(estimate.model, estimate.clock.stages_ms, len(estimate.poses))


def _problem_of_picture(error: Exception, request: Request) -> Problem:
    """One picture's problem; only an error nobody foresaw is logged with its trace."""
    problem = problem_of(error)
    if problem is INTERNAL:
        extra = {"request_id": request.state.request_id}
        log.error("picture failed", exc_info=error, extra=extra)
    return problem

"""How fast the pipeline is, in process and over HTTP, and what of the time the networks take."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any, Literal

import cv2
import numpy as np

from posegate.api.documents import poses_json
from posegate.errors import BadOption, PosegateError
from posegate.loadclient import Connection, poses_path, running_server, wait_ready
from posegate.options import DEFAULT_MAX_PEOPLE, EstimateOptions
from posegate.pipeline import Pipeline
from posegate.predict import find_sources
from posegate.settings import Settings
from posegate.types import F32

PEOPLE = (1, 2, 4, 8, 16)
CONCURRENCY = (1, 4, 8, 16)
DETECTOR_MIN_SCORE = 0.05
WARM_UP_CALLS = 3
TURNS_ALONE = 5
"""A single caller's time is cut into so many turns, alternately in process and over HTTP: between
two measurements a machine's speed drifts by more than HTTP adds."""

Face = Literal["process", "http"]
Call = Callable[[], Awaitable[float]]
"""Works on one picture; returns for how many seconds of that the networks ran."""
Callers = AbstractAsyncContextManager[Sequence[Call]]
"""Those who call at the same time, while they are connected."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured cell. Times in milliseconds.

    `network_ms` is the mean time inside the networks, `other_share` what everything else takes of
    the mean latency; both only in process and at concurrency 1, where nothing waits.
    """

    face: Face
    people: int
    concurrency: int
    images: int
    p50_ms: float
    p95_ms: float
    images_per_s: float
    network_ms: float | None
    other_share: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Job:
    """One picture and what is asked about it."""

    data: bytes
    options: EstimateOptions


def made_jobs(people: int, *, model: str | None) -> list[Job]:
    """A made 640x480 JPEG with so many boxes given: needs no picture, runs no detector."""
    small = np.random.default_rng(7).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    done, jpeg = cv2.imencode(".jpg", cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC))
    assert done
    boxes = _made_boxes(people)
    return [Job(bytes(jpeg), EstimateOptions(model=model, boxes_xywh=boxes, max_people=people))]


async def found_jobs(
    pipeline: Pipeline, paths: Sequence[str], people: int, *, model: str | None
) -> list[Job]:
    """The pictures in which the detector finds at least so many people, asked for that many.

    `min_score` leaves out the boxes after those, which would be looked at in place of one that
    holds nobody.
    """
    most = people if people >= DEFAULT_MAX_PEOPLE else None
    more = EstimateOptions(min_score=DETECTOR_MIN_SCORE, max_people=most)
    jobs = []
    for source in find_sources(paths):
        try:
            data = source.read()
            found = await pipeline.find_people(data, more)
        except PosegateError as error:
            raise BadOption(f"{source.path} cannot be used: {error}") from error
        if len(found) >= people:
            next_score = found.scores[people] if len(found) > people else np.float32(0)
            least = max(DETECTOR_MIN_SCORE, float(np.nextafter(next_score, np.float32(1))))
            asked = EstimateOptions(model=model, min_score=least, max_people=people)
            jobs.append(Job(data, asked))
    return jobs


async def bench(
    pipeline: Pipeline,
    settings: Settings,
    *,
    images: Sequence[str] = (),
    model: str | None = None,
    url: str | None = None,
    api_key: str | None = None,
    people: Sequence[int] = PEOPLE,
    concurrency: Sequence[int] = CONCURRENCY,
    seconds: float = 2.0,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Measure every cell, each face for so many seconds.

    Without `url` a service is started with the settings that the pipeline was built with; `api_key`
    is for a service at `url`.
    """
    rows: list[Row] = []
    jobs_by_people = {
        count: await found_jobs(pipeline, images, count, model=model)
        if images
        else made_jobs(count, model=model)
        for count in people
    }
    if not any(jobs_by_people.values()):
        counts = ", ".join(map(str, people))
        raise BadOption(
            f"the detector finds {counts} people in none of the pictures; give pictures of more "
            "people, or ask for fewer with --people"
        )
    async with AsyncExitStack() as stack:
        if url is None:
            url = await stack.enter_async_context(running_server(settings))
        else:
            await wait_ready(url)
        for count, jobs in jobs_by_people.items():
            for callers in concurrency if jobs else ():
                faces: dict[Face, Callable[[], Callers]] = {
                    "process": partial(_in_process, pipeline, jobs, callers),
                    "http": partial(_over_http, url, api_key, jobs, callers),
                }
                turns = TURNS_ALONE if callers == 1 else 1
                for face, taken in (await _taken_by_turns(faces, turns, seconds)).items():
                    row = _row(face, count, callers, taken)
                    rows.append(row)
                    on_row(row)
    return rows


@asynccontextmanager
async def _in_process(
    pipeline: Pipeline, jobs: list[Job], callers: int
) -> AsyncIterator[Sequence[Call]]:
    pictures = cycle(jobs)

    async def call() -> float:
        job = next(pictures)
        estimate = await pipeline.estimate(job.data, job.options)
        poses_json(estimate, min_keypoint_score=0.0)
        return estimate.network_s

    yield [call] * callers


@asynccontextmanager
async def _over_http(
    url: str, api_key: str | None, jobs: list[Job], callers: int
) -> AsyncIterator[Sequence[Call]]:
    pictures = cycle([(poses_path(job.options), job.data) for job in jobs])
    connections = [Connection(url, api_key) for _ in range(callers)]

    async def call(connection: Connection) -> float:
        await connection.estimate(*next(pictures))
        return 0.0

    async with AsyncExitStack() as stack:
        for connection in connections:
            await connection.open()
            stack.push_async_callback(connection.close)
        yield [partial(call, connection) for connection in connections]


@dataclass(slots=True)
class _Taken:
    """What the turns of one face took, in seconds; `network_s` of each picture."""

    latency_s: list[float] = field(default_factory=list)
    network_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0


async def _taken_by_turns(
    faces: dict[Face, Callable[[], Callers]], turns: int, seconds: float
) -> dict[Face, _Taken]:
    """So many seconds for each face, shared out among so many turns."""
    taken = {face: _Taken() for face in faces}
    for _ in range(turns):
        for face, connected in faces.items():
            async with connected() as calls:
                await _take_turn(calls, seconds / turns, taken[face])
    return taken


async def _take_turn(calls: Sequence[Call], seconds: float, taken: _Taken) -> None:
    """Closed loop: each of the callers sends its next picture when the last one is answered."""

    async def loop(call: Call, until: float) -> None:
        while time.perf_counter() < until:
            started = time.perf_counter()
            taken.network_s.append(await call())
            taken.latency_s.append(time.perf_counter() - started)

    for call in calls:
        for _ in range(WARM_UP_CALLS):
            await call()
    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(loop(call, started + seconds))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    taken.elapsed_s += time.perf_counter() - started


def _row(face: Face, people: int, concurrency: int, taken: _Taken) -> Row:
    latency_s, network_s = taken.latency_s, taken.network_s
    alone = face == "process" and concurrency == 1
    return Row(
        face=face,
        people=people,
        concurrency=concurrency,
        images=len(latency_s),
        p50_ms=round(median(latency_s) * 1000, 2),
        p95_ms=round(float(np.percentile(latency_s, 95)) * 1000, 2),
        images_per_s=round(len(latency_s) / taken.elapsed_s, 2),
        network_ms=round(sum(network_s) / len(network_s) * 1000, 2) if alone else None,
        other_share=round(1 - sum(network_s) / sum(latency_s), 3) if alone else None,
    )


def _made_boxes(people: int) -> F32:
    """(P, 4) boxes of 60 x 160 pixels, spread over 640 x 480."""
    index = np.arange(people)
    corners = np.column_stack([20 + (index % 8) * 72, 40 + (index // 8 % 2) * 220])
    return np.column_stack([corners, np.full((people, 2), (60, 160))]).astype(np.float32)

"""What gRPC Estimate and HTTP add to the pipeline in process.

    python benchmarks/faces.py [PHOTOS...] [--seconds 20] [--people 1] [--json]

Aims: gRPC adds at most 1.5 ms at p50 and keeps 0.9 of the images per second with 8 callers. The
three take turns of a second, so that what else the machine does falls on all of them alike. The
client shares the cores with the service, so the ratio counts its work as well. `added_ms` is
p50 less that of the pipeline, `kept` the images per second beside it, `cpu_ms` the time on a core
that one image costs service and client together: it hardly changes when something else runs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle

import grpc.aio
from served import Served, jobs_of, parser, percentile, report, served

from posegate.api.documents import poses_json
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.bench import Job
from posegate.build import running_pipeline
from posegate.loadclient import Connection, poses_path
from posegate.pipeline import Pipeline
from posegate.settings import load_settings

CALLERS = (1, 8)
TURN_S = 1.0
Call = Callable[[Job], Awaitable[None]]


def in_process(pipeline: Pipeline) -> Call:
    async def call(job: Job) -> None:
        poses_json(await pipeline.estimate(job.data, job.options), min_keypoint_score=0.0)

    return call


async def over_http(service: Served, stack: AsyncExitStack) -> Call:
    """Each of the callers has a connection of its own while it asks."""
    idle = [Connection(service.url) for _ in range(max(CALLERS))]
    for connection in idle:
        await connection.open()
        stack.push_async_callback(connection.close)

    async def call(job: Job) -> None:
        connection = idle.pop()
        status, body = await connection.request("POST", poses_path(job.options), job.data)
        idle.append(connection)
        assert status == 200, body

    return call


async def over_grpc(service: Served, stack: AsyncExitStack) -> Call:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(service.grpc_address))
    stub = services.PoseServiceStub(channel)

    async def call(job: Job) -> None:
        options = pb.EstimateOptions(
            min_score=job.options.min_score, max_people=job.options.max_people
        )
        if job.options.boxes_xywh is not None:
            rows = job.options.boxes_xywh.tolist()
            boxes = [pb.Box(x=x, y=y, width=w, height=h) for x, y, w, h in rows]
            options.boxes.CopyFrom(pb.Boxes(boxes=boxes))
        await stub.Estimate(pb.EstimateRequest(image=job.data, options=options))

    return call


@dataclass
class Taken:
    """What the turns of one face took: latencies in ms, seconds by the clock and on the cores."""

    latencies_ms: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0


async def turn(call: Call, jobs: list[Job], callers: int, service: Served, taken: Taken) -> None:
    """Callers without pause for a turn."""
    pictures = cycle(jobs)
    cpu_s = time.process_time() + service.cpu_s()
    started = time.perf_counter()

    async def ask() -> None:
        while time.perf_counter() < started + TURN_S:
            begun = time.perf_counter()
            await call(next(pictures))
            taken.latencies_ms.append((time.perf_counter() - begun) * 1000)

    await asyncio.gather(*(ask() for _ in range(callers)))
    taken.wall_s += time.perf_counter() - started
    taken.cpu_s += time.process_time() + service.cpu_s() - cpu_s


async def measure(
    calls: dict[str, Call], jobs: list[Job], seconds: float, service: Served
) -> list[dict]:
    rows = []
    for callers in CALLERS:
        faces = {face: Taken() for face in calls}
        for call in calls.values():
            await turn(call, jobs, callers, service, Taken())
        for _ in range(max(1, round(seconds / TURN_S / len(CALLERS)))):
            for face, call in calls.items():
                await turn(call, jobs, callers, service, faces[face])
        base = faces["process"]
        base_p50 = percentile(base.latencies_ms, 50)
        base_rate = len(base.latencies_ms) / base.wall_s
        for face, taken in faces.items():
            count = len(taken.latencies_ms)
            rows.append(
                {
                    "face": face,
                    "callers": callers,
                    "p50_ms": percentile(taken.latencies_ms, 50),
                    "p95_ms": percentile(taken.latencies_ms, 95),
                    "added_ms": percentile(taken.latencies_ms, 50) - base_p50,
                    "images_per_s": count / taken.wall_s,
                    "kept": count / taken.wall_s / base_rate,
                    "cpu_ms": 1000 * taken.cpu_s / count,
                }
            )
    return rows


async def main() -> None:
    arguments = parser(__doc__, seconds=20)
    arguments.add_argument("--people", type=int, default=1)
    given = arguments.parse_args()
    jobs = await jobs_of(given, given.people)
    settings = load_settings(model_repository=given.repository)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(served(given.repository))
        pipeline = await stack.enter_async_context(running_pipeline(settings))
        calls = {
            "process": in_process(pipeline),
            "grpc": await over_grpc(service, stack),
            "http": await over_http(service, stack),
        }
        rows = await measure(calls, jobs, given.seconds, service)
    report(f"{given.people} person(s), {len(jobs)} picture(s)", rows, as_json=given.json)


if __name__ == "__main__":
    asyncio.run(main())

"""A live stream that is offered three times what can be served: how old its results are.

    python benchmarks/live.py [PHOTOS...] [--seconds 60] [--face grpc] [--json]

Aims: one event per frame; p95 of the results' age at most 2.5 times the latency without load
(`age_ratio`) and not growing; memory flat. The latency without load is the median age of frames
sent one at a time; what can be served is measured with `mode=every`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import cycle, islice

from served import Served, jobs_of, parser, percentile, report, served, slope

from posegate.bench import Job
from posegate.client import AsyncClient

OVERLOAD = 3
ALONE = 30
SAMPLE_S = 0.5
WARM_UP_SHARE = 0.2


async def alone_ms(client: AsyncClient, jobs: list[Job], options: dict) -> float:
    """Median age of frames that are sent one at a time."""
    answered = asyncio.Semaphore(1)

    async def frames() -> AsyncIterator[bytes]:
        for job in islice(cycle(jobs), ALONE):
            await answered.acquire()
            yield job.data

    ages = []
    async for event in client.stream(frames(), mode="every", **options):
        if event["event"] == "result":
            ages.append(event["age_ms"])
        answered.release()
    return percentile(ages[ALONE // 5 :], 50)


async def capacity(client: AsyncClient, jobs: list[Job], options: dict, seconds: float) -> float:
    """Frames a second that a stream without drops is answered."""
    ends = time.perf_counter() + seconds

    async def frames() -> AsyncIterator[bytes]:
        for job in cycle(jobs):
            if time.perf_counter() > ends:
                return
            yield job.data

    count, first = 0, 0.0
    async for event in client.stream(frames(), mode="every", **options):
        count += event["event"] == "result"
        first = first or time.perf_counter()
    return (count - 1) / (time.perf_counter() - first)


async def overloaded(
    service: Served,
    client: AsyncClient,
    jobs: list[Job],
    options: dict,
    per_second: float,
    seconds: float,
) -> dict:
    """Offer so many frames a second; what came of them."""
    started = time.perf_counter()
    sent = 0

    async def frames() -> AsyncIterator[bytes]:
        nonlocal sent
        for number, job in enumerate(cycle(jobs)):
            due = started + number / per_second
            if due > started + seconds:
                return
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent += 1
            yield job.data

    kinds: Counter[str] = Counter()
    times, ages, rss = [], [], []
    sampled = 0.0
    async for event in client.stream(frames(), mode="live", **options):
        now = time.perf_counter() - started
        kinds[event["event"]] += 1
        if event["event"] == "result":
            times.append(now)
            ages.append(event["age_ms"])
        if now - sampled >= SAMPLE_S:
            sampled = now
            rss.append((now, service.rss_mb()))
    steady = [sample for sample in rss if sample[0] > WARM_UP_SHARE * seconds] or rss
    return {
        "offered_per_s": sent / seconds,
        "frames": sent,
        "events": sum(kinds.values()) - kinds["summary"],
        "results": kinds["result"],
        "dropped": kinds["dropped"],
        "errors": kinds["error"],
        "age_p95_ms": percentile(ages, 95),
        "age_growth_ms_per_min": slope(times, ages),
        "rss_growth_mb": steady[-1][1] - steady[0][1] if steady else 0.0,
    }


async def main() -> None:
    arguments = parser(__doc__, seconds=60)
    arguments.add_argument("--face", choices=("http", "grpc"), default="http")
    given = arguments.parse_args()
    jobs = await jobs_of(given, 1)
    first = jobs[0].options
    options: dict = {"min_score": first.min_score, "max_people": first.max_people}
    if first.boxes_xywh is not None:
        options["boxes"] = first.boxes_xywh.tolist()
    async with served(given.repository, max_stream_fps=10_000) as service:
        urls = {"http": service.url, "grpc": f"grpc://{service.grpc_address}"}
        async with AsyncClient(urls[given.face]) as client:
            unloaded = await alone_ms(client, jobs, options)
            served_per_s = await capacity(client, jobs, options, min(5.0, given.seconds))
            row = await overloaded(
                service, client, jobs, options, OVERLOAD * served_per_s, given.seconds
            )
    row = {
        "face": given.face,
        "alone_ms": unloaded,
        "served_per_s": served_per_s,
        **row,
        "age_ratio": row["age_p95_ms"] / unloaded,
    }
    report(f"a live stream offered {OVERLOAD} times what is served", [row], as_json=given.json)


if __name__ == "__main__":
    asyncio.run(main())

"""Hours of everything at once: does memory, threads or file handles grow?

    python benchmarks/soak.py [PHOTOS...] [--minutes 30] [--json]

HTTP requests of all kinds, gRPC calls, live and complete streams over both faces with bad frames
among the good, streams left early, connections dropped. Aims: the resident memory grows by less
than 1 MB a minute (slope of the best line, after a fifth of the time), threads and file handles
do not grow. Exit status 1 where that fails.
"""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import islice

from served import Served, parser, report, served, slope
from variety import pictures, requests

from posegate.client import AsyncClient
from posegate.errors import PosegateError
from posegate.loadclient import Connection

WARM_UP_SHARE = 0.2
SAMPLES = 120
MAX_MB_PER_MIN = 1.0
ROOM = 4
"""Threads and handles that come and go with what is in flight."""
FRAMES = 40
FRAME_S = 0.02
PAUSE_S = 0.05

Act = Callable[[], Awaitable[None]]


class Crowd:
    """The callers; each act is one thing that a caller does and then does again."""

    def __init__(self, service: Served, paths: list[str]) -> None:
        self.done: Counter[str] = Counter()
        self._service = service
        self._requests = requests(paths)
        self._frames = pictures(paths)
        self._random = random.Random(7)  # noqa: S311  chooses pictures, hides nothing
        urls = (service.url, f"grpc://{service.grpc_address}")
        self._clients = [AsyncClient(url, retries=0) for url in urls]

    def acts(self) -> list[Act]:
        http, rpc = self._clients
        return [
            self._request,
            self._request,
            self._call,
            self._drop,
            lambda: self._stream(http, "live"),
            lambda: self._stream(http, "every"),
            lambda: self._stream(rpc, "live"),
            lambda: self._stream(rpc, "every"),
            lambda: self._leave(http),
            lambda: self._leave(rpc),
        ]

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def _request(self) -> None:
        path, accept, data = self._random.choice(self._requests)
        connection = Connection(self._service.url)
        await connection.open()
        status, _ = await connection.request("POST", path, data, accept=accept)
        await connection.close()
        self.done[str(status)] += 1

    async def _call(self) -> None:
        try:
            await self._clients[1].estimate(self._random.choice(self._frames))
            self.done["grpc"] += 1
        except PosegateError as error:
            self.done[type(error).__name__] += 1

    async def _drop(self) -> None:
        connection = Connection(self._service.url)
        await connection.open()
        _, _, data = self._random.choice(self._requests)
        asking = asyncio.create_task(connection.request("POST", "/v1/poses", data))
        await asyncio.sleep(self._random.uniform(0, 0.01))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await connection.close()
        self.done["dropped"] += 1

    async def _stream(self, client: AsyncClient, mode: str) -> None:
        count = 0
        try:
            async for event in client.stream(self._paced(), mode=mode, track=True):
                count += event["event"] != "summary"
        except PosegateError as error:
            self.done[type(error).__name__] += 1
            return
        assert count == FRAMES, f"{count} events for {FRAMES} frames"
        self.done["streams"] += 1

    async def _leave(self, client: AsyncClient) -> None:
        events = client.stream(self._paced(), mode="every")
        try:
            await anext(events)
            self.done["left"] += 1
        except PosegateError as error:
            self.done[type(error).__name__] += 1
        finally:
            await events.aclose()

    async def _paced(self) -> AsyncIterator[bytes]:
        for frame in islice(iter(lambda: self._random.choice(self._frames), None), FRAMES):
            yield frame
            await asyncio.sleep(FRAME_S)


async def again(act: Act, ends: float) -> None:
    while time.perf_counter() < ends:
        await act()
        await asyncio.sleep(PAUSE_S)


async def watch(service: Served, ends: float) -> list[tuple[float, float, int, int]]:
    """Seconds, RSS in MiB, threads and handles, at even times."""
    started = time.perf_counter()
    samples = []
    while (now := time.perf_counter()) < ends:
        samples.append((now - started, service.rss_mb(), service.threads(), service.handles()))
        await asyncio.sleep((ends - started) / SAMPLES)
    return samples


async def soak(service: Served, paths: list[str], minutes: float) -> dict:
    crowd = Crowd(service, paths)
    ends = time.perf_counter() + 60 * minutes
    watching = asyncio.create_task(watch(service, ends))
    await asyncio.gather(*(again(act, ends) for act in crowd.acts()))
    await crowd.close()
    samples = await watching
    steady = samples[round(WARM_UP_SHARE * len(samples)) :]
    times, rss, threads, handles = zip(*steady, strict=True)
    half = len(steady) // 2
    return {
        "minutes": minutes,
        "rss_first_mb": rss[0],
        "rss_last_mb": rss[-1],
        "rss_mb_per_min": slope(times, rss),
        "threads_growth": max(threads[half:]) - max(threads[:half]),
        "handles_growth": max(handles[half:]) - max(handles[:half]),
        "done": str(dict(crowd.done)),
    }


def holds(row: dict, max_mb_per_min: float) -> bool:
    return (
        row["rss_mb_per_min"] < max_mb_per_min
        and row["threads_growth"] <= ROOM
        and row["handles_growth"] <= ROOM
    )


async def main() -> int:
    arguments = parser(__doc__, seconds=0)
    arguments.add_argument("--minutes", type=float, default=30.0)
    arguments.add_argument("--max-mb-per-min", type=float, default=MAX_MB_PER_MIN)
    given = arguments.parse_args()
    async with served(given.repository) as service:
        row = await soak(service, given.photos, given.minutes)
    report("soak", [row], as_json=given.json)
    return 0 if holds(row, given.max_mb_per_min) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

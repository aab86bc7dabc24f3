"""HTTP offered ten times what can be served: goodput, refusals, and how soon all is well again.

    python benchmarks/overload.py [PHOTOS...] [--people 1] [--seconds 60] [--times 10] [--json]

Aims: goodput at least 0.9 of the peak, the rest refused with 429 in under 50 ms, no other error;
after it the latency is back within 2 s. Peak is what 16 callers without pause are answered, the
mean of before the load and after it, as the speed of a shared machine drifts by a tenth within
minutes. The load is open: requests start at their time whatever became of those before, over as
many kept connections as that takes. The client runs beside the service; on a machine of two cores
it takes its part of them, so `client_cores` and `offered_per_s` say what it used and what it really
sent.
"""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from itertools import cycle
from urllib.parse import urlsplit

import uvloop
from served import Served, jobs_of, parser, percentile, report, served

from posegate.bench import Job
from posegate.loadclient import poses_path

CALLERS = 16
ALONE = 20
MAX_PEAK_S = 15.0
DRAIN_LIMIT_S = 60.0
RECOVERY_LIMIT_S = 30.0
BACK = 1.5
"""The latency is back once it is at most so many times what it was without load."""
PACE_S = 0.002
"""Requests that are due are started together so often."""


class Line(asyncio.Protocol):
    """One kept connection with at most one request on it; reads no more than it must."""

    def __init__(self) -> None:
        self.open = True
        self._answer: asyncio.Future[int] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Send a whole request; the future of its status."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        head = head.lower()
        _, _, length = head.partition(b"\r\ncontent-length:")
        if len(body) >= int(length.partition(b"\r\n")[0]):
            self._received = b""
            self.open = b"\r\nconnection: close" not in head
            self._end(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("closed"))

    def _end(self, status: int) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(status)


class Caller:
    """Asks over idle connections, and opens one where none is idle."""

    def __init__(self, service: Served) -> None:
        parts = urlsplit(service.url)
        self._place = (parts.hostname, parts.port)
        self._idle: list[Line] = []

    async def ask(self, request: bytes) -> int:
        """Status of the answer; OSError where there is none."""
        line = self._idle.pop() if self._idle else None
        if line is None or not line.open:
            _, line = await asyncio.get_running_loop().create_connection(Line, *self._place)
        status = await line.ask(request)
        if line.open:
            self._idle.append(line)
        else:
            line.transport.close()
        return status


def request_of(job: Job) -> bytes:
    """The bytes of `POST /v1/poses`."""
    head = f"POST {poses_path(job.options)} HTTP/1.1\r\nHost: bench\r\n"
    return f"{head}Content-Type: image/jpeg\r\nContent-Length: {len(job.data)}\r\n\r\n".encode() + (
        job.data
    )


async def alone_ms(caller: Caller, requests: list[bytes]) -> float:
    """Median latency of requests one after the other."""
    latencies = []
    for _, request in zip(range(ALONE), cycle(requests), strict=False):
        started = time.perf_counter()
        await caller.ask(request)
        latencies.append((time.perf_counter() - started) * 1000)
    return percentile(latencies, 50)


async def peak(caller: Caller, requests: list[bytes], seconds: float) -> float:
    """Images per second of callers without pause."""
    following = cycle(requests)
    started = time.perf_counter()
    count = 0

    async def keep_asking() -> None:
        nonlocal count
        while time.perf_counter() < started + seconds:
            status = await caller.ask(next(following))
            count += status == 200

    await asyncio.gather(*(keep_asking() for _ in range(CALLERS)))
    return count / (time.perf_counter() - started)


async def flood(caller: Caller, requests: list[bytes], per_second: float, seconds: float) -> dict:
    """Start so many requests a second; what became of them."""
    outcomes: Counter[str] = Counter()
    refused_ms: list[float] = []
    served_ms: list[float] = []

    async def one(request: bytes) -> None:
        begun = time.perf_counter()
        try:
            outcome = str(await caller.ask(request))
        except OSError as error:
            outcome = type(error).__name__
        took_ms = (time.perf_counter() - begun) * 1000
        outcomes[outcome] += 1
        if outcome == "429":
            refused_ms.append(took_ms)
        elif outcome == "200":
            served_ms.append(took_ms)

    started = time.perf_counter()
    used_s = time.process_time()
    sent = 0
    following = cycle(requests)
    async with asyncio.timeout(seconds + DRAIN_LIMIT_S), asyncio.TaskGroup() as group:
        while (now := time.perf_counter()) < started + seconds:
            while sent < (now - started) * per_second:
                group.create_task(one(next(following)))
                sent += 1
            await asyncio.sleep(PACE_S)
        good = outcomes["200"]
        spent = time.perf_counter() - started
        used_s = time.process_time() - used_s
    return {
        "offered_per_s": sent / spent,
        "client_cores": used_s / spent,
        "goodput_per_s": good / spent,
        "served_p95_ms": percentile(served_ms, 95),
        "refused": outcomes["429"],
        "refused_p50_ms": percentile(refused_ms, 50),
        "refused_p95_ms": percentile(refused_ms, 95),
        "refused_p99_ms": percentile(refused_ms, 99),
        "other_errors": sum(outcomes.values()) - outcomes["200"] - outcomes["429"],
        "outcomes": str(dict(outcomes)),
    }


async def recovery_s(caller: Caller, requests: list[bytes], usual_ms: float) -> float:
    """Seconds until a request takes about what it took before."""
    started = time.perf_counter()
    for request in cycle(requests):
        begun = time.perf_counter()
        status = await caller.ask(request)
        now = time.perf_counter()
        back = status == 200 and (now - begun) * 1000 <= BACK * usual_ms
        if back or now - started > RECOVERY_LIMIT_S:
            return now - started
    raise AssertionError("there is always a next picture")


async def main() -> None:
    arguments = parser(__doc__, seconds=60)
    arguments.add_argument("--times", type=float, default=10.0)
    arguments.add_argument("--people", type=int, default=1)
    given = arguments.parse_args()
    requests = [request_of(job) for job in await jobs_of(given, given.people)]
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(served(given.repository))
        caller = Caller(service)
        usual_ms = await alone_ms(caller, requests)
        peak_s = min(given.seconds, MAX_PEAK_S)
        before = await peak(caller, requests, peak_s)
        row = await flood(caller, requests, given.times * before, given.seconds)
        back_s = await recovery_s(caller, requests, usual_ms)
        after = await peak(caller, requests, peak_s)
    row = {
        "alone_ms": usual_ms,
        "peak_per_s": before,
        "peak_after_per_s": after,
        **row,
        "goodput_to_peak": 2 * row["goodput_per_s"] / (before + after),
        "recovery_s": back_s,
    }
    if given.json:
        report("", [row], as_json=True)
    else:
        rows = [{"figure": name, "value": str(value)} for name, value in row.items()]
        report(f"offered {given.times:g} times the peak", rows, as_json=False)


if __name__ == "__main__":
    uvloop.run(main())

"""How long the service takes to be ready, and what memory it takes then and after many requests.

    python benchmarks/startup.py [PHOTOS...] [--requests 3000] [--starts 3] [--json]

The requests are of all kinds: sizes, formats, options, drawn answers, broken pictures.
`rss_growth_mb` is over the requests, after `WARM_UP` of them.
"""

import asyncio
from itertools import cycle, islice

from served import Served, parser, report, served
from variety import requests

from posegate.loadclient import Connection

WARM_UP = 300


async def send(service: Served, count: int, kinds: cycle) -> None:
    for path, accept, data in islice(kinds, count):
        connection = Connection(service.url)
        await connection.open()
        status, body = await connection.request("POST", path, data, accept=accept)
        await connection.close()
        assert status in (200, 413, 415, 422), (status, body[:300])


async def main() -> None:
    arguments = parser(__doc__, seconds=0)
    arguments.add_argument("--requests", type=int, default=3000)
    arguments.add_argument("--starts", type=int, default=3)
    given = arguments.parse_args()
    kinds = cycle(requests(given.photos))
    started = []
    for _ in range(given.starts - 1):
        async with served(given.repository) as service:
            started.append(service.started_s)
    async with served(given.repository) as service:
        started.append(service.started_s)
        at_start = service.rss_mb()
        await send(service, min(WARM_UP, given.requests), kinds)
        warm = service.rss_mb()
        await send(service, given.requests, kinds)
        row = {
            "ready_s": sorted(started)[len(started) // 2],
            "rss_at_start_mb": at_start,
            "rss_warm_mb": warm,
            "requests": given.requests,
            "rss_after_mb": service.rss_mb(),
            "rss_growth_mb": service.rss_mb() - warm,
        }
    report("start and memory", [row], as_json=given.json)


if __name__ == "__main__":
    asyncio.run(main())

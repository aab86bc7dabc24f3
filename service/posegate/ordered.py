"""Concurrent work on many items, with the results in the order of the items."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_order(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Result]], *, ahead: int
) -> AsyncIterator[Result]:
    """Run `work` on every item, at most `ahead` at a time; yield in the order of the items."""
    running: deque[asyncio.Future[Result]] = deque()
    try:
        for item in items:
            if len(running) == ahead:
                yield await running.popleft()
            running.append(asyncio.ensure_future(work(item)))
        while running:
            yield await running.popleft()
    finally:
        for future in running:
            future.cancel()
        await asyncio.gather(*running, return_exceptions=True)

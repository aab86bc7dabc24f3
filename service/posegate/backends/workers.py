"""The cores that all embedded networks share."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from posegate.budget import Budget

T = TypeVar("T")


class Workers:
    """A fixed number of threads, handed out first come, first served.

    All networks of a process take from one set, so a busy detector and a busy pose network do not
    run more threads than there are cores.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._cores = Budget(count)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="infer")

    @property
    def free(self) -> int:
        """How many workers nobody holds."""
        return self._cores.free

    async def acquire(self) -> None:
        """Wait for a worker and take it."""
        await self._cores.take(1)

    def release(self) -> None:
        """Give a worker back; it goes straight to the one who waits longest."""
        self._cores.give_back(1)

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in one of the threads; the caller holds a worker."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        """End the threads; what runs is finished first."""
        self._pool.shutdown(wait=True, cancel_futures=True)

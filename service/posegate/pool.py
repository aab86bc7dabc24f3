"""A bounded pool of threads for array work, so that none of it runs on the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Pool:
    """Runs array work beside the event loop, at most so many functions at a time."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="arrays")

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in one of the threads.

        When cancelled, work that has begun is waited for: what it holds is in use until then.
        """
        work = self._executor.submit(function)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if not work.cancel():
                await asyncio.gather(asyncio.wrap_future(work), return_exceptions=True)
            raise

    def close(self) -> None:
        """End the threads; what runs is finished first."""
        self._executor.shutdown(wait=True, cancel_futures=True)

"""Array work beside the event loop: posegate.pool."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from fakes import until
from posegate.pool import Pool


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(1)
    yield pool
    pool.close()


async def test_results_and_errors_are_those_of_the_function(pool: Pool) -> None:
    assert await pool.run(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_who_is_cancelled_waits_for_work_that_has_begun_but_for_no_other(
    pool: Pool, fails: bool
) -> None:
    begun, gate = threading.Event(), threading.Event()

    def work() -> float:
        begun.set()
        gate.wait(10)
        return 1 / (not fails)

    running = asyncio.create_task(pool.run(work))
    await until(begun.is_set)
    waiting = asyncio.create_task(pool.run(lambda: pytest.fail("it was cancelled")))
    await asyncio.sleep(0)
    for task in (running, waiting):
        task.cancel()
    await asyncio.wait([waiting], timeout=60)
    assert waiting.cancelled()
    assert not running.done()
    gate.set()
    await asyncio.wait([running], timeout=60)
    assert running.cancelled()

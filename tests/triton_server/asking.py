"""Asking a gateway whose networks run in real Tritons, as the tests do."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from fakes import encode, make_photo
from posegate.build import running_pipeline
from posegate.errors import BackendDown, DeadlineExceeded
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from triton_server.serving import TritonProcess

PHOTO = encode(make_photo(width=320, height=240))


@asynccontextmanager
async def over(repository: Path, *servers: TritonProcess) -> AsyncIterator[Pipeline]:
    """A started pipeline whose networks run in these servers."""
    urls = tuple(server.url for server in servers)
    settings = Settings(model_repository=repository, threads=2, backend="triton", triton_urls=urls)
    async with asyncio.timeout(240), running_pipeline(settings) as pipeline:
        yield pipeline


def people(count: int) -> EstimateOptions:
    """So many given boxes, all over the photo."""
    random = np.random.default_rng(count)
    corners = random.uniform(0, 150, (count, 2))
    sizes = random.uniform(40, 120, (count, 2))
    return EstimateOptions(boxes_xywh=np.hstack([corners, sizes]).astype(np.float32))


async def seconds_until(condition: Callable[[], object]) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 30, "what the test waits for did not happen"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def assert_deadlines_hold(pipeline: Pipeline) -> None:
    """Eight callers of a gateway that gets no answer: all hear so within their half second."""
    started = time.monotonic()
    answers = await asyncio.gather(
        *(pipeline.estimate(PHOTO, people(2), deadline=started + 0.5) for _ in range(8)),
        return_exceptions=True,
    )
    assert time.monotonic() - started < 1.5
    assert {type(answer) for answer in answers} <= {DeadlineExceeded, BackendDown}

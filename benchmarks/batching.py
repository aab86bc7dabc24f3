"""How crops of concurrent callers share batches, and what that is worth on this machine.

    python benchmarks/batching.py [PHOTOS...] [--seconds 20] [--json]

Eight callers send photos of one person without pause, over HTTP, to a service for each `max_batch`.
Aims: with batching 3 crops a batch in the mean (from posegate_crops_per_batch), and 1.2 times the
images per second of `max_batch` 1. `core_ms_per_crop` says why a machine may show less: CPU time of
the pose network alone for one crop of a full batch, on one core.
"""

import asyncio
import time
from contextlib import AsyncExitStack

import numpy as np
import onnxruntime as ort
from faces import Taken, over_http, turn
from served import jobs_of, parser, report, served

from posegate.bench import Job
from posegate.catalog import load_catalog
from posegate.settings import Settings, load_settings

CALLERS = 8
SIZES = (1, 2, 4, 8)
RUNS = 10


def core_ms_per_crop(settings: Settings, size: int) -> float:
    """CPU milliseconds per crop of the default pose network, one thread, batches of `size`."""
    model = load_catalog(settings.model_repository, model=None, detector=None).get(None, "pose")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        str(model.onnx_path), options, providers=["CPUExecutionProvider"]
    )
    crops = {model.card.input.name: np.zeros((size, *model.card.input_shape), np.float32)}
    session.run(None, crops)
    started = time.thread_time()
    for _ in range(RUNS):
        session.run(None, crops)
    return (time.thread_time() - started) * 1000 / RUNS / size


async def measure(settings: Settings, jobs: list[Job], size: int, seconds: float) -> dict:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(served(settings.model_repository, max_batch=size))
        call = await over_http(service, stack)
        await turn(call, jobs, CALLERS, service, Taken())
        before = await service.metrics()
        taken = Taken()
        while taken.wall_s < seconds:
            await turn(call, jobs, CALLERS, service, taken)
        after = await service.metrics()
        model = load_catalog(settings.model_repository, model=None, detector=None).get(None, "pose")
    crops, batches = (
        after[name] - before[name]
        for end in ("sum", "count")
        for name in [f'posegate_crops_per_batch_{end}{{model="{model.name}"}}']
    )
    return {
        "max_batch": size,
        "crops_per_batch": crops / batches,
        "images_per_s": len(taken.latencies_ms) / taken.wall_s,
        "core_ms_per_crop": core_ms_per_crop(settings, size),
    }


async def main() -> None:
    given = parser(__doc__, seconds=20).parse_args()
    jobs = await jobs_of(given, 1)
    settings = load_settings(model_repository=given.repository)
    rows = [await measure(settings, jobs, size, given.seconds / len(SIZES)) for size in SIZES]
    for row in rows:
        row["to_unbatched"] = row["images_per_s"] / rows[0]["images_per_s"]
    report(f"{CALLERS} callers of one-person photos", rows, as_json=given.json)


if __name__ == "__main__":
    asyncio.run(main())

"""The gateway's crops per second over a real Triton, against Triton driven directly.

    make .venv-triton/.done
    PYTHONPATH=service:tests python benchmarks/triton.py [--seconds 6] [--json]

Both sides send the same crops of the shipped pose network, one per request, from 8 callers to one
server, in turns; the best round of each counts. Directly: `perf_analyzer` where it is on PATH, else
tritonclient's asyncio gRPC client, each caller with a request made beforehand. The gateway is
posegate's Triton backend as the pipeline uses it: queue, deadline, checks, whole heatmaps.
The aim is a ratio of 0.9.
"""

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import tritonclient.grpc.aio as triton_client
from tritonclient.grpc import InferInput, InferRequestedOutput

from posegate.backends.triton import TritonNetwork
from posegate.backends.triton_servers import CHANNEL_ARGUMENTS, TritonServers
from posegate.catalog import Model, load_catalog
from posegate.metrics import Metrics
from posegate.settings import find_model_repository
from triton_server.serving import TritonProcess, make_backends, make_triton_repository


async def per_second(call: Callable[[], Awaitable[object]], callers: int, seconds: float) -> float:
    """Calls that ended per second, from so many callers at a time."""
    done = 0
    started = time.monotonic()

    async def keep_calling() -> None:
        nonlocal done
        while time.monotonic() < started + seconds:
            await call()
            done += 1

    await asyncio.gather(*(keep_calling() for _ in range(callers)))
    return done / (time.monotonic() - started)


async def directly(url: str, model: Model, crop: np.ndarray, callers: int, seconds: float) -> float:
    if (program := shutil.which("perf_analyzer")) is not None:
        return await asyncio.to_thread(_perf_analyzer, program, url, model, crop, callers, seconds)
    tensor = InferInput(model.card.input.name, list(crop.shape), "FP32")
    tensor.set_data_from_numpy(crop)
    (output,) = model.card.output.names
    async with triton_client.InferenceServerClient(url, channel_args=CHANNEL_ARGUMENTS) as client:

        async def call() -> None:
            answer = await client.infer(
                model.name, [tensor], outputs=[InferRequestedOutput(output)]
            )
            assert answer.as_numpy(output) is not None

        return await per_second(call, callers, seconds)


def _perf_analyzer(
    program: str, url: str, model: Model, crop: np.ndarray, callers: int, seconds: float
) -> float:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / model.card.input.name).write_bytes(crop.tobytes())
        done = subprocess.run(  # noqa: S603
            [
                program, "-m", model.name, "-u", url, "-i", "grpc", "-b", "1", "--async",
                "--concurrency-range", str(callers), "--input-data", folder,
                "--measurement-interval", str(round(seconds * 300)), "--max-trials", "5",
            ],
            capture_output=True, text=True, check=True, timeout=20 * seconds + 60,
        )  # fmt: skip
    return float(re.findall(r"throughput: ([\d.]+) infer/sec", done.stdout)[-1])


async def run(url: str, model: Model, options: argparse.Namespace) -> dict[str, float]:
    crop = np.random.default_rng(0).normal(0, 1, (1, *model.card.input_shape)).astype(np.float32)
    servers = TritonServers([url], models=[model.name], call_limit_s=30)
    network = TritonNetwork(
        model, servers=servers, metrics=Metrics(), max_in_flight=64, max_queue=512
    )
    await network.start()
    seconds = options.seconds / options.rounds
    best = {"directly": 0.0, "gateway": 0.0}
    try:
        for _ in range(options.rounds):
            ours = await per_second(lambda: network.infer(crop), options.callers, seconds)
            theirs = await directly(url, model, crop, options.callers, seconds)
            best = {
                "directly": max(best["directly"], theirs),
                "gateway": max(best["gateway"], ours),
            }
    finally:
        await network.stop()
    return {**best, "ratio": best["gateway"] / best["directly"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, default=find_model_repository())
    parser.add_argument("--model")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = load_catalog(options.repository).get(options.model, "pose")
    with tempfile.TemporaryDirectory() as folder:
        triton = make_triton_repository(options.repository, Path(folder))
        with TritonProcess(triton, make_backends(Path(folder)), Path(folder) / "log") as server:
            answer = asyncio.run(run(server.url, model, options))
    by = "perf_analyzer" if shutil.which("perf_analyzer") else "tritonclient"
    row = {"model": model.name, "callers": options.callers, "directly_by": by}
    row |= {name: round(value, 3) for name, value in answer.items()}
    print(json.dumps(row) if options.json else row)


if __name__ == "__main__":
    main()

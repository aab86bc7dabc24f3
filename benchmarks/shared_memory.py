"""Crops to a Triton on the same machine: in gRPC messages against through shared memory.

    make .venv-triton/.done
    PYTHONPATH=service:tests python benchmarks/shared_memory.py [--seconds 15] [--json]

Both ways send the same made crops of the shipped pose network to one server, in turns; the best
round of each counts. Whole heatmaps come back. The server is the one of the tests (Python backend,
ONNX Runtime on one thread, no GPU), so the network takes most of the time: what the way saves is
the difference in ms, which a faster network would not change; `our_cpu_ms` is CPU time of the
gateway's side for one request, the steadiest of the figures on a busy machine. `--ways off cuda`
needs a GPU.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from posegate.backends.triton import TritonNetwork
from posegate.backends.triton_memory import check_shared_memory
from posegate.backends.triton_servers import TritonServers
from posegate.catalog import Model, load_catalog
from posegate.errors import BadOption
from posegate.metrics import Metrics
from posegate.settings import find_model_repository
from posegate.tables import print_table
from triton_server.serving import TritonProcess, make_backends, make_triton_repository

CALLERS = (1, 8)


async def measure(
    network: TritonNetwork, crops: np.ndarray, *, callers: int, seconds: float
) -> dict[str, float]:
    """Requests answered per second, their middle latency, CPU time of this side for each."""
    took_ms: list[float] = []
    started, cpu_s = time.perf_counter(), time.process_time()

    async def keep_calling() -> None:
        while (asked := time.perf_counter()) < started + seconds:
            await network.infer(crops)
            took_ms.append((time.perf_counter() - asked) * 1000)

    await asyncio.gather(*(keep_calling() for _ in range(callers)))
    per_s = len(took_ms) / (time.perf_counter() - started)
    return {
        "p50_ms": float(np.median(took_ms)),
        "inferences_per_s": per_s,
        "our_cpu_ms": (time.process_time() - cpu_s) * 1000 / len(took_ms),
    }


async def run(url: str, model: Model, options: argparse.Namespace) -> list[dict[str, object]]:
    shape = model.card.input_shape
    best: dict[tuple[int, int, str], dict[str, float]] = {}
    networks = {way: network_over(url, model, way) for way in options.ways}
    try:
        for network in networks.values():
            await network.start()
        for _ in range(options.rounds):
            for count in options.crops:
                crops = np.random.default_rng(0).normal(0, 1, (count, *shape)).astype(np.float32)
                for callers in CALLERS:
                    for way, network in networks.items():
                        row = await measure(
                            network,
                            crops,
                            callers=callers,
                            seconds=options.seconds / options.rounds,
                        )
                        former = best.setdefault((count, callers, way), row)
                        if row["inferences_per_s"] > former["inferences_per_s"]:
                            best[count, callers, way] = row
    finally:
        for network in networks.values():
            await network.stop()
    return [
        {
            "crops": count,
            "callers": callers,
            "shared_memory": way,
            **{name: round(value, 2) for name, value in row.items()},
        }
        for (count, callers, way), row in best.items()
    ]


def network_over(url: str, model: Model, way: str) -> TritonNetwork:
    servers = TritonServers(
        [url], models=[model.name], call_limit_s=30, memory=None if way == "off" else way
    )
    return TritonNetwork(model, servers=servers, metrics=Metrics(), max_in_flight=64, max_queue=512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, default=find_model_repository())
    parser.add_argument("--model")
    parser.add_argument("--crops", type=int, nargs="+", default=[1, 8], help="in one request")
    parser.add_argument(
        "--ways", nargs="+", default=["off", "system"], choices=["off", "system", "cuda"]
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="for each row of the table")
    parser.add_argument("--rounds", type=int, default=3, help="all rows in turn; the best counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        for way in set(options.ways) - {"off"}:
            check_shared_memory(way)
    except BadOption as error:
        parser.error(error.detail)
    model = load_catalog(options.repository).get(options.model, "pose")
    with tempfile.TemporaryDirectory() as folder:
        triton = make_triton_repository(options.repository, Path(folder))
        with TritonProcess(triton, make_backends(Path(folder)), Path(folder) / "log") as server:
            rows = asyncio.run(run(server.url, model, options))
    if options.json:
        print(json.dumps({"model": model.name, "rows": rows}))
    else:
        print_table(f"{model.name}: shared memory with Triton", rows)


if __name__ == "__main__":
    main()

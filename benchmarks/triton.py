"""The gateway's pose crops per second over a real Triton, against perf_analyzer on the same server.

    make .venv-triton/.done .venv-perf/.done
    PYTHONPATH=service:tests python benchmarks/triton.py PHOTOS... [--seconds 15] [--json]

Both sides send the same crops, those of the people in the photos, one per request over gRPC and at
the same concurrency, to one server, in turns; the best round of each counts. The gateway is
posegate's Triton backend as the pipeline uses it: queue, deadline, checks, whole heatmaps;
`cpu_ms` is what it spends on a crop. The aim is a ratio of 0.9. The server is the one of the tests:
Python backend, ONNX Runtime, no GPU.
"""

import argparse
import asyncio
import base64
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from posegate.backends.triton import TritonNetwork
from posegate.backends.triton_servers import TritonServers
from posegate.catalog import Model, load_catalog
from posegate.metrics import Metrics
from posegate.plan_check import photo_crops
from posegate.predict import find_sources
from posegate.settings import Settings, find_model_repository
from posegate.tables import print_table
from triton_server.serving import TritonProcess, make_backends, make_triton_repository

PERF_VENV = Path(__file__).parents[1] / ".venv-perf"
HOW_TO_GET_IT = (
    "perf_analyzer is not here. It is a program in the wheel tritonclient 2.51.0 (Linux x86-64):\n"
    "    make .venv-perf/.done\nIt also needs Debian's libb64-0d: apt-get install libb64-0d"
)
WINDOWS = 3
"""perf_analyzer measures in windows and needs three; each gets a third of a round."""


def find_perf_analyzer() -> str:
    """Path of the program, or the end of this one with the way to get it."""
    program = shutil.which("perf_analyzer", path=str(PERF_VENV / "bin"))
    program = program or shutil.which("perf_analyzer")
    if program is None:
        sys.exit(HOW_TO_GET_IT)
    done = subprocess.run([program, "--version"], env=_environment(), capture_output=True)  # noqa: S603
    if b"error while loading shared libraries" in done.stderr:
        sys.exit(f"{done.stderr.decode().strip()}\n{HOW_TO_GET_IT}")
    return program


def directly(
    program: str, url: str, model: Model, data: Path, *, callers: int, seconds: float
) -> float:
    """perf_analyzer's inferences per second; `data` is what `write_crops` wrote."""
    window_ms = round(seconds * 1000 / WINDOWS)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        done = subprocess.run(  # noqa: S603
            [
                program, "-m", model.name, "-u", url, "-i", "grpc", "-b", "1", "--async",
                "--concurrency-range", str(callers), "--input-data", str(data),
                "--shape", f"{model.card.input.name}:{','.join(map(str, model.card.input_shape))}",
                "--measurement-interval", str(window_ms), "--stability-percentage", "999",
                "--max-trials", str(WINDOWS), "-f", str(report),
            ],
            env=_environment(), capture_output=True, text=True, timeout=20 * seconds + 120,
        )  # fmt: skip
        if done.returncode != 0 or not report.is_file():
            sys.exit(f"perf_analyzer failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        with report.open(newline="") as rows:
            return float(next(csv.DictReader(rows))["Inferences/Second"])


async def through_the_gateway(
    network: TritonNetwork, crops: np.ndarray, *, callers: int, seconds: float
) -> tuple[float, float]:
    """Crops answered per second from so many callers at a time, and milliseconds of CPU for each.

    The CPU is this process's: what a gateway spends on asking Triton.
    """
    turn = itertools.cycle(range(len(crops)))
    done = 0
    started, cpu = time.monotonic(), time.process_time()

    async def keep_calling() -> None:
        nonlocal done
        while (now := time.monotonic()) < started + seconds:
            first = next(turn)
            await network.infer(crops[first : first + 1], deadline=now + 30)
            done += 1

    await asyncio.gather(*(keep_calling() for _ in range(callers)))
    cpu_ms = 1000 * (time.process_time() - cpu) / done
    return done / (time.monotonic() - started), cpu_ms


async def run(
    program: str, url: str, model: Model, crops: np.ndarray, options: argparse.Namespace
) -> list[dict]:
    """One row per round."""
    settings = Settings()
    network = TritonNetwork(
        model,
        servers=TritonServers([url], models=[model.name], call_limit_s=settings.request_timeout_s),
        metrics=Metrics(),
        max_in_flight=settings.triton_in_flight,
        max_queue=settings.max_queue,
    )
    asked = {"callers": options.callers, "seconds": options.seconds / options.rounds}
    rows = []
    await network.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = write_crops(model, crops, Path(folder))
            for number in range(1, options.rounds + 1):
                ours, cpu_ms = await through_the_gateway(network, crops, **asked)
                theirs = await asyncio.to_thread(directly, program, url, model, data, **asked)
                rows.append(
                    {"round": number, "gateway": ours, "perf_analyzer": theirs, "cpu_ms": cpu_ms}
                )
    finally:
        await network.stop()
    return rows


def write_crops(model: Model, crops: np.ndarray, folder: Path) -> Path:
    """The crops (n, 3, H, W) float32 as perf_analyzer's input file; it takes them in turn."""
    steps = [{model.card.input.name: {"b64": base64.b64encode(crop).decode()}} for crop in crops]
    path = folder / "crops.json"
    path.write_text(json.dumps({"data": steps}))
    return path


def _environment() -> dict[str, str]:
    """perf_analyzer is linked to CUDA's runtime, which a wheel beside it holds. No GPU needed."""
    libraries = PERF_VENV.glob("lib/python3.*/site-packages/nvidia/cuda_runtime/lib")
    before = filter(None, [os.environ.get("LD_LIBRARY_PATH")])
    return {**os.environ, "LD_LIBRARY_PATH": ":".join([*map(str, libraries), *before])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", help="files, folders or globs")
    parser.add_argument("--repository", type=Path, default=find_model_repository())
    parser.add_argument("--model")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    program = find_perf_analyzer()
    model = load_catalog(options.repository).get(options.model, "pose")
    photos = [source.path for source in find_sources(options.photos)]
    settings = Settings(model_repository=options.repository)
    crops = asyncio.run(photo_crops(model, photos, settings))
    with tempfile.TemporaryDirectory() as folder:
        triton = make_triton_repository(options.repository, Path(folder))
        with TritonProcess(triton, make_backends(Path(folder)), Path(folder) / "log") as server:
            rows = asyncio.run(run(program, server.url, model, crops, options))
    best = {side: max(row[side] for row in rows) for side in ("gateway", "perf_analyzer")}
    rows.append({"round": "best", **best, "cpu_ms": min(row["cpu_ms"] for row in rows)})
    rows = [
        {name: value if name == "round" else round(value, 2) for name, value in row.items()}
        | {"ratio": round(row["gateway"] / row["perf_analyzer"], 3)}
        for row in rows
    ]
    about = {"network": model.name, "crops": len(crops), "concurrency": options.callers}
    if options.json:
        print(json.dumps({**about, "rows": rows}))
    else:
        print_table(", ".join(f"{name} {value}" for name, value in about.items()), rows)


if __name__ == "__main__":
    main()

"""Decoding in the graph against whole heatmaps over a real Triton: bytes a person, crops a second.

    make .venv-triton/.done
    PYTHONPATH=service:tests python benchmarks/in_graph_decode.py [--seconds 5] [--json]

The shipped default pose network and its `-decoded` form run in the same Triton (test server, Python
backend, one ONNX Runtime thread), asked in turn by the same callers with the same made crops; the
keypoints are decoded, so that both figures end in the same place. Client and server share the
machine, so what the wire saves shows; what a GPU would say does not.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from posegate.backends.triton import TritonNetwork
from posegate.backends.triton_servers import TritonServers
from posegate.catalog import Model, load_catalog
from posegate.codecs import make_codec
from posegate.metrics import Metrics
from posegate.settings import find_model_repository
from triton_server.serving import TritonProcess, make_backends, make_triton_repository

CROPS = 4


async def measure(model: Model, servers: TritonServers, callers: int, seconds: float) -> dict:
    """Crops decoded per second, and what came over the wire for each."""
    network = TritonNetwork(
        model, servers=servers, metrics=Metrics(), max_in_flight=64, max_queue=512
    )
    await network.start()
    numbers = model.card.codec.model_dump()
    codec = make_codec(**numbers, crop_wh=model.card.input.size_wh)
    crops = np.random.default_rng(0).normal(0, 1, (CROPS, *model.card.input_shape))
    crops = crops.astype(np.float32)
    ends = time.monotonic() + seconds
    done = 0
    bytes_out = 0

    async def call() -> None:
        nonlocal done, bytes_out
        while time.monotonic() < ends:
            answer = await network.infer(crops)
            codec.decode(answer.outputs)
            bytes_out = sum(output.nbytes for output in answer.outputs) // CROPS
            done += CROPS

    started = time.monotonic()
    await asyncio.gather(*(call() for _ in range(callers)))
    return {
        "network": model.name,
        "bytes_per_person": bytes_out,
        "crops_per_s": round(done / (time.monotonic() - started), 1),
    }


async def run(url: str, model: Model, callers: int, seconds: float, rounds: int) -> list[dict]:
    forms = [model, model.decoded]
    servers = TritonServers([url], models=[form.name for form in forms], call_limit_s=30)
    rows: list[dict] = []
    try:
        for _ in range(rounds):
            rows += [await measure(form, servers, callers, seconds / rounds) for form in forms]
    finally:
        await servers.stop()
    best = {}
    for row in rows:
        if row["crops_per_s"] >= best.get(row["network"], row)["crops_per_s"]:
            best[row["network"]] = row
    return list(best.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, default=find_model_repository())
    parser.add_argument("--model")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=12.0, help="for each of the two forms")
    parser.add_argument("--rounds", type=int, default=3, help="both forms in turn; the best counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = load_catalog(options.repository).get(options.model, "pose")
    if model.decoded is None:
        parser.error(f"{model.name} has no decoded form; run: posenets export-decoded REPOSITORY")
    with tempfile.TemporaryDirectory() as folder:
        triton = make_triton_repository(options.repository, Path(folder))
        with TritonProcess(triton, make_backends(Path(folder)), Path(folder) / "log") as server:
            rows = asyncio.run(
                run(server.url, model, options.callers, options.seconds, options.rounds)
            )
    for row in rows:
        print(json.dumps(row) if options.json else row)


if __name__ == "__main__":
    main()

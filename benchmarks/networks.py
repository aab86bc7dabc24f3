"""Latency of networks side by side on the embedded runtime, and the ratios that the papers claim.

    python benchmarks/networks.py                                  # the networks of the ratios
    python benchmarks/networks.py goatpose-bl hrnet-w32 --repeats 40 --int8

Random weights: speed does not depend on them. Every round runs each network once, one after the
other, so that all share the noise of the machine; the figure is the median over the rounds. With
--int8 the networks of the INT8 ratios are calibrated on random crops and run as well.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from posegate.card import Training
from posegate.catalog import CARD_NAME, Model, load_card
from posenets.export.checkpoint import CheckpointExport, export_checkpoint
from posenets.export.forms import write_form
from posenets.networks import NETWORKS
from posenets.networks.table import build_network
from posenets.training.recipe import Phase, PoseRecipe

RATIOS = (
    # slower, faster, at least (GoatPose and LiteDeconvPose: the papers' ratios)
    ("hrnet-w32", "goatpose-bl", 2.0),
    ("lite-hrnet-30", "litedeconv", 2.95),
    ("lite-hrnet-18", "le-hrnet", 1.0),
    ("lite-hrnet-30", "le-hrnet", 1.0),
)
INT8_RATIOS = (
    ("goatpose-bl", "goatpose-bl-int8", 2.0),
    ("hrnet-w32", "hrnet-w32-int8", 2.0),
)
BATCHES = (1, 8)


@dataclass(frozen=True)
class Ratio:
    """How many times faster one network is than another, and how many were asked for."""

    slower: str
    faster: str
    batch: int
    wanted: float
    found: float


def write_network(name: str, repository: Path) -> Model:
    """A network of the table with random weights, as `posenets export` writes it."""
    torch.manual_seed(0)
    width, height = NETWORKS[name].size_wh
    recipe = PoseRecipe(
        task="pose",
        network=name,
        examples=1,
        phases=(Phase(width=width, height=height, share=1),),
    )
    checkpoint = repository / f"{name}.pt"
    weights = build_network(name).state_dict()
    torch.save({"ema": weights, "recipe": recipe.model_dump_json()}, checkpoint)
    export_checkpoint(CheckpointExport(checkpoint, repository, name, "random weights", Training()))
    return Model(load_card(repository / name / CARD_NAME), repository / name)


def write_int8(model: Model) -> str:
    """Its 8-bit form beside it; returns the name."""
    crops = np.random.default_rng(0).normal(size=(8, *model.card.input_shape)).astype(np.float32)
    write_form(model, "int8", crops)
    return f"{model.name}-int8"


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(
    repository: Path, names: list[str], *, batch: int, threads: int, repeats: int
) -> dict[str, float]:
    """Median milliseconds of one batch per network, the networks taking turns."""
    calls = {}
    for name in names:
        session = open_session(repository / name / "1" / "model.onnx", threads)
        _, *shape = session.get_inputs()[0].shape
        crops = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
        calls[name] = (session, crops)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, (session, crops) in calls.items():
            start = time.perf_counter()
            session.run(None, {"input": crops})
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked = [name for slower, faster, _ in RATIOS for name in (slower, faster)]
    parser.add_argument("names", nargs="*", default=list(dict.fromkeys(asked)))
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--repository", type=Path, help="keep the files here and use what is there")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        repository = told.repository or Path(scratch)
        repository.mkdir(parents=True, exist_ok=True)
        names = prepare(repository, told.names, int8=told.int8)
        rows, ratios = [], []
        for batch in told.batch or BATCHES:
            found = measure(
                repository, names, batch=batch, threads=told.threads, repeats=told.repeats
            )
            rows += [{"network": n, "batch": batch, "ms": round(ms, 2)} for n, ms in found.items()]
            ratios += [
                Ratio(slower, faster, batch, wanted, found[slower] / found[faster])
                for slower, faster, wanted in (*RATIOS, *INT8_RATIOS)
                if slower in found and faster in found
            ]
    for row in rows:
        print(f"{row['network']:28}batch {row['batch']:<3}{row['ms']:10.2f} ms")
    for ratio in ratios:
        verdict = "met" if ratio.found >= ratio.wanted else "MISSED"
        print(
            f"{ratio.slower} / {ratio.faster}, batch {ratio.batch}: {ratio.found:.2f} "
            f"(at least {ratio.wanted:g}: {verdict})"
        )
    if told.json:
        told.json.write_text(
            json.dumps({"rows": rows, "ratios": [vars(ratio) for ratio in ratios]}, indent=2)
        )


def prepare(repository: Path, names: list[str], *, int8: bool) -> list[str]:
    """Write what is not there yet; the names to run."""
    prepared = []
    for name in names:
        folder = repository / name
        if not (folder / CARD_NAME).is_file():
            write_network(name, repository)
        prepared.append(name)
        if int8 and name in [slower for slower, _, _ in INT8_RATIOS]:
            eight = f"{name}-int8"
            if not (repository / eight / CARD_NAME).is_file():
                write_int8(Model(load_card(folder / CARD_NAME), folder))
            prepared.append(eight)
    return prepared


if __name__ == "__main__":
    main()

"""Where the time of a network goes, by kind of operator, and how fast its multiplications are.

    python benchmarks/operators.py hrnet-w32 goatpose-bl le-hrnet lite-hrnet-18
    python benchmarks/operators.py goatpose-bl goatpose-bl-int8 --threads 2

Random weights, batch 1, one thread unless more are asked for; the shares add up to the time of a
run. 8-bit convolutions are one kind, QLinearConv: the profiler does not tell their weights' shape.
`peak` is the fastest product of matrices that this core shows. The second table says how many times
as fast as the slower network of a ratio the faster one could be at most, were everything but its
convolutions free and these at that peak, or as fast as those of the slower one if that is more.
"""

import argparse
import json
import math
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from networks import RATIOS, write_int8, write_network
from onnx import TensorProto, helper

RUNS = 20
INT8 = "-int8"
DEFAULT = ["hrnet-w32", "goatpose-bl", "lite-hrnet-18", "lite-hrnet-30", "le-hrnet"]


@dataclass
class Share:
    """Time and multiply-accumulates of one kind of operator in one run of a network."""

    ms: float = 0.0
    macs: float = 0.0
    count: int = 0


def kind_of(event: dict) -> tuple[str, float]:
    """The kind of operator of a profiler event, and its multiply-accumulates."""
    arguments = event["args"]
    operator = arguments["op_name"]
    if operator not in ("Conv", "FusedConv"):
        return operator, 0
    shapes = [next(iter(entry.values())) for entry in arguments["input_type_shape"]]
    out = next(iter(arguments["output_type_shape"][0].values()))
    filters, depth, height, width = shapes[1]
    sort = "depthwise" if depth == 1 and filters > 1 else "convolution"
    return f"{sort} {height}x{width}", math.prod(out) * depth * height * width


def profile(path: Path, scratch: Path, threads: int) -> dict[str, Share]:
    """Kinds of operators of the network in `path`, each per run."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_profiling = True
    options.profile_file_prefix = str(scratch / path.parents[1].name)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    _, *shape = session.get_inputs()[0].shape
    crop = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    for _ in range(RUNS):
        session.run(None, {"input": crop})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    kernels = kernels[len(kernels) // 4 :]  # the first runs warm up
    runs = RUNS * 3 / 4
    shares: dict[str, Share] = defaultdict(Share)
    for event in kernels:
        kind, macs = kind_of(event)
        share = shares[kind]
        share.ms += event["dur"] / 1000 / runs
        share.macs += macs / runs
        share.count += 1
    for share in shares.values():
        share.count = round(share.count / runs)
    return shares


def peak_gmacs(size: int = 1024, seconds: float = 1.0) -> float:
    """GMAC/s of ONNX Runtime's best case, a large matrix product on one thread."""
    value = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [size, size]) for n in ("a", "b", "c")
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], "peak", value[:2], value[2:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {n: np.ones((size, size), np.float32) for n in ("a", "b")}
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        best = min(best, time.perf_counter() - start)
    return size**3 / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=DEFAULT)
    parser.add_argument("--at-least", type=float, default=0.02, help="hide kinds below this share")
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in told.names:
            model = write_network(name.removesuffix(INT8), Path(folder))
            if name.endswith(INT8):
                write_int8(model)
            file = Path(folder) / name / "1" / "model.onnx"
            found[name] = profile(file, Path(folder), told.threads)
    peak = peak_gmacs()
    print(f"peak of a core: {peak:.0f} GMAC/s")
    for name, shares in found.items():
        show(name, shares, told.at_least)
    print("\nat most, were all but convolutions free and these at the peak:")
    for slower, faster, wanted in RATIOS:
        if slower in found and faster in found:
            speed = max(peak, speed_of(found[slower]))
            bound = time_of(found[slower]) * speed / (macs_of(found[faster]) / 1e6)
            ratio = time_of(found[slower]) / time_of(found[faster])
            print(f"  {slower} / {faster}: {bound:.2f} at most, {ratio:.2f} found, {wanted} wanted")


def show(name: str, shares: dict[str, Share], at_least: float) -> None:
    total = time_of(shares)
    print(f"\n{name}: {total:.1f} ms, {macs_of(shares) / 1e9:.2f} GMACs")
    for kind, share in sorted(shares.items(), key=lambda item: -item[1].ms):
        if share.ms >= at_least * total:
            speed = f"{share.macs / share.ms / 1e6:8.1f} GMAC/s" if share.macs else ""
            print(f"  {kind:20}{share.ms:8.2f} ms {share.ms / total:6.1%} x{share.count:<5}{speed}")


def time_of(shares: dict[str, Share]) -> float:
    """Milliseconds of a run."""
    return sum(share.ms for share in shares.values())


def macs_of(shares: dict[str, Share]) -> float:
    return sum(share.macs for share in shares.values())


def speed_of(shares: dict[str, Share]) -> float:
    """GMAC/s of the convolutions."""
    return macs_of(shares) / sum(share.ms for share in shares.values() if share.macs) / 1e6


if __name__ == "__main__":
    main()

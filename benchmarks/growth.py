"""Cores, gateways and network that so many cameras take: a calculation from measured costs.

    python benchmarks/growth.py [--people 2] [--fps 5] [--json]

The defaults are what this project measured on one machine (README, "How fast"); put in your own:

* `--frame-ms`, `--person-ms`: CPU of a gateway that runs the networks itself, a line through the
  images/s over HTTP of `posegate bench`, client included.
* `--before-triton-frame-ms`, `--before-triton-person-ms`: the same without the networks.
* `--ask-ms`: CPU of asking Triton for one crop, `cpu_ms` of `benchmarks/triton.py`. Asking for a
  frame's boxes counts three times, its tensor being three times as large.
* `--crops-per-gpu`: pose crops a second of one Triton, by `perf_analyzer` on the GPU in question;
  without it no GPUs are counted.
"""

import argparse
import json
import math

from posegate.tables import print_table

CAMERAS = (100, 1_000, 10_000)
CORES = 2
"""CPU limit of a gateway in k8s/base."""
FRAME_BYTES = 3 * 384 * 384 * 4
CROP_BYTES = 3 * 256 * 192 * 4
MAP_BYTES = 17 * 64 * 48 * 4
DECODED_BYTES = 9_400


def row(cameras: int, costs: argparse.Namespace) -> dict[str, object]:
    """What the cameras take, gateways alone and before Tritons."""
    frames = cameras * costs.fps
    crops = frames * costs.people
    alone_ms = costs.frame_ms + costs.people * costs.person_ms
    before_ms = costs.before_triton_frame_ms + costs.people * costs.before_triton_person_ms
    before_ms += (3 + costs.people) * costs.ask_ms
    answers = {"whole maps": MAP_BYTES, "decoded": DECODED_BYTES}
    wires = {
        name: (frames * FRAME_BYTES + crops * (CROP_BYTES + size)) / 1e9
        for name, size in answers.items()
    }
    gpus = {} if costs.crops_per_gpu is None else {"GPUs": _whole(crops, costs.crops_per_gpu)}
    return {
        "cameras": cameras,
        "frames/s": round(frames),
        "crops/s": round(crops),
        "cores, no Triton": math.ceil(frames * alone_ms / 1000),
        "gateways, no Triton": _whole(frames * alone_ms / 1000, CORES * costs.filled),
        "cores before Tritons": math.ceil(frames * before_ms / 1000),
        "gateways before Tritons": _whole(frames * before_ms / 1000, CORES * costs.filled),
        **{f"GB/s, {name}": round(size, 1) for name, size in wires.items()},
        **gpus,
    }


def _whole(amount: float, each: float) -> int:
    """Never fewer than two: one may go."""
    return max(2, math.ceil(amount / each))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fps", type=float, default=5)
    parser.add_argument("--people", type=float, default=2)
    parser.add_argument("--frame-ms", type=float, default=12.8)
    parser.add_argument("--person-ms", type=float, default=11.3)
    parser.add_argument("--before-triton-frame-ms", type=float, default=5.4)
    parser.add_argument("--before-triton-person-ms", type=float, default=0.35)
    parser.add_argument("--ask-ms", type=float, default=1.1)
    parser.add_argument("--filled", type=float, default=0.6, help="share of the cores to use")
    parser.add_argument("--crops-per-gpu", type=float)
    parser.add_argument("--json", action="store_true")
    costs = parser.parse_args()
    rows = [row(cameras, costs) for cameras in CAMERAS]
    if costs.json:
        print(json.dumps(rows))
    else:
        print_table(f"{costs.fps:g} frames/s and {costs.people:g} people a camera", rows)


if __name__ == "__main__":
    main()

"""Milliseconds from heatmaps to keypoints, by decoder and number of people.

    python benchmarks/keypoints.py

Targets for 32 people on one core: DARK 2 ms, quarter 0.5 ms. Maps are 17 x 64 x 48 float32, each
with a peak at a random place and some noise; the figure is the median of `REPEATS` runs.
"""

import statistics
import time

import numpy as np

from posegate.codecs import HeatmapCodec
from posegate.codecs.heatmap import REFINEMENTS
from posegate.types import Keypoints

REPEATS = 200
PEOPLE = (1, 8, 32)


def make_heatmaps(people: int) -> np.ndarray:
    """(P, 17, 64, 48) float32."""
    random = np.random.default_rng(people)
    xy = random.uniform((0, 0), (191, 255), (people, 17, 2)).astype(np.float32)
    ones = np.ones(xy.shape[:2], np.float32)
    (heatmaps,), _ = HeatmapCodec().encode(Keypoints(xy, ones), ones)
    return 0.8 * heatmaps + 0.02 * random.random(heatmaps.shape, np.float32)


def median_ms(decode: str, heatmaps: np.ndarray) -> float:
    codec = HeatmapCodec(decode=decode)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        codec.decode((heatmaps,))
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    print(f"{'people':>8}" + "".join(f"{name:>10}" for name in REFINEMENTS))
    for people in PEOPLE:
        heatmaps = make_heatmaps(people)
        row = (median_ms(name, heatmaps) for name in REFINEMENTS)
        print(f"{people:8}" + "".join(f"{value:10.3f}" for value in row))


if __name__ == "__main__":
    main()

"""Requests of all kinds, good and bad, for the benchmarks that watch memory."""

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np

from posegate.predict import find_sources

SIZES_WH = ((64, 48), (320, 240), (640, 480), (1280, 720))
SUFFIXES = (".jpg", ".png", ".webp")
QUERIES = (
    "",
    "?format=coco",
    "?boxes=[[5,5,30,40],[20,5,20,40]]",
    "?flip_test=true",
    "?decode=quarter&max_people=3",
    "?min_score=much",
)
DRAWN_EVERY = 7


def pictures(paths: Sequence[str]) -> list[bytes]:
    """The files' bytes, or made pictures without any, and two broken ones."""
    if paths:
        whole = [source.path.read_bytes() for source in find_sources(paths)]
    else:
        whole = [
            made(size, suffix, seed)
            for seed, (size, suffix) in enumerate(product(SIZES_WH, SUFFIXES))
        ]
    return [*whole, b"broken", whole[0][: len(whole[0]) // 2]]


def made(size_wh: tuple[int, int], suffix: str, seed: int) -> bytes:
    """A smooth, colourful picture."""
    small = np.random.default_rng(seed).integers(40, 255, (6, 8, 3), dtype=np.uint8)
    _, data = cv2.imencode(suffix, cv2.resize(small, size_wh, interpolation=cv2.INTER_CUBIC))
    return data.tobytes()


def requests(paths: Sequence[str]) -> list[tuple[str, str, bytes]]:
    """Path with query, Accept header and body of each kind of request."""
    return [
        (f"/v1/poses{query}", "image/jpeg" if number % DRAWN_EVERY == 0 else "*/*", data)
        for number, (data, query) in enumerate(product(pictures(paths), QUERIES))
    ]

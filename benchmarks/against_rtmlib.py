"""Images per second beside rtmlib, with the same two ONNX files, photos and run.

    pip install rtmlib
    python benchmarks/against_rtmlib.py PHOTOS... [--seconds 20] [--json]

rtmlib (PyPI, Apache-2.0) is called as its documentation does: detector, then pose on its boxes,
one photo after the other, ONNX Runtime with its own defaults. posegate runs the same files through
its pipeline, with one caller and with as many as there are cores. JPEG decoding counts for both.
Photos are those where our detector finds at least 1 or 8 people; both sides keep the best N.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from rtmlib import RTMDet, ViTPose
from rtmlib.tools.object_detection.post_processings import multiclass_nms

from posegate.bench import DETECTOR_MIN_SCORE, Job, found_jobs
from posegate.build import running_pipeline
from posegate.catalog import Catalog
from posegate.pipeline import Pipeline
from posegate.settings import load_settings

PEOPLE = (1, 8)
CALLERS = 4
NMS_IOU = 0.6


class OurDetector(RTMDet):
    """rtmlib's detector around our file, which gives boxes and scores before suppression."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        padded, ratio = self.preprocess(image)
        boxes, scores = self.inference(padded[..., ::-1])
        found, _ = multiclass_nms(
            boxes[0] / ratio, scores[0][:, None], nms_thr=NMS_IOU, score_thr=DETECTOR_MIN_SCORE
        )
        return np.empty((0, 4)) if found is None else found[:, :4]


class OurPose(ViTPose):
    """rtmlib's heatmap network around our file, which takes RGB."""

    def inference(self, img: np.ndarray) -> list[np.ndarray]:
        return super().inference(img[..., ::-1])


def rtmlib_pair(catalog: Catalog) -> Callable[[bytes, int], None]:
    """One call of rtmlib: bytes of a photo, and how many people to keep."""
    detect, pose = catalog.get(None, "detect"), catalog.get(None, "pose")
    size, crop = detect.card.input, pose.card.input
    detector = OurDetector(
        str(detect.onnx_path),
        (size.height, size.width),
        mean=size.mean[::-1],
        std=size.std[::-1],
    )
    poses = OurPose(
        str(pose.onnx_path), (crop.width, crop.height), mean=crop.mean[::-1], std=crop.std[::-1]
    )

    def call(data: bytes, people: int) -> None:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        keypoints, _ = poses(image, detector(image)[:people])
        assert len(keypoints) <= people

    return call


def measure_rtmlib(
    call: Callable[[bytes, int], None], jobs: Sequence[Job], people: int, seconds: float
) -> float:
    """Images per second, one photo after the other."""
    for job in jobs[:3]:
        call(job.data, people)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        call(jobs[done % len(jobs)].data, people)
        done += 1
    return done / (time.perf_counter() - start)


async def measure_posegate(
    pipeline: Pipeline, jobs: Sequence[Job], callers: int, seconds: float
) -> float:
    """Images per second of that many concurrent callers."""
    for job in jobs[:3]:
        await pipeline.estimate(job.data, job.options)
    done, start = 0, time.perf_counter()

    async def loop() -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            job = jobs[done % len(jobs)]
            done += 1
            await pipeline.estimate(job.data, job.options)

    await asyncio.gather(*(loop() for _ in range(callers)))
    return done / (time.perf_counter() - start)


async def compare(photos: list[str], repository: Path | None, seconds: float) -> list[dict]:
    settings = load_settings(model_repository=repository)
    rows = []
    async with running_pipeline(settings) as pipeline:
        theirs = rtmlib_pair(pipeline.catalog)
        for people in PEOPLE:
            jobs = await found_jobs(pipeline, photos, people, model=None)
            if not jobs:
                continue
            rtmlib = await asyncio.to_thread(measure_rtmlib, theirs, jobs, people, seconds)
            alone = await measure_posegate(pipeline, jobs, 1, seconds)
            together = await measure_posegate(pipeline, jobs, CALLERS, seconds)
            rows.append(
                {
                    "people": people,
                    "photos": len(jobs),
                    "rtmlib": round(rtmlib, 2),
                    "posegate_1_caller": round(alone, 2),
                    f"posegate_{CALLERS}_callers": round(together, 2),
                    "ratio_1_caller": round(alone / rtmlib, 2),
                    "ratio": round(together / rtmlib, 2),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--repository", type=Path, default=None)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = asyncio.run(compare(arguments.photos, arguments.repository, arguments.seconds))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()

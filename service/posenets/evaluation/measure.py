"""One network of a model repository -> all its figures on labelled photos."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from posegate.backends.onnx import refuse_misfit
from posegate.card import ModelCard
from posegate.catalog import Model
from posegate.evaluate import Data
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import F32, F64, Keypoints
from posenets.evaluation.coco import coco_figures, similarities
from posenets.evaluation.oks import oks_per_joint, person_oks
from posenets.evaluation.pck import pckh
from posenets.evaluation.predict import Run, find_keypoints, onnx_run
from posenets.evaluation.scenes import Scene
from posenets.training.mpii import MPII_KEYPOINTS

_WARM_UP, _RUNS = 3, 20


@dataclass(frozen=True, slots=True)
class Conditions:
    """What every figure must be told with."""

    boxes: str
    flip_test: bool
    decode: str
    threads: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything known of one network. AP, OKS and PCKh in [0, 1]; latency of one crop, ms."""

    name: str
    input: str
    parameters: int
    gflops: float
    file_mib: float
    latency_ms: float
    coco: dict[str, float] | None = None
    oks: dict[str, float | None] | None = None
    pckh: list[dict[str, object]] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """A network's figures, and what it saw in the COCO photos, for drawing."""

    measured: Measured
    found: list[Keypoints]
    people_oks: F64 | None


def misfits(model: Model) -> dict[str, str]:
    """Which labels, by their option, say nothing of the network's joints, each with the reason."""
    names = model.card.keypoints
    found = {}
    if names != COCO_KEYPOINTS:
        found["--data"] = f"{model.name}: its card's keypoints are not COCO's 17"
    if not set(names) & set(MPII_KEYPOINTS):
        found["--mpii"] = f"{model.name}: its card's keypoints are none of MPII's"
    return found


def measure_network(
    model: Model,
    *,
    coco: tuple[Sequence[Scene], Data] | None,
    mpii: Sequence[Scene] | None,
    conditions: Conditions,
) -> Looked:
    """Look at every scene; OKS per joint needs scenes with the truth's boxes.

    The network must know the joints of what is given: see `misfits`.
    """
    card = model.card
    refuse_misfit(model)
    run = onnx_run(model.onnx_path, card, threads=conditions.threads)
    look = partial(
        find_keypoints, card, run, flip_test=conditions.flip_test, decode=conditions.decode
    )
    facts: dict[str, Any] = {}
    found: list[Keypoints] = []
    people: F64 | None = None
    if coco is not None:
        scenes, data = coco
        found = look(scenes, description=model.name)
        facts["coco"] = coco_figures(data, scenes, found)
        if all(scene.keypoints is not None for scene in scenes):
            similarity = similarities(scenes, found)
            people = person_oks(similarity)
            facts["oks"] = _named(card.keypoints, oks_per_joint(similarity))
    if mpii is not None:
        seen = look(mpii, description=f"{model.name}, MPII")
        facts["pckh"] = _pckh_rows(card.keypoints, mpii, seen)
    measured = Measured(
        name=model.name,
        input=f"{card.input.height}x{card.input.width}",
        parameters=card.parameters,
        gflops=card.gflops,
        file_mib=round(model.onnx_path.stat().st_size / 2**20, 2),
        latency_ms=round(latency_ms(run, card), 2),
        **facts,
    )
    return Looked(measured, found, people)


def latency_ms(run: Run, card: ModelCard) -> float:
    """Median time of one crop, milliseconds, the network alone."""
    crop: F32 = np.zeros((1, *card.input_shape), np.float32)
    times = []
    for _ in range(_WARM_UP + _RUNS):
        began = time.perf_counter()
        run(crop)
        times.append(time.perf_counter() - began)
    return 1000 * median(times[_WARM_UP:])


def _named(names: Sequence[str], values: F64) -> dict[str, float | None]:
    pairs = zip(names, values.tolist(), strict=True)
    return {name: round(value, 4) if np.isfinite(value) else None for name, value in pairs}


def _pckh_rows(
    names: tuple[str, ...], scenes: Sequence[Scene], found: Sequence[Keypoints]
) -> list[dict[str, object]]:
    """PCKh of the joints that MPII and the network both know."""
    shared = [name for name in MPII_KEYPOINTS if name in names]
    ours = [names.index(name) for name in shared]
    theirs = [MPII_KEYPOINTS.index(name) for name in shared]
    truth = np.concatenate([s.keypoints for s in scenes if s.keypoints is not None])
    heads = np.concatenate([s.head_sizes for s in scenes if s.head_sizes is not None])
    return pckh(
        np.concatenate([keypoints.xy[:, ours] for keypoints in found]),
        truth[:, theirs, :2],
        truth[:, theirs, 2] > 0,
        heads,
        joint_names=shared,
    ).as_rows()

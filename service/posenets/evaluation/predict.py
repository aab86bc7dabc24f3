"""A network in this process -> keypoints of labelled photos, through the service's own code."""

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from posegate.backends.base import BackendInfo, Inference
from posegate.card import ModelCard
from posegate.catalog import Model
from posegate.errors import PosegateError
from posegate.estimator import Estimator, nobody
from posegate.image import ImageLimits, decode_image
from posegate.pool import Pool
from posegate.stages import StageClock
from posegate.types import F32, Boxes, Keypoints
from posenets.evaluation.scenes import Scene
from posenets.onnx_files import open_session
from posenets.progress import shown
from posenets.training.records import BadData

Run = Callable[[F32], tuple[F32, ...]]
"""Crops (P, 3, H, W) float32 -> the outputs that the card names."""
_LIMITS = ImageLimits(max_bytes=2**30, max_pixels=2**28)


class DirectNetwork:
    """What the estimator needs of a network, run at once in the calling thread."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.info = BackendInfo(name="direct", precision="fp32", provider="cpu")

    async def infer(self, tensor: F32, *, deadline: float | None = None) -> Inference:
        """Run crops (P, 3, H, W)."""
        began = time.perf_counter()
        outputs = self._run(np.ascontiguousarray(tensor))
        return Inference(outputs, 0.0, time.perf_counter() - began)

    async def start(self) -> None:
        """Nothing to load."""

    async def awake(self, *, deadline: float | None) -> None:
        """It never rests."""

    async def stop(self) -> None:
        """Nothing to let go."""

    def ready(self) -> str | None:
        """None, as it always is."""
        return None

    def fault(self) -> str | None:
        """None, as there is nothing to load."""
        return None


def find_keypoints(
    card: ModelCard,
    run: Run,
    scenes: Iterable[Scene],
    *,
    flip_test: bool = False,
    decode: str = "dark",
    description: str | None = None,
) -> list[Keypoints]:
    """Keypoints (P, J) of every scene's boxes, image pixels; `description` shows a bar."""

    async def work() -> list[Keypoints]:
        seen = scenes if description is None else shown(list(scenes), description)
        return [await _look(estimator, scene, flip_test=flip_test, decode=decode) for scene in seen]

    pool = Pool(1)
    estimator = Estimator(Model(card, Path()), backend=DirectNetwork(run), pool=pool)
    try:
        return asyncio.run(work())
    finally:
        pool.close()


def torch_run(network: nn.Module, device: torch.device) -> Run:
    """Runs a heatmap network in evaluation mode."""

    @torch.no_grad()
    def run(tensor: F32) -> tuple[F32, ...]:
        heatmaps = network(torch.from_numpy(tensor).to(device))
        return (np.asarray(heatmaps.float().cpu().numpy(), np.float32),)

    return run


def onnx_run(path: Path, card: ModelCard, *, threads: int) -> Run:
    """Runs the ONNX file of a card; raises BadData where ONNX Runtime cannot load it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = open_session(path, options)
    return lambda tensor: tuple(session.run(list(card.output.names), {card.input.name: tensor}))


async def _look(estimator: Estimator, scene: Scene, *, flip_test: bool, decode: str) -> Keypoints:
    if not len(scene.boxes_xywh):
        return nobody(estimator.names).keypoints
    try:
        image = decode_image(scene.photo.read(), _LIMITS)
    except PosegateError as error:
        raise BadData(f"{scene.name}: {error.detail}") from error
    poses, _ = await estimator.estimate(
        image,
        Boxes.from_xywh(scene.boxes_xywh, scene.box_scores),
        decode=decode,
        flip_test=flip_test,
        deadline=None,
        clock=StageClock(),
    )
    return poses.keypoints

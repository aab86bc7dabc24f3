"""A backend and a model repository whose answers are known exactly; no trained weights needed."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from posegate.backends.base import BackendInfo, Inference
from posegate.catalog import sha256_of
from posegate.errors import DeadlineExceeded
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import F32

POSE_NAME = "made-pose"
DETECTOR_NAME = "made-detector"
POSE_SIZE_WH = (48, 64)
HEATMAP_SIZE_WH = (12, 16)
HEATMAP_SCALE = 4.0
DETECTOR_SIZE_WH = (64, 64)

MADE_JOINTS_HEATMAP = np.array(
    [
        [6, 2], [7, 1], [5, 1], [8, 2], [4, 2], [9, 4], [3, 4], [10, 6], [2, 6],
        [9, 8], [3, 8], [8, 9], [4, 9], [8, 11], [4, 11], [8, 14], [4, 14],
    ],
    np.float32,
)  # fmt: skip
"""(17, 2) the joints that the made pose network sees in every crop, heatmap pixels."""

MADE_JOINTS_CROP = MADE_JOINTS_HEATMAP * np.float32(HEATMAP_SCALE)
"""(17, 2) the same in crop pixels."""

MADE_BOXES_INPUT = np.array(
    [[4, 8, 28, 46], [5, 8, 29, 46], [36, 10, 60, 44]], np.float32
)  # the second overlaps the first and loses in NMS
MADE_BOX_SCORES = np.array([0.9, 0.6, 0.5], np.float32)


def gaussian_heatmaps(
    joints_xy: F32, *, size_wh: tuple[int, int] = HEATMAP_SIZE_WH, sigma: float = 1.5
) -> F32:
    """(J, h, w) float32: a Gaussian of height 1 at each joint (J, 2), heatmap pixels."""
    x = np.arange(size_wh[0], dtype=np.float32)
    y = np.arange(size_wh[1], dtype=np.float32)
    across = np.exp(-((x - joints_xy[:, :1]) ** 2) / (2 * sigma**2))
    down = np.exp(-((y - joints_xy[:, 1:]) ** 2) / (2 * sigma**2))
    return (down[:, :, None] * across[:, None, :]).astype(np.float32)


class FakeBackend:
    """Draws Gaussians at known joints for every crop; can be slow, or fail on demand.

    `calls` records the batch sizes it was asked for. Clear `gate` to hold every call until it is
    set again; put an exception into `failure` to fail the calls that follow.
    """

    def __init__(
        self,
        *,
        joints_heatmap: F32 = MADE_JOINTS_HEATMAP,
        input_shape: tuple[int, int, int] = (3, POSE_SIZE_WH[1], POSE_SIZE_WH[0]),
        delay_s: float = 0.0,
    ) -> None:
        self.info = BackendInfo(name="fake", precision="fp32", provider="none")
        self.input_shape = input_shape
        self.calls: list[int] = []
        self.tensors: list[F32] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.delay_s = delay_s
        self.started = False
        self._heatmaps = gaussian_heatmaps(joints_heatmap)

    async def start(self) -> None:
        self.started = True

    async def infer(self, tensor: F32) -> tuple[F32, ...]:
        self.calls.append(len(tensor))
        self.tensors.append(tensor)
        await self.gate.wait()
        await asyncio.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        return (np.repeat(self._heatmaps[None], len(tensor), axis=0),)

    async def stop(self) -> None:
        self.started = False

    def ready(self) -> str | None:
        return None if self.started else "the fake backend was not started"


class LateNetwork:
    """Has no time for anybody, and remembers what it was given."""

    deadline: float | None = None

    async def infer(self, tensor: F32, *, deadline: float | None) -> Inference:
        self.deadline = deadline
        raise DeadlineExceeded("late")


def make_repository(
    folder: Path, *, detector: bool = True, pose_changes: dict[str, Any] | None = None
) -> Path:
    """Write `made-pose` and `made-detector`, real ONNX files with valid cards; returns the folder.

    The pose network sees `MADE_JOINTS_HEATMAP` in every crop. The detector sees `MADE_BOXES_INPUT`
    in every picture that is not wholly black, and nobody in a black one. `pose_changes` replaces
    top-level fields of the pose card.
    """
    repository = folder / "model_repository"
    _write(repository, pose_card(), _pose_network(), pose_changes or {})
    if detector:
        _write(repository, detector_card(), _detector_network(), {})
    return repository


def add_copy(repository: Path, name: str) -> None:
    """Another pose network of the repository, with the same file."""
    shutil.copytree(repository / POSE_NAME, repository / name)
    card_path = repository / name / "posegate.json"
    card_path.write_text(json.dumps(json.loads(card_path.read_text()) | {"name": name}))


def add_form(
    models: Path,
    form: str,
    change: Callable[[np.ndarray], np.ndarray],
    *,
    of: str = POSE_NAME,
    constant: str = "template",
) -> None:
    """A form of a made network one of whose constants is changed, by default the heatmaps."""
    folder = models / f"{of}-{form}"
    shutil.copytree(models / of, folder)
    path = folder / "1" / "model.onnx"
    network = onnx.load(path)
    (values,) = [w for w in network.graph.initializer if w.name == constant]
    changed = change(numpy_helper.to_array(values)).astype(np.float32)
    values.CopyFrom(numpy_helper.from_array(changed, constant))
    onnx.save(network, path)
    card = json.loads((folder / "posegate.json").read_text())
    card |= {"name": folder.name, "sha256": sha256_of(path)}
    (folder / "posegate.json").write_text(json.dumps(card))


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Let other tasks run until the condition holds."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.001)


def pose_card() -> dict[str, Any]:
    """The card of `made-pose`, without its sha256."""
    return {
        "name": POSE_NAME,
        "task": "pose",
        "description": "Sees the same person in every crop.",
        "input": _input_spec(POSE_SIZE_WH),
        "crop": {"padding": 1.25},
        "output": {"names": ["heatmaps"]},
        "codec": {
            "kind": "heatmap",
            "width": HEATMAP_SIZE_WH[0],
            "height": HEATMAP_SIZE_WH[1],
            "sigma": 1.5,
            "scale": [HEATMAP_SCALE, HEATMAP_SCALE],
            "offset": [0.0, 0.0],
        },
        "keypoints": list(COCO_KEYPOINTS),
        "score": "height of the made peak",
        "parameters": 1,
        "gflops": 0.001,
        "licence": "Apache-2.0",
        "accuracy": [{"data": "made", "boxes": "truth", "decode": "dark", "ap": 0.5}],
    }


def detector_card() -> dict[str, Any]:
    """The card of `made-detector`, without its sha256."""
    return {
        "name": DETECTOR_NAME,
        "task": "detect",
        "description": "Sees two people in every picture that is not black.",
        "input": _input_spec(DETECTOR_SIZE_WH),
        "letterbox": {"fill": 0},
        "output": {"names": ["boxes", "scores"]},
        "nms": {"iou": 0.6, "min_score": 0.05, "max_boxes": 300},
        "score": "made",
        "parameters": 1,
        "gflops": 0.001,
        "licence": "Apache-2.0",
    }


def make_photo(*, width: int = 160, height: int = 120, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 BGR, smooth and colourful, never black."""
    small = np.random.default_rng(seed).integers(40, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(pixels_bgr: np.ndarray, extension: str = ".png") -> bytes:
    """The picture as file bytes; PNG by default, so that pixels are exact."""
    done, data = cv2.imencode(extension, pixels_bgr)
    assert done
    return bytes(data)


def black_photo(*, width: int = 160, height: int = 120) -> np.ndarray:
    """A picture in which the made detector sees nobody."""
    return np.zeros((height, width, 3), np.uint8)


def _input_spec(size_wh: tuple[int, int]) -> dict[str, Any]:
    return {
        "name": "input",
        "width": size_wh[0],
        "height": size_wh[1],
        "color": "rgb",
        "mean": [0.0, 0.0, 0.0],
        "std": [255.0, 255.0, 255.0],
    }


def _write(
    repository: Path, card: dict[str, Any], network: onnx.ModelProto, changes: dict[str, Any]
) -> None:
    data = network.SerializeToString()
    folder = repository / card["name"]
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(data)
    full = {**card, "sha256": hashlib.sha256(data).hexdigest(), **changes}
    (folder / "posegate.json").write_text(json.dumps(full))


def _pose_network() -> onnx.ModelProto:
    width, height = POSE_SIZE_WH
    template = gaussian_heatmaps(MADE_JOINTS_HEATMAP)[None]
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "template"], ["heatmaps"]),
    ]
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "zero": np.zeros(1, np.float32),
        "template": template,
    }
    outputs = {"heatmaps": ["n", *template.shape[1:]]}
    return _network(nodes, constants, ["n", 3, height, width], outputs)


def _detector_network() -> onnx.ModelProto:
    width, height = DETECTOR_SIZE_WH
    count = len(MADE_BOXES_INPUT)
    nodes = [
        helper.make_node("ReduceMax", ["input", "axes"], ["brightest"], keepdims=1),
        helper.make_node("Sign", ["brightest"], ["lit"]),
        helper.make_node("Reshape", ["lit", "flat"], ["lit_flat"]),
        helper.make_node("Mul", ["lit_flat", "made_scores"], ["scores"]),
        helper.make_node("Reshape", ["lit", "cube"], ["lit_cube"]),
        helper.make_node("Mul", ["lit_cube", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "made_boxes"], ["boxes"]),
    ]
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "flat": np.array([-1, 1], np.int64),
        "cube": np.array([-1, 1, 1], np.int64),
        "zero": np.zeros(1, np.float32),
        "made_scores": MADE_BOX_SCORES[None],
        "made_boxes": MADE_BOXES_INPUT[None],
    }
    outputs = {"boxes": ["n", count, 4], "scores": ["n", count]}
    return _network(nodes, constants, ["n", 3, height, width], outputs)


def _network(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    input_shape: list[str | int],
    outputs: dict[str, list[str | int]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model

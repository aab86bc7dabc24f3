"""crops -> heatmaps inside the process, on ONNX Runtime."""

import asyncio
import ctypes
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from posegate.backends.base import BackendInfo
from posegate.backends.onnx_file import file_precision
from posegate.backends.workers import Workers
from posegate.card import PEAK_ROW, HeatmapSpec, ModelCard, SimccSpec
from posegate.catalog import Model
from posegate.errors import BadCard
from posegate.types import F32

PROVIDER = "CPUExecutionProvider"
OPEN_BATCH = 'torch.onnx.export(..., dynamic_shapes=({0: "n"},))'
"""How to make a file that takes any number of crops."""


class OnnxBackend:
    """One network in an ONNX Runtime session; each of the workers' threads may run it at once.

    A session's `run` is thread-safe, so N threads share one session of one intra-op thread each.
    """

    def __init__(self, model: Model, *, workers: Workers) -> None:
        precision = file_precision(model.onnx_path)
        self.info = BackendInfo(name="onnxruntime", precision=precision, provider=PROVIDER)
        self.input_shape = model.card.input_shape
        self._model = model
        self._workers = workers
        self._session: ort.InferenceSession | None = None

    async def start(self) -> None:
        self._session = await asyncio.to_thread(_open_checked, self._model)

    async def infer(self, tensor: F32) -> tuple[F32, ...]:
        assert self._session is not None, "infer before start"
        return await self._workers.run(
            partial(_run, self._session, self._model.card, np.ascontiguousarray(tensor))
        )

    async def stop(self) -> None:
        if self._session is not None:
            await asyncio.to_thread(self._let_go)

    def ready(self) -> str | None:
        return None if self._session is not None else f"network {self._model.name} is not loaded"

    def _let_go(self) -> None:
        """Release the session, which takes tens of milliseconds for a large network.

        It ends under the interpreter's lock, so no other Python runs meanwhile; only giving memory
        back runs beside the rest.
        """
        self._session = None
        _give_back_freed_memory()


@dataclass(frozen=True, slots=True)
class GraphOutput:
    """An output's sizes behind the batch axis, None where the file leaves one open.

    `half` says that it is float16.
    """

    shape: tuple[int | None, ...]
    half: bool


def expected_shapes(card: ModelCard, batch: int) -> tuple[tuple[int | None, ...], ...]:
    """Shape of each output of the graph as the card promises it; None where it does not say."""
    joints = len(card.keypoints)
    if isinstance(card.codec, HeatmapSpec) and card.codec.form == "peaks":
        return ((batch, joints, PEAK_ROW),)
    if isinstance(card.codec, HeatmapSpec):
        return ((batch, joints, card.codec.height, card.codec.width),)
    if isinstance(card.codec, SimccSpec):
        bins = (round(size * card.codec.split) for size in (card.input.width, card.input.height))
        return tuple((batch, joints, count) for count in bins)
    if card.nms is not None and card.nms.kind == "dets":
        return ((batch, None, 5),)
    return ((batch, None, 4), (batch, None))


def fits(shape: tuple[int, ...], promised: tuple[int | None, ...]) -> bool:
    """Whether an output's shape is the promised one, where None stands for any length."""
    return len(shape) == len(promised) and all(
        want in (None, have) for have, want in zip(shape, promised, strict=True)
    )


def refuse_misfit(model: Model) -> None:
    """Load and run a network once, as the service will; BadCard where its card says otherwise."""
    _open_checked(model)


def graph_outputs(model: Model) -> dict[str, GraphOutput]:
    """The card's outputs as the network's file tells them; raises BadCard."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = _open(model, options)
    _check_names(session, model)
    nodes = {node.name: node for node in session.get_outputs()}
    return {
        name: GraphOutput(
            tuple(size if isinstance(size, int) else None for size in nodes[name].shape[1:]),
            half=nodes[name].type == "tensor(float16)",
        )
        for name in model.card.output.names
    }


def _open_checked(model: Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Planning which buffers to share takes GADNet-W32 1.0 s of 1.3 and saves neither time nor
    # memory: the arena gives freed buffers out again anyway.
    options.enable_mem_reuse = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = _open(model, options)
    _check_names(session, model)
    _check_shapes(session, model)
    _give_back_freed_memory()
    return session


def _open(model: Model, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(model.onnx_path), options, providers=[PROVIDER])
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise BadCard(
            f"{model.onnx_path} is not a network ONNX Runtime can load: {error}"
        ) from error


def _give_back_freed_memory() -> None:
    """Return freed memory to the system, which glibc otherwise keeps for the process.

    Loading a network frees more than its weights take, and releasing it frees those. GoatPose-BL,
    62 MB of weights, takes 124 MB with this and 217 MB without.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _check_names(session: ort.InferenceSession, model: Model) -> None:
    card = model.card
    inputs = {node.name: node for node in session.get_inputs()}
    if set(inputs) != {card.input.name}:
        raise BadCard(
            f"{model.onnx_path} has inputs {sorted(inputs)}, its card names {card.input.name!r}"
        )
    node = inputs[card.input.name]
    takes_it = len(node.shape) == 4 and all(
        not isinstance(have, int) or have == want
        for have, want in zip(node.shape, (None, *card.input_shape), strict=True)
    )
    if not takes_it or node.type != "tensor(float)":
        is_fixed = len(node.shape) == 4 and isinstance(node.shape[0], int)
        remedy = f"; its batch is fixed: export it anew, {OPEN_BATCH}" if is_fixed else ""
        raise BadCard(
            f"{model.onnx_path} takes {node.type} {node.shape}, its card says float32 "
            f"{['batch', *card.input_shape]} with any number of crops{remedy}"
        )
    outputs = [node.name for node in session.get_outputs()]
    if missing := [name for name in card.output.names if name not in outputs]:
        raise BadCard(f"{model.onnx_path} has outputs {outputs}, its card also names {missing}")


def _check_shapes(session: ort.InferenceSession, model: Model) -> None:
    """Run one and two empty crops: the one sure way to learn what a graph gives."""
    card = model.card
    for batch in (1, 2):
        try:
            outputs = _run_raw(session, card, np.zeros((batch, *card.input_shape), np.float32))
        except Exception as error:  # ONNX Runtime's errors share no public base class
            ran = f", though not on 1; export it anew, {OPEN_BATCH}" if batch > 1 else ""
            raise BadCard(
                f"{model.onnx_path} fails on {batch} empty crop(s){ran}: {error}"
            ) from error
        promised = expected_shapes(card, batch)
        for name, output, shape in zip(card.output.names, outputs, promised, strict=True):
            if output.dtype not in (np.float32, np.float16) or not fits(output.shape, shape):
                raise BadCard(
                    f"{model.onnx_path} gives {output.dtype} {output.shape} as {name!r} for "
                    f"{batch} crop(s), its card promises float32 {shape}"
                )
        if card.nms is not None and card.nms.kind == "boxes":
            boxes, scores = (output.shape[1] for output in outputs)
            if boxes != scores:
                raise BadCard(
                    f"{model.onnx_path} gives {boxes} boxes and {scores} scores; each box has one"
                )


def _run(session: ort.InferenceSession, card: ModelCard, tensor: F32) -> tuple[F32, ...]:
    outputs = _run_raw(session, card, tensor)
    return tuple(output.astype(np.float32, copy=False) for output in outputs)


def _run_raw(
    session: ort.InferenceSession, card: ModelCard, tensor: F32
) -> tuple[F32 | NDArray[np.float16], ...]:
    return tuple(session.run(list(card.output.names), {card.input.name: tensor}))

"""crops -> heatmaps in NVIDIA Triton, whose dynamic batcher joins the crops of all gateways."""

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from prometheus_client import Gauge
from tritonclient.grpc.model_config_pb2 import DataType
from tritonclient.utils import triton_to_np_dtype

from posegate.backends.base import BackendInfo, Inference, Network
from posegate.backends.batching import COPY_WORTH_A_THREAD
from posegate.backends.onnx import expected_shapes, fits
from posegate.backends.triton_memory import whole_bytes
from posegate.backends.triton_servers import TritonServers
from posegate.backends.triton_transfer import Tensors
from posegate.card import ModelCard
from posegate.catalog import Model
from posegate.errors import BackendDown, BadCard, DeadlineExceeded, Overloaded, PosegateError
from posegate.metrics import Metrics
from posegate.plan_files import read_record
from posegate.types import F32

log = logging.getLogger(__name__)

WARM_UP_TIMEOUT_S = 120.0
RETRY_S = 1.0
READ_AGAIN_S = 5.0


class TritonNetwork:
    """One network of the servers: requests bounded in number, crops in bounded memory."""

    def __init__(
        self,
        model: Model,
        *,
        servers: TritonServers,
        metrics: Metrics,
        max_in_flight: int,
        max_queue: int,
        variant: Network | None = None,
    ) -> None:
        """`max_in_flight` requests at a time; at most `max_queue` crops wait or run.

        `variant` is started after this network, and never waited for.
        """
        self._model = model
        self._card = model.card
        self._servers = servers
        self._metrics = metrics
        self._slots = asyncio.Semaphore(max_in_flight)
        self._max_queue = max_queue
        self._crops = 0
        self._max_batch = 0
        self._warm = False
        self._variant = variant
        self._starting_variant: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._crops_per_batch = metrics.crops_per_batch.labels(model.name)
        self._queue_age = metrics.queue_age_seconds.labels(model.name)
        self._info = BackendInfo(name="triton", precision="unknown", provider="unknown")
        self._info_series: Gauge | None = None
        self._tensors = Tensors(model.name, self._card.input.name, self._card.output.names)

    @property
    def info(self) -> BackendInfo:
        return self._info

    async def start(self) -> None:
        """Wait for Triton, check the network against its card, run every power of two once.

        What Triton serves may change under the same name, from an ONNX file to a plan, so its
        configuration is read again every READ_AGAIN_S.
        """
        self._servers.start()
        while not self._warm:
            await self._servers.until_ready(self._model.name)
            try:
                await self._check_and_warm_up()
            except (BackendDown, Overloaded, DeadlineExceeded) as error:  # it went away or is busy
                log.warning("triton: %s", error.detail)
                await asyncio.sleep(RETRY_S)
        if self._variant is not None and self._starting_variant is None:
            self._starting_variant = asyncio.create_task(_start_variant(self._variant))
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_again())

    async def awake(self, *, deadline: float | None) -> None:
        """Returns at once, as it never rests; BackendDown where it is not warmed up."""
        if not self._warm:
            raise BackendDown(f"network {self._model.name} is not warmed up", retry_after_s=1.0)

    async def infer(self, tensor: F32, *, deadline: float | None = None) -> Inference:
        """Run crops (P, 3, H, W), P at least 1; `deadline` is a `time.monotonic()` value.

        More crops than Triton takes in one batch go as several requests at a time. Raises
        Overloaded, DeadlineExceeded or BackendDown.
        """
        await self.awake(deadline=deadline)
        crops = len(tensor)
        if self._crops + crops > self._max_queue:
            raise Overloaded(
                f"{self._crops} crops wait for network {self._model.name} and {crops} more pass "
                f"the limit of {self._max_queue}; try again later",
                retry_after_s=1.0,
            )
        self._crops += crops
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:  # ends when the last request has ended
                tasks = [
                    group.create_task(
                        self._request(tensor[first : first + self._max_batch], deadline)
                    )
                    for first in range(0, crops, self._max_batch)
                ]
        except ExceptionGroup as failed:
            first_failure = failed.exceptions[0]
            raise first_failure from first_failure.__cause__
        finally:
            self._crops -= crops
        answers = [task.result() for task in tasks]
        queue_s = min(waited_s for waited_s, _ in answers)
        joined = await _joined([outputs for _, outputs in answers])
        return Inference(joined, queue_s, time.monotonic() - started - queue_s)

    async def stop(self) -> None:
        self._warm = False
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        if self._starting_variant is not None:
            self._starting_variant.cancel()
            await asyncio.gather(self._starting_variant, return_exceptions=True)
            self._starting_variant = None
            assert self._variant is not None
            await self._variant.stop()
        await self._servers.stop()

    def ready(self) -> str | None:
        reason = self._servers.ready(self._model.name)
        if reason is not None:
            return f"network {self._model.name}: {reason}"
        return None if self._warm else f"network {self._model.name} is not warmed up"

    def fault(self) -> str | None:
        return None

    async def _request(self, crops: F32, deadline: float | None) -> tuple[float, tuple[F32, ...]]:
        """Seconds waited for a free slot, and the outputs."""
        arrived = time.monotonic()
        try:
            async with asyncio.timeout(None if deadline is None else deadline - arrived):
                await self._slots.acquire()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the deadline passed in the queue of network {self._model.name}"
            ) from error
        try:
            waited_s = time.monotonic() - arrived
            self._queue_age.observe(waited_s)
            self._crops_per_batch.observe(len(crops))
            return waited_s, await self._run(crops, deadline)
        finally:
            self._slots.release()

    async def _run(self, crops: F32, deadline: float | None) -> tuple[F32, ...]:
        outputs = await self._servers.infer(self._tensors, crops, deadline=deadline)
        if any(len(output) != len(crops) for output in outputs):
            raise BackendDown(f"network {self._model.name} answered for another number of crops")
        return outputs

    async def _check_and_warm_up(self) -> None:
        name, card = self._model.name, self._card
        config = await self._servers.config(name)
        _check_config(config, self._model)
        self._set_sizes(config)
        batch = 1
        while batch <= self._max_batch:
            crops = np.zeros((batch, *card.input_shape), np.float32)
            outputs = await self._run(crops, time.monotonic() + WARM_UP_TIMEOUT_S)
            promised = expected_shapes(card, batch)
            for output_name, output, shape in zip(
                card.output.names, outputs, promised, strict=True
            ):
                if not fits(output.shape, shape):
                    raise BadCard(
                        f"Triton's network {name} gives {output.shape} as {output_name!r} for "
                        f"{batch} crop(s), its card promises {shape}"
                    )
            batch *= 2
        await self._set_info(config)
        self._warm = True

    async def _read_again(self) -> None:
        said = None
        while True:
            await asyncio.sleep(READ_AGAIN_S)
            try:
                config = await self._servers.config(self._model.name)
                _check_config(config, self._model)
                await self._set_info(config)
            except (BackendDown, Overloaded, DeadlineExceeded):  # the watch over the servers tells
                continue
            except BadCard as error:
                if error.detail != said:
                    log.error("%s", error.detail)
                    said = error.detail
                continue
            except Exception:  # the reading goes on, whatever one answer leads to
                log.exception("network %s cannot be read again", self._model.name)
                continue
            said = None
            self._set_sizes(config)

    def _set_sizes(self, config: Any) -> None:
        self._max_batch = config.max_batch_size
        self._tensors = replace(self._tensors, output_bytes=_output_bytes(config, self._card))

    async def _set_info(self, config: Any) -> None:
        provider = config.platform or config.backend
        precision = await asyncio.to_thread(_precision, config, self._model)
        self._info = BackendInfo("triton", precision, provider)
        series = self._metrics.model_info.labels(
            self._model.name, "triton", precision, provider, self._card.sha256
        )
        if self._info_series is not None:
            self._info_series.set(0)
        series.set(1)
        self._info_series = series


async def _joined(parts: list[tuple[F32, ...]]) -> tuple[F32, ...]:
    """Outputs of all crops from those of each request."""
    if len(parts) == 1:
        return parts[0]
    join = partial(map, np.concatenate, zip(*parts, strict=True))
    if sum(output.nbytes for part in parts for output in part) > COPY_WORTH_A_THREAD:
        return await asyncio.to_thread(lambda: tuple(join()))
    return tuple(join())


async def _start_variant(variant: Network) -> None:
    """Start what is used only when it works; a variant that does not fit stays unused."""
    try:
        await variant.start()
    except PosegateError as error:
        log.warning("not used: %s", error.detail)


def _precision(config: Any, model: Model) -> str:
    """What the network calculates in, as far as it can be known here.

    A plan has fp32 outputs whatever it calculates in; the record beside it says more.
    """
    kinds = {tensor.data_type for tensor in (*config.input, *config.output)}
    if DataType.Value("TYPE_FP16") in kinds:
        return "fp16"
    if config.backend != "tensorrt":
        return "fp32"
    record = read_record(model.onnx_path.parent) or {}
    of_this_file = record.get("onnx_sha256") == model.card.sha256
    return str(record.get("precision", "unknown")) if of_this_file else "unknown"


def _output_bytes(config: Any, card: ModelCard) -> tuple[int, ...] | None:
    """Bytes of each output for one crop; None when one of them varies."""
    told = {tensor.name: tensor for tensor in config.output}
    sizes = []
    for name in card.output.names:
        kind = triton_to_np_dtype(DataType.Name(told[name].data_type).removeprefix("TYPE_"))
        if kind is None or kind == np.object_ or min(told[name].dims, default=0) < 1:
            return None
        sizes.append(whole_bytes(kind, tuple(told[name].dims)))
    return tuple(sizes)


def _check_config(config: Any, model: Model) -> None:
    card = model.card
    where = f"Triton's network {model.name}"
    if config.max_batch_size < 1:
        raise BadCard(f"{where} has max_batch_size 0; its config.pbtxt must allow batches")
    inputs = {tensor.name: tuple(tensor.dims) for tensor in config.input}
    if inputs != {card.input.name: card.input_shape}:
        raise BadCard(
            f"{where} takes {inputs}, its card says {{{card.input.name!r}: {card.input_shape}}}"
        )
    outputs = [tensor.name for tensor in config.output]
    if missing := [name for name in card.output.names if name not in outputs]:
        raise BadCard(f"{where} has outputs {outputs}, its card also names {missing}")

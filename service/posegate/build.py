"""settings -> pipeline and traces: the one place that picks implementations."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import cv2

from posegate.backends.base import Network
from posegate.backends.batching import BatchingBackend
from posegate.backends.onnx import OnnxBackend
from posegate.backends.resting import RestingNetwork
from posegate.backends.workers import Workers
from posegate.budget import Budget
from posegate.catalog import Catalog, Model, load_catalog
from posegate.detector import LetterboxDetector
from posegate.errors import BackendDown, BadOption
from posegate.estimator import Estimator
from posegate.image import ImageLimits
from posegate.metrics import Metrics
from posegate.networks import Networks
from posegate.pipeline import Pipeline
from posegate.pool import Pool
from posegate.settings import Settings
from posegate.tracing import Tracing, Untraced

START_TIMEOUT_S = 60.0
"""How long a command waits for Triton."""


def build_pipeline(settings: Settings, metrics: Metrics) -> Pipeline:
    """Every network of the model repository in one pipeline, not started yet.

    OpenCV is told to stay on the calling thread: the pool already has a thread per core.
    """
    cv2.setNumThreads(1)
    catalog = load_catalog(
        settings.model_repository, model=settings.model, detector=settings.detector
    )
    workers = Workers(settings.threads)
    pool = Pool(settings.threads)
    networks, decoded = _NETWORKS[settings.backend](catalog, settings, workers, metrics)
    for name in {network.info.name for network in networks.values()}:
        metrics.watch(
            metrics.backend_up,
            name,
            value=lambda: float(
                all(network.ready() is network.fault() is None for network in networks.values())
            ),
        )
    by_task = {
        task: [model for model in catalog.models.values() if model.card.task == task]
        for task in ("pose", "detect")
    }
    return Pipeline(
        catalog=catalog,
        detectors={
            model.name: LetterboxDetector(model, backend=networks[model.name], pool=pool)
            for model in by_task["detect"]
        },
        estimators={
            model.name: Estimator(
                model,
                backend=networks[model.name],
                decoded=decoded.get(model.name),
                pool=pool,
            )
            for model in by_task["pose"]
        },
        networks=Networks(networks, required=_required(catalog, settings)),
        workers=workers,
        pool=pool,
        limits=ImageLimits(max_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels),
        decoded=Budget(settings.max_decoded_pixels),
        max_people=settings.max_people,
    )


def _required(catalog: Catalog, settings: Settings) -> list[str]:
    """The networks without which the service is not ready.

    Files that lie beside the service must all be sound. Where one network is missing in Triton the
    others are served, so there only the default of each task is required.
    """
    if settings.backend == "onnx":
        return list(catalog.models)
    tasks = {model.card.task: None for model in catalog.models.values()}
    return [catalog.get(None, task).name for task in tasks]


def build_tracing(settings: Settings) -> Tracing:
    """Where requests are reported: nowhere, unless the settings name an address."""
    if settings.otlp_endpoint is None:
        return Untraced()
    try:
        from posegate.tracing_otel import OtelTracing, otlp_processor
    except ImportError as error:
        raise BadOption(
            f"setting otlp_endpoint needs {error.name}, which is not installed: pip install "
            "'posegate[otel]'"
        ) from error
    return OtelTracing(otlp_processor(settings.otlp_endpoint), share=settings.trace_share)


@asynccontextmanager
async def running_pipeline(settings: Settings) -> AsyncIterator[Pipeline]:
    """A started pipeline for a command that serves nobody; it is stopped at the end.

    BackendDown where Triton does not have every network within START_TIMEOUT_S. A service waits
    for ever, but somebody is waiting for a command.
    """
    pipeline = build_pipeline(settings, Metrics())
    try:
        async with asyncio.timeout(START_TIMEOUT_S if settings.backend == "triton" else None):
            await pipeline.start()
    except TimeoutError as error:
        reason = pipeline.networks.missing()
        await pipeline.stop()
        raise BackendDown(f"not ready after {START_TIMEOUT_S:.0f} s: {reason}") from error
    try:
        yield pipeline
    finally:
        await pipeline.stop()


Made = tuple[dict[str, Network], dict[str, Network]]
"""By name: the networks, and those of their variants with the decoding in the graph."""


def _embedded(catalog: Catalog, settings: Settings, workers: Workers, metrics: Metrics) -> Made:
    """Networks in this process, without variants, which would save no transfer and take memory.

    To save memory only the default of each task stays loaded while nobody asks for it.
    """
    networks: dict[str, Network] = {}
    for name, model in catalog.models.items():
        network = _embedded_network(model, settings, workers, metrics)
        rests = settings.network_idle_s > 0 and not catalog.is_default(model)
        networks[name] = (
            RestingNetwork(network, model, idle_s=settings.network_idle_s) if rests else network
        )
    return networks, {}


def _triton(catalog: Catalog, settings: Settings, workers: Workers, metrics: Metrics) -> Made:
    try:
        from posegate.backends.triton import TritonNetwork
        from posegate.backends.triton_memory import check_shared_memory
        from posegate.backends.triton_servers import TritonServers
    except ImportError as error:
        raise BadOption(
            f"backend triton needs {error.name}, which is not installed: pip install "
            "'posegate[triton]'"
        ) from error
    shared = settings.triton_shared_memory
    memory = None if shared == "off" else shared
    if memory is not None:
        check_shared_memory(memory)
    variants = {name: form for name, one in catalog.models.items() if (form := one.decoded)}
    servers = TritonServers(
        settings.triton_urls,
        models=[*catalog.models, *(form.name for form in variants.values())],
        call_limit_s=settings.request_timeout_s,
        memory=memory,
        max_in_flight=settings.triton_in_flight,
    )
    network = partial(
        TritonNetwork,
        servers=servers,
        metrics=metrics,
        max_in_flight=settings.triton_in_flight,
        max_queue=settings.max_queue,
    )
    decoded: dict[str, Network] = {name: network(form) for name, form in variants.items()}
    networks: dict[str, Network] = {
        name: network(model, variant=decoded.get(name)) for name, model in catalog.models.items()
    }
    return networks, decoded


_NETWORKS = {"onnx": _embedded, "triton": _triton}


def _embedded_network(
    model: Model, settings: Settings, workers: Workers, metrics: Metrics
) -> BatchingBackend:
    backend = OnnxBackend(model, workers=workers)
    info = backend.info
    metrics.model_info.labels(
        model.name, info.name, info.precision, info.provider, model.card.sha256
    ).set(1)
    return BatchingBackend(
        backend,
        model=model.name,
        workers=workers,
        metrics=metrics,
        max_batch=settings.max_batch,
        max_wait_s=settings.max_wait_ms / 1000,
        max_queue=settings.max_queue,
    )

"""settings + machine -> findings: what is here, which image fits, and what cannot work."""

import asyncio
import ctypes
import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnxruntime

from posegate.backends.onnx import refuse_misfit
from posegate.build import build_tracing
from posegate.catalog import ONNX_NAME, Catalog, load_catalog, sha256_of
from posegate.doctor_triton import ask_tritons
from posegate.errors import PosegateError
from posegate.plan_files import PLAN_NAME, read_record
from posegate.platforms import Finding, Target, Verdict, matrix, numbers
from posegate.settings import Settings
from posegate.tensorrt_tools import (
    Trtexec,
    cuda_driver,
    find_trtexec,
    gpu_sm,
    output_of,
    tensorrt_release,
)
from posegate.tls import load_tls

L4T_RELEASE = Path("/etc/nv_tegra_release")
JETSON_SM = {"5.3", "6.2", "7.2", "8.7", "10.1", "11.0"}
"""Nano, TX2, Xavier, Orin and, before and after CUDA 13 renamed it, Thor."""


def examine(settings: Settings, *, target: Target = "cpu") -> list[Finding]:
    """Everything worth knowing before the service is started with these settings.

    With a `target` that has a GPU, whatever would fall back to the CPU is wrong.
    """
    gpu, l4t, sm, tensorrt = _gpu(), _l4t(), gpu_sm(), _tensorrt()
    return [
        Finding("machine", f"{platform.machine()}, {platform.system()} {platform.release()}"),
        Finding("python", platform.python_version()),
        *_asked_for(target, gpu is not None or sm is not None, settings),
        _optional("GPU and driver", gpu),
        _optional("CUDA", _cuda()),
        _optional("L4T", l4t),
        _optional("JetPack", _jetpack(l4t)),
        _optional("TensorRT", tensorrt),
        Finding(
            "ONNX Runtime",
            f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}",
        ),
        _fitting_image(sm, l4t, target, has_gpu=gpu is not None),
        _tls(settings),
        _traces(settings),
        *_repository(settings),
        *_plans(settings.model_repository, sm, tensorrt),
        *(asyncio.run(ask_tritons(settings, target)) if settings.backend == "triton" else ()),
    ]


def fitting_platform(
    *, machine: str, l4t: str | None, platforms: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """The row of `platforms.toml` for this architecture and L4T release, if there is one."""
    for row in platforms:
        on_jetson = "l4t" in row
        if on_jetson and l4t is not None and any(l4t.startswith(known) for known in row["l4t"]):
            return row
        if not on_jetson and l4t is None and machine in _architectures(row):
            return row
    return None


def is_jetson() -> bool:
    """Whether this is a Jetson; in a container only its GPU tells."""
    return L4T_RELEASE.is_file() or gpu_sm() in JETSON_SM


def _asked_for(target: Target, has_gpu: bool, settings: Settings) -> Iterator[Finding]:
    """A GPU that was asked for and would not be used."""
    if target == "cpu":
        return
    what = f"target {target}"
    if not has_gpu:
        yield Finding(what, "no NVIDIA GPU is here, everything would run on the CPU", "wrong")
    elif (target == "jetson") != is_jetson():
        yield Finding(what, "this is a Jetson" if is_jetson() else "this is no Jetson", "wrong")
    elif settings.backend == "onnx":
        yield Finding(what, "backend onnx runs on the CPU; set backend triton", "wrong")
    else:
        yield Finding(what, "ok")


def _plans(repository: Path, sm: str | None, tensorrt: str | None) -> Iterator[Finding]:
    """Plans of `models build` that this machine or the ONNX file beside them does not fit."""
    for plan in sorted(repository.glob(f"*/1/{PLAN_NAME}")):
        what, record = f"plan of {plan.parents[1].name}", read_record(plan.parent)
        if plan.stat().st_size == 0:
            yield Finding(what, "the file is empty: run `posegate models build`", "wrong")
        elif record is None:
            yield Finding(what, "not made by `posegate models build`, nothing known", "absent")
        elif not (onnx := plan.with_name(ONNX_NAME.name)).is_file():
            yield Finding(what, f"{onnx}, which it was made from, is missing", "wrong")
        elif reason := _misfit(plan, record, sm, tensorrt):
            yield Finding(what, f"{reason}: run `posegate models build`", "wrong")
        else:
            yield Finding(what, f"TensorRT {record.get('tensorrt')}, {record.get('precision')}")


def _misfit(plan: Path, record: dict[str, Any], sm: str | None, tensorrt: str | None) -> str | None:
    """What a plan is tied to that is not here, if anything; what is unknown is not compared."""
    if sm is not None and record.get("sm") != sm:
        return f"for SM {record.get('sm')}, this GPU has {sm}"
    built_by = tensorrt_release(str(record.get("tensorrt")))
    known = tensorrt is not None and (built_by + tensorrt).replace(".", "").isdigit()
    if known and built_by != tensorrt:
        return f"of TensorRT {built_by}, here is {tensorrt}"
    if record.get("onnx_sha256") != sha256_of(plan.with_name(ONNX_NAME.name)):
        return f"of another {ONNX_NAME.name}"
    return None


def _architectures(row: dict[str, Any]) -> set[str]:
    return {"amd64": {"x86_64", "AMD64"}, "arm64": {"aarch64", "arm64"}}[row["architecture"]]


def _fitting_image(sm: str | None, l4t: str | None, target: Target, *, has_gpu: bool) -> Finding:
    what = "Triton image"
    unfit: Verdict = "absent" if target == "cpu" else "wrong"
    row = fitting_platform(machine=platform.machine(), l4t=l4t, platforms=_platforms())
    if sm is None and l4t is None and not has_gpu:
        return Finding(what, "none: no NVIDIA GPU, use backend onnx here", "absent")
    if row is None:
        return Finding(what, f"none known for {platform.machine()}, L4T {l4t}", unfit)
    least = row.get("minimum_compute_capability")
    if sm is not None and least is not None and numbers(sm) < numbers(least):
        return Finding(what, f"none: {row['triton']} needs SM {least}, this GPU has {sm}", unfit)
    tried = "tried" if row["tried"] else "not tried by this project yet"
    return Finding(what, f"{row['triton']} ({row['name']}, {tried})")


def _tls(settings: Settings) -> Finding:
    try:
        tls = load_tls(settings)
    except PosegateError as error:
        return Finding("TLS", error.detail, "wrong")
    return _optional("TLS", str(tls.certificate) if tls else None)


def _traces(settings: Settings) -> Finding:
    try:
        build_tracing(settings).close()
    except PosegateError as error:
        return Finding("traces", error.detail, "wrong")
    return _optional("traces", settings.model_dump(mode="json")["otlp_endpoint"])


def _repository(settings: Settings) -> Iterator[Finding]:
    try:
        catalog = load_catalog(
            settings.model_repository, model=settings.model, detector=settings.detector
        )
        missed = catalog.without_detector()
    except PosegateError as error:
        yield Finding("model repository", error.detail, "wrong")
        return
    found = f"{settings.model_repository}: {', '.join(catalog.models)}"
    if missed:
        yield Finding("model repository", f"{found}; {missed}", "absent")
    else:
        yield Finding("model repository", found)
    if settings.backend == "onnx":
        yield from _misfits(catalog)


def _misfits(catalog: Catalog) -> Iterator[Finding]:
    """Networks that are not what their cards say, loaded and run as the service does."""
    for model in catalog.models.values():
        try:
            refuse_misfit(model)
        except PosegateError as error:
            yield Finding(f"network {model.name}", error.detail, "wrong")


def _optional(what: str, found: str | None) -> Finding:
    return Finding(what, found) if found else Finding(what, "none", "absent")


def _gpu() -> str | None:
    """Name, driver and compute capability of each GPU."""
    query = "--query-gpu=name,driver_version,compute_cap"
    lines = output_of("nvidia-smi", query, "--format=csv,noheader")
    return "; ".join(lines.splitlines()) or None


def _l4t() -> str | None:
    """Release of Linux for Tegra, such as 36.4.3."""
    if not L4T_RELEASE.is_file():
        return None
    found = re.search(r"R(\d+).*?REVISION: ([\d.]+)", L4T_RELEASE.read_text(encoding="utf-8"))
    return f"{found[1]}.{found[2]}" if found else None


def _tensorrt() -> str | None:
    """TensorRT's version for `models build`: trtexec's, else that of the Python module."""
    program = find_trtexec()
    told = Trtexec(program).version if program is not None else "unknown"
    if told != "unknown":
        return tensorrt_release(told)
    try:
        return tensorrt_release(version("tensorrt"))
    except PackageNotFoundError:
        return None if program is None else f"{program}, version unknown"


def _cuda() -> str | None:
    """The newest CUDA that the driver runs."""
    driver, version_ = cuda_driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version_)) != 0:
        return None
    return f"{version_.value // 1000}.{version_.value % 1000 // 10}"


def _jetpack(l4t: str | None) -> str | None:
    row = fitting_platform(machine=platform.machine(), l4t=l4t, platforms=_platforms())
    return " or ".join(row["jetpack"]) if l4t is not None and row is not None else None


def _platforms() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = matrix()["platform"]
    return rows

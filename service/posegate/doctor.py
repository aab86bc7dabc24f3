"""settings + machine -> findings: what is here, which image fits, and what cannot work."""

import asyncio
import ctypes
import platform
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from posegate.catalog import load_catalog, sha256_of
from posegate.errors import BadOption, PosegateError
from posegate.plan_files import PLAN_NAME, read_record
from posegate.settings import Settings
from posegate.tensorrt_tools import cuda_driver, gpu_sm, output_of

PLATFORMS = Path(__file__).with_name("platforms.toml")
L4T_RELEASE = Path("/etc/nv_tegra_release")
JETSON_SM = {"5.3", "6.2", "7.2", "8.7", "10.1", "11.0"}
"""Nano, TX2, Xavier, Orin and, before and after CUDA 13 renamed it, Thor."""
TRITON_TIMEOUT_S = 5.0

Target = Literal["cpu", "desktop", "jetson"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `wrong` means that the service cannot work as it is set."""

    what: str
    found: str
    verdict: Literal["ok", "absent", "wrong"] = "ok"


def examine(settings: Settings, *, target: Target = "cpu") -> list[Finding]:
    """Everything worth knowing before the service is started with these settings.

    With a `target` that has a GPU, whatever would fall back to the CPU is wrong.
    """
    gpu, l4t = _gpu(), _l4t()
    return [
        Finding("machine", f"{platform.machine()}, {platform.system()} {platform.release()}"),
        Finding("python", platform.python_version()),
        *_asked_for(target, gpu is not None or gpu_sm() is not None, settings),
        _optional("GPU and driver", gpu),
        _optional("CUDA", _cuda()),
        _optional("L4T", l4t),
        _optional("JetPack", _jetpack(l4t)),
        _optional("TensorRT", _tensorrt()),
        Finding(
            "ONNX Runtime",
            f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}",
        ),
        _fitting_image(gpu, l4t),
        _repository(settings),
        *_plans(settings.model_repository),
        *(asyncio.run(_tritons(settings, target)) if settings.backend == "triton" else ()),
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


def _plans(repository: Path) -> Iterator[Finding]:
    """Plans of `models build` that this GPU or the ONNX file beside them does not fit."""
    sm = gpu_sm()
    for plan in sorted(repository.glob(f"*/1/{PLAN_NAME}")):
        name, record = f"plan of {plan.parents[1].name}", read_record(plan.parent)
        if record is None:
            yield Finding(name, "not made by `posegate models build`, nothing known", "absent")
        elif sm is not None and record.get("sm") != sm:
            found = f"for SM {record.get('sm')}, this GPU has {sm}: run `posegate models build`"
            yield Finding(name, found, "wrong")
        elif record.get("onnx_sha256") != sha256_of(plan.with_name("model.onnx")):
            found = "of another model.onnx: run `posegate models build`"
            yield Finding(name, found, "wrong")
        else:
            yield Finding(name, f"TensorRT {record.get('tensorrt')}, {record.get('precision')}")


def _architectures(row: dict[str, Any]) -> set[str]:
    return {"amd64": {"x86_64", "AMD64"}, "arm64": {"aarch64", "arm64"}}[row["architecture"]]


def _fitting_image(gpu: str | None, l4t: str | None) -> Finding:
    row = fitting_platform(machine=platform.machine(), l4t=l4t, platforms=_platforms())
    if gpu is None and l4t is None:
        return Finding("Triton image", "none: no NVIDIA GPU, use backend onnx here", "absent")
    if row is None:
        return Finding("Triton image", f"none known for {platform.machine()}, L4T {l4t}", "absent")
    tried = "tried" if row["tried"] else "not tried by this project yet"
    return Finding("Triton image", f"{row['triton']} ({row['name']}, {tried})")


def _repository(settings: Settings) -> Finding:
    try:
        models = load_catalog(
            settings.model_repository, model=settings.model, detector=settings.detector
        ).models
    except PosegateError as error:
        return Finding("model repository", error.detail, "wrong")
    tasks = {model.card.task for model in models.values()}
    if missing := {"pose", "detect"} - tasks:
        return Finding("model repository", f"has no network to {', '.join(missing)}", "wrong")
    return Finding("model repository", f"{settings.model_repository}: {', '.join(models)}")


async def _tritons(settings: Settings, target: Target) -> list[Finding]:
    try:
        import tritonclient.grpc.aio as triton
        from tritonclient.utils import InferenceServerException
    except ImportError:
        return [Finding("tritonclient", "not installed: pip install 'posegate[triton]'", "wrong")]
    from posegate.backends.triton_memory import check_shared_memory, refusal

    shared = None if settings.triton_shared_memory == "off" else settings.triton_shared_memory
    findings = []
    if shared is not None:
        try:
            check_shared_memory(shared)
        except BadOption as error:
            findings.append(Finding("shared memory", error.detail, "wrong"))
            shared = None
    for url in settings.triton_urls:
        async with triton.InferenceServerClient(url) as client:
            try:
                server = await client.get_server_metadata(client_timeout=TRITON_TIMEOUT_S)
                index = await client.get_model_repository_index(client_timeout=TRITON_TIMEOUT_S)
                states = {model.name: f"{model.state} {model.reason}" for model in index.models}
                on_cpu = await _on_cpu(client, states) if target != "cpu" else ()
                refused = await refusal(client, shared, url) if shared else None
            except InferenceServerException as error:
                findings.append(Finding(f"Triton {url}", error.message(), "wrong"))
                continue
        findings.append(Finding(f"Triton {url}", server.version))
        findings += _served(url, states, settings)
        if shared is not None:
            what = f"{shared} shared memory at {url}"
            findings.append(Finding(what, refused or "taken", "wrong" if refused else "ok"))
        findings += [Finding(f"{name} at {url}", "runs on the CPU", "wrong") for name in on_cpu]
    return findings


async def _on_cpu(client: Any, states: dict[str, str]) -> list[str]:
    """Ready networks that have no instance on a GPU."""
    names = []
    for name in (name for name, state in states.items() if state.startswith("READY")):
        answer = await client.get_model_config(name, client_timeout=TRITON_TIMEOUT_S)
        kinds = {group.kind for group in answer.config.instance_group}
        if kinds == {answer.config.instance_group[0].KIND_CPU}:
            names.append(name)
    return names


def _served(url: str, states: dict[str, str], settings: Settings) -> Iterator[Finding]:
    for card in sorted(settings.model_repository.glob("*/posegate.json")):
        name = card.parent.name
        state = states.get(name, "missing").strip()
        yield Finding(f"{name} at {url}", state, "ok" if state == "READY" else "wrong")


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
    try:
        return version("tensorrt")
    except PackageNotFoundError:
        return shutil.which("trtexec")


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
    rows: list[dict[str, Any]] = tomllib.loads(PLATFORMS.read_text(encoding="utf-8"))["platform"]
    return rows

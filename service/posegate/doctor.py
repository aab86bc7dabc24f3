"""settings + machine -> findings: what is here, which image fits, and what cannot work."""

import asyncio
import platform
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from posegate.catalog import load_catalog
from posegate.errors import PosegateError
from posegate.settings import Settings

PLATFORMS = Path(__file__).with_name("platforms.toml")
L4T_RELEASE = Path("/etc/nv_tegra_release")
TRITON_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `wrong` means that the service cannot work as it is set."""

    what: str
    found: str
    verdict: Literal["ok", "absent", "wrong"] = "ok"


def examine(settings: Settings) -> list[Finding]:
    """Everything worth knowing before the service is started with these settings."""
    gpu, l4t = _gpu(), _l4t()
    return [
        Finding("machine", f"{platform.machine()}, {platform.system()} {platform.release()}"),
        Finding("python", platform.python_version()),
        _optional("GPU", gpu),
        _optional("L4T", l4t),
        _optional("TensorRT", _tensorrt()),
        Finding(
            "ONNX Runtime",
            f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}",
        ),
        _fitting_image(gpu, l4t),
        _repository(settings),
        *(asyncio.run(_tritons(settings)) if settings.backend == "triton" else ()),
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


def _architectures(row: dict[str, Any]) -> set[str]:
    return {"amd64": {"x86_64", "AMD64"}, "arm64": {"aarch64", "arm64"}}[row["architecture"]]


def _fitting_image(gpu: str | None, l4t: str | None) -> Finding:
    platforms = tomllib.loads(PLATFORMS.read_text(encoding="utf-8"))["platform"]
    row = fitting_platform(machine=platform.machine(), l4t=l4t, platforms=platforms)
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


async def _tritons(settings: Settings) -> list[Finding]:
    try:
        import tritonclient.grpc.aio as triton
        from tritonclient.utils import InferenceServerException
    except ImportError:
        return [Finding("tritonclient", "not installed: pip install 'posegate[triton]'", "wrong")]
    findings = []
    for url in settings.triton_urls:
        async with triton.InferenceServerClient(url) as client:
            try:
                server = await client.get_server_metadata(client_timeout=TRITON_TIMEOUT_S)
                index = await client.get_model_repository_index(client_timeout=TRITON_TIMEOUT_S)
            except InferenceServerException as error:
                findings.append(Finding(f"Triton {url}", error.message(), "wrong"))
                continue
        findings.append(Finding(f"Triton {url}", server.version))
        findings += _served(url, {model.name: model.state for model in index.models}, settings)
    return findings


def _served(url: str, states: dict[str, str], settings: Settings) -> Iterator[Finding]:
    for card in sorted(settings.model_repository.glob("*/posegate.json")):
        name = card.parent.name
        state = states.get(name, "missing")
        yield Finding(f"{name} at {url}", state, "ok" if state == "READY" else "wrong")


def _optional(what: str, found: str | None) -> Finding:
    return Finding(what, found) if found else Finding(what, "none", "absent")


def _gpu() -> str | None:
    """Name, driver and compute capability of each GPU."""
    query = "--query-gpu=name,driver_version,compute_cap"
    lines = _output("nvidia-smi", query, "--format=csv,noheader")
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


def _output(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603
            [path, *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
